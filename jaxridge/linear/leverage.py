"""Leverages, and sums over the directions of a factor, with derivatives in the problem.

One λ at a time they are live to every order by `hat_diagonal`, at the price of a solve with a column for each feature.
For a whole grid the rules below give the first derivative in the data from the factor itself, and every order in λ.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import first_order_only, moves, with_rule
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float, Lam
from jaxridge.linear.carrier import carrier, complement, damping_of, divided, weighed, within
from jaxridge.linear.design import Design
from jaxridge.linear.svd import Factor

TWICE = (
    "X, weights or penalty: dof, leverages, leave-one-out, GCV and evidence have first derivatives in these "
    "for a whole grid of lam. For second derivatives at one lam use select.exact(rule), or spectrum.exact()."
)


def hat_diagonal(design: Design, factor: Factor, lam: Lam) -> Float[Array, "n c"]:
    """Leverages at each of the c λs, live to every order: one solve with a column per feature (or row)."""
    n, a = design.X.shape[0], design.X.shape[1] + design.Z.shape[1]

    def one(lam: Array) -> Array:
        if design.wide:
            inverse, _ = carrier(design, factor, lam, jnp.eye(n, dtype=lam.dtype), jnp.zeros((a, n), lam.dtype))
            return 1.0 - within(factor, lam) * jnp.diagonal(inverse)
        _, inverse = carrier(design, factor, lam, jnp.zeros((n, a), lam.dtype), -jnp.eye(a, dtype=lam.dtype))
        A = jnp.concatenate([design.X, design.Z], axis=1)
        h = jnp.sum(matmul(A, inverse) * A, axis=1)
        return h if design.weights is None else design.weights * h

    return jax.vmap(one, out_axes=1)(jnp.atleast_1d(lam))


class _Perturbation(eqx.Module):
    """First-order changes of the problem, in the directions of the factor; absent ones are None."""

    rows: Float[Array, "n m"] | None  # √ω d[X Z] T
    weights: tuple[Float[Array, " n"], Float[Array, "n m"]] | None  # with the rows [X Z] T that they weigh
    penalty: Float[Array, " d"] | None


def _scores(design: Design, factor: Factor) -> Float[Array, "n m"]:
    """√ω [X Z] T = U diag(s), also where a spectrum did not keep U."""
    return factor.U * factor.s[None, :] if factor.has_rows else weighed(factor, design.product(factor.T))


def _perturbation(design: Design, factor: Factor, change: Design) -> _Perturbation:
    """Read the tangents of a problem that really move."""
    d, rows = design.X.shape[1], None
    if moves(change.X):
        rows = matmul(change.X, factor.T[:d])
    if moves(change.Z):
        extra = matmul(change.Z, factor.T[d:])
        rows = extra if rows is None else rows + extra
    weights = None
    if factor.root_weights is not None and change.weights is not None and moves(change.weights):
        scores = jnp.where(
            (factor.root_weights > 0)[:, None],
            weighed(factor, _scores(design, factor), divide=True),
            design.product(factor.T),
        )
        weights = (change.weights, scores)
    penalty = change.penalty if moves(change.penalty) else None
    return _Perturbation(None if rows is None else weighed(factor, rows), weights, penalty)


def _freeze(design: Design, factor: Factor, strict: bool = True) -> tuple[Design, Factor]:
    """Problem and factor for a formula that is right for one derivative, and refuses a second."""
    live = (design.X, design.Z, design.weights, design.penalty)
    return jax.lax.stop_gradient(design), first_order_only(factor, live, TWICE if strict else None)


def squares(design: Design, factor: Factor, strict: bool = True) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """The diagonals (α, β) of TᵀAᵀωAT and TᵀPT/scale², live to first order; then an error, or NaN if not strict.

    Enough for any sum over directions, such as degrees of freedom: symmetric sums have derivatives
    Σ φ'(αⱼ) uⱼᵀ(dA)vⱼ even where singular values repeat, which single directions have not.
    """
    return _squares(strict)(design, factor)


@cache
def _squares(strict: bool) -> Callable[[Design, Factor], tuple[Array, Array]]:
    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        design, factor = primals
        out = live(design, factor)
        design, factor = _freeze(design, factor, strict)
        change = _perturbation(design, factor, tangents[0])
        d_alpha, d_beta = jnp.zeros_like(factor.s), jnp.zeros_like(factor.s)
        if change.rows is not None:
            d_alpha += 2.0 * jnp.sum(_scores(design, factor) * change.rows, axis=0)
        if change.weights is not None:
            d_weights, rows = change.weights
            d_alpha += matmul(d_weights, jnp.square(rows))
        if change.penalty is not None:
            unscaled = factor.T[: change.penalty.shape[0]] / factor.scale
            d_beta += matmul(change.penalty, jnp.square(unscaled))
        return out, (d_alpha, d_beta)

    live = with_rule(lambda _, factor: (jnp.square(factor.s), factor.mask), rule)
    return live


def _hat_change(factor: Factor, change: _Perturbation, lam: Array, power: int) -> Float[Array, " n"]:
    """d of Σⱼ uᵢⱼ² s² β^(p−1) / (s²+λβ)^p, p = power, along a change of the problem, at one λ.

    With C = (AᵀωA + λP)⁻¹ it is the derivative of ωᵢ aᵢᵀ C(PC)^(p−1) aᵢ, where dC = −C(dAᵀωA + λdP)C.
    """
    U, s = factor.U, factor.s
    beta = factor.mask * factor.scale * factor.scale
    damping = damping_of(factor, lam[None])
    rho = divided(jnp.ones((s.shape[0], 1), s.dtype), s, damping)[:, 0]
    rest, lam = (
        complement(factor, damping)[:, 0],
        jnp.where(jnp.isinf(lam), 0.0, lam),
    )  # at λ = ∞ what λ multiplies is 0
    kappa = [rho]  # C(PC)^(m−1) = T diag(κₘ) Tᵀ
    for _ in range(power - 1):
        kappa.append(kappa[-1] * beta * rho)
    scores = U * s[None, :]
    total = jnp.zeros(U.shape[0], U.dtype)
    pairs = list(zip(kappa, reversed(kappa), strict=True))

    def quadratic(left: Array, middle: Array, right: Array) -> Array:
        return jnp.sum(matmul(scores, left[:, None] * middle) * scores * right[None, :], axis=1)

    if change.rows is not None:
        N = matmul(U.T, change.rows)
        if power == 1:
            # (I − H) d. Where U is square all of it lies inside, and 1 − f says so without subtracting.
            if U.shape[0] > U.shape[1]:
                left = change.rows - matmul(U, (s * s * rho)[:, None] * N)
            else:
                left = matmul(U, rest[:, None] * N)
            total += 2.0 * jnp.sum(left * scores * rho[None, :], axis=1)
        else:
            total += 2.0 * jnp.sum(change.rows * scores * kappa[-1][None, :], axis=1)
            for left, right in pairs:
                total -= 2.0 * quadratic(left, s[:, None] * N, right)
    if change.weights is not None:
        d_weights, rows = change.weights
        total += d_weights * jnp.sum(jnp.square(rows) * kappa[-1][None, :], axis=1)
        middle = matmul(rows.T, d_weights[:, None] * rows)
        for left, right in pairs:
            total -= quadratic(left, middle, right)
    if change.penalty is not None:
        T = factor.T[: change.penalty.shape[0]]
        middle = matmul(T.T, change.penalty[:, None] * T)
        for left, right in pairs:
            total -= lam * quadratic(left, middle, right)
        for left, right in zip(kappa[:-1], reversed(kappa[:-1]), strict=True):
            total += quadratic(left, middle, right)
    return total


@cache
def _hat_power(power: int, strict: bool) -> Callable[[Design, Factor, Array], Array]:
    """Σⱼ uᵢⱼ² s² β^(p−1)/(s²+λβ)^p at each λ: leverages (p = 1) and their derivatives in λ."""

    def hat(design: Design, factor: Factor, lam: Array) -> Array:
        s, beta = factor.s[:, None], (factor.mask * factor.scale * factor.scale)[:, None]
        rho = divided(jnp.ones((s.shape[0], lam.shape[0]), s.dtype), factor.s, damping_of(factor, lam))
        return matmul(jnp.square(factor.U), jnp.square(s) * rho * (beta * rho) ** (power - 1))

    return _with_hat_rule(hat, power, 1.0, strict)


def _with_hat_rule(value: Callable[..., Array], power: int, sign: float, strict: bool) -> Callable[..., Array]:
    """±(leverage of that power) with its derivative in λ (every order) and in the problem (first order)."""

    def rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (design, factor, lam), (d_design, _, d_lam) = primals, tangents
        out = live(design, factor, lam)
        tangent = jnp.zeros_like(out)
        if moves(d_lam):
            tangent = tangent - sign * power * _hat_power(power + 1, strict)(design, factor, lam) * d_lam[None, :]
        if any(moves(x) for x in jax.tree.leaves(d_design, is_leaf=lambda x: not moves(x))):
            design, factor = _freeze(design, factor, strict)
            change = _perturbation(design, factor, d_design)
            one = lambda lam: _hat_change(factor, change, lam, power)  # noqa: E731
            tangent = tangent + sign * jax.vmap(one, out_axes=1)(lam)
        return out, tangent

    live = with_rule(value, rule)
    return live


def one_minus_hat(design: Design, factor: Factor, lam: Array, strict: bool = True) -> Float[Array, "n c"]:
    """1 − hᵢ at each λ as a sum of positive terms, live: to first order in the problem, every order in λ."""
    return _one_minus_hat(strict)(design, factor, lam)


@cache
def _one_minus_hat(strict: bool) -> Callable[[Design, Factor, Array], Array]:
    def value(design: Design, factor: Factor, lam: Array) -> Array:
        kept = complement(factor, damping_of(factor, lam))
        return factor.lev_perp[:, None] + matmul(jnp.square(factor.U), kept)

    return _with_hat_rule(value, 1, -1.0, strict)
