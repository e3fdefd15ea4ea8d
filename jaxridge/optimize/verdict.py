"""What kind of point a search has ended at, by the whole Hessian H = JᵀJ + λI + Σ ρ'rᵢ∇²rᵢ in units of its diagonal.

    H positive              a minimum, if Newton's step ½gᵀH⁻¹g promises nothing that can be seen
    H negative somewhere    a saddle or a maximum, if the gradient is nothing
    H zero somewhere        stationary, but the data leave that direction as it was,
                            or the search ran to where they no longer tell parameters apart that they told before

Steps that become shorter and shorter prove a minimum. Where the search saw none, or J is singular, H is asked; where
steps ended as jitter, whether it is a saddle, for there they become longer. Where J has become singular on the way, a
plateau far out shows nothing but rounding in H: there √eps is asked of it. And JᵀJ has half the digits of J: what only
the former leaves open is not settled, nor an end in jitter or doubt from where J's own step still leads elsewhere.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Bool
from jaxridge.optimize import loop, steps
from jaxridge.optimize.loop import ROUGH, Box, State
from jaxridge.optimize.objective import Objective, Stored, SumOfSquares, qr
from jaxridge.optimize.small import every, first_true, greatest, total

_SHARP = 1e-3  # of the cost: if rounding hides more, H alone proves no minimum from which steps lead away; heuristic
_VISIBLE = 30.0  # times what rounding hides; heuristic

# Verdicts, beside those of the loop.
SADDLE, UNDETERMINED, NO_INFLUENCE, EVAPORATED, STALLED, ROUNDING = range(20, 26)


def open_question(objective: Objective, state: State) -> Bool[Array, ""]:
    """Whether the end of a search is still to be judged."""
    ended = state.stop >= loop.GRADIENT
    if not isinstance(state.local.stored, steps.Matrix):
        return ended & (state.stop == loop.DOUBT)
    return ended & ((state.stop >= loop.JITTER) | _unproven(objective, state))


def _unproven(objective: Objective, state: State) -> Bool[Array, ""]:
    """Whether the steps of a search prove nothing: there were none, rounding hid them, or J tells too little."""
    return (state.jacobians <= 1) | loop.hazy(state) | ~loop.tells(objective, state.local)


def _factor(objective: Objective, state: State, stored: steps.Matrix) -> Stored:
    """R of J itself, for a sum of squares."""
    if isinstance(objective, SumOfSquares) and not isinstance(stored, steps.Triangle):
        return qr(objective, state.x, state.point).stored
    return stored


def _vague(state: State, factor: Stored) -> Bool[Array, ""]:
    """Whether what rounding hides of the cost moves a parameter by more than √eps of how far it came.

    By the steps √(2 gain (JᵀJ)⁻¹ⱼⱼ), in the directions that J tells. It hides all of a perfect fit, and moves nothing.
    """
    if not isinstance(factor, steps.Triangle):
        return jnp.zeros((), bool)
    deviations, _ = factor.told()
    return loop.hazy(state) & ~_little(state, jnp.sqrt(2.0 * state.local.noise.gain) * deviations)


def _little(state: State, q: Array) -> Bool[Array, ""]:
    """Whether a step moves no parameter by more than √eps of how far it came."""
    least = jnp.sqrt(jnp.finfo(q.dtype).eps) * state.reach
    return every((jnp.abs(q * state.local.unit) <= least) | (least <= 0))


def judge(objective: Objective, box: Box | None, state: State, curved: bool) -> State:
    """With what the Hessian says in the place of what the loop said; ``curved`` where ∇²rᵢ exist."""
    stop = state.stop
    if isinstance(state.local.stored, steps.Matrix):
        stop = _kind(objective, box, state, state.local.stored, curved)
    else:
        # No Hessian: what a step along the gradient promises.
        level = total(jnp.square(state.local.gradient / state.d)) / 2 <= ROUGH * state.local.noise.gain
        stop = first_true((stop != loop.DOUBT, stop), (level, loop.STEP), otherwise=STALLED)
    return dataclasses.replace(state, stop=stop)


def _kind(objective: Objective, box: Box | None, state: State, stored: steps.Matrix, curved: bool) -> Array:
    x, local, n = state.x, state.local, len(state.x)
    eps, noise = jnp.finfo(x.dtype).eps, ROUGH * local.noise.gain
    free = jnp.ones(x.shape, bool) if box is None else box.free(x, local.gradient)
    g = jnp.where(free, local.gradient, 0.0)
    H = stored.dense().H
    S = jnp.zeros_like(H)
    if curved and isinstance(objective, SumOfSquares):
        S = objective.second_order(x, state.point, local.unit)

    eye = jnp.eye(n, dtype=x.dtype)
    h = jnp.sqrt(jnp.sum(jnp.where(eye > 0, jnp.abs(H) + jnp.abs(S), 0.0), axis=0))
    down = 1.0 / jnp.where(free & (h > 0), h, 1.0)
    scaled = jnp.where(free[:, None] & free[None, :], (H + S) * down[:, None] * down[None, :], 0.0)
    level = greatest(jnp.square(g * down)) / 2 <= noise
    shifts = np.array([8 * n * eps, -8 * n * eps, -(eps**0.5)], x.dtype)[:, None] + jnp.where(free, 0.0, 1.0)[None, :]
    L = jnp.linalg.cholesky(scaled[None] + shifts[:, :, None] * eye[None], symmetrize_input=False)
    # Where it fails there is no number in all of a factor.
    positive, beyond_noise, firm = jnp.isfinite(L[:, -1, -1])
    factor = _factor(objective, state, stored)
    # Where a perfect fit leaves a part of J to rounding nothing is missed.
    dependent = isinstance(factor, steps.Triangle) and ~factor.independent()
    lost = state.told & dependent & every(free) & ~loop.hazy(state)
    determined = jnp.where(lost, firm, beyond_noise)
    L = jnp.where(positive, L[0], eye)
    c = solve_triangular(L, g * down, lower=True)
    stationary = positive & (total(jnp.square(c)) / 2 <= noise)
    # What J alone would have moved has to rise as the parabola says, where that can be seen: or it runs to infinity.
    leaning = free & (jnp.square(g) > 2 * noise * jnp.square(stored.norms))
    newton = -solve_triangular(L, c, trans=1, lower=True) * down
    q = jnp.where(leaning, newton, 0.0)
    seen = jnp.sqrt(_VISIBLE * noise / jnp.maximum(total(q * matmul(H + S, q)) / 2, jnp.finfo(x.dtype).tiny))
    beyond = x + local.unit * (seen * q)
    beyond = beyond if box is None else box.clip(beyond)
    rises = -objective.compare(x, beyond, state.point).gain >= noise
    stationary = stationary & (rises | every(~leaning))

    idle, doubt = free & jnp.all(scaled == 0, axis=0), state.stop == loop.DOUBT
    some_idle = ~every(~idle)
    evaporated = (~every(~(idle & state.alive)) & every(free)) | (~some_idle & ~determined & lost)
    settled = jnp.ones((), bool)
    if isinstance(factor, steps.Triangle):
        sharp = state.local.noise.gain <= _SHARP * jnp.abs(state.point.cost)
        proven = firm & (~doubt | sharp | _little(state, newton))
        settled = proven | _little(state, (factor if box is None else factor.restricted(free)).told()[1])
        if stored is factor:
            settled = settled | (state.stop < loop.JITTER)
    jitter = (state.stop == loop.JITTER) & ~_unproven(objective, state)
    return first_true(
        (~positive & level, SADDLE),
        (jitter & settled, loop.STEP),
        ((stationary | ~doubt) & _vague(state, factor), ROUNDING),
        (stationary & evaporated, EVAPORATED),
        (stationary & some_idle, NO_INFLUENCE),
        (stationary & ~determined & ~doubt & settled, UNDETERMINED),
        (stationary & determined & doubt & settled, loop.STEP),
        (doubt & state.blocked, loop.NONFINITE),
        (doubt | (lost & ~stationary) | ~((determined & ~jitter) | settled), STALLED),
        otherwise=state.stop,
    )
