"""A map's PLY files, read by ourselves and by open3d."""

import numpy as np
import open3d
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import assert_same_cloud, box_map

from gen3r_core.errors import InputError
from gen3r_core.io.ply import read_ply, write_ply
from gen3r_core.maps import ply_files
from gen3r_core.maps.ply_files import read_map_cloud, read_map_mesh, write_map_cloud, write_map_mesh
from gen3r_core.maps.scene_map import MapCloud, MapMesh
from gen3r_core.reconstruction.cloud import PointCloud


@st.composite
def clouds(draw):
    count = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    reach = draw(st.sampled_from([1e-3, 1.0, 1e5]))
    return MapCloud(
        rng.uniform(-reach, reach, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        rng.uniform(0, 1e3, count).astype(np.float32),
        rng.random(count) < 0.5,
        rng.integers(-1, 2**31, count).astype(np.int32),
    )


@given(clouds(), st.integers(1, 50))
@settings(deadline=None, max_examples=40)
def test_clouds_come_back(tmp_path_factory, cloud, at_once):
    path = tmp_path_factory.mktemp("ply") / "cloud.ply"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ply_files, "_AT_ONCE", at_once)
        write_map_cloud(path, cloud, metric=True)
    assert_same_cloud(read_map_cloud(path), cloud)
    np.testing.assert_array_equal(read_ply(path).points, cloud.points)


@given(st.integers(0, 2**32), st.integers(0, 20), st.integers(0, 20))
@settings(deadline=None, max_examples=25)
def test_meshes_come_back(tmp_path_factory, seed, corners, triangles):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(corners, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (corners, 3), dtype=np.uint8)
    mesh = MapMesh(
        vertices, colors, rng.integers(0, max(corners, 1), (triangles if corners else 0, 3)).astype(np.int32)
    )
    path = tmp_path_factory.mktemp("ply") / "mesh.ply"
    write_map_mesh(path, mesh, metric=False)
    found = read_map_mesh(path)
    for name in ("vertices", "colors", "triangles"):
        np.testing.assert_array_equal(getattr(found, name), getattr(mesh, name))
    assert b"comment unit the map's own\n" in path.read_bytes()


def test_open3d_reads_the_cloud(tmp_path):
    cloud = box_map(3, generated=(2,)).cloud
    path = tmp_path / "cloud.ply"
    write_map_cloud(path, cloud, metric=True)
    plain = open3d.io.read_point_cloud(str(path))
    np.testing.assert_array_equal(np.asarray(plain.points), cloud.points)
    np.testing.assert_array_equal(np.rint(np.asarray(plain.colors) * 255), cloud.colors)
    whole = open3d.t.io.read_point_cloud(str(path))
    np.testing.assert_array_equal(whole.point.confidence.numpy()[:, 0], cloud.confidence)
    np.testing.assert_array_equal(whole.point.generated.numpy()[:, 0], cloud.generated)
    np.testing.assert_array_equal(whole.point.frame.numpy()[:, 0], cloud.frame)


def test_open3d_reads_the_mesh(tmp_path):
    mesh = box_map(1).mesh
    write_map_mesh(tmp_path / "mesh.ply", mesh, metric=True)
    found = open3d.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    np.testing.assert_array_equal(np.asarray(found.vertices), mesh.vertices)
    np.testing.assert_array_equal(np.asarray(found.triangles), mesh.triangles)
    np.testing.assert_array_equal(np.rint(np.asarray(found.vertex_colors) * 255), mesh.colors)


def test_clouds_of_others_are_read_with_what_they_lack_filled_in(tmp_path):
    points = np.random.default_rng(0).normal(size=(5, 3))
    write_ply(tmp_path / "a.ply", PointCloud(points, np.full((5, 3), 0.2)))
    found = read_map_cloud(tmp_path / "a.ply")
    np.testing.assert_allclose(found.points, points, rtol=1e-6)
    assert (found.colors == 51).all()
    assert (found.confidence == 1).all()
    assert not found.generated.any()
    assert (found.frame == -1).all()
    head = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
    (tmp_path / "b.ply").write_text(f"{head}end_header\n1 2 3\n")
    assert (read_map_cloud(tmp_path / "b.ply").colors == 128).all()
    colors = "property {0} red\nproperty {0} green\nproperty {0} blue\nend_header\n"
    (tmp_path / "c.ply").write_text(f"{head}{colors.format('ushort')}1 2 3 65535 0 32768\n")
    assert read_map_cloud(tmp_path / "c.ply").colors.tolist() == [[255, 0, 128]]
    (tmp_path / "d.ply").write_text(f"{head}{colors.format('float')}1 2 3 2.0 0.5 nan\n")
    assert read_map_cloud(tmp_path / "d.ply").colors.tolist() == [[255, 128, 0]]
    (tmp_path / "e.ply").write_text(f"{head}end_header\n1 nan 3\n")
    with pytest.raises(InputError, match=r"e\.ply: 1 of 1 points"):
        read_map_cloud(tmp_path / "e.ply")


def test_damaged_meshes(tmp_path):
    path = tmp_path / "mesh.ply"
    write_map_mesh(path, box_map(1).mesh, metric=True)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="promises 2 triangles, 1 are there"):
        read_map_mesh(path)
    path.write_bytes(data[:-26] + b"\x04" + data[-25:])
    with pytest.raises(InputError, match="other faces than triangles"):
        read_map_mesh(path)
    path.write_bytes(data[:-4] + (99).to_bytes(4, "little"))
    with pytest.raises(InputError, match=r"mesh\.ply: a map's mesh has triangles with vertices that are not there"):
        read_map_mesh(path)
    write_map_cloud(path, box_map(1).cloud, metric=True)
    with pytest.raises(InputError, match="no triangles of the kind"):
        read_map_mesh(path)
    with pytest.raises(InputError, match="no such PLY file"):
        read_map_mesh(tmp_path / "none.ply")
