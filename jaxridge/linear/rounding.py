"""How far rounding may move the coefficients: what each factorisation states, and the one check behind `unresolved`.

A factorisation solves a problem near the one that was given exactly. For QR and SVD it is X̂ + E, where rounding
strikes every row by itself: row i of the triangle R by u ρᵢ, ρᵢ² = ‖Rᵢ‖² + ‖x̂‖∞², with ‖x̂‖∞ = (Σⱼ maxᵢ x̂ᵢⱼ²)^½,
no less than the longest row of X̂, so that ‖Eᵀr‖ ≤ u ‖x̂‖∞ ‖r‖. For a Gram matrix G it is G + E with ‖E‖ ≤ u s₁².
What the coefficients may
change follows to first order (Björck 1996, Numerical Methods for Least Squares Problems, section 1.4). With gⱼ =
sⱼ/(sⱼ² + λ'), R = W diag(s) Vᵀ, ρ̃ⱼ² = Σᵢ ρᵢ² wᵢⱼ² and μ = s_r² + λ', s_r the smallest singular value that was kept,

    rows   ‖δŵ‖/‖ŵ‖ ≤ u [1 + (Σⱼ ρ̃ⱼ² gⱼ²)^½ + ‖x̂‖∞ ‖r‖ / (μ ‖ŵ‖)]
    tall   ‖δŵ‖/‖ŵ‖ ≤ u [s₁² + s₁ ‖ŷ‖/‖ŵ‖] / μ                       G = X̂ᵀX̂, s_r = 0 unless the rank is full
    wide   ‖δŵ‖/‖ŵ‖ ≤ u s₁² ‖α‖ / (√μ ‖ŵ‖)                           G = X̂X̂ᵀ, ŵ = X̂ᵀα

A Cholesky factorisation has |Eᵢⱼ| ≤ u (DᵢDⱼ)^½ as well, D = diag(G + λ'I) (Demmel 1989, On floating point errors in
Cholesky), so that its bound is the lesser of ``tall`` and, with H = D^(−½) (G + λ'I) D^(−½),

    scaled ‖δŵ‖/‖ŵ‖ ≤ u [‖H‖ + √‖H‖ ‖ŷ‖/‖D^½ŵ‖] / λ_min(H) · ‖D^(−½)‖ ‖D^½ŵ‖/‖ŵ‖

A direction that was cut off may hold up to |zⱼ| max s/(s² + λ') over s ≤ sⱼ + u ρ̃ⱼ of ŵ.
The u are heuristic: proven ones grow with the rows, and measured errors from 10² to 10⁶ rows do not.
"""

import math

import jax.numpy as jnp

from jaxridge.core.numbers import safe_divide
from jaxridge.core.types import Array

LOST = 0.05  # a twentieth part of the coefficients


def of_rows(spread: Array, least: Array, longest: Array, residual: Array, norm: Array) -> Array:
    """The bracket of ``rows``, for its second term, μ, ‖x̂‖∞, ‖r‖ and ‖ŵ‖."""
    return 1.0 + spread + safe_divide(longest * residual, norm) / least


def most(limit: Array, damping: Array) -> Array:
    """max s/(s² + λ') over 0 ≤ s ≤ limit, infinite for λ' = 0."""
    best = jnp.minimum(limit, jnp.sqrt(damping))
    return jnp.where(damping == 0, jnp.inf, safe_divide(best, jnp.square(best) + damping))


def of_tall_gram(largest: Array, least: Array, target: Array, norm: Array) -> Array:
    """The bracket of ``tall``, for s₁, μ, ‖ŷ‖ and ‖ŵ‖."""
    return largest / least * (largest + safe_divide(target, norm))


def of_wide_gram(largest: Array, least: Array, dual: Array, norm: Array) -> Array:
    """The bracket of ``wide``, for s₁, μ, ‖α‖ and ‖ŵ‖."""
    return safe_divide(jnp.square(largest) * dual, norm) / jnp.sqrt(least)


def unit(shape: tuple[int, ...], dtype: jnp.dtype) -> float:
    """u of a QR factorisation and an SVD, and of the eigenvalues that a Gram matrix tells from 0."""
    return 8.5 * math.sqrt(max(min(shape), 1)) * float(jnp.finfo(dtype).eps)


def gram_unit(shape: tuple[int, ...], dtype: jnp.dtype) -> float:
    """u of a Gram matrix and its eigenvectors: seven times the largest error that was measured."""
    return 4.0 * math.sqrt(max(min(shape), 1)) * float(jnp.finfo(dtype).eps)


def cholesky_unit(shape: tuple[int, ...], dtype: jnp.dtype) -> float:
    """u of a Gram matrix and its Cholesky factor, by the same measure."""
    return 2.0 * math.sqrt(max(min(shape), 1)) * float(jnp.finfo(dtype).eps)
