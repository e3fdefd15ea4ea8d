"""What keeps a step where its model holds: a damping or a radius, by how well the model predicted the last gain.

LevenbergMarquardt   (H + μD²) p = −g
TrustRegion          min of the model over ‖Dp‖ ≤ Δ
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from jaxridge.core.types import Array, Bool, Scalar
from jaxridge.optimize import steps
from jaxridge.optimize.objective import qr
from jaxridge.optimize.small import total

Control = tuple[Array, ...]
_FELT = 3e-5  # a damping below it, in units of D², leaves steps as they are; heuristic, 3e-6 to 1e-4 do as well


class Judged(NamedTuple):
    """What is known of a step that was tried."""

    accepted: Bool[Array, ""]
    ratio: Scalar  # gain over predicted gain; −∞ where there is none
    length: Scalar  # ‖Dp‖


class LevenbergMarquardt(eqx.Module):
    """Damped Gauss–Newton steps (H + μD²)p = −g with geodesic acceleration.

    Args:
        damping: the first μ, in units of D²; 1e-3 for a start that is near, 1 for one that may be far.
        linear: how the step is computed: ``optimize.qr`` (accurate), ``optimize.cholesky`` (fast),
            ``optimize.products`` (matrix-free conjugate gradients, for very many parameters).
        acceleration: add the second-order part of the step, from one second derivative of the residual along it,
            and reject steps that bend more than that expansion allows. It takes a tenth of the steps where the
            valley is curved and narrow. Transtrum and Sethna (2012), arXiv 1201.5885.

    μ falls up to tenfold after a gain as predicted, and grows 2, 4, 8, … times over rejected steps
    (Nielsen 1999, IMM-REP-1999-05). No Jacobian is evaluated after a rejected step.
    """

    damping: float | Array = 1e-3
    linear: Callable[..., Any] = eqx.field(static=True, default=qr)
    acceleration: bool = eqx.field(static=True, default=True)

    def start(self, model: steps.Model, d: Array, size: Scalar) -> Control:
        unit = jnp.ones((), d.dtype)
        if isinstance(model, steps.Products):  # D is 1 there
            g = model.gradient
            unit = model.curvature(g) / jnp.maximum(jnp.sum(g * g), jnp.finfo(g.dtype).tiny)
        return jnp.asarray(self.damping).astype(d.dtype) * unit, jnp.full((), 2.0, d.dtype)

    def propose(self, model: steps.Model, d: Array, control: Control) -> tuple[steps.Step, Bool[Array, ""]]:
        """The step, and whether the data, not the damping, made it."""
        step = model.damped(d, control[0])
        return step, control[0] * total(jnp.square(d * step.p)) <= model.curvature(step.p)

    def update(self, control: Control, judged: Judged) -> Control:
        mu, growth = control
        shrink = jnp.maximum(0.1, 1.0 - (2.0 * jnp.clip(judged.ratio, 0.0, 1.0) - 1.0) ** 3)
        least = jnp.finfo(mu.dtype).eps ** 2
        return (
            jnp.where(judged.accepted, jnp.maximum(mu * shrink, least), mu * growth),
            jnp.where(judged.accepted, 2.0, 2.0 * growth),
        )

    def felt(self, control: Control) -> Bool[Array, ""]:
        """Whether steps are kept short."""
        return control[0] >= _FELT

    def in_units(self, control: Control, change: Scalar) -> Control:
        """Where residuals count ``change`` times as much."""
        return control


class TrustRegion(eqx.Module):
    """Steps that minimise the model within ‖Dp‖ ≤ Δ.

    Args:
        step: ``optimize.exact`` (one decomposition, globally optimal also where H is indefinite),
            ``optimize.dogleg`` (one factorisation, H definite), ``optimize.steihaug`` (products only).
        radius: the first Δ in units of ‖D x₀‖ (of 1 where that is 0).
        linear: for sums of squares, where J goes: ``optimize.qr`` or ``optimize.cholesky``; `steihaug` needs
            ``optimize.products``.
        acceleration: as for `LevenbergMarquardt`, for sums of squares and exact steps.

    Conn, Gould and Toint (2000), Trust Region Methods, algorithm 6.1.1.
    """

    step: Callable[..., steps.Step] = eqx.field(static=True, default=steps.exact)
    radius: float | Array = 1.0
    linear: Callable[..., Any] = eqx.field(static=True, default=qr)
    acceleration: bool = eqx.field(static=True, default=True)

    def start(self, model: steps.Model, d: Array, size: Scalar) -> Control:
        radius = jnp.asarray(self.radius).astype(d.dtype) * jnp.where(size > 0, size, 1.0)
        return radius, jnp.zeros((), bool)

    def propose(self, model: steps.Model, d: Array, control: Control) -> tuple[steps.Step, Bool[Array, ""]]:
        """The step, and whether it ended inside the radius."""
        step = self.step(model, d, control[0])
        return step, jnp.sqrt(total(jnp.square(d * step.p))) <= 0.99 * control[0]

    def update(self, control: Control, judged: Judged) -> Control:
        radius, _ = control
        length = judged.length
        bound = length > 0.99 * radius
        grown = jnp.where((judged.ratio > 0.75) & bound, 2.0 * radius, radius)
        shrunk = 0.25 * jnp.where(jnp.isfinite(length), jnp.minimum(length, radius), radius)
        taken = jnp.where(judged.ratio > 0.25, grown, 0.5 * jnp.minimum(length, radius))
        return jnp.where(judged.accepted, taken, shrunk), bound

    def felt(self, control: Control) -> Bool[Array, ""]:
        return control[1]

    def in_units(self, control: Control, change: Scalar) -> Control:
        return control[0] * change, control[1]


Solver = LevenbergMarquardt | TrustRegion
