"""The packaged weights give the figures of their card, on four test worlds.

The worlds are rendered with one ray a pixel, which is four times as fast as the card's four; `figures.json` beside this
file has what the card's weights gave there. ``python test/small/test_small_figures.py`` measures anew and writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch

from gen3r_core.checkpoint.folder import MANIFEST
from gen3r_core.checkpoint.packaged import packaged_folder
from gen3r_core.evaluation.baselines import cross_fade
from gen3r_core.evaluation.measure import geometry_figures, image_figures
from gen3r_core.evaluation.parts import open_for_evaluation, shape_of
from gen3r_core.evaluation.scenes import WorldScenes
from gen3r_core.evaluation.tasks import load_task
from gen3r_core.jobs import Sampling

FIGURES = Path(__file__).with_name("figures.json")
SCENES = 4
KEYS = {
    "vae": ("psnr_unknown",),
    "refined": ("absrel", "auc30"),
    "2view": (
        "psnr_middle",
        "crossfade_psnr_middle",
        "psnr_unknown",
        "absrel",
        "auc30",
        "vggt_absrel",
        "vggt_auc30",
    ),
}
TOLERANCE = {
    "psnr_unknown": 0.3,
    "psnr_middle": 0.5,
    "crossfade_psnr_middle": 0.1,
    "absrel": 0.015,
    "auc30": 0.05,
    "vggt_absrel": 0.01,
    "vggt_auc30": 0.03,
}
"""Another processor rounds differently, and twelve steps carry that on."""

needs_weights = pytest.mark.skipif(
    not (packaged_folder() / MANIFEST).is_file(), reason="gen3r_core/small/weights is empty: nothing trained yet"
)


class Rendered(WorldScenes):
    """Worlds that are rendered once for all tasks."""

    def load(self, rows, device):
        kept = self.__dict__.setdefault("_kept", {})
        for row in rows:
            if row not in kept:
                kept[row] = super().load([row], device)[0]
        return [kept[row] for row in rows]


def measure(task: str, scenes: WorldScenes, chosen: Sequence[int]) -> dict[str, list[float]]:
    """Figures of each of the scenes; for 2view also of the cross-fade, and of VGGT on all frames."""
    checkpoint = open_for_evaluation(None, [])
    frames, size = shape_of(checkpoint, None, None)
    defaults = checkpoint.defaults
    sampling = Sampling(
        steps=int(defaults.get("steps", 12)),
        guidance=float(defaults.get("guidance", 1.0)),
        geometry=str(defaults.get("geometry", "latents")),
        num_frames=frames,
        size=size,
    )
    cpu = torch.device("cpu")
    model = load_task(task, checkpoint, sampling, lambda scene: scene.caption, device=cpu, dtype=torch.float32)
    rows = []
    for row in chosen:
        scene = scenes.load([row], cpu)[0]
        (found,) = model.predict([scene])
        figures = {} if found.colors is None else dict(image_figures(found.colors, scene.colors, model.task))
        if found.geometry is not None:
            figures |= geometry_figures(found.geometry, scene)
        if found.vggt is not None and found.colors is not None:
            figures |= {f"vggt_{key}": value for key, value in geometry_figures(found.vggt, scene).items()}
            faded = cross_fade(scene.colors, model.task.known_frames(frames))
            figures["crossfade_psnr_middle"] = image_figures(faded, scene.colors, model.task)["psnr_middle"]
        rows.append(figures)
    return {key: [figures[key] for figures in rows] for key in KEYS[task]}


@pytest.fixture(scope="module")
def scenes() -> Rendered:
    frames, size = shape_of(open_for_evaluation(None, []), None, None)
    return Rendered("test", range(SCENES), frames, size, samples=1)


@needs_weights
@pytest.mark.parametrize("chosen", [(0, 1), pytest.param((2, 3), marks=pytest.mark.slow)])
def test_the_packaged_weights_are_as_good_as_their_card_says(scenes, chosen):
    """Means over scenes. One test for all tasks: two would run in two processes, and render the worlds twice."""
    known = json.loads(FIGURES.read_text())
    for task, keys in KEYS.items():
        found = measure(task, scenes, chosen)
        for key in keys:
            expected = fmean(known[task][key][row] for row in chosen)
            assert fmean(found[key]) == pytest.approx(expected, abs=TOLERANCE[key]), (task, key)


if __name__ == "__main__":
    shape = shape_of(open_for_evaluation(None, []), None, None)
    worlds = Rendered("test", range(SCENES), *shape, samples=1)
    FIGURES.write_text(json.dumps({task: measure(task, worlds, range(SCENES)) for task in KEYS}, indent=2) + "\n")
    sys.stdout.write(FIGURES.read_text())
