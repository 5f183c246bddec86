"""Meshes for the browser: what trimesh, another reader, finds in them."""

import io
import json

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from map_samples import grid_triangles

from gen3r_core.maps.scene_map import MapMesh
from gen3r_core.viewer.meshes import cut_mesh, glb, lighter


def sheet(rows=30, columns=40):
    """A wavy sheet whose colours follow its place."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    vertices = np.stack([x, y, np.sin(x / 5) + 4], -1).reshape(-1, 3)
    colors = np.stack([x * 6, y * 8, 0 * x + 77], -1).reshape(-1, 3).astype(np.uint8)
    return MapMesh(vertices, colors, grid_triangles(np.ones((rows, columns))).astype(np.int32))


@given(count=st.integers(3, 40), faces=st.integers(1, 60), seed=st.integers(0, 1000))
def test_glb_is_read_back(count, faces, seed):
    rng = np.random.default_rng(seed)
    triangles = np.stack([rng.permutation(count)[:3] for _ in range(faces)]).astype(np.int32)
    mesh = MapMesh(
        rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8), triangles
    )
    data = glb(mesh)
    assert len(data) % 4 == 0
    found = trimesh.load_mesh(io.BytesIO(data), file_type="glb", process=False)
    np.testing.assert_array_equal(found.vertices, mesh.vertices.astype(np.float64))
    np.testing.assert_array_equal(found.faces, triangles)


def test_glb_colours_are_linear_light():
    srgb = np.array([[0, 128, 255], [1, 2, 3], [9, 9, 9]], np.uint8)
    data = glb(MapMesh(np.eye(3, dtype=np.float32), srgb, np.array([[0, 1, 2]], np.int32)))
    length = int.from_bytes(data[12:16], "little")
    header = json.loads(data[20 : 20 + length])
    start = 28 + length + header["bufferViews"][1]["byteOffset"]
    found = np.frombuffer(data, "<u2", 12, start).reshape(3, 4) / 65535
    # 128 of 255 in sRGB is 21.6 % of the light of white.
    assert found[0].tolist() == pytest.approx([0, 0.216, 1, 1], abs=0.001)
    assert len(np.unique(found[1, :3])) == 3  # the darkest are still apart


def test_a_cut_leaves_whole_triangles_below():
    mesh = sheet()
    heights = mesh.vertices[:, 1]
    cut = cut_mesh(mesh, heights, 10.0)
    assert 0 < len(cut.triangles) < len(mesh.triangles)
    assert heights[cut.triangles].max() == 10
    assert len(cut_mesh(mesh, heights, -1.0).triangles) == 0
    assert cut_mesh(mesh, heights, None) is mesh


def test_a_heavy_mesh_becomes_lighter_and_keeps_its_place():
    mesh = sheet(100, 120)
    light = lighter(mesh, 4000)
    assert 1000 < len(light.triangles) <= 4000
    corners = light.vertices[light.triangles]
    assert all(len(set(row)) == 3 for row in light.triangles.tolist())
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    whole = mesh.vertices[mesh.triangles]
    full = np.linalg.norm(np.cross(whole[:, 1] - whole[:, 0], whole[:, 2] - whole[:, 0]), axis=1).sum() / 2
    assert area == pytest.approx(full, rel=0.06)
    np.testing.assert_allclose(light.vertices[:, 2], np.sin(light.vertices[:, 0] / 5) + 4, atol=0.2)
    assert lighter(mesh, 10**6) is mesh


def test_a_mesh_of_one_point_can_be_made_lighter_too():
    mesh = MapMesh(np.zeros((4, 3), np.float32), np.zeros((4, 3), np.uint8), np.array([[0, 1, 2]] * 9, np.int32))
    assert len(lighter(mesh, 2).triangles) == 0
