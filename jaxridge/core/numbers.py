"""Small numerical words, each named after the accident it prevents."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.types import Array, Bool, Float, Scalar


def matmul(a: Array, b: Array) -> Array:
    """``a @ b`` in the full precision of the dtype.

    Recent NVIDIA GPUs multiply float32 in TF32 by default, which costs three digits.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def safe_divide(a: Array, b: Array) -> Array:
    """``a / b``, and 0 where ``b`` is 0, with a zero derivative there instead of NaN."""
    zero = b == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


def safe_sqrt(x: Array) -> Array:
    """``√x``, with derivative 0 instead of infinity where ``x`` is 0."""
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def log2(x: Array) -> Array:
    """The integer k with 2^k <= |x| < 2^(k+1), read off the bits; 0 for zero, subnormals, infinity and NaN."""
    info = jnp.finfo(x.dtype)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{info.bits}"))
    biased = jax.lax.shift_right_logical(bits, jnp.full_like(bits, info.nmant)) & (2 * info.maxexp - 1)
    regular = (biased > 0) & (biased < 2 * info.maxexp - 1)
    return jnp.where(regular, biased - (info.maxexp - 1), 0).astype(jnp.int32)


def exponent(x: Array) -> Array:
    """The integer e with 2^(e-1) <= |x| < 2^e, held to the range in which 2^e and 2^-e exist.

    It is 0 for zero and for anything that is not finite.
    """
    limit, tiny = jnp.finfo(x.dtype).maxexp - 4, jnp.finfo(x.dtype).tiny
    regular = jnp.isfinite(x) & (jnp.abs(x) >= tiny)
    return jnp.where(regular, jnp.clip(log2(x) + 1, -limit, limit), 0)


def power_of_two(e: Array, dtype: jnp.dtype) -> Array:
    """2^e without rounding, by its bits: scaling by it is exact, so that squares neither overflow nor vanish.

    Infinity above the range of the dtype and 0 below it.
    """
    info = jnp.finfo(dtype)
    whole = jnp.dtype(f"int{info.bits}")
    biased = jnp.clip(e.astype(whole) + (info.maxexp - 1), 0, 2 * info.maxexp - 1)
    return jax.lax.bitcast_convert_type(biased << info.nmant, dtype)


def cutoff(s: Float[Array, " m"], shape: tuple[int, ...]) -> Scalar:
    """Below this a singular value of a matrix of that shape is rounding: max(shape) * eps * s_1."""
    largest = jnp.max(s, initial=0.0)
    return max(*shape, 1) * jnp.finfo(s.dtype).eps * largest


def poison(x: Array, good: Bool[Array, "..."]) -> Array:
    """``x``, times NaN unless ``good``: what fails must fail in its gradients too, where a plain
    ``where`` would say that the derivative is 0."""
    return x * jnp.where(good, 1.0, jnp.nan).astype(x.dtype)


def select(where: Bool[Array, "..."], new: Any, old: Any) -> Any:
    """``new`` or ``old``, two pytrees of a kind."""
    return jax.tree.map(lambda new, old: jnp.where(where, new, old), new, old)


def log_spaced(low: Array, high: Array, count: int) -> Float[Array, " k"]:
    """``count`` numbers from 10^low to 10^high, evenly in their logarithms."""
    return 10.0 ** (low + (high - low) * jnp.linspace(0.0, 1.0, count, dtype=low.dtype))
