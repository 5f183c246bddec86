"""A building of boxes, a drive through it, and a model that sees it as VGGT would: with errors of known size.

Each window has a world, a unit and a bending of its own; its depth is wrong smoothly, everywhere, and grossly at a
few pixels. Frames tell the model which they are by their first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gen3r_core.geometry.poses import invert_poses, poses_from
from gen3r_core.mapping.similarity import so3_exp
from gen3r_core.mapping.windows import Prediction, SequenceFrame
from gen3r_core.worlds.motion import camera_poses

SIZE = (30, 40)
K = np.array([[22.0, 0, 19.5], [0, 22.0, 14.5], [0, 0, 1]])
CAMERA_HEIGHT = 0.6
ROOM = 6.0


def building(rooms=2, seed=0):
    """``[B, 2, 3]`` corners of solid boxes: rooms in a square grid, doors between them, furniture, floor, ceiling."""
    rng = np.random.default_rng(seed)
    side, wall, door, high = rooms * ROOM, 0.1, 1.2, 2.6
    boxes = [((-1, -1, -0.2), (side + 1, side + 1, 0)), ((-1, -1, high), (side + 1, side + 1, high + 0.2))]
    for n in range(rooms + 1):
        at = n * ROOM
        for m in range(rooms):
            low, middle, top = m * ROOM, (m + 0.5) * ROOM, (m + 1) * ROOM
            gap = door / 2 if 0 < n < rooms else 0.0
            for start, end in ((low, middle - gap), (middle + gap, top)):
                boxes.append(((at - wall, start, 0), (at + wall, end, high)))
                boxes.append(((start, at - wall, 0), (end, at + wall, high)))
    for i in range(rooms):
        for j in range(rooms):
            corner = np.array([i, j]) * ROOM
            for _ in range(8):
                size = rng.uniform((0.4, 0.4, 0.4), (1.2, 1.2, 1.8))
                # Along a wall: the ways lead through the rooms' middles.
                place = rng.uniform(0.2, ROOM - 1.4, 2)
                place[rng.integers(2)] = rng.choice([0.1, ROOM - 1.3])
                if (np.abs(place + size[:2] / 2 - ROOM / 2) < 1.2).any():  # in a doorway's way
                    continue
                low = np.array([*(corner + place), 0.0])
                boxes.append((tuple(low), tuple(low + size)))
    return np.array(boxes, dtype=float)


def cast(boxes, origins, directions):
    """How far along rays ``[N, 3]`` the first box is: the slab method."""
    with np.errstate(divide="ignore", invalid="ignore"):
        o, inverse = origins.T, 1 / directions.T
        nearest = np.full(len(origins), np.inf)
        for low, high in boxes:
            spans = [((low[k] - o[k]) * inverse[k], (high[k] - o[k]) * inverse[k]) for k in range(3)]
            enter = np.maximum.reduce([np.fmin(a, b) for a, b in spans])
            leave = np.minimum.reduce([np.fmax(a, b) for a, b in spans])
            hit = (enter <= leave) & (enter > 1e-6) & (enter < nearest)
            nearest[hit] = enter[hit]
    return nearest


def distance_to(boxes, points):
    """How far points ``[N, 3]`` are from the nearest surface."""
    found = np.full(len(points), np.inf)
    for low, high in boxes:
        middle, half = (low + high) / 2, (high - low) / 2
        q = np.abs(points - middle) - half
        outside = np.linalg.norm(np.maximum(q, 0), axis=1)
        found = np.minimum(found, np.abs(outside + np.minimum(q.max(axis=1), 0)))
    return found


def round_trip(rooms=2, spacing=0.25, laps=1.3):
    """``[N, 4, 4]`` cameras that drive round through the outer rooms' middles, turning on the way."""
    near, far = ROOM / 2, (rooms - 0.5) * ROOM
    corners = np.array([(near, near), (far, near), (far, far), (near, far), (near, near)])
    points = np.concatenate([np.linspace(a, b, 200, endpoint=False) for a, b in pairwise(corners)])
    kernel = np.hanning(41)
    kernel /= kernel.sum()
    smooth = np.stack(
        [np.convolve(np.concatenate([x[-20:], x, x[:20]]), kernel, mode="valid") for x in points.T], axis=1
    )
    loop = np.concatenate([smooth, smooth[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(loop, axis=0), axis=1))])
    at = np.arange(0, laps * along[-1], spacing)
    x, y = (np.interp(at % along[-1], along, column) for column in loop.T)
    ahead = [(np.interp((at + 0.2) % along[-1], along, c), np.interp((at - 0.2) % along[-1], along, c)) for c in loop.T]
    yaw = np.unwrap(np.arctan2(ahead[1][0] - ahead[1][1], ahead[0][0] - ahead[0][1])) + 0.3 * np.sin(at)
    places = np.stack([x, y, np.full_like(x, CAMERA_HEIGHT)], axis=1)
    return camera_poses(places, yaw, np.full_like(x, -0.1), np.zeros_like(x))


def odometry(T, seed=0, *, scale=1.02, turn=0.02, yaw_deg_per_m=0.0, step=0.003, step_deg=0.05):
    """What wheels would say: distances and turns too large by a share, and noise at every step."""
    rng = np.random.default_rng(seed)
    found = [T[0]]
    for before, after in pairwise(T):
        move = after[:3, 3] - before[:3, 3]
        change = after[:3, :3] @ before[:3, :3].T  # about the world's z
        yaw = np.arctan2(change[1, 0] - change[0, 1], change[0, 0] + change[1, 1])
        far = np.linalg.norm(move)
        extra = turn * yaw + np.radians(yaw_deg_per_m) * far + np.radians(step_deg) * rng.normal()
        own = found[-1][:3, :3] @ before[:3, :3].T
        place = found[-1][:3, 3] + own @ move * scale + [*(step * rng.normal(size=2)), 0]
        R = so3_exp(np.array([0, 0, extra])) @ own @ after[:3, :3]
        found.append(poses_from(R, place))
    return np.stack(found)


@dataclass
class Errors:
    """How wrong it is.

    Attributes:
        bend_deg: of a window's cameras, root mean square at its ends, smooth along it.
        drift: of their places, share of the way within the window.
        jitter_deg: of each camera by itself.
        jitter: of each camera's place, share of the median depth.
        depth: smooth relative error of depth.
        outliers: share of pixels whose depth is anything.
    """

    bend_deg: float = 1.5
    drift: float = 0.03
    jitter_deg: float = 0.3
    jitter: float = 0.005
    depth: float = 0.04
    outliers: float = 0.05


class PretendVggt:
    """The model.

    Attributes:
        calls: frames of the windows that it was asked for.
    """

    def __init__(self, boxes, T_world_cam, errors=None, seed=0, name="pretended", aliased=0.0):
        self.boxes, self.T, self.errors, self.name = boxes, T_world_cam, errors or Errors(), name
        self.seed, self.aliased = seed, aliased
        self.calls = []
        self._depth = {}
        rng = np.random.default_rng(seed)
        self._waves = rng.normal(size=(5, 64)), rng.uniform(0, 2 * np.pi, 64)

    def frames(self):
        """The sequence as images."""
        for number in range(len(self.T)):
            image = np.zeros((*SIZE, 3), dtype=np.uint8)
            place = (self.T[number, :3, 3] * 40).astype(int) % 256
            image[:] = place
            image[0, 0] = number // 65536, number // 256 % 256, number % 256
            yield SequenceFrame(number * 100_000_000, image)

    def true_depth(self, number):
        if number not in self._depth:
            v, u = np.indices(SIZE)
            rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], axis=-1).reshape(-1, 3)
            T = self.T[number]
            far = cast(self.boxes, np.broadcast_to(T[:3, 3], rays.shape), rays @ T[:3, :3].T)
            self._depth[number] = far.reshape(SIZE)
        return self._depth[number]

    def looks(self, number):
        """Features: waves over place and direction; with ``aliased`` over the place within a room only."""
        T = self.T[number]
        pose = np.array([*(T[:2, 3] / 1.0), *(T[:2, 2] * 2), 0.0])
        inside = np.array([*(np.mod(T[:2, 3], ROOM) / 1.0), *(T[:2, 2] * 2), 0.0])
        waves, phase = self._waves
        rng = np.random.default_rng((self.seed, number))
        own = np.cos(pose @ waves + phase) * (1 - self.aliased) + np.cos(inside @ waves + phase) * self.aliased
        return 1.0 + own + 0.1 * rng.normal(size=64)

    def share_view(self, first, second):
        """Whether two frames see some of the same surfaces."""
        a, b = self.T[first], self.T[second]
        far = np.linalg.norm(a[:3, 3] - b[:3, 3])
        if far > 3.5 or a[:3, 2] @ b[:3, 2] < 0.4:
            return False
        v, u = np.indices(SIZE)[:, ::4, ::4]
        z = self.true_depth(first)[::4, ::4]
        p = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], axis=-1).reshape(-1, 3)
        local = (p @ a[:3, :3].T + a[:3, 3] - b[:3, 3]) @ b[:3, :3]
        ahead = np.where(local[:, 2] > 0.1, local[:, 2], np.nan)
        x = np.rint(local[:, 0] / ahead * K[0, 0] + K[0, 2])
        y = np.rint(local[:, 1] / ahead * K[1, 1] + K[1, 2])
        there = np.isfinite(ahead) & (x >= 0) & (y >= 0) & (x < SIZE[1]) & (y < SIZE[0])
        depth = self.true_depth(second)[y[there].astype(int), x[there].astype(int)]
        return (np.abs(depth - local[there, 2]) < 0.05 * depth).sum() > 0.1 * len(p)

    def __call__(self, images):
        numbers = [int(a) * 65536 + int(b) * 256 + int(c) for a, b, c in images[:, 0, 0]]
        self.calls.append(numbers)
        rng = np.random.default_rng((self.seed, *numbers))
        e, count = self.errors, len(numbers)
        depth = np.stack([self.true_depth(number) for number in numbers])
        typical = float(np.median(depth))
        T = self._seen_poses(numbers, rng)
        along = np.linspace(0, 1, count)[:, None]
        # Bending: a rotation that grows along the window, about the first camera, and a stretching.
        turn = so3_exp(np.radians(e.bend_deg) * along * rng.normal(size=3) / np.sqrt(3))
        T = invert_poses(T[0]) @ T
        steps = np.concatenate([np.zeros((1, 3)), np.diff(T[:, :3, 3], axis=0)])
        bent = np.cumsum((turn @ steps[:, :, None])[..., 0] * (1 + e.drift * rng.normal(size=3) * along), axis=0)
        R = turn @ T[:, :3, :3] @ so3_exp(np.radians(e.jitter_deg) * rng.normal(size=(count, 3)) / np.sqrt(3))
        bent = bent + e.jitter * typical * rng.normal(size=(count, 3)) / np.sqrt(3)
        unit = float(np.exp(rng.uniform(-1, 1)))
        depth = depth * (1 + e.depth * _smooth(rng, count)) * np.exp(0.01 * rng.normal(size=depth.shape))
        confidence = 1 + rng.gamma(4, 2, size=depth.shape) / np.maximum(depth, 0.5)
        wrong = rng.random(depth.shape) < e.outliers
        depth[wrong] *= np.exp(rng.normal(size=int(wrong.sum())))
        confidence[wrong] = 1 + (confidence[wrong] - 1) * rng.uniform(0.1, 1.2, int(wrong.sum()))
        return Prediction(
            depth=(depth / unit).astype(np.float32),
            confidence=confidence.astype(np.float32),
            T_window_cam=poses_from(R, bent / unit),
            intrinsics=np.repeat(K[None], count, axis=0),
            features=np.stack([self.looks(number) for number in numbers]),
        )

    def _seen_poses(self, numbers, rng):
        """True poses; but visits that share no view are put upon each other, as a network would that is asked to."""
        T = self.T[numbers].copy()
        cut = next((n for n in range(1, len(numbers)) if numbers[n] != numbers[n - 1] + 1), None)
        if cut is None:
            return T
        first, second = cut // 2, (cut + len(numbers)) // 2
        errors = so3_exp(np.radians(self.errors.bend_deg) * rng.normal(size=3) / np.sqrt(3))
        if self.share_view(numbers[first], numbers[second]) or self.share_view(numbers[second], numbers[first]):
            middle = T[first, :3, 3]
            apart = T[second, :3, 3] - middle
            shift = apart * self.errors.drift * rng.normal() + self.errors.jitter * 2 * rng.normal(size=3)
            T[cut:, :3, 3] = (T[cut:, :3, 3] - middle) @ errors.T + middle + shift
            T[cut:, :3, :3] = errors @ T[cut:, :3, :3]
            return T
        move = T[first] @ poses_from(errors, 0.2 * rng.normal(size=3)) @ invert_poses(T[second])
        T[cut:] = move @ T[cut:]
        return T


def _smooth(rng, count):
    """``[count, H, W]``, root mean square about 1: a few waves over the image that change slowly along the window."""
    v, u = np.indices(SIZE) / max(SIZE)
    n = np.arange(count)[:, None, None] / 16
    total = np.zeros((count, *SIZE))
    for _ in range(4):
        a, b, c = rng.uniform(-6, 6, 3)
        total += np.cos(a * u + b * v + c * n + rng.uniform(0, 2 * np.pi))
    return total / np.sqrt(2)


def path_length(T):
    return float(np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum())


def path_error(T, true, *, scaled):
    """Root mean square distance of positions after the best rigid motion, or the best similarity."""
    p, g = T[:, :3, 3], true[:, :3, 3]
    a, b = p - p.mean(axis=0), g - g.mean(axis=0)
    U, _, Vh = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(U) * np.linalg.det(Vh))])
    turned = a @ ((U * signs) @ Vh).T
    scale = (turned * b).sum() / np.square(turned).sum() if scaled else 1.0
    return float(np.sqrt(np.square(scale * turned - b).sum(axis=1).mean()))
