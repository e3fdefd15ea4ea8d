"""The one loop: propose a step on a quadratic model, evaluate it, take it or not, and stop for a reason.

LevenbergMarquardt   controls the damping μ of the step by how well the model predicted the gain
TrustRegion          controls the radius Δ within which the model is trusted
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import select
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.optimize import steps
from jaxridge.optimize.objective import Objective, Point, Rounding, Smooth, Stored, SumOfSquares, qr
from jaxridge.optimize.small import every, total

Control = tuple[Array, ...]
_WORTHWHILE = 1e-4  # of the predicted gain; Moré (1978)
_BENT = 0.75  # the largest second-order part of a step, against the first; Transtrum and Sethna (2012)
_MEMORY = 0.5  # how much of the scale of the last point stays; heuristic, see LevenbergMarquardt
_HIDDEN = 5e-3  # of the cost, which rounding may hide in a run that still counts as converged
_LESS = 0.95  # than the last step's, or what a step promises is jitter; heuristic
_NOTHING = 1e-3  # of what rounding hides: where shortened steps that promise less and less arrive; heuristic
_TRUSTED = 0.75  # of the predicted gain; heuristic
_ROUGH = 10.0  # how many times its estimate rounding may be: an estimate rounds each residual once; heuristic


class LevenbergMarquardt(eqx.Module):
    """Damped Gauss–Newton steps (H + μD²)p = −g with geodesic acceleration.

    Args:
        damping: the first μ, in units of D²; 1e-3 for a start that is near, 1 for one that may be far.
        linear: how the step is computed: ``optimize.qr`` (accurate), ``optimize.cholesky`` (fast),
            ``optimize.products`` (matrix-free conjugate gradients, for very many parameters).
        acceleration: add the second-order part of the step, from one second derivative of the residual along it,
            and reject steps that bend more than that expansion allows. It takes a tenth of the steps where the
            valley is curved and narrow. Transtrum and Sethna (2012), arXiv 1201.5885.

    D holds the column norms of J, or half of what D was before if that is more: Moré's (1978) running maximum keeps
    parameters from evaporating, but after a start with a huge Jacobian it freezes them.
    μ falls up to tenfold after a gain as predicted, and grows 2, 4, 8, … times over rejected steps
    (Nielsen 1999, IMM-REP-1999-05). No Jacobian is evaluated after a rejected step.
    """

    damping: float | Array = 1e-3
    linear: Callable[..., Any] = eqx.field(static=True, default=qr)
    acceleration: bool = eqx.field(static=True, default=True)

    def start(self, model: steps.Model, d: Array, x: Array) -> Control:
        size = jnp.ones((), x.dtype)
        if isinstance(model, steps.Products):  # D is 1 there
            g = model.gradient
            size = model.curvature(g) / jnp.maximum(jnp.sum(g * g), jnp.finfo(g.dtype).tiny)
        return jnp.asarray(self.damping).astype(x.dtype) * size, jnp.full((), 2.0, x.dtype)

    def propose(self, model: steps.Model, d: Array, control: Control) -> tuple[steps.Step, Bool[Array, ""]]:
        """The step, and whether the data, not the damping, made it."""
        step = model.damped(d, control[0])
        return step, control[0] * total(jnp.square(d * step.p)) <= model.curvature(step.p)

    def update(self, control: Control, ratio: Scalar, accepted: Array, length: Scalar) -> Control:
        mu, growth = control
        shrink = jnp.maximum(0.1, 1.0 - (2.0 * jnp.clip(ratio, 0.0, 1.0) - 1.0) ** 3)
        least = jnp.finfo(mu.dtype).eps ** 2
        return (
            jnp.where(accepted, jnp.maximum(mu * shrink, least), mu * growth),
            jnp.where(accepted, 2.0, 2.0 * growth),
        )

    def release(self, control: Control) -> Control:
        """A damping that is felt in no direction which the data determine beyond rounding."""
        mu, growth = control
        return jnp.minimum(mu, _ROUGH * jnp.finfo(mu.dtype).eps), jnp.full_like(growth, 2.0)

    def released(self, control: Control, unhindered: Bool[Array, ""]) -> Bool[Array, ""]:
        return control[0] <= self.release(control)[0]


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

    def start(self, model: steps.Model, d: Array, x: Array) -> Control:
        size = jnp.linalg.norm(d * x)
        return (jnp.asarray(self.radius).astype(x.dtype) * jnp.where(size > 0, size, 1.0),)

    def propose(self, model: steps.Model, d: Array, control: Control) -> tuple[steps.Step, Bool[Array, ""]]:
        """The step, and whether it ended inside the radius."""
        step = self.step(model, d, control[0])
        return step, jnp.linalg.norm(d * step.p) <= 0.99 * control[0]

    def update(self, control: Control, ratio: Scalar, accepted: Array, length: Scalar) -> Control:
        (radius,) = control
        grown = jnp.where((ratio > 0.75) & (length > 0.99 * radius), 2.0 * radius, radius)
        shrunk = 0.25 * jnp.where(jnp.isfinite(length), jnp.minimum(length, radius), radius)
        return (jnp.where(accepted & (ratio > 0.25), grown, jnp.where(accepted, 0.5 * radius, shrunk)),)

    def release(self, control: Control) -> Control:
        return (4.0 * control[0],)

    def released(self, control: Control, unhindered: Bool[Array, ""]) -> Bool[Array, ""]:
        return unhindered


Solver = LevenbergMarquardt | TrustRegion


class Box(eqx.Module):
    """lower ≤ x ≤ upper."""

    lower: Float[Array, " n"]
    upper: Float[Array, " n"]

    def clip(self, x: Array) -> Array:
        return jnp.clip(x, self.lower, self.upper)

    def free(self, x: Array, g: Array) -> Bool[Array, " n"]:
        """Variables that are not held at a bound by the gradient."""
        return ~((x <= self.lower) & (g >= 0)) & ~((x >= self.upper) & (g <= 0))


class Tolerances(eqx.Module):
    """When to stop; see `jaxridge.least_squares`."""

    f: Scalar
    x: Scalar
    g: Scalar
    steps: Int[Array, ""]


# Why the loop ended.
RUNNING, GRADIENT, COST, STEP, ROUNDING, STALLED, NONFINITE, START = range(8)


class Blind(eqx.Module):
    """What is remembered where rounding hides the gains of steps, and only the model tells where to go."""

    promised: Scalar  # by the last step, if its gain was hidden
    trusted: Bool[Array, ""]  # the model: the last gain that could be seen was about as it said
    released: Bool[Array, ""]  # what damps the steps, since the last gain that could be seen
    kept: Control  # what it was before
    refused: Bool[Array, ""]  # a trial since the last step, because of a gain that could be seen

    @staticmethod
    def start(control: Control) -> "Blind":
        no, yes = jnp.zeros((), bool), jnp.ones((), bool)
        return Blind(jnp.full_like(control[0], jnp.inf), yes, no, control, no)


class State(eqx.Module):
    """What the loop carries."""

    x: Float[Array, " n"]
    point: Point
    model: Stored
    noise: Rounding
    d: Float[Array, " n"]
    control: Control
    blocked: Bool[Array, ""]  # a trial since the last step was not finite
    blind: Blind
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    jacobians: Int[Array, ""]
    stop: Int[Array, ""]


def _complete(objective: Objective, x: Array, point: Point, stored: Stored) -> steps.Model:
    if isinstance(stored, steps.Matrix):
        return stored
    return steps.Products(objective.product_at(x, point), stored)


def _gradient(stored: Stored) -> Array:
    return stored.gradient if isinstance(stored, steps.Matrix) else stored


def gradient(state: State) -> Array:
    """∇F where the loop stands."""
    return _gradient(state.model)


def _scale(stored: Stored, d: Array | None, relative: bool) -> Array:
    """D: the column norms of J, or a part of what they were; 1 for a column without any norm."""
    if not relative or not isinstance(stored, steps.Matrix):
        return jnp.ones_like(_gradient(stored))
    norms = jnp.sqrt(jnp.maximum(stored.diagonal(), 0.0))
    if d is None:
        return jnp.where(norms > 0, norms, 1.0)
    return jnp.maximum(_MEMORY * d, norms)


def start(objective: Objective, solver: Solver, x: Array, relative: bool) -> State:
    """The state at x, before the first step."""
    point = objective.evaluate(x)
    stored, noise = objective.model(x, point)
    d = _scale(stored, None, relative)
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
    finite = jnp.isfinite(point.cost) & jnp.all(jnp.isfinite(_gradient(stored)))
    control = solver.start(_complete(objective, x, point, stored), d, x)
    return State(
        x=x,
        point=point,
        model=stored,
        noise=noise,
        d=d,
        control=control,
        blocked=jnp.zeros((), bool),
        blind=Blind.start(control),
        steps=zero,
        evaluations=one,
        jacobians=one,
        stop=jnp.where(finite, RUNNING, START).astype(jnp.int32),
    )


class Trial(NamedTuple):
    """A proposed step, and what the model and the objective say of it."""

    x: Array
    point: Point
    length: Scalar
    predicted: Scalar
    gain: Scalar
    resting: Bool[Array, ""]  # nowhere to go
    short: Bool[Array, ""]  # enough to stop after it,
    flat: Bool[Array, ""]  # or of too little gain to go on
    unhindered: Bool[Array, ""]  # neither damping nor radius shortened it
    clipped: Bool[Array, ""]  # a bound did
    bent: Bool[Array, ""]  # beyond where its expansion holds


def propose(objective: Objective, solver: Solver, box: Box | None, tol: Tolerances, state: State) -> Trial:
    """The step that the solver wants, inside the box, evaluated."""
    x, model, g, d = state.x, _complete(objective, state.x, state.point, state.model), _gradient(state.model), state.d
    free = jnp.ones(x.shape, bool)
    if box is not None:
        free = box.free(x, g)
        model, g = model.restricted(free), jnp.where(free, g, 0.0)
    step, unhindered = solver.propose(model, d, state.control)
    p, following = step.p, x + step.p
    bent = clipped = jnp.zeros((), bool)
    if solver.acceleration and step.solve is not None and isinstance(objective, SumOfSquares):
        half = step.solve(jnp.where(free, objective.bend(x, p), 0.0)) / 2
        bent = jnp.linalg.norm(d * half) * 2 > _BENT * jnp.linalg.norm(d * p)
        following = following + jnp.where(jnp.isfinite(half), half, 0.0)
    if box is not None:
        inside = box.clip(following)
        clipped = jnp.any(inside != following)
        # A cut step is judged by what the model says of it.
        p, following = jnp.where(clipped, inside - x, p), inside
    there = objective.evaluate(following)
    # A stationary point, unless it is a saddle, from which only an exact step finds the way down.
    resting = every(jnp.abs(g) / d <= tol.g * objective.slope_unit(state.point))
    length, predicted = jnp.sqrt(total(jnp.square(d * p))), -total(g * p) - 0.5 * model.curvature(p)
    gain, enough = objective.gain(x, following - x, state.point, there), tol.f * there.cost
    whole = unhindered & ~clipped
    return Trial(
        x=following,
        point=there,
        length=length,
        predicted=predicted,
        gain=gain,
        resting=resting & ~(isinstance(objective, Smooth) & (step.mu > 0)),
        short=whole & (length <= tol.x * jnp.sqrt(total(jnp.square(d * x)))),
        flat=whole & (predicted <= enough) & (gain <= enough),
        unhindered=unhindered,
        clipped=clipped,
        bent=bent,
    )


class Decision(NamedTuple):
    """Where a proposal leads, before the model there is known."""

    x: Array
    point: Point
    accepted: Bool[Array, ""]
    control: Control
    blocked: Bool[Array, ""]
    blind: Blind
    stop: Int[Array, ""]


def decide(objective: Objective, solver: Solver, box: Box | None, tol: Tolerances, state: State) -> Decision:
    """One proposal, to be taken or not."""
    trial = propose(objective, solver, box, tol, state)
    sensible = jnp.isfinite(trial.point.cost) & jnp.isfinite(trial.length) & (trial.predicted > 0) & ~trial.bent
    ratio = jnp.where(sensible, trial.gain / jnp.where(sensible, trial.predicted, 1.0), -jnp.inf)
    noise, blind = state.noise.gain, state.blind
    worthwhile = sensible & (ratio > _WORTHWHILE) & ~trial.resting
    drowned = sensible & (jnp.maximum(trial.predicted, jnp.abs(trial.gain)) <= _ROUGH * noise) & ~trial.resting
    hidden = drowned & ((trial.predicted <= noise) | ~worthwhile)
    # Where rounding hides the gain a step is taken if the model promises less than before. What damps it is let go
    # first where the model could be trusted; if a gain that can be seen then fails, it comes back. Damping that grew
    # since the last step, because such gains failed, goes on growing until the step is free of it or nothing.
    content = solver.released(state.control, trial.unhindered) | trial.short | trial.flat
    releasing = hidden & blind.trusted & ~blind.refused & ~content
    waiting = hidden & blind.refused & ~trial.unhindered
    less = trial.predicted <= _LESS * blind.promised
    accepted = jnp.where(hidden, less & ~releasing & ~waiting, worthwhile)
    exhausted = hidden & ~less & ~releasing & ~waiting
    failed = ~hidden & ~accepted
    back = failed & blind.released
    updated = solver.update(state.control, ratio, accepted, trial.length)
    control = select(hidden & ~waiting, state.control, select(back, blind.kept, updated))
    seen = accepted & ~hidden
    return Decision(
        x=trial.x,
        point=trial.point,
        accepted=accepted,
        control=select(releasing, solver.release(state.control), control),
        blocked=~accepted & (state.blocked | ~jnp.isfinite(trial.point.cost)),
        blind=Blind(
            promised=jnp.where(accepted & hidden, trial.predicted, jnp.where(seen | back, jnp.inf, blind.promised)),
            trusted=jnp.where(seen, ratio > _TRUSTED, blind.trusted & ~back),
            released=releasing | (blind.released & ~seen & ~back),
            kept=select(releasing, state.control, blind.kept),
            refused=~accepted & (blind.refused | (failed & ~back)),
        ),
        stop=_verdict(tol, state, trial, control, accepted, hidden, exhausted, releasing | back),
    )


def stay(state: State, decision: Decision) -> State:
    """The state after a decision not to go anywhere."""
    return dataclasses.replace(
        state,
        control=decision.control,
        blocked=decision.blocked,
        blind=decision.blind,
        steps=state.steps + 1,
        evaluations=state.evaluations + 1,
        stop=decision.stop,
    )


def move(objective: Objective, relative: bool, state: State, decision: Decision) -> State:
    """The state after a decision to go: with the model where it leads."""
    stored, noise = objective.model(decision.x, decision.point)
    lost = ~every(jnp.isfinite(_gradient(stored)))
    return dataclasses.replace(
        stay(state, decision),
        x=decision.x,
        point=decision.point,
        model=stored,
        noise=noise,
        d=_scale(stored, state.d, relative),
        jacobians=state.jacobians + 1,
        stop=jnp.where(lost, NONFINITE, decision.stop),
    )


def _verdict(
    tol: Tolerances,
    state: State,
    trial: Trial,
    control: Control,
    accepted: Array,
    hidden: Array,
    exhausted: Array,
    again: Array,
) -> Int[Array, ""]:
    """Why the loop should end here, if it should."""
    size, cost = jnp.sqrt(total(jnp.square(state.d * state.x))), state.point.cost
    vague = (state.noise.gain > _HIDDEN * jnp.abs(cost)) & (cost > 4.0 * state.noise.floor)
    # A step that is shortened may promise nothing for that reason alone.
    settled = trial.unhindered | (trial.predicted <= _NOTHING * state.noise.gain)
    unmoved = (trial.length <= jnp.finfo(size.dtype).eps * size) | every(trial.x == state.x)
    stuck = (~accepted & ~again & unmoved) | ~jnp.isfinite(control[0]) | (control[0] == 0)
    blocked = state.blocked | ~jnp.isfinite(trial.point.cost)
    return jnp.select(
        [
            trial.resting,
            accepted & trial.flat,
            (accepted & trial.short) | (exhausted & (settled | vague)),
            stuck | exhausted,
        ],
        [GRADIENT, COST, jnp.where(exhausted & vague, ROUNDING, STEP), jnp.where(blocked, NONFINITE, STALLED)],
        RUNNING,
    ).astype(jnp.int32)


def run(
    objective: Objective,
    solver: Solver,
    box: Box | None,
    tol: Tolerances,
    x: Array,
    relative: bool,
    callback: Callable[..., None] | None,
) -> State:
    """Until something stops it, or for ``tol.steps`` proposals."""

    def step(state: State) -> State:
        decision = decide(objective, solver, box, tol, state)
        following = jax.lax.cond(
            decision.accepted, lambda: move(objective, relative, state, decision), lambda: stay(state, decision)
        )
        if callback is not None:
            jax.debug.callback(callback, following.steps, following.point.cost, following.x, ordered=True)
        return following

    first = start(objective, solver, x, relative)
    return jax.lax.while_loop(lambda s: (s.stop == RUNNING) & (s.steps < tol.steps), step, first)
