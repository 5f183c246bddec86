"""A real recording, with the model in this package: as a bag of JPEGs and as a video."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from gen3r_core.checkpoint.packaged import packaged_folder
from gen3r_core.cli import main
from gen3r_core.evaluation.map_truth import best_motion, path_error
from gen3r_core.maps.folder import read_map

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "garden_bag").is_dir(), reason="the real inputs are not here")
@pytest.mark.skipif(not packaged_folder().is_dir(), reason="the trained model is not here")
def test_a_bag_and_a_video_of_one_walk_give_one_map(tmp_path):
    maps = []
    for name in ("garden_bag", "garden.mp4"):
        assert main(["reconstruct", str(DATA / name), "--output_dir", str(tmp_path / name)]) == 0
        maps.append(read_map(tmp_path / name))
    bag, video = maps
    assert [frame.image.shape for frame in bag.frames] == [frame.image.shape for frame in video.frames]
    stamps = [np.array([frame.stamp_ns for frame in one.frames]) for one in maps]
    np.testing.assert_allclose(stamps[0] - stamps[0][0], stamps[1] - stamps[1][0], atol=2e6)  # the same keyframes
    poses = [np.stack([frame.T_world_cam for frame in one.frames]) for one in maps]
    places = [T[:, :3, 3] for T in poses]
    lengths = [np.linalg.norm(np.diff(one, axis=0), axis=1).sum() for one in places]
    length = lengths[0]
    # The walk is nearly straight: its places alone leave the turn about it open, so the cameras' axes count too.
    arms = [np.concatenate([one, *(one + arm * T[:, :3, axis] for axis in range(3))])
            for one, arm, T in zip(places, lengths, poses, strict=True)]  # fmt: skip
    motion = best_motion(arms[1], arms[0], scaled=True)
    off_path = path_error(places[1], places[0], motion) / length
    off, _ = cKDTree(bag.cloud.points).query(motion.apply(video.cloud.points.astype(np.float64)))
    off_voxels = np.median(off) / bag.run["voxel"]
    print(f"{len(places[0])} keyframes; paths differ by {off_path:.2%}, points by {off_voxels:.2f} voxels")
    assert off_path < 0.01
    assert off_voxels < 1
