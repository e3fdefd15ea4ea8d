"""Small numerical words, each named after the accident it prevents."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array, Bool, Float, Scalar

BROAD = 8  # columns from which a product of matrices is summed in blocks


def matmul(a: Array, b: Array) -> Array:
    """``a @ b`` in the full precision of the dtype.

    Recent NVIDIA GPUs multiply float32 in TF32 by default, which costs three digits.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def inner(A: Float[Array, "n a"], B: Float[Array, "n b"]) -> Float[Array, "a b"]:
    """AᵀB, in sums of a block of rows where there are many and one factor is narrow.

    In one long sum rounding grows with its length: 90 eps at a million rows of float32, where blocks leave a tenth.
    A product of two broad matrices is blocked by the library that computes it, so a narrow factor becomes broad
    beside a broad one; two narrow ones are cut into blocks, which copies them.
    """
    n, (a, b) = A.shape[0], (A.shape[1], B.shape[1])
    block = max(4096, -(-n // 64))
    whole = n // block
    if whole < 2 or min(a, b) >= BROAD:
        return matmul(A.T, B)
    if max(a, b) >= 2 * BROAD:
        A, B = (jnp.pad(M, ((0, 0), (0, max(BROAD - M.shape[1], 0)))) for M in (A, B))
        return matmul(A.T, B)[:a, :b]
    split = whole * block
    left, right = A.T[:, :split].reshape(a, whole, block), B[:split].reshape(whole, block, b)
    parts = jnp.einsum("akb,kbt->kat", left, right, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(parts, axis=0) + matmul(A.T[:, split:], B[split:])


def filled(shape: tuple[int, ...], value: float, dtype: Any) -> Array:
    """An array of one number that the compiler does not take for a constant.

    It would compute what follows from it while compiling: a second and more for a sum of a million ones.
    """
    return jax.lax.optimization_barrier(jnp.full(shape, value, dtype))


def centre_of(rows: Float[Array, "n d"]) -> Float[Array, "1 d"]:
    """Their mean, to be taken off: Σ/n, by a division.

    A product with 1/n, which n that the compiler knows becomes, it contracts with the subtraction (FMA) in one loop and
    not in another, and rows with an offset would be about two means that differ by rounding.
    """
    return jnp.sum(rows, axis=0, keepdims=True) / filled((), float(rows.shape[0]), rows.dtype)


def safe_divide(a: Array, b: Array) -> Array:
    """``a / b``, and 0 where ``b`` is 0, with a zero derivative there instead of NaN."""
    zero = b == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


def ratio(a: Array, b: Array) -> Array:
    """`safe_divide` in units of ``b``, whose derivative a/b² needs no square that leaves the range of the dtype."""
    unit = size(b)
    return safe_divide(a / unit, b / unit)


def safe_sqrt(x: Array) -> Array:
    """``√x``, with derivative 0 instead of infinity where ``x`` is 0."""
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def log2(x: Array) -> Array:
    """The integer k with 2^k <= |x| < 2^(k+1), read off the bits; 0 for zero, subnormals, infinity and NaN."""
    stored, regular = _stored_exponent(x)
    return jnp.where(regular, stored - (jnp.finfo(x.dtype).maxexp - 1), 0)


def _stored_exponent(x: Array) -> tuple[Array, Array]:
    """What the bits hold as the exponent, and whether it is that of a number: neither 0 nor all ones."""
    info = jnp.finfo(x.dtype)
    bits, ones = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{info.bits}")), 2 * info.maxexp - 1
    stored = (jax.lax.shift_right_logical(bits, jnp.full_like(bits, info.nmant)) & ones).astype(jnp.int32)
    return stored, (stored > 0) & (stored < ones)


def size(x: Array) -> Array:
    """The power of two 2^k <= |x| < 2^(k+1), a constant to derivatives; 1 for zero, infinity and NaN."""
    return power_of_two(log2(jax.lax.stop_gradient(x)), x.dtype)


def exponent(x: Array) -> Array:
    """The integer e with 2^(e-1) <= |x| < 2^e, held to the range in which 2^e and 2^-e exist.

    It is 0 for zero and for anything that is not finite.
    """
    limit = jnp.finfo(x.dtype).maxexp - 4
    stored, regular = _stored_exponent(x)
    return jnp.where(regular, jnp.clip(stored - (limit + 2), -limit, limit), 0)


def power_of_two(e: Array, dtype: jnp.dtype) -> Array:
    """2^e without rounding, by its bits: scaling by it is exact, so that squares neither overflow nor vanish.

    Infinity above the range of the dtype and 0 below it.
    """
    info = jnp.finfo(dtype)
    stored = jnp.clip(e.astype(jnp.int32) + (info.maxexp - 1), 0, 2 * info.maxexp - 1)
    return jax.lax.bitcast_convert_type(stored.astype(jnp.dtype(f"int{info.bits}")) << info.nmant, dtype)


def norm_in(w: Float[Array, "n t"], Aw: Float[Array, "n t"]) -> Float[Array, " t"]:
    """√(wᵀAw) of each column for a semidefinite A, with derivative 0 where it is 0.

    In units of w, of which squares of 1e±200 leave the range of the dtype. Where A is rounding to w it is 0.
    """
    unit = power_of_two(exponent(jnp.max(jnp.abs(jax.lax.stop_gradient(w)), axis=0, initial=0.0)), w.dtype)
    return unit * safe_sqrt(jnp.maximum(jnp.sum((w / unit[None, :]) * (Aw / unit[None, :]), axis=0), 0.0))


def cutoff(s: Float[Array, " m"], shape: tuple[int, ...]) -> Scalar:
    """Below this a singular value of a matrix of that shape is rounding: a few √m eps s₁ for m = min(shape).

    What a QR factorisation and an SVD leave of an exact dependence is below eps s₁ from 10² to 10⁶ rows, in both
    dtypes; max(shape) eps s₁, which grows with the rows, would delete directions of ordinary float32 tables.
    """
    m, most = min(shape), max(*shape, 1)
    return min(10.0 * math.sqrt(m), most) * jnp.finfo(s.dtype).eps * jnp.max(s, initial=0.0)


def poison(x: Array, good: Bool[Array, "..."]) -> Array:
    """``x``, times NaN unless ``good``: what fails must fail in its gradients too, where a plain
    ``where`` would say that the derivative is 0."""
    return x * jnp.where(good, 1.0, jnp.nan).astype(x.dtype)


@jax.custom_jvp
def poison_tangent(x: Array, good: Bool[Array, ""]) -> Array:
    """``x``, with derivatives that are NaN unless ``good``."""
    return x


@poison_tangent.defjvp
def _poison_tangent_rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return poison_tangent(*primals), poison(tangents[0], primals[1])


def select(where: Bool[Array, "..."], new: Any, old: Any) -> Any:
    """``new`` or ``old``, two pytrees of a kind."""
    return jax.tree.map(lambda new, old: jnp.where(where, new, old), new, old)


def log_spaced(low: Array, high: Array, count: int) -> Float[Array, " k"]:
    """``count`` numbers from 10^low to 10^high, evenly in their logarithms, within the range of the dtype."""
    info = jnp.finfo(low.dtype)
    least, most = math.log10(float(info.tiny)) + 1, math.log10(float(info.max)) - 1
    low, high = jnp.clip(low, least, most), jnp.clip(high, least, most)
    return 10.0 ** (low + (high - low) * np.linspace(0.0, 1.0, count, dtype=low.dtype))


def lam_grid(low: Array, high: Array, full: Bool[Array, ""], count: int) -> Float[Array, " k"]:
    """λ for a search that must lose nothing, from what is known of the squares of singular values, as powers of ten.

    Log-spaced from 10^(low−2), where even the smallest is fitted to 99 %, to 10^(high+2), where no direction is; at the
    ends 0, least squares, and infinity, the model without what is penalised. Where the rank is not ``full`` λ = 0 has
    many solutions, and the grid goes on towards it instead, as far as the dtype resolves.
    """
    eps = math.log10(float(jnp.finfo(low.dtype).eps))
    further = jnp.minimum(low - 2, jnp.maximum(low - 2 + eps / 2, high + 2 * eps))
    grid = log_spaced(jnp.where(full, low - 2, further), high + 2, count - 2)
    first = jnp.where(full, 0.0, grid[:1] / 2)
    return jnp.concatenate([first, grid, jnp.full(1, jnp.inf, grid.dtype)])
