"""Live statements of what a frozen factor computes: the only source of derivatives of the linear methods.

The carrier. Coefficients and residuals solve one augmented system, linear in unknowns (v, w):

    tall   v = r      [[I, A], [Aᵀω, −λP]] (r, w) = (y, 0)
    wide   v = ωr/λ   [[λI, ωA], [Aᵀ, −P]] (v, w) = (ωy, 0)        A = [X Z], P = 0 on the columns of Z

with X, Z, y, ω, P and λ live in the product and the frozen factor as the solver, so that derivatives of every
order reuse the one factorisation. Neither form squares A, takes a root of ω or P, nor divides by λ; the second
also holds at λ = 0. Substituting w = Tω' (and v = √ω g) diagonalises both, which is all that `_solve` does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import moves, once_only
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Float, Lam
from jaxridge.linear.design import Design
from jaxridge.linear.svd import Factor

TWICE = (
    "X, weights or penalty: dof, leverages, leave-one-out, GCV and evidence have first derivatives in these "
    "for a whole grid of lam. For second derivatives at one lam use select.exact(rule), or spectrum.exact()."
)


def _divide(numerator: Array, s: Array, damping: Array) -> Array:
    """numerator / (s² + damping), with 0 for a direction that neither data nor penalty determine."""
    return safe_divide(numerator, jnp.square(s)[:, None] + damping)


def _rows(factor: Factor, x: Float[Array, "n t"], *, divide: bool = False) -> Float[Array, "n t"]:
    """√ω x, or x/√ω where ω > 0 and 0 elsewhere."""
    if factor.root_weights is None:
        return x
    root = factor.root_weights[:, None]
    return safe_divide(x, jnp.broadcast_to(root, x.shape)) if divide else root * x


def _solve(factor: Factor, design: Design, lam: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """(g, w) with  g + √ωA w = a,  Aᵀ√ω g − λP w = b  (tall), or  λg + √ωA w = a,  Aᵀ√ω g − P w = b  (wide)."""
    s, unit = factor.s[:, None], (factor.mask * factor.scale * factor.scale)[:, None]
    damping = damping_of(factor, lam)
    Ua, Tb = matmul(factor.U.T, a), factor.transposed_times(b)
    if design.wide:
        g = matmul(factor.U, _divide(unit * Ua + s * Tb, factor.s, damping))
        along = factor.times(_divide(s * Ua - lam[None, :] * Tb, factor.s, damping))
        # Directions that X does not see at all: P w = −b there, and the unpenalised columns make up for them.
        d, penalised = design.X.shape[1], factor.times(factor.mask[:, None] * Tb)
        outside = (b[:d] - matmul(factor.centre.T, b[d:])) / design.penalty[:, None]
        outside = jnp.concatenate([outside, -matmul(factor.centre, outside)])
        return g, along - (outside - penalised / jnp.square(factor.scale))
    g = a - matmul(factor.U, Ua) + matmul(factor.U, _divide(damping * Ua + s * Tb, factor.s, damping))
    return g, factor.times(_divide(s * Ua - Tb, factor.s, damping))


def carrier(design: Design, factor: Factor, lam: Lam, a: Array, b: Array) -> tuple[Array, Array]:
    """(v, w) of the augmented system in the module's docstring for any right-hand side (a, b), live."""
    n, wide = design.X.shape[0], design.wide
    lam = jnp.atleast_1d(lam)
    still, still_lam, factor = jax.lax.stop_gradient((design, lam, factor))
    unused = None if factor.root_weights is None else (factor.root_weights == 0)[:, None]

    def operator(x: Array) -> Array:
        v, w = x[:n], x[n:]
        if wide:
            return jnp.concatenate(
                [
                    lam[None, :] * v + design.weigh(design.product(w)),
                    design.adjoint(v) - design.padded_penalty() * w,
                ]
            )
        return jnp.concatenate(
            [
                v + design.product(w),
                design.adjoint(design.weigh(v)) - lam[None, :] * (design.padded_penalty() * w),
            ]
        )

    def weighted_below(rhs: Array) -> Array:
        """Rows ω A w: unknown √ω g. A row of weight zero stands alone and only adds to the others."""
        a, b = rhs[:n], rhs[n:]
        if unused is None:
            return jnp.concatenate(_solve(factor, still, still_lam, a, b))
        alone = jnp.where(unused, a if not wide else safe_divide(a, jnp.broadcast_to(still_lam[None, :], a.shape)), 0.0)
        g, w = _solve(factor, still, still_lam, _rows(factor, a, divide=True), b - still.adjoint(alone))
        return jnp.concatenate([_rows(factor, g) + alone, w])

    def weighted_beside(rhs: Array) -> Array:
        """Rows A w: unknown g / √ω. A row of weight zero follows from the others."""
        a, b = rhs[:n], rhs[n:]
        g, w = _solve(factor, still, still_lam, _rows(factor, a), b)
        if unused is None:
            return jnp.concatenate([g, w])
        rest = a - still.product(w)
        rest = safe_divide(rest, jnp.broadcast_to(still_lam[None, :], a.shape)) if wide else rest
        return jnp.concatenate([jnp.where(unused, rest, _rows(factor, g, divide=True)), w])

    forward, backward = (weighted_below, weighted_beside) if wide else (weighted_beside, weighted_below)
    x = jax.lax.custom_linear_solve(
        operator, jnp.concatenate([a, b]), lambda _, rhs: forward(rhs), lambda _, rhs: backward(rhs)
    )
    return x[:n], x[n:]


def solution(design: Design, factor: Factor, lam: Lam) -> tuple[Float[Array, "n t"], Float[Array, "a t"]]:
    """Residuals y − [X Z]w and coefficients w at λ, live."""
    a = design.weigh(design.y) if design.wide else design.y
    b = jnp.zeros((design.X.shape[1] + design.Z.shape[1], a.shape[1]), a.dtype)
    v, w = carrier(design, factor, lam, a, b)
    if not design.wide:
        return v, w
    if design.weights is None:
        return jnp.atleast_1d(lam)[None, :] * v, w
    return design.y - design.product(w), w


def hat_diagonal(design: Design, factor: Factor, lam: Lam) -> Float[Array, "n c"]:
    """Leverages at each of the c λs, live to every order: one solve with a column per feature (or row)."""
    n, a = design.X.shape[0], design.X.shape[1] + design.Z.shape[1]

    def one(lam: Array) -> Array:
        if design.wide:
            inverse, _ = carrier(design, factor, lam, jnp.eye(n, dtype=lam.dtype), jnp.zeros((a, n), lam.dtype))
            return 1.0 - lam * jnp.diagonal(inverse)
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
            _rows(factor, factor.U * factor.s[None, :], divide=True),
            design.product(factor.T),
        )
        weights = (change.weights, scores)
    penalty = change.penalty if moves(change.penalty) else None
    return _Perturbation(None if rows is None else _rows(factor, rows), weights, penalty)


def _freeze(design: Design, factor: Factor, strict: bool = True) -> tuple[Design, Factor]:
    """Problem and factor for a formula that is right for one derivative, and refuses a second."""
    live = (design.X, design.Z, design.weights, design.penalty)
    return jax.lax.stop_gradient(design), once_only(factor, live, TWICE if strict else None)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def squares(design: Design, factor: Factor, strict: bool = True) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """The diagonals (α, β) of TᵀAᵀωAT and TᵀPT/scale², live to first order; then an error, or NaN if not strict.

    Enough for any sum over directions, such as degrees of freedom: symmetric sums have derivatives
    Σ φ'(αⱼ) uⱼᵀ(dA)vⱼ even where singular values repeat, which single directions have not.
    """
    return jnp.square(factor.s), factor.mask


def _squares_rule(strict: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    design, factor = primals
    out = squares(design, factor, strict)
    design, factor = _freeze(design, factor, strict)
    change = _perturbation(design, factor, tangents[0])
    d_alpha, d_beta = jnp.zeros_like(factor.s), jnp.zeros_like(factor.s)
    if change.rows is not None:
        d_alpha += 2.0 * factor.s * jnp.sum(factor.U * change.rows, axis=0)
    if change.weights is not None:
        d_weights, rows = change.weights
        d_alpha += matmul(d_weights, jnp.square(rows))
    if change.penalty is not None:
        unscaled = factor.T[: change.penalty.shape[0]] / factor.scale
        d_beta += matmul(change.penalty, jnp.square(unscaled))
    return out, (d_alpha, d_beta)


squares.defjvp(_squares_rule, symbolic_zeros=True)


def _hat_change(factor: Factor, change: _Perturbation, lam: Array, power: int) -> Float[Array, " n"]:
    """d of Σⱼ uᵢⱼ² s² β^(p−1) / (s²+λβ)^p, p = power, along a change of the problem, at one λ.

    With C = (AᵀωA + λP)⁻¹ it is the derivative of ωᵢ aᵢᵀ C(PC)^(p−1) aᵢ, where dC = −C(dAᵀωA + λdP)C.
    """
    U, s = factor.U, factor.s
    beta = factor.mask * factor.scale * factor.scale
    rho = _divide(jnp.ones((s.shape[0], 1), s.dtype), s, (lam * factor.scale * factor.scale * factor.mask)[:, None])[
        :, 0
    ]
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
                left = matmul(U, jnp.where(s == 0, 1.0, beta * lam * rho)[:, None] * N)
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


def _hat_power(power: int) -> Callable[[Design, Factor, Array], Array]:
    """Σⱼ uᵢⱼ² s² β^(p−1)/(s²+λβ)^p at each λ: leverages (p = 1) and their derivatives in λ."""

    @jax.custom_jvp
    def hat(design: Design, factor: Factor, lam: Array) -> Array:
        s, beta = factor.s[:, None], (factor.mask * factor.scale * factor.scale)[:, None]
        rho = _divide(jnp.ones((s.shape[0], lam.shape[0]), s.dtype), factor.s, beta * lam[None, :])
        return matmul(jnp.square(factor.U), jnp.square(s) * rho * (beta * rho) ** (power - 1))

    hat.defjvp(_hat_rule(hat, power, 1.0), symbolic_zeros=True)
    return hat


def _hat_rule(value: Callable[..., Array], power: int, sign: float) -> Callable[..., tuple[Array, Array]]:
    """The derivative of ±(leverage of that power) in λ (every order) and in the problem (first order)."""

    def rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (design, factor, lam), (d_design, _, d_lam) = primals, tangents
        out = value(design, factor, lam)
        tangent = jnp.zeros_like(out)
        if moves(d_lam):
            tangent = tangent - sign * power * _hat_power(power + 1)(design, factor, lam) * d_lam[None, :]
        if any(moves(x) for x in jax.tree.leaves(d_design, is_leaf=lambda x: not moves(x))):
            design, factor = _freeze(design, factor)
            change = _perturbation(design, factor, d_design)
            one = lambda lam: _hat_change(factor, change, lam, power)  # noqa: E731
            tangent = tangent + sign * jax.vmap(one, out_axes=1)(lam)
        return out, tangent

    return rule


@jax.custom_jvp
def one_minus_hat(design: Design, factor: Factor, lam: Array) -> Float[Array, "n c"]:
    """1 − hᵢ at each λ as a sum of positive terms, live: to first order in the problem, every order in λ."""
    return factor.lev_perp[:, None] + matmul(jnp.square(factor.U), complement(factor, damping_of(factor, lam)))


def damping_of(factor: Factor, lam: Array, beta: Array | None = None) -> Float[Array, "m c"]:
    """λ'β, exactly 0 for the unpenalised directions also where λ is infinite."""
    beta = factor.mask if beta is None else beta
    penalised = (factor.mask > 0)[:, None]
    # scale by scale: its square may leave the range of the dtype where λ scale² does not.
    return jnp.where(penalised, (beta * factor.scale)[:, None] * (lam[None, :] * factor.scale), 0.0)


def complement(factor: Factor, damping: Array) -> Array:
    """1 − f = 1/(1 + s²/λ'β); 1 for a penalised direction that the data do not see, also at λ = 0."""
    ratio = jnp.where(damping == 0, jnp.inf, jnp.square(factor.s)[:, None] / jnp.where(damping == 0, 1.0, damping))
    return jnp.where((factor.s == 0)[:, None], 1.0, 1.0 / (1.0 + ratio))


one_minus_hat.defjvp(_hat_rule(one_minus_hat, 1, -1.0), symbolic_zeros=True)
