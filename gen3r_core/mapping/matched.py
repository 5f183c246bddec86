"""A window's cameras from matches between its images, where they explain them better than the network's do.

A network's depth can be right while its cameras are not. So each match says where a point is, by the depth map of one
image, and where it is seen in another: that gives the second camera (perspective from n points, with random samples;
M. Fischler and R. Bolles, CACM 1981), and all of them together the window's (:mod:`gen3r_core.mapping.bundle`). The
unit stays that of the window's depth. Where the camera is not known, they tell its focal length as well: a network
that is a tenth off has its cameras move in wrong directions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.pixels import points_of_pixels
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.mapping.bundle import Adjusted, BundleOptions, Sights, adjust, project, without_outliers, zoomed
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.turning import TurnOptions, turn_between
from gen3r_core.mapping.windows import Window

__all__ = ["MatchOptions", "MatchedWindow", "camera_from_points", "depth_at", "match_window"]

_SAMPLES = 200
_EDGE = 0.1
_ROUNDS = 3
_BEFORE = 4


@dataclass(frozen=True)
class MatchOptions:
    """What is matched, and believed.

    Attributes:
        steps: how far apart frames are that are compared.
        pixels: within which a match fits.
        min_matches: of two frames that fit one motion, at least.
        plenty: of matches of a frame with those before; with fewer it is looked whether it only turned.
        sure_turn: likeness of two images from which a camera only turned (:mod:`gen3r_core.mapping.turning`).
        min_share: share of a window's frames that matches and turns must give cameras of.
        better: how many times as many matches the new cameras must explain as the network's.
        calibrated: whether the windows' intrinsics are known. Otherwise all views are taken for one camera's, with the
            medians of what the network says and the focal length that matches tell.
        focal: standard deviation of the logarithm of such a focal length.
        bundle: what is believed how much.

    Raises:
        InputError: numbers make no sense.
    """

    steps: tuple[int, ...] = (1, 2, 3, 4, 6, 9, 13)
    pixels: float = 2.5
    min_matches: int = 12
    plenty: int = 40
    sure_turn: float = 0.94
    min_share: float = 0.6
    better: float = 1.02
    calibrated: bool = True
    focal: float = 0.15
    turns: TurnOptions = field(default_factory=TurnOptions)
    bundle: BundleOptions = field(default_factory=BundleOptions)

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1 or not (self.pixels > 0 and self.focal > 0) or self.min_matches < 6:
            raise InputError(f"matching needs steps of 1 or more, pixels, and 6 matches at least, got {self}")

    @property
    def adjustment(self) -> BundleOptions:
        """What is believed how much."""
        return self.bundle if self.calibrated else replace(self.bundle, focal=self.focal)


@dataclass(frozen=True, eq=False)
class MatchedWindow:
    """What matches say of a window's cameras.

    Attributes:
        reason: why the network's cameras were kept; empty if the matches' were taken.
        window: with its cameras, and depth with one scale for each view; as it was, if there is a reason.
        matches: between its frames that fit a motion of two frames.
        before: how many of them the network's cameras explain.
        after: how many of them the cameras of the matches explain.
        placed: frames whose cameras matches or turns gave.
    """

    reason: str
    window: Window
    matches: int
    before: int
    after: int
    placed: int


def depth_at(window: Window, place: int, pixels: Array) -> Array:
    """``[M]`` depth at ``[M, 2]`` pixels of a view, between its four neighbours; 0 at edges and where unknown."""
    depth = window.depth[place].astype(np.float64)
    height, width = depth.shape
    x, y = pixels[:, 0].clip(0, width - 1.001), pixels[:, 1].clip(0, height - 1.001)
    u, v = x.astype(np.int64), y.astype(np.int64)
    corners = np.stack([depth[v, u], depth[v, u + 1], depth[v + 1, u], depth[v + 1, u + 1]])
    fx, fy = x - u, y - v
    value: Array = (np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy]) * corners).sum(axis=0)
    good = (corners.min(axis=0) > 0) & (np.ptp(corners, axis=0) < _EDGE * value)
    return np.where(good, value, 0.0)


def camera_from_points(
    points: Array, pixels: Array, K: Array, limit: float, guess: Array | None = None
) -> tuple[Array, NDArray[np.bool_]] | None:
    """The camera that sees points at pixels, some of which are wrong.

    Args:
        points: ``[M, 3]`` in the world.
        pixels: ``[M, 2]``, the first one's centre at (0, 0).
        K: ``[3, 3]`` intrinsics.
        limit: pixels within which a point fits.
        guess: ``[4, 4]`` world to camera, to be tried as well.

    Returns:
        ``[4, 4]`` world to camera, and which points fit ``[M]``; None if there are fewer than six points.
    """
    import cv2

    if len(points) < 6:
        return None
    best: tuple[Array, NDArray[np.bool_]] | None = None
    tries = [] if guess is None else [guess]
    done, turn, shift, _ = cv2.solvePnPRansac(
        points, pixels, K, None, iterationsCount=_SAMPLES, reprojectionError=limit, confidence=0.999,
        flags=cv2.SOLVEPNP_AP3P,
    )  # fmt: skip
    if done:
        tries.append(_rigid(turn, shift))
    for one in tries:
        T, fits = one, _fitting(points, pixels, K, one, limit)
        for _ in range(_ROUNDS):
            if fits.sum() < 6:
                break
            turn, shift = cv2.Rodrigues(T[:3, :3])[0], T[:3, 3:].copy()
            T = _rigid(*cv2.solvePnPRefineLM(points[fits], pixels[fits], K, None, turn, shift))
            fits, before = _fitting(points, pixels, K, T, limit), fits
            if np.array_equal(fits, before):
                break
        if best is None or fits.sum() > best[1].sum():
            best = T, fits
    return best


def _rigid(turn: Any, shift: Any) -> Array:
    import cv2

    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(turn)[0], np.asarray(shift).ravel()
    return T


def _fitting(points: Array, pixels: Array, K: Array, T: Array, limit: float) -> NDArray[np.bool_]:
    seen, z = project(K, T, points)
    fits: NDArray[np.bool_] = (z > 0) & (np.linalg.norm(seen - pixels, axis=1) < limit)
    return fits


@dataclass(frozen=True, eq=False)
class _Pair:
    """Matches of two views that fit a motion: ``[M, 2]`` numbers of features, and the motion ``[4, 4]``."""

    matches: NDArray[np.int64]
    T_second_first: Array


class _Views:
    """A window's features, with their places in the cameras."""

    def __init__(self, window: Window, book: FeatureBook) -> None:
        self.window = window
        frames = window.frames.tolist()
        self.features = [book.features(frame, window.colors[place]) for place, frame in enumerate(frames)]
        self.depth = [depth_at(window, place, one.pixels) for place, one in enumerate(self.features)]
        self.local = self._local()

    def _local(self) -> list[Array]:
        return [
            points_of_pixels(one.pixels[:, 0], one.pixels[:, 1], depth, K)
            for one, depth, K in zip(self.features, self.depth, self.window.intrinsics, strict=True)
        ]

    def set_focal(self, log: float) -> None:
        """Other focal lengths, by the logarithm of a factor."""
        self.window = replace(self.window, intrinsics=zoomed(self.window.intrinsics, log))
        self.local = self._local()

    def pair(self, first: int, second: int, book: FeatureBook, options: MatchOptions) -> _Pair | None:
        """Matches of two views that fit one motion, by the first one's depth."""
        frames = self.window.frames
        matches = book.matches(int(frames[first]), int(frames[second]))
        known = self.depth[first][matches[:, 0]] > 0
        usable = matches[known]
        if len(usable) < options.min_matches:
            return None
        found = camera_from_points(
            self.local[first][usable[:, 0]], self.features[second].pixels[usable[:, 1]],
            self.window.intrinsics[second], options.pixels,
        )  # fmt: skip
        if found is None or found[1].sum() < options.min_matches:
            return None
        return _Pair(usable[found[1]], found[0])


def match_window(given: Window, book: FeatureBook, options: MatchOptions | None = None) -> MatchedWindow:
    """A window with cameras from matches, where they are better.

    Args:
        given: as the network predicted it.
        book: finds features, and remembers those that windows share.
        options: what is believed.
    """
    options = options or MatchOptions()
    count, window = len(given), given
    if not options.calibrated:
        one = np.median(given.intrinsics, axis=0, keepdims=True)
        window = replace(given, intrinsics=np.repeat(one, count, axis=0))
    views = _Views(window, book)
    pairs: dict[tuple[int, int], _Pair] = {}
    for step in options.steps:
        for first in range(count - step):
            pair = views.pair(first, first + step, book, options)
            if pair is not None:
                pairs[first, first + step] = pair
    total = sum(len(pair.matches) for pair in pairs.values())
    own = invert_poses(window.T_window_cam)
    before = _explained(views, pairs, own, np.zeros(count), options)
    start, firm, placed = _chained(views, pairs, own, options)
    if placed < options.min_share * count or not pairs:
        reason = f"too few matches: {placed} of {count} frames can be placed"
        return MatchedWindow(reason, given, total, before, 0, placed)
    found = _bundled(views, pairs, start, firm, options)
    views.set_focal(found.focal_log)
    after = _explained(views, pairs, found.T_cam_world, found.depth_logs, options)
    if after < options.better * before:
        reason = f"the network's cameras explain as many matches: {before} of {total}, the matches' own {after}"
        return MatchedWindow(reason, given, total, before, after, placed)
    depth = window.depth.astype(np.float32) * np.exp(found.depth_logs)[:, None, None]
    made = replace(
        window,
        depth=np.where(depth < 6e4, depth, 0).astype(np.float16),
        T_window_cam=invert_poses(found.T_cam_world),
        intrinsics=views.window.intrinsics,
    )
    return MatchedWindow("", made, total, before, after, placed)


def _explained(
    views: _Views, pairs: dict[tuple[int, int], _Pair], T_cam_world: Array, logs: Array, options: MatchOptions
) -> int:
    """How many matches fit the cameras, by the first view's depth."""
    fitting = 0
    for (first, second), pair in pairs.items():
        T = T_cam_world[second] @ np.linalg.inv(T_cam_world[first])
        points = views.local[first][pair.matches[:, 0]] * math.exp(logs[first])
        pixels = views.features[second].pixels[pair.matches[:, 1]]
        fitting += int(_fitting(points, pixels, views.window.intrinsics[second], T, options.pixels).sum())
    return fitting


def _chained(
    views: _Views, pairs: dict[tuple[int, int], _Pair], own: Array, options: MatchOptions
) -> tuple[Array, NDArray[np.bool_], int]:
    """``[n, 4, 4]`` world to camera, one view after the other; which of them turned; and how many are not guessed."""
    T, turned, placed = own.copy(), np.zeros(len(own), dtype=bool), 1
    colors, K = views.window.colors, views.window.intrinsics
    for place in range(1, len(T)):
        found = _from_points(views, pairs, T, place, options)
        fitting = 0 if found is None else int(found[1].sum())
        if found is not None and fitting >= options.plenty:
            T[place] = found[0]
            placed += 1
            continue
        turn = turn_between(colors[place - 1], colors[place], K[place], options.turns)
        if turn.trusted and turn.likeness >= options.sure_turn:
            step = np.eye(4)
            step[:3, :3] = turn.rotation
            T[place] = step @ T[place - 1]
            turned[place] = True
        elif found is not None and fitting >= options.min_matches:
            T[place] = found[0]
        else:  # the network's own step has to do
            T[place] = own[place] @ np.linalg.inv(own[place - 1]) @ T[place - 1]
            continue
        placed += 1
    return T, turned, placed


def _from_points(
    views: _Views, pairs: dict[tuple[int, int], _Pair], T: Array, place: int, options: MatchOptions
) -> tuple[Array, NDArray[np.bool_]] | None:
    """A view's camera by what those before it saw."""
    points, pixels = [], []
    for (first, second), pair in pairs.items():
        if second == place and place - first <= _BEFORE:
            back = np.linalg.inv(T[first])
            points.append(views.local[first][pair.matches[:, 0]] @ back[:3, :3].T + back[:3, 3])
            pixels.append(views.features[place].pixels[pair.matches[:, 1]])
    if not points:
        return None
    nearest = pairs.get((place - 1, place))
    guess = None if nearest is None else nearest.T_second_first @ T[place - 1]
    K = views.window.intrinsics[place]
    return camera_from_points(np.concatenate(points), np.concatenate(pixels), K, options.pixels, guess)


def _bundled(
    views: _Views, pairs: dict[tuple[int, int], _Pair], start: Array, firm: NDArray[np.bool_], options: MatchOptions
) -> Adjusted:
    sights, points = _tracks(views, pairs, start)
    K = views.window.intrinsics
    found = adjust(sights, K, start, points, options.adjustment, firm=firm)
    kept = without_outliers(sights, found, 2 * options.pixels)
    if len(kept) and len(kept) < len(sights):
        found = adjust(kept, K, found.T_cam_world, found.points, options.adjustment, firm=firm)
    return found


def _tracks(views: _Views, pairs: dict[tuple[int, int], _Pair], T_cam_world: Array) -> tuple[Sights, Array]:
    """Features that are one point, wherever they were matched; a point is in a view once, or not used there."""
    offsets = np.concatenate([[0], np.cumsum([len(one.pixels) for one in views.features])])
    parent = np.arange(offsets[-1])

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for (first, second), pair in pairs.items():
        for a, b in (pair.matches + offsets[[first, second]]).tolist():
            parent[root(a)] = root(b)
    groups: dict[int, list[int]] = defaultdict(list)
    for node in np.unique(np.concatenate([(pair.matches + offsets[[first, second]]).ravel()
                                          for (first, second), pair in pairs.items()])).tolist():  # fmt: skip
        groups[root(node)].append(node)
    T_world_cam = invert_poses(T_cam_world)
    view, point, pixel, depth = [], [], [], []
    places: list[Array] = []
    for group in groups.values():
        seen = np.searchsorted(offsets, group, side="right") - 1
        once = np.bincount(seen)[seen] == 1
        members = [(int(v), int(node - offsets[v])) for v, node, good in zip(seen, group, once, strict=True) if good]
        known = [(v, f) for v, f in members if views.depth[v][f] > 0]
        if len(members) < 2 or not known:
            continue
        v, f = known[len(known) // 2]
        T = T_world_cam[v]
        number = len(places)
        places.append(T[:3, :3] @ views.local[v][f] + T[:3, 3])
        for v, f in members:
            view.append(v)
            point.append(number)
            pixel.append(views.features[v].pixels[f])
            depth.append(views.depth[v][f])
    sights = Sights(np.array(view), np.array(point), np.array(pixel), np.array(depth))
    return sights, np.array(places)
