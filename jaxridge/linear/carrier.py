"""The carrier: coefficients and residuals as the solution of one live system that the frozen factor solves.

It is the only source of their derivatives: an augmented system, linear in unknowns (v, w),

    tall   v = r      [[I, A], [Aᵀω, −λP]] (r, w) = (y, 0)
    wide   v = ωr/λ   [[λI, ωA], [Aᵀ, −P]] (v, w) = (ωy, 0)        A = [X Z], P = 0 on the columns of Z

with X, Z, y, ω, P and λ live in the product and the frozen factor as the solver, so that derivatives of every
order reuse the one factorisation. Neither form squares A, takes a root of ω or P, nor divides by λ; the second
also holds at λ = 0. Substituting w = Tω' (and v = √ω g) diagonalises both, which is all that `_solve` does.

At λ = ∞ the penalised coefficients are 0 and c = (ZᵀωZ)⁻¹Zᵀω y. The same system says so with A Π in the place of A,
Π(w, c) = (0, c + Cw) for the C that takes Z out of X, and any finite λ: its penalised directions have s = 0.
"""

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Float, Lam
from jaxridge.linear.design import Design
from jaxridge.linear.svd import Factor


def divided(numerator: Array, s: Array, damping: Array) -> Array:
    """numerator / (s² + damping), with 0 for a direction that neither data nor penalty determine."""
    return safe_divide(numerator, jnp.square(s)[:, None] + damping)


def damping_of(factor: Factor, lam: Array, beta: Array | None = None) -> Float[Array, "m c"]:
    """λ'β, exactly 0 for the unpenalised directions also where λ is infinite."""
    beta = factor.mask if beta is None else beta
    penalised = (factor.mask > 0)[:, None]
    infinite = jnp.isinf(lam)[None, :]
    # scale by scale: its square may leave the range of the dtype where λ scale² does not.
    damping = (beta * factor.scale)[:, None] * (jnp.where(jnp.isinf(lam), 0.0, lam)[None, :] * factor.scale)
    return jnp.where(penalised, jnp.where(infinite, jnp.inf, damping), 0.0)


def within(factor: Factor, lam: Array) -> Array:
    """λ, and a finite number for λ = ∞, which has no derivative."""
    return jnp.where(jnp.isinf(lam), 1.0 / factor.scale, lam)


def projected(factor: Factor, lam: Array, w: Float[Array, "a c"]) -> Float[Array, "a c"]:
    """Πw where λ is infinite, w elsewhere."""
    d = factor.unit.shape[0]
    limit = jnp.concatenate([jnp.zeros_like(w[:d]), w[d:] + matmul(factor.centre, w[:d])])
    return jnp.where(jnp.isinf(lam)[None, :], limit, w)


def projected_back(factor: Factor, lam: Array, b: Float[Array, "a c"]) -> Float[Array, "a c"]:
    """Πᵀb where λ is infinite, b elsewhere."""
    d = factor.unit.shape[0]
    limit = jnp.concatenate([matmul(factor.centre.T, b[d:]), b[d:]])
    return jnp.where(jnp.isinf(lam)[None, :], limit, b)


def unfiltered(factor: Factor, lam: Array) -> Float[Array, "m c"]:
    """s, 0 for what an infinite λ penalises."""
    return jnp.where(jnp.isinf(lam)[None, :] & (factor.mask > 0)[:, None], 0.0, factor.s[:, None])


def complement(factor: Factor, damping: Array) -> Array:
    """1 − f = λ'β/(s²+λ'β); 1 for a penalised direction that the data do not see, also at λ = 0."""
    squares, whole = jnp.square(factor.s)[:, None], jnp.isinf(damping)
    damping = jnp.where(whole, 1.0, damping)
    return jnp.where((factor.s == 0)[:, None] | whole, 1.0, safe_divide(damping, squares + damping))


def weighed(factor: Factor, x: Float[Array, "n t"], *, divide: bool = False) -> Float[Array, "n t"]:
    """√ω x, or x/√ω where ω > 0 and 0 elsewhere."""
    if factor.root_weights is None:
        return x
    root = factor.root_weights[:, None]
    return safe_divide(x, jnp.broadcast_to(root, x.shape)) if divide else root * x


def _solve(factor: Factor, design: Design, lam: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """(g, w) with  g + √ωA w = a,  Aᵀ√ω g − λP w = b  (tall), or  λg + √ωA w = a,  Aᵀ√ω g − P w = b  (wide)."""
    unit = (factor.mask * factor.scale * factor.scale)[:, None]
    s, lam = unfiltered(factor, lam), within(factor, lam)
    damping = damping_of(factor, lam)
    total = jnp.square(s) + damping
    inverse = 1.0 / jnp.where(total == 0, jnp.inf, total)  # computed once, as quotients are
    Ua, Tb = matmul(factor.U.T, a), factor.transposed_times(b)
    if design.wide:
        g = matmul(factor.U, inverse * (unit * Ua + s * Tb))
        along = factor.times(inverse * (s * Ua - lam[None, :] * Tb))
        # Directions that X does not see at all: P w = −b there, and the unpenalised columns make up for them.
        d, penalised = design.X.shape[1], factor.times(factor.mask[:, None] * Tb)
        outside = (b[:d] - matmul(factor.centre.T, b[d:])) / design.penalty[:, None]
        outside = jnp.concatenate([outside, -matmul(factor.centre, outside)])
        return g, along - (outside - penalised / jnp.square(factor.scale))
    g = a - matmul(factor.U, Ua) + matmul(factor.U, inverse * (damping * Ua + s * Tb))
    return g, factor.times(inverse * (s * Ua - Tb))


def carrier(design: Design, factor: Factor, lam: Lam, a: Array, b: Array) -> tuple[Array, Array]:
    """(v, w) of the augmented system in the module's docstring for any right-hand side (a, b), live."""
    n, wide = design.X.shape[0], design.wide
    lam = jnp.atleast_1d(lam)
    still, still_lam, factor = jax.lax.stop_gradient((design, lam, factor))
    lam, finite_lam = within(factor, lam), within(factor, still_lam)
    unused = None if factor.root_weights is None else (factor.root_weights == 0)[:, None]

    def adjoint(design: Design, v: Array) -> Array:
        return projected_back(factor, still_lam, design.adjoint(v))

    def operator(x: Array) -> Array:
        v, w = x[:n], x[n:]
        product = design.product(projected(factor, still_lam, w))
        if wide:
            return jnp.concatenate(
                [
                    lam[None, :] * v + design.weigh(product),
                    adjoint(design, v) - design.padded_penalty() * w,
                ]
            )
        return jnp.concatenate(
            [
                v + product,
                adjoint(design, design.weigh(v)) - lam[None, :] * (design.padded_penalty() * w),
            ]
        )

    def weighted_below(rhs: Array) -> Array:
        """Rows ω A w: unknown √ω g. A row of weight zero stands alone and only adds to the others."""
        a, b = rhs[:n], rhs[n:]
        if unused is None:
            return jnp.concatenate(_solve(factor, still, still_lam, a, b))
        alone = a if not wide else safe_divide(a, jnp.broadcast_to(finite_lam[None, :], a.shape))
        alone = jnp.where(unused, alone, 0.0)
        g, w = _solve(factor, still, still_lam, weighed(factor, a, divide=True), b - adjoint(still, alone))
        return jnp.concatenate([weighed(factor, g) + alone, w])

    def weighted_beside(rhs: Array) -> Array:
        """Rows A w: unknown g / √ω. A row of weight zero follows from the others."""
        a, b = rhs[:n], rhs[n:]
        g, w = _solve(factor, still, still_lam, weighed(factor, a), b)
        if unused is None:
            return jnp.concatenate([g, w])
        rest = a - still.product(projected(factor, still_lam, w))
        rest = safe_divide(rest, jnp.broadcast_to(finite_lam[None, :], a.shape)) if wide else rest
        return jnp.concatenate([jnp.where(unused, rest, weighed(factor, g, divide=True)), w])

    forward, backward = (weighted_below, weighted_beside) if wide else (weighted_beside, weighted_below)
    x = jax.lax.custom_linear_solve(
        operator, jnp.concatenate([a, b]), lambda _, rhs: forward(rhs), lambda _, rhs: backward(rhs)
    )
    return x[:n], projected(factor, still_lam, x[n:])


def solution(design: Design, factor: Factor, lam: Lam) -> tuple[Float[Array, "n t"], Float[Array, "a t"]]:
    """Residuals y − [X Z]w and coefficients w at λ, live."""
    a = design.weigh(design.y) if design.wide else design.y
    b = jnp.zeros((design.X.shape[1] + design.Z.shape[1], a.shape[1]), a.dtype)
    v, w = carrier(design, factor, lam, a, b)
    if not design.wide:
        return v, w
    if design.weights is None:
        return within(factor, jnp.atleast_1d(lam))[None, :] * v, w
    return design.y - design.product(w), w
