"""Contact sheets: truth, prediction, baseline and depth of a clip, frame by frame, for the eye."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gen3r_core.conditioning import Task
from gen3r_core.evaluation.baselines import cross_fade, nearest_known
from gen3r_core.evaluation.predictions import Geometry, Prediction
from gen3r_core.evaluation.run import SceneFigures
from gen3r_core.evaluation.scenes import TrueScene
from gen3r_core.geometry.unprojection import percentiles
from gen3r_core.io.colormap import RANGE_PERCENTILES, spectral
from gen3r_core.metrics.depth import median_scale

__all__ = ["evaluation_sheet"]

Picture = NDArray[np.uint8]
_WIDEST = 224
_MARGIN = 96
_GAP = 4
_TEXT = 13
_LINE = 17
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def evaluation_sheet(
    scene: TrueScene, prediction: Prediction, measured: SceneFigures, task: Task | None, *, columns: int = 6
) -> Picture:
    """Rows of frames evenly spaced over a clip, with their names, and the clip's figures on top.

    Depth has the colours of the truth's range; predicted depth is brought to metres by the median ratio.

    Args:
        scene: the truth.
        prediction: of a task.
        measured: its figures.
        task: what was generated, which says what baseline there is; None otherwise.
        columns: frames to show, at most F.

    Returns:
        ``[H, W, 3]`` RGB.
    """
    frames = np.linspace(0, len(scene.colors) - 1, min(columns, len(scene.colors))).round().astype(int).tolist()
    known = [] if task is None else task.known_frames(len(scene.colors))
    rows = [(name, pictures[frames]) for name, pictures in _rows(scene, prediction, task)]
    height, width = _thumbnail_size(scene.size)
    wide = _MARGIN + len(frames) * (width + _GAP)
    title = _title(scene, prediction, measured, wide)
    top = (len(title) + 1) * _LINE + _GAP
    sheet = Image.new("RGB", (wide, top + len(rows) * (height + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT)
    for line, text in enumerate(title):
        draw.text((_GAP, line * _LINE), text, fill=_INK, font=font)
    for column, frame in enumerate(frames):
        given = " (given)" if frame in known else ""
        place = (_MARGIN + column * (width + _GAP), len(title) * _LINE)
        draw.text(place, f"frame {frame}{given}", fill=_FAINT, font=font)
    for row, (name, pictures) in enumerate(rows):
        y = top + row * (height + _GAP)
        draw.multiline_text((_GAP, y), name.replace(" ", "\n"), fill=_INK, font=font)
        for column, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
            sheet.paste(image, (_MARGIN + column * (width + _GAP), y))
    return np.asarray(sheet)


def _rows(scene: TrueScene, prediction: Prediction, task: Task | None) -> list[tuple[str, Picture]]:
    """Names and ``[F, H, W, 3]`` pictures."""
    rows = [("truth", _bytes(scene.colors))]
    if prediction.colors is not None:
        rows.append(("prediction", _bytes(prediction.colors)))
        if task is None:
            rows.append(("difference x4", _bytes(4 * (prediction.colors - scene.colors).abs())))
    if task is Task.TWO_VIEW:
        rows.append(("cross-fade", _bytes(cross_fade(scene.colors, task.known_frames(len(scene.colors))))))
    elif task is Task.ONE_VIEW:
        rows.append(("given frame", _bytes(nearest_known(scene.colors, [0]))))
    if prediction.geometry is None:
        return rows
    found = [("true depth", scene.depth)] if scene.depth is not None else []
    named = (("predicted depth", prediction.geometry), ("VGGT's depth", prediction.vggt))
    found += [(name, _metres(own, scene)) for name, own in named if own is not None]
    return rows + _depth_rows(found, scene)


def _depth_rows(found: Sequence[tuple[str, Tensor]], scene: TrueScene) -> list[tuple[str, Picture]]:
    """All coloured by one range: that of the truth, or else of the prediction."""
    depths = torch.stack([depth for _, depth in found])
    usable = (depths > 0) & torch.isfinite(depths)
    ruling = scene.depth[usable[0]] if scene.depth is not None else depths[usable]
    low, high = (
        percentiles(ruling, RANGE_PERCENTILES) if ruling.numel() else (depths.new_zeros(()), depths.new_ones(()))
    )
    scaled = (depths - low) / (high - low).clamp(min=1e-12)
    colored = (spectral(scaled.nan_to_num()) * usable[..., None]).cpu().numpy()
    return [(name, part) for (name, _), part in zip(found, colored, strict=True)]


def _metres(geometry: Geometry, scene: TrueScene) -> Tensor:
    if scene.depth is None:
        return geometry.depth
    known = (scene.depth > 0) & torch.isfinite(scene.depth)
    return geometry.depth * median_scale(geometry.depth[None], scene.depth[None], known[None]).nan_to_num(1.0)


def _title(scene: TrueScene, prediction: Prediction, measured: SceneFigures, wide: int) -> list[str]:
    shown = (
        ("psnr_middle", "PSNR middle {:.2f} dB"),
        ("psnr_unknown", "PSNR {:.2f} dB"),
        ("ssim_unknown", "SSIM {:.3f}"),
        ("absrel", "AbsRel {:.4f}"),
        ("auc30", "AUC@30 {:.3f}"),
    )
    figures = [text.format(value) for name, text in shown if (value := measured.figures.get(name)) is not None]
    for name, own in measured.baselines.items():
        value = own.get("psnr_unknown")
        figures += [f"{name} {value:.2f} dB"] if value is not None else []
    prompt = scene.caption if prediction.prompt in {None, scene.caption} else f"prompt: {prediction.prompt or '(none)'}"
    characters = max(20, int(wide / (0.52 * _TEXT)))
    return [*textwrap.wrap(", ".join([scene.name, *figures]), characters), *textwrap.wrap(prompt, characters)]


def _thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    """``(height, width)``, at most as wide as :data:`_WIDEST`."""
    scale = min(1.0, _WIDEST / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _bytes(colors: Tensor) -> Picture:
    """``[F, 3, H, W]`` in [0, 1] to ``[F, H, W, 3]``."""
    values = (colors.nan_to_num(0).clamp(0, 1) * 255).round().byte().movedim(1, -1)
    return np.asarray(values.cpu().numpy(), dtype=np.uint8)
