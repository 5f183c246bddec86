"""The node's process chooses keyframes, finds metres, plans cameras and keeps the map without PyTorch."""

import json
import subprocess
import sys

MODULES = [
    "gen3r_core.geometry.poses",
    "gen3r_core.geometry.sim3",
    "gen3r_core.io.ply",
    *(
        f"gen3r_core.reconstruction.{name}"
        for name in ("cloud", "goal_path", "keyframes", "metric", "packing", "thumbnails", "voxel_map")
    ),
]

SOURCE = f"""
import importlib, json, pathlib, sys, tempfile
for name in {MODULES!r}:
    importlib.import_module(name)
import numpy as np
from gen3r_core.geometry.poses import poses_from
from gen3r_core.io.ply import write_ply
from gen3r_core.reconstruction.goal_path import goal_cameras
from gen3r_core.reconstruction.keyframes import KeyframeSelector
from gen3r_core.reconstruction.metric import fit_metric
from gen3r_core.reconstruction.voxel_map import VoxelMap

T = poses_from(np.repeat(np.eye(3)[None], 4, axis=0), np.arange(12.0).reshape(4, 3))
KeyframeSelector().offer(0, None, np.zeros((60, 80), np.uint8), T[0])
fit = fit_metric(T, T)
goal_cameras(T[:, :3, 3], np.zeros((4, 4)), np.eye(4), 5).in_model(fit.world_from_model)
voxels = VoxelMap()
voxels.insert(T[:, :3, 3], np.zeros((4, 3), np.uint8))
with tempfile.TemporaryDirectory() as folder:
    write_ply(pathlib.Path(folder) / "map.ply", voxels.cloud())
print(json.dumps(sorted({{"torch", "open3d", "scipy", "diffusers", "transformers"}} & set(sys.modules))))
"""


def test_nothing_heavy_is_loaded():
    done = subprocess.run([sys.executable, "-c", SOURCE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
