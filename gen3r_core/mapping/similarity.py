"""Similarities with their uncertainty, and the derivatives of rotations that fitting them needs.

Small changes of a similarity ``(s, R, t)`` have seven numbers ``(dt, dr, dl)``: ``t + dt``, ``R Exp(dr)`` and
``s e^dl``. That is the product chart, not the group's own exponential: its derivatives are short, and translation
stays in the target's units, in which it is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.geometry.sim3 import Sim3

__all__ = ["IDENTITY", "UncertainSim3", "compose", "cross_matrix", "right_jacobian_inverse", "so3_exp", "so3_log"]

IDENTITY = Sim3(1.0, np.eye(3), np.zeros(3))

_SMALL = 1e-4
"""Radians below which series take over: their next term is under the last digit."""


def cross_matrix(v: Array) -> Array:
    """``[v]_x`` with ``[v]_x u = v x u``: ``[..., 3]`` to ``[..., 3, 3]``."""
    K = np.zeros((*v.shape[:-1], 3, 3))
    K[..., 2, 1], K[..., 0, 2], K[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    K[..., 1, 2], K[..., 2, 0], K[..., 0, 1] = -v[..., 0], -v[..., 1], -v[..., 2]
    return K


def so3_exp(v: Array) -> Array:
    """Rotations by ``|v|`` radians about ``v`` (O. Rodrigues): ``[..., 3]`` to ``[..., 3, 3]``."""
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    K = cross_matrix(v)
    safe = np.where(angle > _SMALL, angle, 1.0)
    first = np.where(angle > _SMALL, np.sin(safe) / safe, 1 - angle**2 / 6)
    # As half-angles: 1 - cos loses small ones.
    second = np.where(angle > _SMALL, 2 * np.square(np.sin(safe / 2) / safe), 0.5 - angle**2 / 24)
    R: Array = np.eye(3) + first * K + second * (K @ K)
    return R


def so3_log(R: Array) -> Array:
    """Rotation vectors of rotations, stable for every angle up to half a turn: ``[..., 3, 3]`` to ``[..., 3]``."""
    from gen3r_core.geometry.poses import matrix_to_quaternion

    q = matrix_to_quaternion(R)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., 3:])
    v: Array = q[..., :3] * np.where(sine > 1e-9, angle / np.where(sine > 1e-9, sine, 1.0), 2.0)
    return v


def right_jacobian_inverse(v: Array) -> Array:
    """How ``Log(Exp(v) Exp(d))`` changes with small d: ``[..., 3]`` to ``[..., 3, 3]``.

    ``I + [v]_x / 2 + (1 / a^2 - (1 + cos a) / (2 a sin a)) [v]_x^2`` with ``a = |v|`` (G. Chirikjian, "Stochastic
    Models, Information Theory, and Lie Groups", 2012). Finite for a under a whole turn.
    """
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    K = cross_matrix(v)
    large = angle > 1e-2  # below, both terms are large and nearly alike
    safe = np.where(large, angle, 1.0)
    # (1 + cos a) / sin a = cot(a / 2), which half a turn does no harm.
    factor = np.where(large, 1 / safe**2 - 1 / (2 * safe * np.tan(safe / 2)), 1 / 12 + angle**2 / 720)
    J: Array = np.eye(3) + K / 2 + factor * (K @ K)
    return J


def compose(first: Sim3, second: Sim3) -> Sim3:
    """The similarity that applies ``second``, then ``first``."""
    return Sim3(first.scale * second.scale, first.rotation @ second.rotation, first.apply(second.translation))


@dataclass(frozen=True, eq=False)
class UncertainSim3:
    """A similarity that was measured.

    Attributes:
        sim3: the similarity.
        covariance: ``[7, 7]`` of ``(dt, dr, dl)``: target units, radians about the source's axes, logarithm of scale.

    Raises:
        InputError: the covariance is no such matrix of finite numbers.
    """

    sim3: Sim3
    covariance: Array

    def __post_init__(self) -> None:
        if self.covariance.shape != (7, 7) or not np.isfinite(self.covariance).all():
            raise InputError(f"a covariance is a finite matrix [7, 7], got {list(self.covariance.shape)}")

    def inverse(self) -> UncertainSim3:
        """From target to source, the covariance carried over to first order."""
        back = self.sim3.inverse()
        J = np.zeros((7, 7))
        J[:3, :3] = -back.rotation / self.sim3.scale
        J[:3, 3:6] = cross_matrix(back.translation)
        J[:3, 6] = -back.translation
        J[3:6, 3:6] = -self.sim3.rotation
        J[6, 6] = -1
        return UncertainSim3(back, J @ self.covariance @ J.T)

    def after(self, second: UncertainSim3) -> UncertainSim3:
        """First ``second``, then this one; their errors are taken as independent."""
        first, R = self.sim3, self.sim3.rotation
        moved = R @ second.sim3.translation * first.scale
        J1, J2 = np.eye(7), np.eye(7)
        J1[:3, 3:6] = -first.scale * R @ cross_matrix(second.sim3.translation)
        J1[:3, 6] = moved
        J1[3:6, 3:6] = second.sim3.rotation.T
        J2[:3, :3] = first.scale * R
        covariance = J1 @ self.covariance @ J1.T + J2 @ second.covariance @ J2.T
        return UncertainSim3(compose(first, second.sim3), covariance)

    def widened(self, translation: float, rotation: float, log_scale: float) -> UncertainSim3:
        """With independent errors of these standard deviations added: target units, radians, logarithm."""
        more = np.repeat(np.square([translation, rotation, log_scale]), [3, 3, 1])
        return UncertainSim3(self.sim3, self.covariance + np.diag(more))

    @property
    def sigmas(self) -> tuple[float, float, float]:
        """Standard deviations, root mean square over axes: translation, rotation (radians), logarithm of scale."""
        variance = np.diag(self.covariance)
        return (math.sqrt(variance[:3].mean()), math.sqrt(variance[3:6].mean()), math.sqrt(variance[6]))
