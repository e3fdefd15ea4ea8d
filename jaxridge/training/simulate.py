"""Training on a device, measured: many chains of a simulation, their mean weights and how sure those are."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_key
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.results import RESULTS
from jaxridge.core.types import Array, Float
from jaxridge.training.device import Device, Synapses
from jaxridge.training.field import lam_of_weights
from jaxridge.training.regression import as_batch, as_count
from jaxridge.training.updates import Update

__all__ = ["Measured", "simulate"]


class Measured(eqx.Module):
    """Mean weights and the ridge penalty that they are the solution of, each with its standard error over chains."""

    weight: Float[Array, " d"]
    weight_error: Float[Array, " d"]
    lam: Float[Array, " d"]
    lam_error: Float[Array, " d"]
    result: Any


def simulate(
    device: Device,
    update: Update,
    X: Any,
    y: Any,
    learning_rate: Any,
    steps: int,
    *,
    key: Any,
    burn: int | None = None,
    chains: int = 512,
    batch: int | None = None,
    start: Any = None,
) -> Measured:
    """Trains chains of synapses side by side, and averages their weights over chains and time.

    Args beyond those of `effective_lam`:
        steps: how many are averaged. burn: how many come before them; None for half as many.
        key: of jax.random. chains: how many, which is what the standard errors are over.
        batch: rows drawn with replacement for every chain and step, any number; None takes all rows.
        start: weights (d,) to begin at, or one number; None for those of the middle state.

    Returns a `Measured`, with the codes of `effective_lam`; a start that no state shows is ``outside_conductance``.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge.training import Device, StateStep, Tanh, simulate
    >>> found = simulate(Device(Tanh(), 0.02), StateStep(), jnp.eye(2), jnp.array([0.3, -0.1]), 0.1, 500,
    ...                  key=jax.random.key(0))
    >>> bool(jnp.all(jnp.abs(found.weight - jnp.array([0.3, -0.1])) < 4 * found.weight_error))
    True
    """
    steps, chains, batch = as_count("steps", steps, 1), as_count("chains", chains, 2), as_batch(batch)
    burn = steps // 2 if burn is None else as_count("burn", burn, 0)
    synapses = Synapses.of(device, update, X, y, learning_rate)
    x, given = synapses.middle(), None if start is None else jnp.asarray(start, synapses.rate.dtype)
    if given is not None and given.shape not in ((), x.shape):
        raise ValueError(f"start has shape {given.shape}; pass a number, or {x.shape}.")
    w = device.map(x) if given is None else jnp.broadcast_to(given, x.shape)
    x = x if given is None else device.map.state(w)
    return _simulate(synapses, x, synapses.judged(w), as_key(key), steps, burn, chains, batch)


@eqx.filter_jit
def _simulate(
    synapses: Synapses, x: Array, result: Any, key: Array, steps: int, burn: int, chains: int, batch: int | None
) -> Measured:
    map, loss = synapses.device.map, synapses.loss

    def one(x: Array, xi: Array, key: Array) -> Array:
        g = loss.sampled(map(x), key, batch)
        return synapses.device.step(synapses.update, x, -synapses.rate * g, xi)

    def step(x: Array, key: Array) -> Array:
        draw, shake = jax.random.split(key)
        xi = jax.random.normal(shake, x.shape, x.dtype)
        return jax.vmap(one)(x, xi, jax.random.split(draw, chains))

    def added(carry: Any, key: Array) -> tuple[Any, None]:
        x, total = carry
        x = step(x, key)
        return (x, total + map(x)), None

    first, second = jax.random.split(key)
    x = jnp.broadcast_to(x, (chains, *x.shape))
    x, _ = jax.lax.scan(lambda x, key: (step(x, key), None), x, jax.random.split(first, burn))
    (_, total), _ = jax.lax.scan(added, (x, jnp.zeros_like(x)), jax.random.split(second, steps))
    return _measured(synapses, poison(total / steps, result == RESULTS.successful), result)


def _measured(synapses: Synapses, means: Float[Array, "c d"], result: Any) -> Measured:
    """Means over chains, with errors; that of λ to first order in the errors of all weights."""
    weight, lam_of = jnp.mean(means, axis=0), lambda w: lam_of_weights(synapses, w)
    apart = means - weight[None]
    moved = matmul(apart, jax.jacfwd(lam_of)(weight).T)
    error = lambda x: jnp.sqrt(jnp.sum(x**2, axis=0) / (means.shape[0] * (means.shape[0] - 1)))  # noqa: E731
    return Measured(weight, error(apart), lam_of(weight), error(moved), result)
