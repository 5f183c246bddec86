"""From a run to its results: figures, pictures, page and video, all written or none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from gen3r_core.io.atomic import OutputFolder, write_json_atomic, write_text_atomic
from gen3r_core.io.images import write_image
from gen3r_core.io.ply import read_ply
from gen3r_core.io.video import write_video
from gen3r_core.reconstruction.cloud import PointCloud
from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.splits import world_seed
from gen3r_ros.demo.figures import TARGETS, ViewFigures, cloud_scale, path_error, view_figures
from gen3r_ros.demo.film import FPS, film
from gen3r_ros.demo.layout import colored_depth, evenly
from gen3r_ros.demo.main import Ran
from gen3r_ros.demo.options import DemoOptions
from gen3r_ros.demo.page import Row, build_page
from gen3r_ros.demo.picture import Shown, compose
from gen3r_ros.demo.room_pictures import DRIVEN, PLANNED, Plan, oblique, prepare_room
from gen3r_ros.demo.terminal import Terminal

_MEASURED = 20_000
_COLORED = 25
"""Difference between the channels of a pixel that shows something of the room, not the ground or paper."""
_CORES = 2
_SIDES = (-120.0, -30.0, 60.0, 150.0)
"""Degrees that the room is drawn from; the two opposite ones that show most are taken."""


def measure(ran: Ran, cloud: PointCloud, options: DemoOptions) -> tuple[dict[str, Any], ViewFigures]:
    """All figures but the seconds.

    Args:
        ran: the run.
        cloud: of the node's map.
        options: of the run.

    Returns:
        them by name, for JSON; and the views in detail.
    """
    recording = ran.recording
    views = view_figures(recording, ran.truth, ran.known_until)
    chosen = np.random.default_rng(0).permutation(len(cloud))[:_MEASURED]
    camera = WorldCamera(ran.world, options.size, 1.3, samples=1)
    error = camera.distance(cloud.points[chosen])
    scale = cloud_scale(cloud.points, recording)
    metric = [one for one in recording.revisions if one["metric"] and one["points_observed"]]
    last = metric[-1] if metric else {}
    figures: dict[str, Any] = {
        "cloud_median_error_m": float(np.median(error)),
        "cloud_p90_error_m": float(np.percentile(error, 90)),
        "cloud_points": len(cloud),
        "scale_error": None if scale is None else abs(scale - 1),
        "path_error_m": path_error(recording),
        **views.figures,
        "views": len(recording.views),
        "views_generated": sum(not one.observed for one in recording.views),
        "model": recording.model,
        "revision": last.get("revision"),
        "metres_per_unit": last.get("metres_per_unit"),
        "model_path_residual_m": last.get("residual_m"),
        "keyframes": len(recording.keyframes),
        "revisions": len(recording.revisions),
        "prediction_seconds": recording.action_seconds,
        "world": options.world,
        "world_seed": world_seed("test", options.world),
        "tour_seed": options.tour_seed,
        "driven_m": _driven(ran),
    }
    plain = {name: _finite(value) for name, value in figures.items()}
    plain["reconstructions"] = [{name: _finite(value) for name, value in one.items()} for one in recording.revisions]
    return plain, views


def write_report(ran: Ran, options: DemoOptions, terminal: Terminal) -> dict[str, Any]:
    """Measure a run, write everything, and print the figures.

    Args:
        ran: the run.
        options: of it.
        terminal: told of steps and figures.

    Returns:
        what is in report.json.

    Raises:
        OutputError: something cannot be written; then no file is changed.
    """
    torch.set_num_threads(_CORES)
    recording = ran.recording
    terminal.step("comparing with the truth")
    cloud = read_ply(ran.map_file)
    figures, views = measure(ran, cloud, options)
    terminal.end()
    terminal.step("drawing")
    poses = np.stack([one.pose for _, one in sorted(recording.keyframes.items())])
    room = prepare_room(cloud, poses[:, :3, 3], ran.world)
    frames = [
        (image, pose)
        for stamp, image in sorted(recording.images.items())
        if (pose := recording.camera_pose(stamp)) is not None
    ]
    before = np.stack([pose[:2, 3] for stamp, pose in _posed(ran) if stamp <= ran.known_until])
    ways = [(before, DRIVEN), (recording.path[:, :2], PLANNED)]
    predicted = np.stack([one.colors for one in recording.views])
    truth = np.stack([one.colors for one in ran.truth])
    depth, true_depth, depth_words = _depths(ran)
    sides = [oblique(room, (560, 872), azimuth, ways) for azimuth in _SIDES]
    above = Plan(room, ran.world, (560, 680)).draw(ways, poses)
    full = [int((np.ptp(side.astype(int), axis=2) > _COLORED).sum()) for side in sides]
    fullest = int(np.argmax(full))
    sides = [sides[fullest], sides[(fullest + 2) % len(sides)]]
    images = [image for image, _ in frames]
    terminal.more("video")
    with OutputFolder(options.output_dir) as out:
        video = out.path("demo.mp4")
        write_video(video, film(room, ran.world, frames, recording.path[:, :2], predicted, truth), FPS)
        figures["seconds"] = round(terminal.seconds, 1)
        shown = Shown(sides[0], images, truth, predicted, true_depth, depth, depth_words)
        write_image(out.path("picture.png"), compose(shown, figures))
        few = evenly(len(predicted), 6)
        depths = colored_depth([true_depth[few], depth[few]])
        rows = [
            Row("What the camera saw", [images[index] for index in evenly(len(images), 6)]),
            Row("Predicted views, from the first image alone", list(predicted[few]), _names(few, views.psnr)),
            Row("What was to be seen", list(truth[few])),
            Row("The nearest known frame (baseline)", list(views.nearest[few]), _names(few, views.nearest_psnr)),
            Row(
                "Cross-fade of the two nearest (baseline)",
                list(views.crossfade[few]),
                _names(few, views.crossfade_psnr),
            ),
            Row(depth_words, list(depths[1])),
            Row("True depth", list(depths[0])),
            Row("The map, from two sides", sides),
            Row("From above: driven (blue, with keyframes), predicted (orange), over the true walls", [above]),
        ]
        intro = (
            f"World {options.world} (seed {figures['world_seed']}): {figures['keyframes']} keyframes, "
            f"{figures['views']} views, {figures['cloud_points']:,} points, {figures['seconds']:.0f} s. "
            f"Model: {figures['model']}. Keyframe poses are those of TF; the model's own differ by "
            f"{_show(figures['model_path_residual_m'])} m (root mean square, last reconstruction)."
        )
        page = build_page("Gen3R: from camera to predicted view", intro, figures, rows, video.read_bytes())
        write_text_atomic(out.path("report.html"), page)
        write_json_atomic(out.path("report.json"), figures)
    terminal.end()
    tell(figures, options, terminal)
    return figures


def tell(figures: dict[str, Any], options: DemoOptions, terminal: Terminal) -> None:
    """Print the figures with their targets, and where everything is."""
    terminal.line("")
    for target in TARGETS:
        value = figures.get(target.name)
        sign = "at least" if target.at_least else "at most"
        verdict = "met" if target.met(value) else "MISSED"
        limit = f"{sign} {target.limit * target.scale:g} {target.unit}"
        terminal.line(f"  {target.label:46} {target.show(value):>10}   {limit:16} {verdict}")
    shown = {name: math.nan if figures[name] is None else figures[name] for name in figures if name.endswith("psnr")}
    terminal.line(
        "  PSNR: predicted {novel_view_psnr:.2f} dB, nearest known frame {baseline_psnr:.2f} dB, cross-fade "
        "{crossfade_psnr:.2f} dB".format(**shown)
    )
    terminal.line(f"  {figures['views']} views, {figures['cloud_points']:,} points, {figures['seconds']:.1f} s in all")
    folder = options.output_dir.absolute()
    terminal.line(
        f"\n{folder / 'report.html'}\n{folder / 'picture.png'}, cloud.ply, demo.mp4 and report.json beside it"
    )


def _posed(ran: Ran) -> list[tuple[int, Any]]:
    """Stamps and camera poses of the images."""
    found = [(stamp, ran.recording.camera_pose(stamp)) for stamp in sorted(ran.recording.images)]
    return [(stamp, pose) for stamp, pose in found if pose is not None]


def _driven(ran: Ran) -> float:
    places = np.stack([pose[:2, 3] for _, pose in _posed(ran)])
    return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())


def _depths(ran: Ran) -> tuple[Any, Any, str]:
    """``[F, S, S]`` predicted and true, and the caption; what is not metric is scaled to be looked at, and says so."""
    true = np.stack([one.depth for one in ran.truth])
    own = np.stack([one.depth for one in ran.recording.views])
    words = "Predicted depth"
    if not all(one.metric for one in ran.recording.views):
        words += " (not metric: scaled by the median of true over predicted)"
        known = np.isfinite(own) & (own > 0) & (true > 0)
        own = own * (float(np.median(true[known] / own[known])) if known.any() else 1.0)
    return own, true, words


def _names(chosen: list[int], psnr: Any) -> list[str]:
    return [f"view {index}: {psnr[index]:.1f} dB" for index in chosen]


def _show(value: float | None) -> str:
    return "an unknown number of" if value is None else f"{value:.2f}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
