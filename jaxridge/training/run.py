"""Training as optax does it: every step of an optimiser on a regression, on all rows or on a few drawn ones."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxridge.core.types import Array, Float
from jaxridge.training.optimisers import Optimiser
from jaxridge.training.regression import Regression, as_batch, as_count, as_keys, with_arrays

__all__ = ["Run", "train"]


class Run(eqx.Module):
    """Where training went: its last weights, and the means of weights and squared gradients after ``burn``."""

    last: Float[Array, " d"]
    mean: Float[Array, " d"]
    mean_square: Float[Array, " d"]  # of the gradients of the loss, without decay


def train(
    optimizer: Optimiser | optax.GradientTransformation,
    X: Any,
    y: Any,
    steps: int,
    *,
    burn: int = 0,
    batch: int | None = None,
    key: Any = None,
) -> Run:
    """Steps of an optimiser on ½ mean (Xw − y)², from w = 0.

    Args:
        optimizer: one of this wing, or any transformation of optax. X: (n, d). y: (n,).
        steps: how many. burn: how many of them the means leave out.
        batch: rows drawn with replacement at each step, by ``key``; None takes all rows.

    Returns a `Run`; ``vmap`` over keys, rates or decays trains them side by side.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge.training import CoupledDecay, train
    >>> X, y = jnp.array([[1.0], [3.0]]), jnp.array([1.0, 3.0])
    >>> print(train(CoupledDecay(0.1, 5.0), X, y, 200).last, jxr.ridge(X, y, 10.0, intercept=False).coef)
    [0.5] [0.5]
    """
    steps, batch = as_count("steps", steps, 1), as_batch(batch)
    if as_count("burn", burn, 0) >= steps:
        raise ValueError(f"burn is {burn} of {steps} steps; leave at least one for the means.")
    if not isinstance(optimizer, Optimiser | optax.GradientTransformation):
        raise ValueError(f"optimizer is {optimizer!r}; pass one of jaxridge.training or a transformation of optax.")
    loss = Regression.of(X, y)
    optimizer = with_arrays(optimizer, loss.X.dtype) if isinstance(optimizer, Optimiser) else optimizer
    return _train(optimizer, loss, as_keys(key, batch), steps, burn, batch)


@partial(eqx.filter_jit)
def _train(
    optimizer: Optimiser | optax.GradientTransformation,
    loss: Regression,
    key: Array,
    steps: int,
    burn: int,
    batch: int | None,
) -> Run:
    step = optimizer.transform() if isinstance(optimizer, Optimiser) else optimizer

    def one(carry: Any, key: Array) -> tuple[Any, None]:
        w, state, (sum_w, sum_g2) = carry
        g = loss.sampled(w, key, batch)
        change, state = step.update(g, state, w)
        return (optax.apply_updates(w, change), state, (sum_w + w, sum_g2 + g**2)), None

    w = jnp.zeros_like(loss.X[0])
    sums = (jnp.zeros_like(w), jnp.zeros_like(w))
    keys = jax.random.split(key, steps)
    (w, state, _), _ = jax.lax.scan(one, (w, step.init(w), sums), keys[:burn])
    (w, _, (sum_w, sum_g2)), _ = jax.lax.scan(one, (w, state, sums), keys[burn:])
    return Run(w, sum_w / (steps - burn), sum_g2 / (steps - burn))
