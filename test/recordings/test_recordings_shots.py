"""Images with their poses, intrinsics and depth, and what becomes of stamps that make no sense."""

import dataclasses
import re

import numpy as np
import pytest
from bag_writer import (
    HFOV,
    SIZE,
    START,
    Drive,
    Messages,
    S,
    base_pose,
    camera_pose,
    drive_messages,
    picture,
    write_drive,
    write_messages,
)

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import rotation_angles
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.shots import ShotOptions, ShotReader
from gen3r_core.worlds.camera import intrinsics_of


def shots_of(path, **options):
    with open_recording(path) as recording:
        reader = ShotReader(recording, ShotOptions(**options))
        return list(reader), reader


def wrong_by(shot):
    """Metres and degrees between a shot's pose and the truth at its stamp."""
    true = camera_pose((shot.stamp_ns - START) / S)
    metres = np.linalg.norm(true[:3, 3] - shot.T_world_cam[:3, 3])
    return metres, np.degrees(rotation_angles(true[:3, :3].T @ shot.T_world_cam[:3, :3]))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "rosbag1"])
@pytest.mark.parametrize("odometry", [False, True])
def test_poses_at_the_stamps_of_images(tmp_path, storage, odometry):
    """TF at 20 Hz, images between: a circle is cut short by 0.04 mm."""
    path = tmp_path / ("a.bag" if storage == "rosbag1" else "bag")
    shots, reader = shots_of(write_drive(path, Drive(odometry=odometry, depth=True, hz=7), storage))
    assert reader.placing.world == "odom"
    assert reader.metric
    assert len(shots) == 14
    assert [shot.number for shot in shots] == list(range(14))
    for shot in shots:
        metres, degrees = wrong_by(shot)
        assert metres < 1e-4
        assert degrees < 1e-2
        np.testing.assert_allclose(shot.model.intrinsics, intrinsics_of(SIZE, HFOV), atol=1e-9)
        assert np.abs(shot.picture.rgb().astype(int) - picture(shot.number)).mean() < 3
        assert shot.picture.size() == SIZE
        assert np.nanmax(shot.depth.depth()) == pytest.approx(1 + shot.number / 1000)
    assert reader.counts == {"images": 14}


def test_without_anything_but_images(tmp_path):
    shots, reader = shots_of(write_drive(tmp_path / "bag", Drive(info=False, tf=False, tf_hz=0)))
    assert len(shots) == 20
    assert all((shot.T_world_cam, shot.model, shot.depth) == (None, None, None) for shot in shots)
    assert "neither TF nor odometry" in reader.placing.why_not
    assert not reader.metric


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "png"])
def test_other_images(tmp_path, encoding):
    pixels = [picture(n)[..., 0] if encoding == "mono8" else picture(n) for n in range(5)]
    topic = "/camera/image_raw" + ("/compressed" if encoding == "png" else "")
    shots, reader = shots_of(write_drive(tmp_path / "bag", Drive(topic=topic, encoding=encoding, pictures=pixels)))
    rgb = shots[3].picture.rgb()
    wanted = np.repeat(pixels[3][..., None], 3, 2) if encoding == "mono8" else pixels[3]
    np.testing.assert_array_equal(rgb[..., ::-1] if encoding == "bgr8" else rgb, wanted)
    assert min(shots[3].picture.thumbnail().shape) >= 24
    assert reader.cameras[0].name == "/camera/image_raw"


def test_a_part_and_every_third(tmp_path):
    path = write_drive(tmp_path / "bag")
    shots, _ = shots_of(path, start_s=0.5, end_s=1.5, every=3)
    assert [(shot.stamp_ns - START) / S for shot in shots] == pytest.approx([0.55, 0.85, 1.15, 1.45])
    assert all(wrong_by(shot)[0] < 1e-4 for shot in shots)
    with pytest.raises(InputError, match="every 0th"):
        ShotOptions(every=0)


def test_twice_the_same(tmp_path):
    with open_recording(write_drive(tmp_path / "bag")) as recording:
        reader = ShotReader(recording)
        first, second = ([(shot.stamp_ns, shot.T_world_cam.tolist()) for shot in reader] for _ in range(2))
    assert first == second


# --- stamps --------------------------------------------------------------------------------------------------


def stamped(tmp_path, stamps, **drive):
    found, reader = shots_of(write_drive(tmp_path / "bag", Drive(stamps=lambda number: stamps[number], **drive)))
    return [shot.stamp_ns for shot in found], reader.counts


def test_stamps_of_zero_become_the_time_of_recording(tmp_path):
    stamps, counts = stamped(tmp_path, [0] * 20)
    assert stamps == [START + round((n + 0.5) / 10 * S) + 2_000_000 for n in range(20)]
    assert counts == {"images": 20, "stamps of zero": 20}


def test_stamps_twice_and_backwards(tmp_path):
    good = [START + n * S // 10 for n in range(20)]
    mixed = [*good[:5], good[4], good[2], *good[7:]]
    stamps, counts = stamped(tmp_path, mixed)
    assert stamps == [*good[:5], *good[7:]]
    assert counts == {"images": 20, "stamps twice": 1, "stamps backwards": 1}


def test_a_clock_that_jumps_back(tmp_path):
    good = [START + n * S // 5 for n in range(10)] + [START + n * S // 5 for n in range(10)]
    stamps, counts = stamped(tmp_path, good)
    assert stamps == good
    assert counts["jumps of the clock"] == 1


def test_images_whose_poses_never_come(tmp_path):
    """TF ends after a second: what is after it has no pose, what is before it does."""
    found = [one for one in drive_messages(Drive(seconds=4), Messages()) if one[0] != "/tf" or one[1] < START + S]
    shots, reader = shots_of(write_messages(tmp_path / "bag", found))
    known = [shot.T_world_cam is not None for shot in shots]
    assert known == [True] * 9 + [False] * 31 or known == [True] * 10 + [False] * 30
    assert reader.counts["without a pose"] == known.count(False)
    assert [shot.stamp_ns for shot in shots] == sorted(shot.stamp_ns for shot in shots)


def test_late_transforms_are_waited_for(tmp_path):
    found = [(topic, stamp + (700_000_000 if topic == "/tf" else 0), m) for topic, stamp, m in
             drive_messages(Drive(seconds=4), Messages())]  # fmt: skip
    shots, _ = shots_of(write_messages(tmp_path / "bag", sorted(found, key=lambda one: one[1])))
    assert all(wrong_by(shot)[0] < 1e-4 for shot in shots)
    assert len(shots) == 40


def test_damaged_messages_are_counted(tmp_path):
    found = drive_messages(Drive(), Messages())
    messages = Messages()
    for number, (_, _, message) in enumerate(found):
        if number in (10, 11) and hasattr(message, "transforms"):
            message.transforms[0].transform.rotation.w = float("nan")
    found.append(("/tf", START + S, messages.tf(START + S, ("odom", "odom", np.eye(4)))))
    _, reader = shots_of(write_messages(tmp_path / "bag", sorted(found, key=lambda one: one[1])))
    assert reader.placing.counts["transforms that are none"] > 0


# --- where poses come from -----------------------------------------------------------------------------------


def test_a_pose_topic_is_that_of_the_camera(tmp_path):
    messages = Messages()
    found = drive_messages(Drive(tf=False, tf_hz=0), messages)
    for number in range(41):
        stamp = START + number * S // 20
        pose = messages.pose_stamped(stamp, "vicon", camera_pose(number / 20))
        found.append(("/pose", stamp, pose))
    path = write_messages(tmp_path / "bag", sorted(found, key=lambda one: one[1]))
    shots, reader = shots_of(path, poses="/pose")
    assert reader.placing.world == "vicon"
    assert max(wrong_by(shot)[0] for shot in shots) < 1e-4
    _, reader = shots_of(path, poses="none")
    assert reader.placing.why_not == "poses are not wanted"
    with pytest.raises(InputError, match="is of kind image"):
        shots_of(path, poses="/camera/image_raw/compressed")
    with pytest.raises(InputError, match="no stream"):
        shots_of(path, poses="/nothing")


def test_a_chosen_world(tmp_path):
    path = write_drive(tmp_path / "bag")
    shots, _ = shots_of(path, world="base_link")
    mount = np.linalg.inv(base_pose(0)) @ camera_pose(0)
    np.testing.assert_allclose(shots[0].T_world_cam, mount, atol=1e-9)
    with pytest.raises(InputError, match="no frame is called 'mars'; there are base_link"):
        shots_of(path, world="mars")


def test_several_odometries(tmp_path):
    messages = Messages()
    found = drive_messages(Drive(odometry=True), messages)
    found += [("/other", stamp, message) for topic, stamp, message in found if topic == "/odom"]
    path = write_messages(tmp_path / "bag", sorted(found, key=lambda one: one[1]))
    with pytest.raises(InputError, match="--poses /odom or --poses /other"):
        shots_of(path)
    shots, _ = shots_of(path, poses="/odom")
    # The mount is in TF, which is static here.
    assert [shot.T_world_cam is None for shot in shots] == [False] * 20


def test_odometry_of_a_robot_whose_camera_is_nowhere(tmp_path):
    found = [one for one in drive_messages(Drive(odometry=True), Messages()) if one[0] != "/tf_static"]
    shots, reader = shots_of(write_messages(tmp_path / "bag", found))
    assert "nothing is said of the frame camera_optical_frame; known are base_link, odom" in reader.placing.why_not
    assert all(shot.T_world_cam is None for shot in shots)


# --- cameras -------------------------------------------------------------------------------------------------


def test_several_cameras_have_to_be_named(tmp_path):
    path = write_drive(tmp_path / "bag", Drive(cameras=("/left", "/right"), topic="/camera/image_raw", encoding="rgb8"))
    with pytest.raises(InputError, match="there are 2 cameras") as caught:
        shots_of(path)
    assert "--camera /left/image_raw or --camera /right/image_raw" in str(caught.value)
    assert re.search(r"/left/image_raw +sensor_msgs/msg/Image +image +20 +9.5", str(caught.value))
    for name in ("/left", "/left/image_raw"):
        shots, reader = shots_of(path, cameras=(name,))
        assert {shot.camera for shot in shots} == {"/left/image_raw"}
        assert reader.cameras[0].info == "/left/camera_info"
        assert reader.cameras[0].frame_id == "left_optical_frame"
    shots, _ = shots_of(path, cameras=("all",))
    assert len(shots) == 40
    assert all(shot.T_world_cam is not None and shot.model is not None for shot in shots)
    with pytest.raises(InputError, match="no camera is called '/up'"):
        shots_of(path, cameras=("/up",))


def test_raw_and_compressed_images_are_one_camera(tmp_path):
    both = drive_messages(Drive(), Messages()) + [
        one for one in drive_messages(Drive(topic="/camera/image_raw", encoding="rgb8"), Messages())
        if one[0] == "/camera/image_raw"
    ]  # fmt: skip
    path = write_messages(tmp_path / "bag", sorted(both, key=lambda one: one[1]))
    assert shots_of(path)[1].cameras[0].image == "/camera/image_raw"
    wanted = "/camera/image_raw/compressed"
    assert shots_of(path, cameras=(wanted,))[1].cameras[0].image == wanted


def test_a_name_that_fits_several(tmp_path):
    both = [*drive_messages(Drive(), Messages()),
            *drive_messages(Drive(topic="/camera/image_rect", encoding="rgb8"), Messages())]  # fmt: skip
    path = write_messages(tmp_path / "bag", sorted(both, key=lambda one: one[1]))
    with pytest.raises(InputError, match="may be any of /camera/image_raw, /camera/image_rect"):
        shots_of(path, cameras=("/camera",))


def test_no_images(tmp_path):
    found = [one for one in drive_messages(Drive(), Messages()) if "image" not in one[0]]
    with pytest.raises(InputError, match="it holds no images"):
        shots_of(write_messages(tmp_path / "bag", found))


def test_camera_info_elsewhere_of_the_same_frame(tmp_path):
    found = [(topic.replace("/camera/camera_info", "/info"), stamp, m) for topic, stamp, m in
             drive_messages(Drive(), Messages())]  # fmt: skip
    _, reader = shots_of(write_messages(tmp_path / "bag", found))
    assert reader.cameras[0].info == "/info"
    assert reader.cameras[0].model is not None


def test_camera_info_that_is_not_calibrated(tmp_path):
    found = drive_messages(Drive(), Messages())
    for topic, _, message in found:
        if topic.endswith("camera_info"):
            message.k[:] = 0
    _, reader = shots_of(write_messages(tmp_path / "bag", found))
    assert reader.cameras[0].model is None


def test_depth_by_name(tmp_path):
    path = write_drive(tmp_path / "bag", Drive(depth=True))
    shots, _ = shots_of(path, depth="/camera/depth/image_raw")
    assert all(shot.depth is not None for shot in shots)
    with pytest.raises(InputError, match="is of kind image and there are 1 cameras"):
        shots_of(path, depth="/camera/image_raw/compressed")


def test_shots_cannot_be_changed(tmp_path):
    shots, _ = shots_of(write_drive(tmp_path / "bag"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        shots[0].camera = "other"
