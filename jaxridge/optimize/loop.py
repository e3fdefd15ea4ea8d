"""The one loop: evaluate a trial, say what it shows, go there or stay, and propose the next from the model there.

A trial shows a GAIN (a part of what the model promised), a LOSS (the cost rose, or the model broke down), or nothing
(HIDDEN: promise and change are both lost in rounding). What follows depends on the phase:

              GAIN                 LOSS                      HIDDEN
    SEEN      go, trust it more    stay, trust it less       go, BLIND
    BLIND     go, SEEN             stay, FENCED              go while the promise falls, or the end
    FENCED    go, SEEN             stay, trust it less       go while the promise falls, or the end, in doubt

BLIND steps are whole, without damping or radius, for only the model tells where to go. If one of them fails visibly
the fence comes back, and where the search ends then is for `verdict` to judge.

Steps are measured with D. After a step that damping or radius kept short D is the larger of the column norms N of J
and what it was, or a part of that (``memory``), so that parameters do not evaporate; after others it is N, so that a
start with a huge Jacobian freezes none of them for good. A column of zeros keeps its D. A step is short
where ‖Np‖ ≤ xtol‖Nx‖ at the point itself, and needless where it promises less than residuals that are all rounding:
no test depends on units.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.numbers import power_of_two, select
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.optimize import steps
from jaxridge.optimize.control import Control, LevenbergMarquardt, Shown, Solver, TrustRegion
from jaxridge.optimize.objective import Local, Objective, Point, Smooth, SumOfSquares
from jaxridge.optimize.small import every, first_true, total

__all__ = ["LevenbergMarquardt", "Solver", "TrustRegion"]

_WORTHWHILE = 1e-4  # of the predicted gain; Moré (1978)
_BENT = 0.75  # the largest second-order part of a step, against the first; Transtrum and Sethna (2012)
_LESS = 0.95  # than the last step's, or what a step promises is jitter; heuristic
_FENCED_LESS = 0.99  # the same where steps are kept short, so that promises fall slowly,
_SETTLED = 1e-2  # down to that part of what rounding hides; heuristic
_SHORT = 1000  # numbers of a constant
_FENCES = 5  # that came back without a gain beyond rounding in between: it runs in circles; heuristic
VAGUE = 1e-2  # of the cost, which rounding may hide in a run that counts as converged without a question
ROUGH = 3.0  # how many times its estimate rounding may be: an estimate rounds each residual once; heuristic

BEGIN, SEEN, BLIND, FENCED = range(4)

# Why the loop ended.
RUNNING, START, NONFINITE, GRADIENT, COST, STEP, JITTER, DOUBT = range(8)


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


class Trial(eqx.Module):
    """A proposed step q, in units of its model, and what the model says of it."""

    x: Float[Array, " n"]
    q: Float[Array, " n"]
    # Numbers that are made together compile sooner as one array.
    numbers: Float[Array, " 4"]
    signs: Bool[Array, " 4"]

    length = property(lambda self: self.numbers[0])  # ‖Dq‖
    slope = property(lambda self: self.numbers[1])  # gᵀq
    curvature = property(lambda self: self.numbers[2])  # qᵀHq
    beyond = property(lambda self: self.numbers[3])  # what the curvature of F along q has more, if it is known
    whole = property(lambda self: self.signs[0])  # neither damping nor radius nor bound made it,
    released = property(lambda self: self.signs[1])  # for nothing was left of them
    short = property(lambda self: self.signs[2])  # enough to stop after it
    bent = property(lambda self: self.signs[3])  # beyond where its expansion holds

    @property
    def predicted(self) -> Scalar:
        return -self.slope - 0.5 * self.curvature


class State(eqx.Module):
    """What the loop carries."""

    x: Float[Array, " n"]
    point: Point
    local: Local
    d: Float[Array, " n"]
    alive: Bool[Array, " n"]  # columns of J that were not zero everywhere on the way
    told: Bool[Array, ""]  # J had its rank somewhere on the way
    reach: Float[Array, " n"]  # the largest |x| on the way
    control: Control
    trial: Trial
    phase: Int[Array, ""]
    promised: Scalar  # by the last step, if its gain was hidden
    fences: Int[Array, ""]  # how often the fence came back since a gain beyond rounding
    blocked: Bool[Array, ""]  # a trial since the last step was not finite
    steps: Int[Array, ""]
    jacobians: Int[Array, ""]
    stop: Int[Array, ""]


def begin(objective: Objective, solver: Solver, x: Array) -> State:
    """The state before anything is known but where to start: the first trial."""
    zero = jnp.zeros((), x.dtype)
    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    point, local = jax.eval_shape(lambda: _at(objective, x, objective.evaluate(x, none)))
    point, local = jax.tree.map(lambda leaf: _unread(leaf, x), (point, local))
    return State(
        x=x,
        point=point,
        local=local,
        d=x,
        alive=jnp.zeros(x.shape, bool),
        told=no,
        reach=x,
        control=solver.start(x.dtype),
        trial=Trial(x, x, jnp.asarray(np.arange(4, dtype=x.dtype)), jnp.asarray(np.array([True, True, False, False]))),
        phase=none,
        promised=zero,
        fences=none,
        blocked=no,
        steps=none,
        jacobians=none,
        stop=none,
    )


def _unread(like: Any, x: Array) -> Any:
    """Something of that kind that nobody reads. Zeros are a kernel to compile, unlike a short array of constants."""
    if (like.shape, like.dtype) == (x.shape, x.dtype):
        return x
    if like.size > _SHORT:
        return jnp.zeros(like.shape, like.dtype)
    return np.arange(like.size).reshape(like.shape).astype(like.dtype)


@eqx.filter_jit  # traced once for what calls it
def _at(objective: Objective, x: Array, point: Point) -> tuple[Point, Local]:
    """A point in units of its own residuals, and the model there."""
    point = objective.rescaled(x, point)
    return point, objective.model(x, point)


def model_at(objective: Objective, x: Array, point: Point, local: Local) -> steps.Model:
    """The model with what it does not carry around."""
    if isinstance(local.stored, steps.Matrix):
        return local.stored
    return steps.Products(objective.product_at(x, point), local.stored)


def column_norms(objective: Objective, local: Local) -> Float[Array, " n"] | None:
    """N, in steps q: the column norms of J, penalty included. None without squares or a matrix: there D stays."""
    if isinstance(objective, Smooth) or not isinstance(local.stored, steps.Matrix):
        return None
    return local.stored.norms


def tells(objective: Objective, local: Local) -> Bool[Array, ""]:
    """Whether J has its rank, as far as what is stored tells; true where nothing of it is stored."""
    if isinstance(objective, Smooth) or not isinstance(local.stored, steps.Matrix):
        return jnp.ones((), bool)
    return local.stored.independent()


def length_of(d: Array, q: Array) -> Scalar:
    """‖Dq‖."""
    return jnp.sqrt(total(jnp.square(d * q)))


def hazy(state: State) -> Bool[Array, ""]:
    """Whether rounding may hide so much of the cost that it is to be asked what it hides of the parameters."""
    return state.local.noise.gain > VAGUE * jnp.abs(state.point.cost)


class Judged(eqx.Module):
    """The state after a trial, before the model at the new point is known."""

    state: State
    there: Point
    accepted: Bool[Array, ""]


def judge(objective: Objective, solver: Solver, tol: Tolerances, state: State) -> Judged:
    """Evaluate the trial, and decide."""
    trial, noise, phase = state.trial, state.local.noise, state.phase
    there, gain, proper = objective.compare(state.x, trial.x, state.point)
    predicted, first, blind, fenced = trial.predicted, phase == BEGIN, phase == BLIND, phase == FENCED
    # The first one may be out of range in units of one.
    finite = jnp.where(first, proper, jnp.isfinite(there.cost))
    sensible = finite & jnp.isfinite(trial.length) & (predicted > 0) & ~trial.bent
    ratio = jnp.where(sensible, gain / jnp.where(sensible, predicted, 1.0), -jnp.inf)
    worthwhile = sensible & (gain > _WORTHWHILE * predicted)
    drowned = sensible & (jnp.maximum(predicted, jnp.abs(gain)) <= ROUGH * noise.gain)
    hidden = drowned & (predicted <= noise.gain) & ~first
    gained = worthwhile & ~hidden & ~first
    lost = ~hidden & ~gained & ~first
    clear = first | (gained & ~drowned)

    less = predicted <= jnp.where(fenced, _FENCED_LESS, _LESS) * state.promised
    accepted = jnp.where(first, finite, gained | (hidden & less))
    known = ~jnp.isnan(trial.beyond)
    bend = jnp.where(known, trial.curvature + trial.beyond, -2.0 * (gain + trial.slope))
    shown = Shown(accepted, ratio, trial.length, trial.slope, trial.curvature, bend, known)
    control = select(blind & clear, solver.released(state.control), state.control)
    control = select(hidden | first | (blind & ~clear), control, solver.update(control, shown))
    control = select(lost & blind, solver.fenced(control, trial.length), control)

    fences = jnp.where(gained & (gain > ROUGH * noise.gain), 0, state.fences + jnp.where(lost & blind, 1, 0))
    exhausted = every(trial.x == state.x) | ~jnp.isfinite(control[0]) | (control[0] == 0)
    blocked = ~clear & (state.blocked | ~finite)
    flat = trial.whole & (predicted <= tol.f * there.cost) & (gain <= tol.f * there.cost)
    stop = first_true(
        (first & ~finite, START),
        (accepted & flat & ~first, COST),
        ((hidden & ~less & ~(trial.released & ~fenced)) | (lost & blind & (fences > _FENCES)), DOUBT),
        (accepted & trial.short, STEP),
        (hidden & ~less, JITTER),
        (lost & ~blind & exhausted & blocked, NONFINITE),
        (lost & ~blind & exhausted, DOUBT),
        otherwise=RUNNING,
    )
    after = dataclasses.replace(
        state,
        control=control,
        phase=first_true((clear, SEEN), (hidden & ~fenced, BLIND), (lost & blind, FENCED), otherwise=phase),
        promised=jnp.where(clear | (lost & blind), jnp.inf, jnp.where(accepted & hidden, predicted, state.promised)),
        fences=fences,
        blocked=blocked,
        steps=state.steps + jnp.where(first, 0, 1),
        stop=stop,
    )
    return Judged(after, there, accepted)


def arrive(objective: Objective, solver: Solver, judged: Judged) -> State:
    """The state where a trial has led to, in units of its own residuals."""
    return settle(objective, solver, judged, *look(objective, judged))


def look(objective: Objective, judged: Judged) -> tuple[Point, Local]:
    """What is where a trial has led to."""
    return _at(objective, judged.state.trial.x, judged.there)


def settle(objective: Objective, solver: Solver, judged: Judged, point: Point, local: Local) -> State:
    """The state there."""
    state, trial, x = judged.state, judged.state.trial, judged.state.trial.x
    first = state.jacobians == 0
    change = power_of_two(judged.there.exponent - point.exponent, x.dtype)
    scaled = (local.unit / state.local.unit) * change
    before = jnp.where(first, 1.0, state.d * scaled)
    norms, unhindered = column_norms(objective, local), ~solver.felt(state.control)

    if norms is None:
        d, alive = before, ~state.alive
        if isinstance(local.stored, Array) and isinstance(objective, SumOfSquares):
            d = jnp.where(first, _size_of_products(objective, x, point, local), before)
    else:
        kept = jnp.where(unhindered | first, norms, jnp.maximum(solver.memory * before, norms))
        d, alive = jnp.where(norms > 0, kept, before), state.alive | (norms > 0)

    # A radius that did not bind goes with the length of its step.
    change = jnp.where(unhindered, length_of(d, trial.q / scaled * change) / trial.length, change)
    change = jnp.where(first, length_of(d, x / local.unit), change)
    change = jnp.where(jnp.isfinite(change) & (change > 0), change, 1.0)
    return dataclasses.replace(
        state,
        x=x,
        point=point,
        local=local,
        d=d,
        alive=alive,
        told=state.told | tells(objective, local),
        reach=jnp.maximum(state.reach, jnp.abs(x)),
        control=solver.in_units(state.control, change),
        jacobians=state.jacobians + 1,
    )


def _size_of_products(objective: SumOfSquares, x: Array, point: Point, local: Local) -> Array:
    """D where no column is known: the same for all, of the curvature along the gradient."""
    g = local.gradient
    curvature = model_at(objective, x, point, local).curvature(g)
    return jnp.sqrt(curvature / jnp.maximum(jnp.sum(g * g), jnp.finfo(g.dtype).tiny)) * jnp.ones_like(g)


def propose(objective: Objective, solver: Solver, box: Box | None, tol: Tolerances, state: State) -> State:
    """With the next trial, inside the box, or with the reason why none is needed."""
    x, local = state.x, state.local
    model, g = model_at(objective, x, state.point, local), local.gradient
    free = jnp.ones(x.shape, bool)
    if box is not None:
        free = box.free(x, g)
        model, g = model.restricted(free), jnp.where(free, g, 0.0)

    norms, blind = column_norms(objective, local), state.phase == BLIND
    norms = state.d if norms is None else norms
    d = jnp.where(blind & (norms > 0), norms, state.d)
    control = select(blind, solver.released(state.control), state.control)
    step, unhindered, released = solver.propose(model, d, control)

    q, following = step.p, x + local.unit * step.p
    bent, beyond = jnp.zeros((), bool), jnp.full((), jnp.nan, x.dtype)
    if solver.acceleration and step.solve is not None and isinstance(objective, SumOfSquares):
        pull, beyond = objective.bend(x, local.unit * q, state.point)
        columns = local.unit * power_of_two(-state.point.exponent, x.dtype)
        half = step.solve(jnp.where(free, pull * columns, 0.0)) / 2
        bent = total(jnp.square(d * half)) * 4 > _BENT**2 * total(jnp.square(d * q))
        following = following + local.unit * jnp.where(jnp.isfinite(half), half, 0.0)

    clipped = jnp.zeros((), bool)
    if box is not None:
        inside = box.clip(following)
        clipped = jnp.any(inside != following)
        # A cut step is judged by what the model says of it.
        q, following = jnp.where(clipped, (inside - x) / local.unit, q), inside

    last = released & unhindered & ~clipped
    length, size = total(jnp.square(norms * q)), total(jnp.square(norms * (x / local.unit)))
    no_longer = lambda part: last & (length <= part * (part * size))  # noqa: E731
    trial = Trial(
        x=following,
        q=q,
        numbers=jnp.stack([length_of(d, q), total(g * q), model.curvature(q), jnp.where(clipped, jnp.nan, beyond)]),
        signs=jnp.stack([unhindered & ~clipped, released, no_longer(tol.x), bent]),
    )
    # A step whose gain is hidden is needless where it is rounding itself, or steps become shorter a hundredfold.
    nothing = trial.predicted <= local.noise.floor
    short = trial.short & (trial.predicted <= 1e-4 * state.promised)
    short = short | no_longer(jnp.finfo(x.dtype).eps)
    needless = (last & nothing) | (short & (trial.predicted <= local.noise.gain))
    least = jnp.maximum(local.noise.floor, _SETTLED * local.noise.gain)
    lost = ~(every(jnp.isfinite(local.gradient)) & jnp.isfinite(state.point.cost))
    stop = first_true(
        (lost, jnp.where(state.steps == 0, START, NONFINITE)),
        (state.stop != RUNNING, state.stop),
        (_resting(objective, tol, state, g, norms, last & (step.mu <= 0), trial.predicted), GRADIENT),
        ((needless | (trial.predicted <= least)) & (state.phase == FENCED), DOUBT),
        (needless, STEP),
        otherwise=RUNNING,
    )
    return dataclasses.replace(state, trial=trial, stop=stop)


def _resting(
    objective: Objective, tol: Tolerances, state: State, g: Array, norms: Array, newton: Array, predicted: Scalar
) -> Bool[Array, ""]:
    """Whether the slope is as small as gtol asks: as a cosine, or by what Newton's step promises beside |f|."""
    if isinstance(objective, Smooth):
        return newton & (predicted <= jnp.square(tol.g) * jnp.abs(state.point.cost))
    least = tol.g * jnp.where(norms > 0, norms, 1.0)
    return every(jnp.square(g) <= jnp.square(least) * objective.slope_unit(state.point))


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
        judged = judge(objective, solver, tol, state)
        state = jax.lax.cond(judged.accepted, lambda: arrive(objective, solver, judged), lambda: judged.state)
        if callback is not None:
            told = callback
            tell = lambda: jax.debug.callback(told, state.steps, state.point.cost, state.x, ordered=True)  # noqa: E731
            jax.lax.cond(state.steps > 0, tell, lambda: None)
        return propose(objective, solver, box, tol, state)

    return jax.lax.while_loop(lambda state: running(tol, state), step, begin(objective, solver, x))


def running(tol: Tolerances, state: State) -> Bool[Array, ""]:
    """Whether it goes on."""
    return (state.stop == RUNNING) & ((state.steps < tol.steps) | (state.phase == BEGIN))


def gradient(state: State) -> Array:
    """∇F where the loop stands."""
    up = power_of_two(state.point.exponent, state.x.dtype)
    return (state.local.gradient * up) / state.local.unit * up
