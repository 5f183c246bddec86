"""Windows and cameras as one graph: similarities that fit measurements between them best.

Nodes are similarities from windows or cameras to the world; a camera's has scale 1, held. What was measured is the
similarity between two nodes (windows joined, a camera in its window, odometry between cameras), or something about
one (its scale, which way is up). Solved by Levenberg and Marquardt's method on sparse normal equations. Measurements
that may be plain wrong have robust weights; those of loops are annealed from convex ones (graduated non-convexity,
H. Yang et al., IEEE RA-L 2020), as half of them may be.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, nearest_rotation
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.similarity import cross_matrix, right_jacobian_inverse, so3_exp, so3_log
from gen3r_core.progress import JobMonitor

__all__ = ["Kernel", "PoseGraph", "Solution", "SolverOptions"]

_ANNEALING = 1.6
_TINY = 1e-12


class Kernel(StrEnum):
    """How measurements lose weight with their squared error ``e`` in standard deviations, over a bound ``c``.

    ``none`` 1; ``cauchy`` 1 / (1 + e / c); ``geman_mcclure`` (c / (c + e))^2, annealed.
    """

    NONE = "none"
    CAUCHY = "cauchy"
    GEMAN_MCCLURE = "geman_mcclure"


@dataclass(frozen=True)
class SolverOptions:
    """When to stop.

    Attributes:
        iterations: at most, at each level of annealing.
        tolerance: relative fall of the cost under which a level is done.
        bound: squared errors in standard deviations from which robust kernels take weight away, per degree of
            freedom: 3 is the 99.6 percentile of seven.
    """

    iterations: int = 60
    tolerance: float = 1e-7
    bound: float = 3.0


@dataclass(frozen=True, eq=False)
class Solution:
    """The graph's nodes, and how well measurements fit.

    Attributes:
        scales: ``[N]``.
        rotations: ``[N, 3, 3]``.
        translations: ``[N, 3]``.
        shared: values of the shared numbers (:meth:`PoseGraph.share`).
        weights: by name of the measurements, ``[M]`` robust weights in [0, 1], in the order in which they were added.
        errors: the same, ``[M]`` squared errors in standard deviations.
        cost: sum of all robust costs.
        iterations: that were run.
        converged: whether the last level ended by the tolerance.
    """

    scales: Array
    rotations: Array
    translations: Array
    shared: Array
    weights: dict[str, Array]
    errors: dict[str, Array]
    cost: float
    iterations: int
    converged: bool

    def sim3(self, node: int) -> Sim3:
        """One node's similarity to the world."""
        return Sim3(float(self.scales[node]), self.rotations[node], self.translations[node])


@dataclass(eq=False)
class _State:
    logs: Array
    R: Array
    t: Array
    shared: Array

    def moved(self, step: Array) -> _State:
        """By ``[7 N + S]``: translations, rotations and logarithms of each node, then shared numbers."""
        nodes = step[: 7 * len(self.logs)].reshape(-1, 7)
        return _State(
            self.logs + nodes[:, 6],
            self.R @ so3_exp(nodes[:, 3:6]),
            self.t + nodes[:, :3],
            self.shared + step[7 * len(self.logs) :],
        )


@dataclass(frozen=True, eq=False)
class _Terms:
    """Whitened residuals ``[M, d]`` with their derivatives: by node ``[M, d, 7]``, and by shared numbers."""

    residuals: Array
    nodes: list[tuple[NDArray[np.int64], Array]]
    shared: Array | None = None


@dataclass(eq=False)
class _Group(ABC):
    kernel: Kernel

    @abstractmethod
    def terms(self, state: _State) -> _Terms: ...

    @abstractmethod
    def __len__(self) -> int: ...


@dataclass(eq=False)
class _Between(_Group):
    """``S_i^-1 S_j`` was measured."""

    i: list[int] = field(default_factory=list)
    j: list[int] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    R: list[Array] = field(default_factory=list)
    t: list[Array] = field(default_factory=list)
    whitening: list[Array] = field(default_factory=list)
    bending: list[Array] = field(default_factory=list)
    _stacked: tuple[Array, ...] = ()

    def __len__(self) -> int:
        return len(self.i)

    def terms(self, state: _State) -> _Terms:
        i, j = np.array(self.i), np.array(self.j)
        if not self._stacked or len(self._stacked[0]) != len(i):
            self._stacked = tuple(np.stack(values) for values in (self.whitening, self.R, self.t, self.bending))
        # bending [M, 3, S]: what shared numbers turn the measured rotation by
        W, Rz, tz, bending = self._stacked
        back = np.swapaxes(state.R[i], 1, 2)
        shrink = np.exp(-state.logs[i])[:, None, None]
        v = ((back @ (state.t[j] - state.t[i])[:, :, None]) * shrink)[..., 0]
        turned = np.swapaxes(Rz, 1, 2) @ back @ state.R[j]
        if bending.shape[2]:
            turned = so3_exp(-(bending @ state.shared)) @ turned
        off = so3_log(turned)
        J_log = right_jacobian_inverse(off)
        residual = np.concatenate([v - tz, off, (state.logs[j] - state.logs[i] - np.array(self.logs))[:, None]], axis=1)
        Ji, Jj = np.zeros((len(i), 7, 7)), np.zeros((len(i), 7, 7))
        Ji[:, :3, :3] = -back * shrink
        Ji[:, :3, 3:6] = cross_matrix(v)
        Ji[:, :3, 6] = -v
        Ji[:, 3:6, 3:6] = -J_log @ np.swapaxes(state.R[j], 1, 2) @ state.R[i]
        Ji[:, 6, 6] = -1
        Jj[:, :3, :3] = back * shrink
        Jj[:, 3:6, 3:6] = J_log
        Jj[:, 6, 6] = 1
        shared = None
        if bending.shape[2]:
            # Small turns only: Exp(-b - d) is taken as Exp(-d) Exp(-b).
            by_shared = np.zeros((len(i), 7, bending.shape[2]))
            by_shared[:, 3:6] = -J_log @ np.swapaxes(turned, 1, 2) @ bending
            shared = W @ by_shared
        return _Terms((W @ residual[:, :, None])[..., 0], [(i, W @ Ji), (j, W @ Jj)], shared)


@dataclass(eq=False)
class _Scale(_Group):
    """``s_i`` was measured."""

    i: list[int] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    sigma: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.i)

    def terms(self, state: _State) -> _Terms:
        i, sigma = np.array(self.i), np.array(self.sigma)
        J = np.zeros((len(i), 1, 7))
        J[:, 0, 6] = 1 / sigma
        return _Terms(((state.logs[i] - np.array(self.logs)) / sigma)[:, None], [(i, J)])


@dataclass(eq=False)
class _Up(_Group):
    """``R_i u`` is the world's z."""

    i: list[int] = field(default_factory=list)
    up: list[Array] = field(default_factory=list)
    sigma: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.i)

    def terms(self, state: _State) -> _Terms:
        i, up, sigma = np.array(self.i), np.stack(self.up), np.array(self.sigma)[:, None]
        turned = (state.R[i] @ up[:, :, None])[..., 0]
        J = np.zeros((len(i), 3, 7))
        J[:, :, 3:6] = -state.R[i] @ cross_matrix(up) / sigma[:, :, None]
        return _Terms((turned - [0, 0, 1]) / sigma, [(i, J)])


@dataclass(eq=False)
class _Shared(_Group):
    """What is known of the shared numbers beforehand: about zero."""

    sigma: Array

    def __len__(self) -> int:
        return len(self.sigma)

    def terms(self, state: _State) -> _Terms:
        return _Terms((state.shared / self.sigma)[:, None], [], np.diag(1 / self.sigma)[:, None, :])


class PoseGraph:
    """Nodes and what was measured of them.

    Args:
        start: the nodes' similarities to begin from.
    """

    def __init__(self, start: list[Sim3]) -> None:
        if not start:
            raise InputError("a pose graph needs at least one node")
        self._start = start
        self._free = np.ones((len(start), 7), dtype=bool)
        self._groups: dict[str, _Group] = {}
        self._sigma = np.zeros(0)

    def __len__(self) -> int:
        return len(self._start)

    def hold(self, node: int, *, pose: bool = False, scale: bool = False) -> None:
        """Keep a node's place and rotation, or its scale, as they are at the start."""
        self._check(node)
        self._free[node, :6] &= not pose
        self._free[node, 6] &= not scale

    def share(self, sigmas: ArrayLike) -> None:
        """Numbers that belong to no node, zero but for these standard deviations; see :meth:`add_between`.

        Raises:
            InputError: measurements were added before.
        """
        if self._groups:
            raise InputError("say which numbers are shared before measurements are added")
        self._sigma = np.asarray(sigmas, dtype=np.float64)
        if len(self._sigma):
            self._groups["shared"] = _Shared(Kernel.NONE, self._sigma)

    def add_between(
        self,
        name: str,
        i: int,
        j: int,
        measured: Sim3,
        covariance: Array,
        *,
        kernel: Kernel = Kernel.NONE,
        scaled: bool = True,
        bending: Array | None = None,
    ) -> None:
        """``S_i^-1 S_j`` was measured.

        Args:
            name: of the group; all of a group have one kernel.
            i: node.
            j: another.
            measured: from the frame of j to that of i.
            covariance: ``[7, 7]`` as :class:`~gen3r_core.mapping.similarity.UncertainSim3` has it.
            kernel: see there.
            scaled: whether its scale counts; of cameras it says nothing.
            bending: ``[3, S]`` radians about the axes of j by which one unit of each shared number turns what was
                measured; None for not at all.

        Raises:
            InputError: a node is not there, both are one, or the covariance is not positive definite.
        """
        self._check(i)
        self._check(j)
        if i == j:
            raise InputError(f"node {i} cannot be measured against itself")
        part = 7 if scaled else 6
        try:
            # With C = L L^T the whitened residual is L^-1 r.
            whitening = np.zeros((7, 7))
            whitening[:part, :part] = np.linalg.inv(np.linalg.cholesky(covariance[:part, :part]))
        except np.linalg.LinAlgError as error:
            raise InputError(f"the covariance between nodes {i} and {j} is not positive definite") from error
        group = self._groups.setdefault(name, _Between(kernel))
        if not isinstance(group, _Between) or group.kernel is not kernel:
            raise InputError(f"measurements {name!r} are of another kind")
        group.i.append(i)
        group.j.append(j)
        group.logs.append(math.log(measured.scale))
        group.R.append(measured.rotation)
        group.t.append(measured.translation)
        group.whitening.append(whitening)
        group.bending.append(np.zeros((3, len(self._sigma))) if bending is None else bending)

    def add_scale(self, name: str, node: int, scale: float, sigma: float, *, kernel: Kernel = Kernel.NONE) -> None:
        """A node's scale was measured; ``sigma`` is of its logarithm.

        Raises:
            InputError: the node is not there, or numbers are not positive.
        """
        self._check(node)
        if not (math.isfinite(scale) and scale > 0 and sigma > 0):
            raise InputError(f"a scale and its standard deviation are positive, got {scale} and {sigma}")
        group = self._groups.setdefault(name, _Scale(kernel))
        if not isinstance(group, _Scale):
            raise InputError(f"measurements {name!r} are of another kind")
        group.i.append(node)
        group.logs.append(math.log(scale))
        group.sigma.append(sigma)

    def add_up(self, name: str, node: int, up: Array, sigma: float, *, kernel: Kernel = Kernel.NONE) -> None:
        """Which way is up, ``[3]`` of length 1 in the node's frame; ``sigma`` in radians.

        Raises:
            InputError: the node is not there, or the direction has another length.
        """
        self._check(node)
        if up.shape != (3,) or not abs(float(np.linalg.norm(up)) - 1) < 1e-3 or not sigma > 0:
            raise InputError(f"up is a direction of length 1 with a standard deviation, got {up} and {sigma}")
        group = self._groups.setdefault(name, _Up(kernel))
        if not isinstance(group, _Up):
            raise InputError(f"measurements {name!r} are of another kind")
        group.i.append(node)
        group.up.append(up)
        group.sigma.append(sigma)

    def solve(self, options: SolverOptions | None = None, monitor: JobMonitor | None = None) -> Solution:
        """Minimise the sum of all robust costs.

        Args:
            options: when to stop.
            monitor: told of stage "graph" after each level of annealing.

        Raises:
            CancelledError: the monitor's callback asked for it.
        """
        options, monitor = options or SolverOptions(), monitor or JobMonitor()
        state = _State(
            np.array([math.log(one.scale) for one in self._start]),
            np.stack([nearest_rotation(one.rotation) for one in self._start]),
            np.stack([one.translation for one in self._start]),
            np.zeros(len(self._sigma)),
        )
        free = np.flatnonzero(np.concatenate([self._free.ravel(), np.ones(len(self._sigma), dtype=bool)]))
        # Loops do not count at first: where they pull is judged from what all else says.
        levels = self._levels(state, free, options)
        total = converged = 0
        monitor.report("graph", 0, len(levels))
        cost = self._cost(state, levels[-1], options)
        for number, level in enumerate(levels):
            state, cost, count, done = self._descend(state, free, level, options)
            total, converged = total + count, int(done)
            monitor.report("graph", number + 1, len(levels))
        weights, errors = {}, {}
        for name, group in self._groups.items():
            errors[name] = np.square(group.terms(state).residuals).sum(axis=1)
            weights[name] = _weights(group, errors[name], _bound(group, options), 1.0)
        return Solution(np.exp(state.logs), state.R, state.t, state.shared, weights, errors, cost, total,
                        bool(converged))  # fmt: skip

    def _levels(self, state: _State, free: NDArray[np.int64], options: SolverOptions) -> list[float]:
        """How much wider than their bound annealed kernels are, level by level; the last is 1."""
        worst = 1.0
        for group in self._groups.values():
            if group.kernel is Kernel.GEMAN_MCCLURE and len(free):
                errors = np.square(group.terms(state).residuals).sum(axis=1)
                worst = max(worst, 2 * float(errors.max()) / _bound(group, options))
        count = min(24, math.ceil(math.log(worst) / math.log(_ANNEALING)))
        return [worst ** (1 - n / count) for n in range(count)] + [1.0] if count else [1.0]

    def _descend(
        self, state: _State, free: NDArray[np.int64], level: float, options: SolverOptions
    ) -> tuple[_State, float, int, bool]:
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import splu

        damping, cost = 1e-6, self._cost(state, level, options)
        # Coarse levels only lead the way.
        limit = options.iterations if level == 1.0 else min(4, options.iterations)
        if not len(free):
            return state, cost, 0, True
        for count in range(limit):
            H, g = self._normal_equations(state, level, options)
            H, g = H[free][:, free], g[free]
            diagonal = H.diagonal()
            while True:
                damped = H + diags_array(damping * (diagonal + 1e-6 * diagonal.max() + _TINY), format="csc")
                step = np.zeros(7 * len(self) + len(self._sigma))
                try:
                    step[free] = -splu(damped.tocsc()).solve(g)
                except RuntimeError:  # singular to the last digit: more damping
                    step[free] = np.nan
                trial = state.moved(step) if np.isfinite(step).all() else state
                new = self._cost(trial, level, options) if trial is not state else math.inf
                if new <= cost or damping > 1e8:
                    break
                damping = max(damping, 1e-8) * 10
            if not new <= cost:
                return state, cost, count + 1, True
            fall, state, cost = cost - new, trial, new
            damping = max(damping / 10, 1e-10)
            if fall <= options.tolerance * cost + 1e-14:
                return state, cost, count + 1, True
        return state, cost, limit, False

    def _cost(self, state: _State, level: float, options: SolverOptions) -> float:
        total = 0.0
        for group in self._groups.values():
            errors = np.square(group.terms(state).residuals).sum(axis=1)
            bound = _bound(group, options)
            if group.kernel is Kernel.CAUCHY and level == 1.0:
                errors = bound * np.log1p(errors / bound)
            elif group.kernel is Kernel.GEMAN_MCCLURE:
                errors = level * bound * errors / (level * bound + errors)
            total += float(errors.sum())
        return total

    def _normal_equations(self, state: _State, level: float, options: SolverOptions) -> tuple[Any, Array]:
        from scipy.sparse import csr_array

        size, offset = 7 * len(self) + len(self._sigma), 7 * len(self)
        H, g = csr_array((size, size)), np.zeros(size)
        for group in self._groups.values():
            terms = group.terms(state)
            errors = np.square(terms.residuals).sum(axis=1)
            root = np.sqrt(_weights(group, errors, _bound(group, options), level))
            rows, columns, values = [], [], []
            count, height = terms.residuals.shape
            row = np.arange(count * height).reshape(count, height, 1)
            blocks = [(7 * node[:, None, None] + np.arange(7), J) for node, J in terms.nodes]
            if terms.shared is not None:
                blocks.append((offset + np.arange(len(self._sigma))[None, None], terms.shared))
            for column, J in blocks:
                rows.append(np.broadcast_to(row, J.shape).ravel())
                columns.append(np.broadcast_to(column, J.shape).ravel())
                values.append((J * root[:, None, None]).ravel())
            entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
            J_all = csr_array(entries, shape=(count * height, size))
            H = H + J_all.T @ J_all
            g += J_all.T @ (terms.residuals * root[:, None]).ravel()
        return H.tocsc(), g

    def _check(self, node: int) -> None:
        if not 0 <= node < len(self._start):
            raise InputError(f"the graph has {len(self._start)} nodes, got node {node}")


def _bound(group: _Group, options: SolverOptions) -> float:
    return options.bound * {_Between: 7, _Up: 2}.get(type(group), 1)


def _weights(group: _Group, errors: Array, bound: float, level: float) -> Array:
    # While loops are annealed the rest is rigid: it must not break to please false ones.
    if group.kernel is Kernel.CAUCHY and level == 1.0:
        return np.asarray(1 / (1 + errors / bound))
    if group.kernel is Kernel.GEMAN_MCCLURE:
        return np.asarray(np.square(level * bound / (level * bound + errors)))
    return np.ones(len(errors))
