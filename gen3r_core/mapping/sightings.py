"""Loops from matches: two visits to a place see the same features, and depth says how they lie to each other.

Frames that look alike are compared feature by feature. Where enough of one visit's points, placed by its depth, are
seen by one camera at the other visit's frame (:func:`~gen3r_core.mapping.matched.camera_from_points`), a similarity
between both windows is fitted to all matches around: points of either, seen by the other's cameras, at the depth that
is seen there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.pixels import points_of_pixels
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.bundle import project
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.loops import Candidate, Loop, LoopOptions, candidates
from gen3r_core.mapping.matched import camera_from_points, depth_at
from gen3r_core.mapping.similarity import UncertainSim3, so3_exp
from gen3r_core.mapping.windows import Window, WindowStore
from gen3r_core.progress import JobMonitor

__all__ = ["SightingOptions", "match_loops"]

_AROUND = (0, -2, 2)
_LEAST = (0.005, math.radians(0.2), 0.01)
"""Standard deviations at least: median depths, radians, logarithm of scale."""


@dataclass(frozen=True)
class SightingOptions:
    """Which visits are compared, and what is believed.

    Attributes:
        loops: how frames that look alike are chosen.
        pixels: within which a match fits.
        min_matches: of two frames that fit one motion, at least.
        min_total: of all frames around that fit the similarity, at least.
        min_spread: share of the picture's width or height over which most of them are spread, at least.
        depth: standard deviation of the logarithm of a depth.
        independent: matches that count as one: errors of a window are alike in all of them.

    Raises:
        InputError: numbers make no sense.
    """

    loops: LoopOptions = field(default_factory=lambda: LoopOptions(min_likeness=0.5, per_window=8))
    pixels: float = 3.0
    min_matches: int = 15
    min_total: int = 30
    min_spread: float = 0.25
    depth: float = 0.05
    independent: int = 10

    def __post_init__(self) -> None:
        if self.min_matches < 6 or not (self.pixels > 0 and self.depth > 0) or self.independent < 1:
            raise InputError(f"loops from matches need 6 matches at least, and positive limits, got {self}")


@dataclass(frozen=True, eq=False)
class _Matches:
    """Features of two windows that may be one: ``[M]`` views, ``[M, 2]`` pixels and ``[M]`` depths of each."""

    views: tuple[NDArray[np.int64], NDArray[np.int64]]
    pixels: tuple[Array, Array]
    depths: tuple[Array, Array]

    def __len__(self) -> int:
        return len(self.views[0])

    def where(self, good: NDArray[np.bool_]) -> _Matches:
        """Some of them."""
        (a, b), (p, q), (y, z) = self.views, self.pixels, self.depths
        return _Matches((a[good], b[good]), (p[good], q[good]), (y[good], z[good]))


def match_loops(
    store: WindowStore,
    names: Sequence[str],
    book: FeatureBook,
    options: SightingOptions | None = None,
    *,
    monitor: JobMonitor | None = None,
) -> list[Loop]:
    """Loops between windows whose frames look alike.

    Args:
        store: has the windows.
        names: of the windows, in order.
        book: finds features.
        options: what is believed.
        monitor: told of stage "loops", in pairs of frames.

    Returns:
        What was tried; those that are not believed say why.

    Raises:
        InputError: a window is missing.
        CancelledError: the monitor's callback asked for it.
    """
    options, monitor = options or SightingOptions(), monitor or JobMonitor()
    owner: dict[int, tuple[int, int]] = {}
    looks: dict[int, NDArray[np.float32]] = {}
    ends = []
    for number, name in enumerate(names):
        window = store.get(name)
        ends.append((int(window.frames[0]), int(window.frames[-1])))
        for place, frame in enumerate(window.frames.tolist()):
            inner = min(place, len(window) - 1 - place)
            if frame not in owner or inner > owner[frame][1]:
                owner[frame], looks[frame] = (number, inner), window.features[place]
    pairs = candidates(np.stack([looks[frame] for frame in sorted(looks)]), len(names), options.loops)
    # Windows are read from disk: pairs of the same windows one after the other.
    pairs.sort(key=lambda pair: (owner[pair.first][0], owner[pair.second][0], pair.first, pair.second))
    monitor.report("loops", 0, len(pairs))
    found = []
    for done, pair in enumerate(pairs):
        first, second = owner[pair.first][0], owner[pair.second][0]
        if ends[first][1] < ends[second][0]:
            windows = store.get(names[first]), store.get(names[second])
            found.append(_compare(pair, (first, second), windows, book, options))
        monitor.report("loops", done + 1, len(pairs))
    return found


def _compare(
    pair: Candidate, numbers: tuple[int, int], windows: tuple[Window, Window], book: FeatureBook,
    options: SightingOptions,
) -> Loop:  # fmt: skip
    def refused(reason: str) -> Loop:
        return Loop(pair, numbers, reason, None, math.nan)

    matches = _gathered(pair, windows, book)
    guess, most = _first_guess(matches, windows, options)
    if guess is None:
        return refused(f"too few matches: {most} fit one motion")
    found = _fitted(guess, matches, windows, options)
    if found is None:
        return refused("too few matches: they fit no similarity")
    similarity, covariance, fits = found
    if fits.sum() < options.min_total:
        return refused(f"too few matches: {int(fits.sum())} fit one similarity")
    size = np.array(windows[0].depth.shape[2:0:-1])
    ends = [np.quantile(pixels[fits], (0.1, 0.9), axis=0) for pixels in matches.pixels]
    spread = min(float(((last - first) / size).max()) for first, last in ends)
    if spread < options.min_spread:
        return refused(f"the matches lie together: over {100 * spread:.0f} % of the picture")
    return Loop(pair, numbers, "", UncertainSim3(similarity, covariance), float(fits.mean()))


def _gathered(pair: Candidate, windows: tuple[Window, Window], book: FeatureBook) -> _Matches:
    """Matches of the frames around both."""
    parts = []
    places = [[window.at(frame) + step for step in _AROUND if 0 <= window.at(frame) + step < len(window)]
              for window, frame in zip(windows, (pair.first, pair.second), strict=True)]  # fmt: skip
    features = [[book.features(int(window.frames[place]), window.colors[place]) for place in own]
                for window, own in zip(windows, places, strict=True)]  # fmt: skip
    depths = [[depth_at(window, place, one.pixels) for place, one in zip(own, seen, strict=True)]
              for window, own, seen in zip(windows, places, features, strict=True)]  # fmt: skip
    for i, a in enumerate(places[0]):
        for j, b in enumerate(places[1]):
            m = book.matches(int(windows[0].frames[a]), int(windows[1].frames[b]))
            parts.append((np.full(len(m), a), np.full(len(m), b), features[0][i].pixels[m[:, 0]],
                          features[1][j].pixels[m[:, 1]], depths[0][i][m[:, 0]], depths[1][j][m[:, 1]]))  # fmt: skip
    a_view, b_view, a_pixel, b_pixel, a_depth, b_depth = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Matches((a_view, b_view), (a_pixel, b_pixel), (a_depth, b_depth))


def _world(window: Window, view: NDArray[np.int64], pixel: Array, depth: Array) -> Array:
    """``[M, 3]`` points in the window's world."""
    K, T = window.intrinsics[view], window.T_window_cam[view]
    local = points_of_pixels(pixel[:, 0], pixel[:, 1], depth, K)
    return np.asarray((T[:, :3, :3] @ local[:, :, None])[..., 0] + T[:, :3, 3])


def _first_guess(
    matches: _Matches, windows: tuple[Window, Window], options: SightingOptions
) -> tuple[Sim3 | None, int]:
    """From the pair of views with most matches that fit one motion; and how many those are."""
    best, most = None, 0
    first, second = windows
    known = (matches.depths[0] > 0) & (matches.depths[1] > 0)
    for a in np.unique(matches.views[0]):
        for b in np.unique(matches.views[1]):
            mine = known & (matches.views[0] == a) & (matches.views[1] == b)
            if mine.sum() < max(options.min_matches, most):
                continue
            points = _world(first, matches.views[0][mine], matches.pixels[0][mine], matches.depths[0][mine])
            found = camera_from_points(points, matches.pixels[1][mine], second.intrinsics[b], options.pixels)
            if found is None or found[1].sum() <= most:
                continue
            most = int(found[1].sum())
            if most < options.min_matches:
                continue
            T_b_first, fits = found
            z = project(second.intrinsics[b], T_b_first, points[fits])[1]
            scale = float(np.median(z / matches.depths[1][mine][fits]))
            T_first_b = np.linalg.inv(T_b_first)
            R = T_first_b[:3, :3] @ second.T_window_cam[b, :3, :3].T
            best = Sim3(scale, R, T_first_b[:3, 3] - scale * R @ second.T_window_cam[b, :3, 3])
    return best, most


class _Residuals:
    """Of a similarity from the second window to the first, changed by seven small numbers."""

    def __init__(
        self, guess: Sim3, matches: _Matches, windows: tuple[Window, Window], options: SightingOptions
    ) -> None:
        self.guess, self.matches, self.options = guess, matches, options
        self.K = [window.intrinsics[view] for window, view in zip(windows, matches.views, strict=True)]
        self.T = [invert_poses(window.T_window_cam)[view] for window, view in zip(windows, matches.views, strict=True)]
        self.points = [_world(*values) for values in zip(windows, matches.views, matches.pixels, matches.depths,
                                                         strict=True)]  # fmt: skip

    def moved(self, x: Array) -> Sim3:
        g = self.guess
        return Sim3(g.scale * math.exp(x[6]), g.rotation @ so3_exp(x[3:6]), g.translation + x[:3])

    def __call__(self, x: Array) -> Array:
        """``[M, 6]``: in each window's pictures, and depths there, in standard deviations."""
        similarity = self.moved(x)
        columns = []
        for here, moved in ((0, similarity.apply(self.points[1])), (1, similarity.inverse().apply(self.points[0]))):
            seen, z = project(self.K[here], self.T[here], moved)
            off = np.where((z > 0)[:, None], (seen - self.matches.pixels[here]) / self.options.pixels, 1e3)
            far = np.log(np.maximum(z, 1e-6) / self.matches.depths[here]) / self.options.depth
            columns += [off, far.clip(-1e3, 1e3)[:, None]]
        return np.concatenate(columns, axis=1)


def _fitted(
    guess: Sim3, matches: _Matches, windows: tuple[Window, Window], options: SightingOptions
) -> tuple[Sim3, Array, NDArray[np.bool_]] | None:
    """The similarity, its covariance, and the matches that fit it."""
    from scipy.optimize import least_squares

    known = (matches.depths[0] > 0) & (matches.depths[1] > 0)
    usable = matches.where(known)
    residuals = _Residuals(guess, usable, windows, options)
    x, fits = np.zeros(7), np.ones(len(usable), dtype=bool)
    jacobian = np.zeros((0, 7))
    for limit in (4.0, 2.0, 1.0):
        r = residuals(x)
        # Depth may be off at one end of a match: it is doubted, and does not decide.
        fits = (np.hypot(r[:, 0], r[:, 1]) < limit) & (np.hypot(r[:, 3], r[:, 4]) < limit)
        if fits.sum() < options.min_matches:
            return None
        chosen = fits
        solved = least_squares(lambda y, chosen=chosen: residuals(y)[chosen].ravel(), x, loss="cauchy", max_nfev=30)
        x, jacobian = solved.x, solved.jac
    r = residuals(x)
    fits = (np.hypot(r[:, 0], r[:, 1]) < 1) & (np.hypot(r[:, 3], r[:, 4]) < 1)
    information = jacobian.T @ jacobian / options.independent
    typical = float(np.median(usable.depths[0][fits])) if fits.any() else 1.0
    least = np.square(np.repeat([_LEAST[0] * typical, _LEAST[1], _LEAST[2]], [3, 3, 1]))
    covariance = np.linalg.inv(information + 1e-9 * np.diag(np.diag(information))) + np.diag(least)
    whole = np.zeros(len(matches), dtype=bool)
    whole[np.flatnonzero(known)[fits]] = True
    return residuals.moved(x), (covariance + covariance.T) / 2, whole
