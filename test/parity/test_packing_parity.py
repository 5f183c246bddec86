"""Packing of cameras, masks and known frames against the golden kit."""

from __future__ import annotations

import math

import golden
import pytest
import torch

from gen3r_core.conditioning import FOLD, SPATIAL, Task, control_video, known_frame_mask, pack_cameras
from gen3r_core.models.image_encoder import quantize_like_upstream

pytestmark = [pytest.mark.parity, golden.requires_golden]
LIMIT = 1e-5


@pytest.mark.parametrize("name", golden.cases("functions_packing") or ["functions_packing_absent"])
def test_packing(name: str) -> None:
    case = golden.load(name)
    frames, height, width = case.meta["settings"]["cam"]
    indices = torch.arange(frames * 6 * height * width).view(1, frames, 6, height, width)
    golden.assert_close(pack_cameras(indices).int(), case.outputs["camera_packed"], 0)

    frames, height, width = case.meta["settings"]["mask"]
    rows, columns = height // SPATIAL, width // SPATIAL
    for tag in sorted({key.partition("/")[0] for key in case.outputs if "/" in key}):
        task = Task(tag)
        mask = known_frame_mask(task, frames, (rows, columns))
        golden.assert_close(mask.to(torch.uint8), case.outputs[f"{tag}/mask"], 0)
        latent_frames = (frames - 1) // FOLD + 1
        assert list(mask.shape[2:]) == case.outputs[f"{tag}/x_shape"][2:].tolist()
        assert math.ceil(latent_frames * rows * columns * 2 / 4) == case.outputs[f"{tag}/seq_len"].item()
        images = case.inputs.get(f"{tag}/control_images")
        first = images if images is not None else case.inputs[f"{tag}/control_images_first"]
        golden.assert_close(quantize_like_upstream(first[:, 0])[0, :, None], case.outputs[f"{tag}/clip_input"], LIMIT)
        if images is not None and f"{tag}/vae_input_frames" in case.outputs:
            video = control_video(images, task, frames)
            golden.assert_close(video[:, :, [0, 1, -2, -1]], case.outputs[f"{tag}/vae_input_frames"], LIMIT)
