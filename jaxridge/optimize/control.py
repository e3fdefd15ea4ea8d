"""What keeps a step where its model holds: a damping or a radius, by how well the model predicted the last gain.

LevenbergMarquardt   (H + μD²) p = −g
TrustRegion          min of the model over ‖Dp‖ ≤ Δ

A trial also shows the curvature b = pᵀ∇²F p along the step, of which the model has pᵀHp only.
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
_BENT = 100.0  # times the curvature of the model: it has next to nothing of it; heuristic
_RISE = 8.0  # the most that the curvature along one step raises a damping; heuristic
_FELT = 3e-5  # a damping below it, in units of D², leaves steps as they are; heuristic, 3e-6 to 1e-4 do as well
_NOTHING = 10.0  # eps: a damping that is felt in no direction which the data determine
_LEAST = 0.01  # of a radius that a refused step may leave, where b is not known exactly; heuristic


class Shown(NamedTuple):
    """What a trial has shown."""

    accepted: Bool[Array, ""]
    ratio: Scalar  # gain over predicted gain; −∞ where there is none
    length: Scalar  # ‖Dp‖
    slope: Scalar  # gᵀp
    curvature: Scalar  # pᵀHp
    bend: Scalar  # b
    known: Bool[Array, ""]  # b exactly, not from the costs of two points far apart


class LevenbergMarquardt(eqx.Module):
    """Damped Gauss–Newton steps (H + μD²)p = −g with geodesic acceleration.

    Args:
        damping: the first μ, in units of D²; 1e-3 for a start that is near, 1 for one that may be far.
        linear: how the step is computed: ``optimize.qr`` (accurate), ``optimize.cholesky`` (fast),
            ``optimize.products`` (matrix-free conjugate gradients, for very many parameters).
        acceleration: add the second-order part of the step, from one second derivative of the residual along it,
            and reject steps that bend more than that expansion allows. It takes a tenth of the steps where the
            valley is curved and narrow. Transtrum and Sethna (2012), arXiv 1201.5885.

    μ falls up to tenfold after a gain as predicted, threefold after one that followed a refusal, and grows 2, 4, 8, …
    times over refused steps (Nielsen 1999, IMM-REP-1999-05). It rises at least to the (b − pᵀHp)/‖Dp‖² that the model
    lacks, after gains where the model has nothing else: where J vanishes and residuals do not, this is Newton's
    method. No Jacobian is evaluated after a refused step.
    """

    damping: float | Array = 1e-3
    linear: Callable[..., Any] = eqx.field(static=True, default=qr)
    acceleration: bool = eqx.field(static=True, default=True)

    @property
    def memory(self) -> float:
        """How much of D lasts while steps are kept short: all (Moré 1978), but half where no acceleration takes them
        round the bends of a valley: with all of it they creep there."""
        return 1.0 if self.acceleration else 0.5

    def start(self, dtype: Any) -> Control:
        return jnp.asarray(self.damping).astype(dtype), jnp.full((), 2.0, dtype)

    def propose(self, model: steps.Model, d: Array, control: Control) -> tuple[steps.Step, Array, Array]:
        """The step, whether the data, not the damping, made it, and whether no damping is left."""
        step = model.damped(d, control[0])
        unhindered = control[0] * total(jnp.square(d * step.p)) <= model.curvature(step.p)
        return step, unhindered, control[0] <= _NOTHING * jnp.finfo(d.dtype).eps

    def update(self, control: Control, shown: Shown) -> Control:
        mu, growth = control
        lacking = (shown.bend - shown.curvature) / jnp.square(shown.length)
        curved = jnp.isfinite(lacking) & (shown.bend > 1.5 * shown.curvature)
        lacking = jnp.where(curved, lacking / mu, 0.0)

        least = jnp.where(growth > 2.0, 0.3, 0.1)
        fall = jnp.maximum(least, 1.0 - (2.0 * jnp.clip(shown.ratio, 0.0, 1.0) - 1.0) ** 3)
        most = jnp.where(shown.bend > _BENT * shown.curvature, _RISE, 1.0)
        fall = jnp.where(curved, jnp.clip(lacking, least, most), fall)
        rise = jnp.maximum(growth, jnp.minimum(lacking, _RISE))
        return (
            jnp.where(shown.accepted, jnp.maximum(mu * fall, jnp.finfo(mu.dtype).eps ** 2), mu * rise),
            jnp.where(shown.accepted, 2.0, 2.0 * growth),
        )

    def released(self, control: Control) -> Control:
        """With nothing that keeps steps short."""
        mu, growth = control
        return jnp.minimum(mu, _NOTHING * jnp.finfo(mu.dtype).eps), jnp.full_like(growth, 2.0)

    def fenced(self, control: Control, length: Scalar) -> Control:
        """After a whole step of that length was too long: what it was before."""
        return control

    def felt(self, control: Control) -> Bool[Array, ""]:
        """Whether steps are kept short."""
        return control[0] >= _FELT

    def in_units(self, control: Control, change: Scalar) -> Control:
        """Where lengths ‖Dp‖ count ``change`` times as much."""
        return control


class TrustRegion(eqx.Module):
    """Steps that minimise the model within ‖Dp‖ ≤ Δ.

    Args:
        step: ``optimize.exact`` (one decomposition, globally optimal also where H is indefinite),
            ``optimize.dogleg`` (one factorisation, H definite), ``optimize.steihaug`` (products only).
        radius: the first Δ in units of ‖D x₀‖ (of 1 where that is 0).
        linear: for sums of squares, where J goes: ``optimize.qr`` or ``optimize.cholesky``; `steihaug` needs
            ``optimize.products``.
        acceleration: as for `LevenbergMarquardt`, for sums of squares and exact steps. Off, for a radius and a bend
            that limit the same step creep along curved valleys.

    Conn, Gould and Toint (2000), Trust Region Methods, algorithm 6.1.1. After a step that ended inside, or gained as
    predicted, Δ is twice its length (Moré 1978); after a refused one it ends where the parabola with slope gᵀp and
    curvature b is least.
    """

    step: Callable[..., steps.Step] = eqx.field(static=True, default=steps.exact)
    radius: float | Array = 1.0
    linear: Callable[..., Any] = eqx.field(static=True, default=qr)
    acceleration: bool = eqx.field(static=True, default=False)

    @property
    def memory(self) -> float:
        """How much of D lasts while steps are kept short: all (Moré 1978)."""
        return 1.0

    def start(self, dtype: Any) -> Control:
        """In units of ‖D x₀‖."""
        return jnp.asarray(self.radius).astype(dtype), jnp.ones((), bool)

    def propose(self, model: steps.Model, d: Array, control: Control) -> tuple[steps.Step, Array, Array]:
        """The step, and twice whether it ended inside the radius: by its multiplier too, where it has one, for a step
        within a tiny radius may round to nothing."""
        step = self.step(model, d, control[0])
        inside = (jnp.sqrt(total(jnp.square(d * step.p))) <= 0.99 * control[0]) & (step.mu <= 0)
        return step, inside, inside

    def update(self, control: Control, shown: Shown) -> Control:
        radius, _ = control
        inside = shown.length <= 0.99 * radius
        length = jnp.where(jnp.isfinite(shown.length), jnp.minimum(shown.length, radius), radius)
        kept = jnp.where(inside, 2.0 * length, radius)
        taken = jnp.where(shown.ratio > 0.25, jnp.where(shown.ratio > 0.75, 2.0 * length, kept), 0.5 * length)

        part = jnp.clip(-shown.slope / shown.bend, jnp.where(shown.known, 0.0, _LEAST), 0.5)
        part = jnp.where(jnp.isfinite(part) & (shown.bend > 0), part, 0.25)
        return jnp.where(shown.accepted, taken, part * length), ~inside

    def released(self, control: Control) -> Control:
        return control[0] * jnp.finfo(control[0].dtype).max ** 0.4, control[1]

    def fenced(self, control: Control, length: Scalar) -> Control:
        """A part of that length, where steps as short as before were lost in rounding."""
        part = jnp.where(jnp.isfinite(length), 0.25 * length, 0.0)
        return jnp.maximum(control[0], part), control[1]

    def felt(self, control: Control) -> Bool[Array, ""]:
        return control[1]

    def in_units(self, control: Control, change: Scalar) -> Control:
        return control[0] * change, control[1]


Solver = LevenbergMarquardt | TrustRegion
