"""Householder reflections, which take a vector onto the first coordinate and keep all lengths."""

import jax.numpy as jnp

from jaxridge.core.numbers import inner
from jaxridge.core.types import Array, Float


def reflect(v: Float[Array, " n"], M: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """(I − v vᵀ) M, with ‖v‖² = 2: a Householder reflection."""
    return M - v[:, None] * inner(v[:, None], M)


def householder(z: Float[Array, " n"]) -> Float[Array, " n"]:
    """The v of the Householder reflection that sends z to a multiple of the first coordinate."""
    length = jnp.linalg.norm(z)
    v = z.at[0].add(jnp.where(z[0] < 0, -length, length))
    return v * (jnp.sqrt(2.0).astype(v.dtype) / jnp.where(length == 0, 1.0, jnp.linalg.norm(v)))
