"""What training on memristive synapses regularises, predicted: the stationary state of each in the field of the others.

A synapse in state x shows the weight φ(x) and is moved by an `Update` with noise. Its mean and mean square change,

    a(x) = E[x′ − x],    v(x) = E[(x′ − x)²],                        over noise by Gauss–Hermite, and over rows,

give the stationary density p ∝ exp(∫2a/v)/v on the states that there are (the second Kramers–Moyal coefficient, a² and
all, which is exact for a linear synapse). The gradient of one synapse depends on the others: on their means, and for
single rows on their variances too. Means, variances and densities are iterated until they agree.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxridge.core.implicit import first_order_only, frozen, linear_root, solution_of
from jaxridge.core.numbers import matmul, poison, safe_sqrt
from jaxridge.core.results import RESULTS
from jaxridge.core.types import Array, Float
from jaxridge.training.device import Device, Synapses
from jaxridge.training.drift import normal_nodes
from jaxridge.training.regression import Regression
from jaxridge.training.updates import Update

__all__ = ["Effective", "effective_lam"]

STATES = 201  # of the grid of a density, nine of its deviations on either side: weights to 1e-4 of their range
REACH = 9.0
CORRELATED = 0.5  # cosine of two columns above which synapses feel how others move: 1 % of a weight, measured
ALIKE = (16, 8, 4)  # groups of rows, one in the other: more rows than these 512 are given by group
NODES = 5  # of Gauss–Hermite: exact for polynomials of the noise to degree 9, and a step is nearly linear in it
SWEEPS = 1000  # of the iteration at most; each about halves the error
ROUGH = 20  # of them tell how to group rows
ROUNDING = 100.0  # of eps times the width of all states: what rounding of the sums over a density leaves

TWICE = (
    "effective_lam has first derivatives for batch=1: |g| is a sum over rows and nodes there, whose second derivatives "
    "are those of its kinks. Take differences of the first, or batch=None."
)


class Effective(eqx.Module):
    """``weight``, the mean weights of the stationary state, and the ridge penalty that they are the solution of:

    minimise ‖Xw − y‖² + Σⱼ λⱼwⱼ². A negative λⱼ pushes outward. ``deviation`` is that of a weight in time.
    """

    weight: Float[Array, " d"]
    lam: Float[Array, " d"]
    deviation: Float[Array, " d"]
    result: Any


class Field(eqx.Module):
    """What one synapse has to know of the others, and where its own density lies: all (d,)."""

    weight: Array
    variance: Array
    centre: Array
    width: Array


def effective_lam(
    device: Device, update: Update, X: Any, y: Any, learning_rate: Any, *, batch: int | None = None
) -> Effective:
    """The ridge penalty that training on a device amounts to, predicted without a step.

    Args:
        device: a `Device`. update: where steps and noise act, see `jaxridge.training.updates`.
        X: (n, d). y: (n,). learning_rate: η of u = −ηg, g the gradient of ½ mean (Xw − y)².
        batch: None for all rows at every step, 1 for single rows drawn with replacement.

    Returns an `Effective`; what cannot be predicted is a code in ``result``: a negative noise
    (``invalid_noise``), a rate past stability (``unstable_rate``), an inverse that is none (``not_inverse``).
    Derivatives in X, y, the rate and the numbers of the device are those of the stationary equations, for single rows
    the first ones.
    Raises ValueError for another batch, and for a map without the inverse that the update needs.

    Each synapse sees the others' means, not how they move with it, which is exact for full batches and columns that
    are orthogonal. Under noise as strong as that of the closed loop at σ = .1, η = .05 it is 0.2 % off for two columns
    with cosine .3, 0.9 % with .5 and 4 % with .7: above .5 no number is given but ``correlated_columns``. The rate
    enters to first order: at η = .05 with single rows soft bounds are 0.15 % off. With single rows, 512 of them are
    taken one by one; more are given by 512 groups of like rows, which costs no more for a million: λ is 0.5 % off then.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import ClosedLoop, Device, StateStep, Tanh, effective_lam
    >>> X, y = jnp.eye(2), jnp.array([0.3, -0.1])
    >>> for update in ClosedLoop(), StateStep():
    ...     print(effective_lam(Device(Tanh(), noise=0.02), update, X, y, 0.01).lam.round(2) + 0.0)
    [0.07 0.07]
    [0. 0.]
    """
    if batch not in (None, 1) or isinstance(batch, bool):
        raise ValueError(f"batch is {batch!r}; a prediction is known for None, all rows, and for 1.")
    synapses = Synapses.of(device, update, X, y, learning_rate)
    return _effective(synapses, batch)


@eqx.filter_jit
def _effective(synapses: Synapses, batch: int | None) -> Effective:
    still, begin = frozen(synapses), _begin(synapses)
    order = None if batch is None else grouped(still.loss, begin)
    if order is not None and order.shape[-1] > 1:
        order = grouped(still.loss, _settle(still, order, begin, ROUGH))
    found = _settle(still, order, begin, SWEEPS)
    field, settled = _differentiable(synapses, order, found)
    result = synapses.judged(synapses.device.map(synapses.middle()))
    for failed, code in (
        (correlation(synapses.loss.X) > CORRELATED, RESULTS.correlated_columns),
        (~settled, RESULTS.max_steps),
    ):
        result = RESULTS.where((result == RESULTS.successful) & failed, code, result)
    weight, variance = (poison(x, result == RESULTS.successful) for x in (field.weight, field.variance))
    return Effective(weight, lam_of_weights(synapses, weight), safe_sqrt(variance), result)


def _begin(synapses: Synapses) -> Field:
    """Every synapse in its middle state, with a density that may be anywhere."""
    middle = synapses.middle()
    return Field(synapses.device.map(middle), jnp.zeros_like(middle), middle, jnp.full_like(middle, _range(synapses)))


def _range(synapses: Synapses) -> Array:
    """A quarter of all states."""
    map = synapses.device.map
    return (jnp.asarray(map.high, synapses.rate.dtype) - map.low) / 4


def _settle(synapses: Synapses, order: Array | None, field: Field, most: int) -> Field:
    """Halfway to the next sweep, until nothing moves."""
    flat, restore = ravel_pytree(field)
    room = ROUNDING * jnp.finfo(flat.dtype).eps * _range(synapses)

    def halfway(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        flat, _, sweeps = state
        change = (ravel_pytree(_sweep(synapses, restore(flat), order))[0] - flat) / 2
        return flat + change, change, sweeps + 1

    def unsettled(state: tuple[Array, Array, Array]) -> Array:
        _, change, sweeps = state
        return (jnp.max(jnp.abs(change)) > room) & (sweeps < most)

    begin = (flat, jnp.full_like(flat, jnp.inf), jnp.zeros((), jnp.int32))
    return restore(jax.lax.while_loop(unsettled, halfway, begin)[0])


def _differentiable(synapses: Synapses, order: Array | None, field: Field) -> tuple[Field, Array]:
    """The field as the root of its equations, and whether it is one."""
    still = frozen(synapses)
    found, restore = ravel_pytree(field)

    def change(synapses: Synapses, flat: Array) -> Array:
        return flat - ravel_pytree(_sweep(synapses, restore(flat), order))[0]

    # Column by column: all at once are more numbers than memory has for many synapses.
    along = lambda v: jax.jvp(lambda flat: change(still, flat), (found,), (v,))[1]  # noqa: E731
    slope = jax.lax.map(along, jnp.eye(found.size, dtype=found.dtype)).T
    equation = lambda flat: change(synapses, flat)  # noqa: E731

    def once(_: Any, b: Array) -> Array:
        return jnp.linalg.solve(first_order_only(slope, eqx.filter(synapses, eqx.is_inexact_array), TWICE), b)

    if order is None:
        solve, back = (lambda b, S=S: jnp.linalg.solve(S, b) for S in (slope, slope.T))
        root = linear_root(equation, found, solve, back)
    else:
        root = solution_of(equation, found, once)
    room = jnp.sqrt(jnp.finfo(found.dtype).eps) * _range(synapses)
    return restore(root), jnp.max(jnp.abs(change(still, found))) <= room


def correlation(X: Array) -> Array:
    """The largest cosine between two columns."""
    unit = X / jnp.linalg.norm(X, axis=0, keepdims=True)
    return jnp.max(jnp.abs(jnp.tril(matmul(unit.T, unit), -1)), initial=0.0)


def lam_of_weights(synapses: Synapses, weight: Array) -> Array:
    """λⱼ = −n gⱼ/wⱼ of which these weights are the ridge solution."""
    return -synapses.loss.X.shape[0] * synapses.loss.gradient(weight) / weight


def _sweep(synapses: Synapses, field: Field, order: Array | None) -> Field:
    """The stationary state of every synapse in the field of the others."""
    one = lambda column, gain, j, order: _synapse(synapses, field, order, column, gain, j)  # noqa: E731
    each = (synapses.loss.X.T, synapses.device.gain, jnp.arange(field.weight.shape[0]))
    return jax.vmap(one)(*each, order)


def _synapse(synapses: Synapses, field: Field, order: Array | None, column: Array, gain: Array, j: Array) -> Field:
    """Moments of the density of synapse j, whose column of X and gain are given."""
    map, dtype = synapses.device.map, column.dtype
    low = jnp.maximum(field.centre[j] - REACH * field.width[j], map.low)
    high = jnp.minimum(field.centre[j] + REACH * field.width[j], map.high)
    x = low + (high - low) * jnp.linspace(0.0, 1.0, STATES, dtype=dtype)
    w = map(x)
    g, chance = _gradients(synapses, field, order, column, j, w)
    xi, p = normal_nodes(NODES, dtype)
    device = eqx.tree_at(lambda device: device.gain, synapses.device, gain)
    before, u = x[:, None, None], -synapses.rate * g[:, :, None]
    change = device.step(synapses.update, before, u, xi[None, None, :]) - before
    mean = matmul(matmul(change, p), chance)
    square = matmul(matmul(change**2, p), chance)
    density = _density(x, mean, square)
    weight, centre = jnp.sum(density * w), jnp.sum(density * x)
    variance = jnp.sum(density * (w - weight) ** 2)
    width = jnp.sqrt(jnp.sum(density * (x - centre) ** 2))
    return Field(weight, variance, centre, jnp.maximum(width, _floor(x)))


def _gradients(
    synapses: Synapses, field: Field, order: Array | None, column: Array, j: Array, w: Array
) -> tuple[Array, Array]:
    """Gradients of synapse j at its weights w, (s, g), with their chances (g,): of all rows, or of each by its group.

    In a group gradients are normal, with the mean and the variance of its rows and the variance of the others' weights.
    """
    loss, n = synapses.loss, column.shape[0]
    away = w - field.weight[j]
    g, slope = column * loss.residual(field.weight), column**2
    if order is None:
        return (jnp.mean(g) + jnp.mean(slope) * away)[:, None], jnp.ones(1, w.dtype)
    others = slope * (matmul(loss.X**2, field.variance) - slope * field.variance[j])
    there = order < n
    count = jnp.sum(there, axis=-1, dtype=w.dtype)
    averaged = lambda rows: jnp.sum(jnp.where(there, rows, 0.0), axis=-1) / jnp.maximum(count, 1.0)  # noqa: E731
    g, slope, others = (x.at[order].get(mode="fill", fill_value=0.0) for x in (g, slope, jnp.maximum(others, 0.0)))
    mean, steep = averaged(g), averaged(slope)
    g, slope = g - mean[:, None], slope - steep[:, None]
    moments = averaged(g**2), 2 * averaged(g * slope), averaged(slope**2)
    within = sum(jnp.outer(away**k, moment) for k, moment in enumerate(moments))
    deviation = safe_sqrt(jnp.maximum(within, 0.0) + averaged(others)[None])
    z, p = normal_nodes(NODES, w.dtype)
    nodes = (mean[None] + jnp.outer(away, steep))[:, :, None] + deviation[:, :, None] * z[None, None]
    return nodes.reshape(w.shape[0], -1), jnp.outer(count / n, p).reshape(-1)


def grouped(loss: Regression, field: Field) -> Array:
    """Rows in groups, for each synapse: (d, k, m) numbers of rows, n where there is none; each its own where few.

    Alike in |x|, in those in residual, and in those in what the others' noise does to it: the gradient of a row is x
    times a normal number of that mean and variance.
    """
    n, d = loss.X.shape
    most = ALIKE[0] * ALIKE[1] * ALIKE[2]
    if n <= most:
        return jnp.tile(jnp.arange(n)[None, :, None], (d, 1, 1))
    size, columns = -(-n // most), loss.X.T
    residual = jnp.sign(columns) * loss.residual(field.weight)[None]
    noise = matmul(loss.X**2, field.variance)[None] - columns**2 * field.variance[:, None]
    order = jnp.broadcast_to(jnp.arange(most * size), (d, 1, most * size))
    for key, count in zip((jnp.abs(columns), residual, noise), ALIKE, strict=True):
        pick = jax.vmap(lambda key, order: key.at[order].get(mode="fill", fill_value=jnp.inf))
        inside = jnp.argsort(pick(key, order), axis=-1)
        order = jnp.take_along_axis(order, inside, axis=-1).reshape(d, order.shape[1] * count, -1)
    return order


def _floor(x: Array) -> Array:
    """A width below which a density is a point: what never moves has one."""
    return jnp.sqrt(jnp.finfo(x.dtype).eps) * jnp.maximum(jnp.max(jnp.abs(x)), 1.0)


def _density(x: Array, mean: Array, square: Array) -> Array:
    """p ∝ exp(∫2a/v)/v on the grid, which sums to 1."""
    square = square + (_floor(x) * jnp.sqrt(jnp.finfo(x.dtype).eps)) ** 2
    h, slope = x[1] - x[0], 2 * mean / square
    # The trapezoidal rule with its end correction, h²/12 times the difference of slopes: fourth order.
    trapezia = h * (slope[1:] + slope[:-1]) / 2 - h * jnp.diff(jnp.asarray(jnp.gradient(slope))) / 12
    exponent = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(trapezia)]) - jnp.log(square)
    density = jnp.exp(exponent - jnp.max(exponent))
    return density / jnp.sum(density)
