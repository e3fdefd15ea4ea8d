"""The one loop: propose a step on a quadratic model, evaluate it, take it or not, until rounding hides what it gains.

Of a trial the cost says one of three things, and a table says what follows:

    GAIN     it fell, by a part of what the model promised    go there, trust the model more
    LOSS     it rose, or the model broke down                 stay, trust it less
    HIDDEN   promise and change are both lost in rounding     leave the rest to `polish`

Steps are measured with D. After a step D is the larger of the column norms of J and half of what it was, where steps
are kept short: memory keeps parameters from evaporating (Moré 1978 takes a maximum over the run). Where they are not,
D is the norms: what was learned at a start with a huge Jacobian must not freeze parameters later. A column of zeros
keeps what it had.
A step is short where ‖Np‖ ≤ xtol‖Nx‖ with the column norms N of the point itself, never with a remembered D, and
only if nothing shortened it. So no test depends on units of x or r, and none on the way there.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import power_of_two
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.optimize import steps
from jaxridge.optimize.control import Control, Judged, LevenbergMarquardt, Solver, TrustRegion
from jaxridge.optimize.objective import Local, Objective, Point, Smooth, SumOfSquares
from jaxridge.optimize.small import every, total

__all__ = ["LevenbergMarquardt", "Solver", "TrustRegion"]

_WORTHWHILE = 1e-4  # of the predicted gain; Moré (1978)
_BENT = 0.75  # the largest second-order part of a step, against the first; Transtrum and Sethna (2012)
_MEMORY = 0.5  # how much of the scale of the last point stays where it is felt; heuristic
ROUGH = 10.0  # how many times its estimate rounding may be: an estimate rounds each residual once; heuristic

# What a trial says.
LOSS, GAIN, HIDDEN = range(3)

# Why the loop ended; from HIDDEN_GAINS on the point is still to be judged.
RUNNING, GRADIENT, COST, STEP, NONFINITE, START, HIDDEN_GAINS, STUCK = range(8)


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


class State(eqx.Module):
    """What the loop carries."""

    x: Float[Array, " n"]
    point: Point
    local: Local
    d: Float[Array, " n"]
    alive: Bool[Array, " n"]  # columns of J that were not zero everywhere on the way
    control: Control
    blocked: Bool[Array, ""]  # a trial since the last step was not finite
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    jacobians: Int[Array, ""]
    stop: Int[Array, ""]


def model_at(objective: Objective, x: Array, point: Point, local: Local) -> steps.Model:
    """The model with what it does not carry around."""
    if isinstance(local.stored, steps.Matrix):
        return local.stored
    return steps.Products(objective.product_at(x, point), local.stored)


def column_norms(objective: Objective, local: Local) -> Float[Array, " n"]:
    """N, in steps q: the column norms of J, penalty included; 1 where there is no sum of squares, or no matrix."""
    if isinstance(objective, Smooth) or not isinstance(local.stored, steps.Matrix):
        return jnp.ones_like(local.unit)
    return jnp.sqrt(jnp.maximum(local.stored.diagonal(), 0.0))


def size_of(norms: Array, x: Array, local: Local) -> Scalar:
    """‖Nx‖."""
    return jnp.sqrt(total(jnp.square((norms / local.unit) * x)))


def start(objective: Objective, solver: Solver, x: Array) -> State:
    """The state at x, before the first step."""
    point = objective.rescaled(x, objective.evaluate(x, jnp.zeros((), jnp.int32)))
    local = objective.model(x, point)
    norms = column_norms(objective, local)
    d = jnp.where(norms > 0, norms, 1.0)
    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
    finite = jnp.isfinite(point.cost) & every(jnp.isfinite(local.gradient))
    return State(
        x=x,
        point=point,
        local=local,
        d=d,
        alive=norms > 0,
        control=solver.start(model_at(objective, x, point, local), d, size_of(norms, x, local)),
        blocked=jnp.zeros((), bool),
        steps=zero,
        evaluations=one,
        jacobians=one,
        stop=jnp.where(finite, RUNNING, START).astype(jnp.int32),
    )


class Trial(NamedTuple):
    """A proposed step, and what the model and the objective say of it."""

    x: Array
    point: Point
    length: Scalar  # ‖Dp‖
    predicted: Scalar
    gain: Scalar
    resting: Bool[Array, ""]  # nowhere to go
    short: Bool[Array, ""]  # enough to stop after it,
    flat: Bool[Array, ""]  # or of too little gain to go on
    bent: Bool[Array, ""]  # beyond where its expansion holds


def propose(objective: Objective, solver: Solver, box: Box | None, tol: Tolerances, state: State) -> Trial:
    """The step that the solver wants, inside the box, evaluated."""
    x, local, d = state.x, state.local, state.d
    model, g = model_at(objective, x, state.point, local), local.gradient
    free = jnp.ones(x.shape, bool)
    if box is not None:
        free = box.free(x, g)
        model, g = model.restricted(free), jnp.where(free, g, 0.0)

    step, unhindered = solver.propose(model, d, state.control)
    q, following = step.p, x + local.unit * step.p
    bent = clipped = jnp.zeros((), bool)
    if solver.acceleration and step.solve is not None and isinstance(objective, SumOfSquares):
        columns = local.unit * power_of_two(-state.point.exponent, x.dtype)
        bend = objective.bend(x, local.unit * q, state.point) * columns
        half = step.solve(jnp.where(free, bend, 0.0)) / 2
        bent = total(jnp.square(d * half)) * 4 > _BENT**2 * total(jnp.square(d * q))
        following = following + local.unit * jnp.where(jnp.isfinite(half), half, 0.0)
    if box is not None:
        inside = box.clip(following)
        clipped = jnp.any(inside != following)
        # A cut step is judged by what the model says of it.
        q, following = jnp.where(clipped, (inside - x) / local.unit, q), inside

    there = objective.evaluate(following, state.point.exponent)
    norms = column_norms(objective, local)
    predicted = -total(g * q) - 0.5 * model.curvature(q)
    gain = objective.gain(x, following - x, state.point, there)
    whole = unhindered & ~clipped
    return Trial(
        x=following,
        point=there,
        length=jnp.sqrt(total(jnp.square(d * q))),
        predicted=predicted,
        gain=gain,
        resting=_resting(objective, tol, state, g, norms, whole & (step.mu <= 0), predicted),
        short=whole & (jnp.sqrt(total(jnp.square(norms * q))) <= tol.x * size_of(norms, x, local)),
        flat=whole & (predicted <= tol.f * there.cost) & (gain <= tol.f * there.cost),
        bent=bent,
    )


def _resting(
    objective: Objective, tol: Tolerances, state: State, g: Array, norms: Array, newton: Array, predicted: Scalar
) -> Bool[Array, ""]:
    """Whether the slope is as small as gtol asks: as a cosine, or by what Newton's step promises beside |f|."""
    if isinstance(objective, Smooth):
        return newton & (predicted <= jnp.square(tol.g) * jnp.abs(state.point.cost))
    return every(jnp.abs(g) <= tol.g * jnp.where(norms > 0, norms, 1.0) * objective.slope_unit(state.point))


class Decision(NamedTuple):
    """Where a proposal leads, before the model there is known."""

    x: Array
    point: Point
    accepted: Bool[Array, ""]
    control: Control
    blocked: Bool[Array, ""]
    stop: Int[Array, ""]


def evidence(state: State, trial: Trial) -> tuple[Int[Array, ""], Scalar]:
    """What a trial says, and its gain over the predicted one."""
    sensible = jnp.isfinite(trial.point.cost) & jnp.isfinite(trial.length) & (trial.predicted > 0) & ~trial.bent
    ratio = jnp.where(sensible, trial.gain / jnp.where(sensible, trial.predicted, 1.0), -jnp.inf)
    noise = state.local.noise.gain
    worthwhile = ratio > _WORTHWHILE
    drowned = sensible & (jnp.maximum(trial.predicted, jnp.abs(trial.gain)) <= ROUGH * noise)
    hidden = drowned & ((trial.predicted <= noise) | ~worthwhile)
    return jnp.where(hidden, HIDDEN, jnp.where(worthwhile, GAIN, LOSS)), ratio


def decide(objective: Objective, solver: Solver, box: Box | None, tol: Tolerances, state: State) -> Decision:
    """One proposal, to be taken or not."""
    trial = propose(objective, solver, box, tol, state)
    says, ratio = evidence(state, trial)
    enough = trial.short | trial.flat
    accepted = ~trial.resting & ((says == GAIN) | ((says == HIDDEN) & enough))
    control = solver.update(state.control, Judged(accepted, ratio, trial.length))
    exhausted = every(trial.x == state.x) | ~jnp.isfinite(control[0]) | (control[0] == 0)
    stop = jnp.select(
        [
            trial.resting & (tol.g > 0),
            accepted & trial.flat,
            accepted & trial.short,
            trial.resting | (says == HIDDEN),
            ~accepted & exhausted,
        ],
        [GRADIENT, COST, STEP, HIDDEN_GAINS, STUCK],
        RUNNING,
    )
    return Decision(
        x=trial.x,
        point=trial.point,
        accepted=accepted,
        control=control,
        blocked=~accepted & (state.blocked | ~jnp.isfinite(trial.point.cost)),
        stop=stop.astype(jnp.int32),
    )


def stay(state: State, decision: Decision) -> State:
    """The state after a decision not to go anywhere."""
    return dataclasses.replace(
        state,
        control=decision.control,
        blocked=decision.blocked,
        steps=state.steps + 1,
        evaluations=state.evaluations + 1,
        stop=decision.stop,
    )


def arrive(objective: Objective, solver: Solver, state: State, x: Array, point: Point) -> State:
    """The state at x, where ``state`` has led to, in its own units."""
    here = objective.rescaled(x, point)
    local = objective.model(x, here)
    change = power_of_two(point.exponent - here.exponent, x.dtype)
    norms = column_norms(objective, local)
    remembered = state.d * ((local.unit / state.local.unit) * change)
    kept = jnp.where(solver.felt(state.control), jnp.maximum(_MEMORY * remembered, norms), norms)
    lost = ~every(jnp.isfinite(local.gradient))
    nothing = (state.stop == RUNNING) & _promises_nothing(local)
    return dataclasses.replace(
        state,
        x=x,
        point=here,
        local=local,
        d=jnp.where(norms > 0, kept, remembered),
        alive=state.alive | (norms > 0),
        control=solver.in_units(state.control, change),
        jacobians=state.jacobians + 1,
        stop=jnp.select([lost, nothing], [NONFINITE, HIDDEN_GAINS], state.stop),
    )


def _promises_nothing(local: Local) -> Bool[Array, ""]:
    """Whether even the undamped step promises no more than rounding, where that is seen without computing it."""
    if not isinstance(local.stored, steps.Triangle):
        return jnp.zeros((), bool)
    return 0.5 * total(jnp.square(local.stored.z)) <= local.noise.gain


def move(objective: Objective, solver: Solver, state: State, decision: Decision) -> State:
    """The state after a decision to go: with the model where it leads."""
    return arrive(objective, solver, stay(state, decision), decision.x, decision.point)


def run(
    objective: Objective,
    solver: Solver,
    box: Box | None,
    tol: Tolerances,
    x: Array,
    callback: Callable[..., None] | None,
) -> State:
    """Until something stops it, or for ``tol.steps`` proposals."""

    def step(state: State) -> State:
        decision = decide(objective, solver, box, tol, state)
        following = jax.lax.cond(
            decision.accepted, lambda: move(objective, solver, state, decision), lambda: stay(state, decision)
        )
        if callback is not None:
            jax.debug.callback(callback, following.steps, following.point.cost, following.x, ordered=True)
        return following

    first = start(objective, solver, x)
    return jax.lax.while_loop(lambda s: (s.stop == RUNNING) & (s.steps < tol.steps), step, first)


def gradient(state: State) -> Array:
    """∇F where the loop stands."""
    up = power_of_two(state.point.exponent, state.x.dtype)
    return (state.local.gradient * up) / state.local.unit * up
