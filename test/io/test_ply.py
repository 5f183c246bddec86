import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io import ply
from gen3r_core.io.ply import read_ply, write_ply
from gen3r_core.reconstruction.cloud import PointCloud, import_open3d


def cloud(count=20, seed=0):
    generator = np.random.default_rng(seed)
    return PointCloud(generator.normal(size=(count, 3)), generator.integers(0, 256, (count, 3)) / 255)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_round_trip(tmp_path, monkeypatch, count):
    monkeypatch.setattr(ply, "_POINTS_AT_ONCE", 7)
    write_ply(tmp_path / "a.ply", cloud(count))
    found = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(found.points, cloud(count).points)
    np.testing.assert_array_equal(np.rint(found.colors * 255), np.rint(cloud(count).colors * 255))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_single_precision_clouds(tmp_path):
    small = PointCloud(cloud().points.astype(np.float32), cloud().colors.astype(np.float32))
    write_ply(tmp_path / "a.ply", small)
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply").points, small.points)


@pytest.mark.parametrize("ascii_format", [True, False])
def test_what_open3d_writes_can_be_read(tmp_path, ascii_format):
    o3d = import_open3d()
    theirs = o3d.geometry.PointCloud()
    theirs.points = o3d.utility.Vector3dVector(cloud().points)
    o3d.io.write_point_cloud(str(tmp_path / "a.ply"), theirs, write_ascii=ascii_format)
    found = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(found.points, cloud().points, rtol=0, atol=1e-5 if ascii_format else 0)
    assert (found.colors == 0.5).all()


def test_open3d_reads_what_is_written(tmp_path):
    write_ply(tmp_path / "a.ply", cloud())
    theirs = import_open3d().io.read_point_cloud(str(tmp_path / "a.ply"))
    np.testing.assert_array_equal(np.asarray(theirs.points), cloud().points)
    np.testing.assert_allclose(np.asarray(theirs.colors), cloud().colors, atol=1e-6)


HEADER = "ply\nformat {}\ncomment x\nelement vertex 2\n{}element face 1\nproperty list uchar int i\nend_header\n"
MIXED = "property float z\nproperty short q\nproperty float y\nproperty double x\n"
GIVEN = np.array([(3.0, 7, 2.0, 1.0), (6.0, 8, 5.0, 4.0)], dtype=[("z", "f4"), ("q", "i2"), ("y", "f4"), ("x", "f8")])


@pytest.mark.parametrize(("form", "order"), [("binary_little_endian 1.0", "<"), ("binary_big_endian 1.0", ">")])
def test_other_properties_and_elements_are_passed_over(tmp_path, form, order):
    body = GIVEN.astype(GIVEN.dtype.newbyteorder(order)).tobytes()
    (tmp_path / "a.ply").write_bytes(HEADER.format(form, MIXED).encode() + body + b"\x00")
    assert read_ply(tmp_path / "a.ply").points.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_text_with_float_colours(tmp_path):
    colored = MIXED + "property float red\nproperty float green\nproperty float blue\n"
    (tmp_path / "a.ply").write_text(HEADER.format("ascii 1.0", colored) + "3 7 2 1 0 .5 1\n6 8 5 4 1 1 1\n0\n")
    found = read_ply(tmp_path / "a.ply")
    assert found.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.colors.tolist() == [[0, 0.5, 1], [1, 1, 1]]


def test_truncated_files(tmp_path):
    write_ply(tmp_path / "a.ply", cloud())
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data[:-40])
    with pytest.raises(InputError, match=r"a\.ply: .*truncated: its header promises 20 points, 18 are there"):
        read_ply(tmp_path / "a.ply")
    (tmp_path / "b.ply").write_text(HEADER.format("ascii 1.0", MIXED) + "3 7 2 1\n")
    with pytest.raises(InputError, match=r"b\.ply: .*promises 2 points, 1 are there"):
        read_ply(tmp_path / "b.ply")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY file whose header begins with vertices"),
        (b"hello\n" * 2000, "not a PLY file whose header begins with vertices"),
        (b"ply\n", "not a PLY file whose header begins with vertices"),
        (b"ply\nformat ascii 1.0\nelement face 3\nend_header\n", "not a PLY file whose header begins with vertices"),
        (b"ply\nformat ascii 1.0\nelement vertex x\nend_header\n", "header is damaged: .* x vertices"),
        (HEADER.format("ascii 1.0", "property float x\n").encode(), r"2 vertices with \['x'\]"),
        (HEADER.format("morse 1.0", MIXED).encode(), "format 'morse'"),
        (HEADER.format("ascii 1.0", "property list uchar int x\n").encode(), "'property list uchar int x' is not supp"),
        (HEADER.format("ascii 1.0", MIXED).encode() + b"a b c d\n1 2 3 4\n", "the PLY file is damaged: could not conv"),
    ],
)
def test_what_is_no_ply_file(tmp_path, content, message):
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.ply: .*{message}"):
        read_ply(tmp_path / "a.ply")


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_bytes_after_a_header_are_read_or_refused(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("any") / "a.ply"
    path.write_bytes(HEADER.format("ascii 1.0", MIXED).encode() + body)
    try:
        assert len(read_ply(path)) == 2
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right


def test_points_that_are_not_finite(tmp_path):
    header = (
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    (tmp_path / "a.ply").write_text(header + "nan 0 0\n")
    with pytest.raises(InputError, match=r"a\.ply: 1 of 1 points are NaN"):
        read_ply(tmp_path / "a.ply")


def test_missing_places(tmp_path):
    with pytest.raises(InputError, match="there is no such PLY file"):
        read_ply(tmp_path / "a.ply")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_ply(tmp_path)
    with pytest.raises(OutputError, match=r"missing/a\.ply: No such file"):
        write_ply(tmp_path / "missing" / "a.ply", cloud())
