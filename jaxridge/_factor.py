"""The frozen factor of a standard form: the only place where a matrix is decomposed.

`svd` is exact to the condition of the data (QR, then the SVD of the triangle); `gram` squares the condition
number and is several times faster. What comes after asks neither which of the two it was.
"""

import equinox as eqx
import jax.numpy as jnp

from jaxridge._numerics import cutoff, matmul
from jaxridge._types import Array, Bool, Float, Int, Scalar
from jaxridge.design import Checks, StandardForm


class Factor(eqx.Module):
    """√ω [X Z] T = U diag(s) and what is left of y; see `jaxridge.spectrum` for the letters."""

    # U, y_perp and lev_perp have a row per observation, and `without_rows` takes them away.
    U: Float[Array, "n m"]
    s: Float[Array, " m"]
    mask: Float[Array, " m"]  # β: 1 penalised, 0 not
    T: Float[Array, "a m"]
    z: Float[Array, "m t"]
    y_perp: Float[Array, "n t"]
    rss_perp: Float[Array, " t"]
    lev_perp: Float[Array, " n"]  # 1 − Σⱼ uᵢⱼ²
    centre: Float[Array, "q d"]
    root_weights: Float[Array, " n"] | None
    scale: Scalar
    y_scale: Float[Array, " t"]
    cutoff: Scalar
    full_rank: Bool[Array, ""]
    complete: Bool[Array, ""]  # as many directions as measurements: nothing is left outside
    rank: Int[Array, ""]
    checks: Checks

    def without_rows(self) -> "Factor":
        """All that coefficients need, none of the arrays that have a row per observation."""
        return eqx.tree_at(
            lambda f: (f.U, f.y_perp, f.lev_perp, f.root_weights), self, (None,) * 4, is_leaf=lambda x: x is None
        )


def svd(form: StandardForm) -> Factor:
    """QR, then the SVD of R: 2nd² + O(d³) flops for tall X̂, the transpose for wide X̂."""
    if form.X.shape[0] > form.X.shape[1]:
        Q, R = jnp.linalg.qr(form.X)
        W, s, Vt = jnp.linalg.svd(R, full_matrices=False)
        Qy = matmul(Q.T, form.y)
        # Qᵀy before Wᵀ, so that a path without leverages never forms Q W.
        return _assemble(form, matmul(Q, W), s, Vt.T, matmul(W.T, Qy), form.y - matmul(Q, Qy))
    Q, R = jnp.linalg.qr(form.X.T)
    U, s, Wt = jnp.linalg.svd(R.T, full_matrices=False)
    return _assemble(form, U, s, matmul(Q, Wt.T), matmul(U.T, form.y), jnp.zeros_like(form.y))


def gram(form: StandardForm) -> Factor:
    """Eigendecomposition of the smaller of X̂ᵀX̂ and X̂X̂ᵀ: half the flops, the condition number squared."""
    X = form.X
    tall = X.shape[0] > X.shape[1]
    e, V = jnp.linalg.eigh(matmul(X.T, X) if tall else matmul(X, X.T), symmetrize_input=False)
    e, V = e[::-1], V[:, ::-1]
    # An eigenvalue of a Gram matrix is known to eps·e₁, so its root only to √eps·s₁.
    s = jnp.sqrt(jnp.where(e > max(*X.shape, 1) * jnp.finfo(X.dtype).eps * jnp.max(e, initial=0.0), e, 0.0))
    other = matmul(X if tall else X.T, V) / jnp.where(s > 0, s, jnp.inf)[None, :]
    if tall:
        z = matmul(other.T, form.y)
        return _assemble(form, other, s, V, z, form.y - matmul(other, z))
    return _assemble(form, V, s, other, matmul(V.T, form.y), jnp.zeros_like(form.y))


def _assemble(
    form: StandardForm,
    U: Float[Array, "p r"],
    s: Float[Array, " r"],
    V: Float[Array, "d r"],
    z: Float[Array, "r t"],
    y_perp: Float[Array, "p t"],
) -> Factor:
    """Join the penalised directions of X̂ with the unpenalised ones, in the user's rows and units."""
    (p, d), q, r = form.X.shape, form.free_to_coef.shape[0], s.shape[0]
    dtype = s.dtype
    floor = cutoff(s, (p, d))
    s = jnp.where(s > floor, s, jnp.where(jnp.isnan(s), s, 0.0))
    rank = jnp.sum(s > 0)
    rows = p + q if form.root_weights is None else jnp.sum(form.root_weights > 0)
    U = jnp.concatenate([form.lift(U), form.free_basis()], axis=1)
    Tp = form.unit[:, None] * V
    T = jnp.concatenate(
        [
            jnp.concatenate([Tp, -matmul(form.centre, Tp)]),
            jnp.concatenate([jnp.zeros((d, q), dtype), form.free_to_coef]),
        ],
        axis=1,
    )
    lev_perp, y_perp, complete = jnp.zeros(p + q, dtype), form.lift(y_perp), rows <= rank + q
    if p > d:
        lev_perp = jnp.maximum(1.0 - jnp.sum(jnp.square(U), axis=1), 0.0)
        if form.root_weights is not None:
            # Rounding must not say that something is left outside where nothing is.
            lev_perp = jnp.where(complete & (form.root_weights > 0), 0.0, lev_perp)
            y_perp = jnp.where(complete, 0.0, y_perp)
    return Factor(
        U=U,
        s=jnp.concatenate([s, jnp.ones(q, dtype)]),
        mask=jnp.concatenate([jnp.ones(r, dtype), jnp.zeros(q, dtype)]),
        T=T,
        z=jnp.concatenate([z, form.free_y]),
        y_perp=y_perp,
        rss_perp=jnp.sum(jnp.square(y_perp), axis=0),
        lev_perp=lev_perp,
        centre=form.centre,
        root_weights=form.root_weights,
        scale=form.scale,
        y_scale=form.y_scale,
        cutoff=floor,
        full_rank=rank >= jnp.minimum(r, rows - q),
        complete=complete,
        rank=rank,
        checks=form.checks,
    )
