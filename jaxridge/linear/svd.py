"""The frozen factor of a standard form: the only place where a matrix is decomposed.

`svd` is exact to the condition of the data (QR, then the SVD of the triangle); `gram` squares the condition
number and is several times faster. What comes after asks neither which of the two it was.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from jaxridge.core.numbers import cutoff, inner, matmul, safe_divide
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.linear import rounding
from jaxridge.linear.standard_form import Checks, StandardForm


class Doubt(eqx.Module):
    """What rounding may have done; `jaxridge.linear.rounding` has the letters."""

    kind: str = eqx.field(static=True)  # "rows", "tall" or "wide", the last two of a Gram matrix
    longest: Scalar  # no row of X̂ is longer
    rows: Float[Array, " r"]  # (Σᵢ ‖Rᵢ‖² wᵢⱼ²)^½
    below: Float[Array, " r"]  # singular values as they were before the cut, or what rounding hides of a Gram matrix
    cut: Float[Array, "r t"]  # and the part of y along it


class Factor(eqx.Module):
    """√ω [X Z] T = U diag(s) and what is left of y; see `jaxridge.linear.spectrum` for the letters."""

    # U, y_perp and lev_perp have a row per observation, and `without_rows` takes them away.
    U: Float[Array, "n m"]
    s: Float[Array, " m"]
    mask: Float[Array, " m"]  # β: 1 penalised, 0 not
    V: Float[Array, "p r"]  # right singular vectors, in the basis if there is one
    basis: Float[Array, "d p"] | None
    unit: Float[Array, " d"]
    free_to_coef: Float[Array, "q q"]
    z: Float[Array, "m t"]
    y_perp: Float[Array, "n t"]
    rss_perp: Float[Array, " t"]
    lev_perp: Float[Array, " n"]  # 1 − Σⱼ uᵢⱼ²
    centre: Float[Array, "q d"]
    root_weights: Float[Array, " n"] | None
    scale: Scalar
    y_scale: Float[Array, " t"]
    full_rank: Bool[Array, ""]
    doubt: Doubt
    complete: Bool[Array, ""]  # as many directions as measurements: nothing is left outside
    rank: Int[Array, ""]
    checks: Checks

    @property
    def T(self) -> Float[Array, "a m"]:
        """Formed for first derivatives in the data only; `times` and `transposed_times` do without."""
        d, q = self.unit.shape[0], self.free_to_coef.shape[0]
        kept = self.unit[:, None] * (self.V if self.basis is None else matmul(self.basis, self.V))
        free = jnp.concatenate([jnp.zeros((d, q), kept.dtype), self.free_to_coef])
        return jnp.concatenate([jnp.concatenate([kept, -matmul(self.centre, kept)]), free], axis=1)

    def along(self, x: Float[Array, "r t"]) -> Float[Array, "d t"]:
        """The right singular vectors times x: penalised coefficients before their units."""
        along = matmul(self.V, x)
        return along if self.basis is None else matmul(self.basis, along)

    def times(self, x: Float[Array, "m t"]) -> Float[Array, "a t"]:
        """Tx."""
        r = self.V.shape[1]
        w = self.unit[:, None] * self.along(x[:r])
        return jnp.concatenate([w, matmul(self.free_to_coef, x[r:]) - matmul(self.centre, w)])

    def transposed_times(self, b: Float[Array, "a t"]) -> Float[Array, "m t"]:
        """Tᵀb."""
        d = self.unit.shape[0]
        inner = self.unit[:, None] * (b[:d] - matmul(self.centre.T, b[d:]))
        inner = inner if self.basis is None else matmul(self.basis.T, inner)
        return jnp.concatenate([matmul(self.V.T, inner), matmul(self.free_to_coef.T, b[d:])])

    def of_targets(self, form: StandardForm) -> "Factor":
        """The factor with the targets of another standard form of the same rows, where `svd` made it."""
        y, r = form.lift(form.y), self.V.shape[1]
        U, kept = self.U[:, :r], self.s[:r, None] > 0
        z = inner(U, y)
        y_perp = y - matmul(U, z) if form.X.shape[0] > form.X.shape[1] else jnp.zeros_like(y)
        if self.root_weights is not None:
            y_perp = jnp.where(self.complete, 0.0, y_perp)
        return dataclasses.replace(
            self,
            z=jnp.concatenate([z, form.free_y]),
            y_perp=y_perp,
            rss_perp=jnp.sum(jnp.square(y_perp), axis=0),
            y_scale=form.y_scale,
            doubt=dataclasses.replace(self.doubt, cut=jnp.where(kept, 0.0, z)),
            checks=form.checks,
        )

    def without_rows(self) -> "Factor":
        """All that coefficients need, and nothing of the size of the data."""
        return eqx.tree_at(lambda f: (f.U, f.y_perp, f.lev_perp), self, (None,) * 3, is_leaf=lambda x: x is None)

    @property
    def has_rows(self) -> bool:
        """Whether they are here."""
        return self.U is not None


def svd(form: StandardForm) -> Factor:
    """QR, then the SVD of R: 2nd² + O(d³) flops for tall X̂, the transpose for wide X̂."""
    X, y = form.X, form.y
    if X.shape[0] > X.shape[1]:
        Q, R = jnp.linalg.qr(X)
        W, s, Vt = jnp.linalg.svd(R, full_matrices=False)
        # Qᵀy before Wᵀ, so that a path without leverages never forms Q W.
        Qy = inner(Q, y)
        z = matmul(W.T, Qy)
        s, doubt = _cut_rows(form, R, W, s, z)
        return _assemble(form, matmul(Q, W), s, Vt.T, None, z, y - matmul(Q, Qy), doubt)
    Q, R = jnp.linalg.qr(X.T)
    U, s, Wt = jnp.linalg.svd(R.T, full_matrices=False)
    z = inner(U, y)
    s, doubt = _cut_rows(form, R.T, U, s, z)
    return _assemble(form, U, s, Wt.T, Q, z, jnp.zeros_like(y), doubt)


def gram(form: StandardForm) -> Factor:
    """Eigendecomposition of the smaller of X̂ᵀX̂ and X̂X̂ᵀ: half the flops, the condition number squared."""
    X, y = form.X, form.y
    tall = X.shape[0] > X.shape[1]
    e, V = jnp.linalg.eigh(inner(X, X) if tall else matmul(X, X.T), symmetrize_input=False)
    e, V = e[::-1], V[:, ::-1]
    # An eigenvalue of a Gram matrix is known to u e₁, so its root only to √u s₁.
    floor = rounding.unit(X.shape, X.dtype) * jnp.max(e, initial=0.0)
    s = jnp.sqrt(jnp.where(e > floor, e, 0.0))
    kept, limit = s > 0, jnp.broadcast_to(jnp.sqrt(floor), s.shape)
    scaled = V / jnp.where(kept, s, jnp.inf)[None, :]
    if tall:
        U = matmul(X, scaled)
        z, along = inner(U, y), safe_divide(matmul(V.T, inner(X, y)), limit[:, None])
        doubt = Doubt("tall", floor, limit, limit, jnp.where(kept[:, None], 0.0, along))
        return _assemble(form, U, s, V, None, z, y - matmul(U, z), doubt)
    z = inner(V, y)
    doubt = Doubt("wide", floor, limit, limit, jnp.where(kept[:, None], 0.0, z))
    return _assemble(form, V, s, scaled, X.T, z, jnp.zeros_like(y), doubt)


def _cut_rows(
    form: StandardForm,
    R: Float[Array, "a m"],
    W: Float[Array, "a r"],
    s: Float[Array, " r"],
    z: Float[Array, "r t"],
) -> tuple[Float[Array, " r"], Doubt]:
    """Singular values above the cut-off, and what rounding leaves in doubt, for X̂ = Q R and R = W diag(s) Vᵀ."""
    rows = jnp.sqrt(matmul(jnp.sum(jnp.square(R), axis=1), jnp.square(W)))
    cut = s <= cutoff(s, form.X.shape)
    doubt = Doubt("rows", form.longest, rows, s, jnp.where(cut[:, None], z, 0.0))
    return jnp.where(cut, 0.0, s), doubt


def _assemble(
    form: StandardForm,
    U: Float[Array, "p r"],
    s: Float[Array, " r"],
    V: Float[Array, "p r"],
    basis: Float[Array, "d p"] | None,
    z: Float[Array, "r t"],
    y_perp: Float[Array, "p t"],
    doubt: Doubt,
) -> Factor:
    """Join the penalised directions of X̂ with the unpenalised ones, in the user's rows and units."""
    (p, d), q, r = form.X.shape, form.free_to_coef.shape[0], s.shape[0]
    dtype = s.dtype
    rank = jnp.sum(s > 0)
    rows = p + q if form.root_weights is None else jnp.sum(form.root_weights > 0)
    U = jnp.concatenate([form.lift(U), form.free_basis()], axis=1)
    lev_perp, complete = jnp.zeros(p + q, dtype), rows <= rank + q
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
        V=V,
        basis=basis,
        unit=form.unit,
        free_to_coef=form.free_to_coef,
        z=jnp.concatenate([z, form.free_y]),
        y_perp=form.lift(y_perp),
        rss_perp=jnp.sum(jnp.square(y_perp), axis=0),  # reflections leave lengths alone
        lev_perp=lev_perp,
        centre=form.centre,
        root_weights=form.root_weights,
        scale=form.scale,
        y_scale=form.y_scale,
        full_rank=rank >= jnp.minimum(r, rows - q),
        doubt=doubt,
        complete=complete,
        rank=rank,
        checks=form.checks,
    )
