"""The Gram matrix of a ridge problem, factored anew at each λ: cheapest where few λ are wanted.

Tall problems solve (X̂ᵀX̂ + λ'I)ŵ = X̂ᵀŷ, wide ones (X̂X̂ᵀ + λ'I)α = ŷ with ŵ = X̂ᵀα. One Cholesky is 2 to 20 times
cheaper than one eigendecomposition, so it loses as soon as a grid is longer than that.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxridge.core.implicit import attach
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Float, Lam
from jaxridge.linear.design import Design, StandardForm, standard_form


class Cholesky(eqx.Module):
    """What `jaxridge.linear.spectrum.Spectrum` is to the accurate route, without a decomposition that all λ share.

    It has ``coef``, ``rss``, ``dof``, ``residual_dof``, ``squared_norm`` and ``result``, with derivatives of
    every order. Leverages need a spectrum, and asking for them says so.
    """

    design: Design
    form: StandardForm
    gram: Float[Array, "m m"]

    def coef(self, lam: Lam) -> Float[Array, "a t"]:
        """Coefficients of [X Z]."""
        return _coef(self, lam)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """Weighted residual sum of squares."""
        residual = self.design.y - self.design.product(self.coef(lam))
        return jnp.sum(self.design.weigh(jnp.square(residual)), axis=0)

    def dof(self, lam: Lam) -> Lam:
        """Effective degrees of freedom."""
        return _dof(self, lam)

    dof_or_nan = dof

    def residual_dof(self, lam: Lam) -> Lam:
        """n − dof."""
        return self.design.rows() - self.dof(lam)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """Σⱼ pⱼ wⱼ²."""
        d = self.design.X.shape[1]
        return jnp.sum(self.design.penalty[:, None] * jnp.square(self.coef(lam)[:d]), axis=0)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        checks, lam = self.form.checks, jnp.atleast_1d(lam)
        coef = jax.lax.stop_gradient(_coef_value(self, lam))
        # The Gram matrix is known to eps·trace, so a smaller pivot is rounding.
        pivots = jnp.diagonal(_lower(self, jax.lax.stop_gradient(lam)), axis1=1, axis2=2)
        floor = self.gram.shape[0] * jnp.finfo(lam.dtype).eps * jnp.max(jnp.square(pivots), axis=1, initial=0.0)
        lost = ~jnp.all(jnp.square(pivots) > floor[:, None], axis=1)
        return first_failure(
            (~(checks.finite & checks.finite_y), RESULTS.nonfinite_input),
            (~checks.weights, RESULTS.invalid_weights),
            (~checks.penalty, RESULTS.invalid_penalty),
            (~checks.independent, RESULTS.dependent_unpenalized),
            (~(lam >= 0), RESULTS.invalid_lam),
            (lost, RESULTS.unresolved),
            (~jnp.all(jnp.isfinite(coef), axis=0), RESULTS.overflow),
            shape=(self.design.y.shape[1],),
        )

    def without_rows(self) -> "Cholesky":
        """Itself: the rows are what the problem is made of."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name in ("factor", "residual", "one_minus_leverage", "loo_residual", "logdet", "singular_values", "exact"):
            raise ValueError(
                f"{name} needs a spectrum, which from_cholesky does not make; use from_gram or from_design."
            )
        raise AttributeError(name)


def from_cholesky(design: Design) -> Cholesky:
    """Solve at each λ by a Cholesky factorisation of the Gram matrix: for one λ, or very few.

    About five times cheaper than `from_gram` at one λ, and as accurate: to the condition of X squared. Under
    ``vmap`` over λ it factorises once for each, so take `from_gram` or `from_design` there.
    """
    form = jax.lax.stop_gradient(standard_form(design))
    gram = matmul(form.X, form.X.T) if design.wide else matmul(form.X.T, form.X)
    return Cholesky(design, form, gram)


def _lower(problem: Cholesky, lam: Float[Array, " c"]) -> Float[Array, "c m m"]:
    """The Cholesky factors at each λ, NaN where there is none."""
    damping = poison(lam, lam >= 0) * problem.form.scale * problem.form.scale
    eye = jnp.eye(problem.gram.shape[0], dtype=lam.dtype)
    return jax.vmap(lambda mu: jnp.linalg.cholesky(problem.gram + mu * eye, symmetrize_input=False))(damping)


def _solve(problem: Cholesky, lam: Float[Array, " c"], b: Float[Array, "d t"]) -> Float[Array, "d t"]:
    """(X̂ᵀX̂ + λ'I)⁻¹ b; λ is common to the columns of b, or one for each."""
    X = problem.form.X

    def one(L: Array, mu: Array, b: Array) -> Array:
        if problem.design.wide:
            return (b - matmul(X.T, cho_solve((L, True), matmul(X, b)))) / mu
        return cho_solve((L, True), b)

    L, mu = _lower(problem, lam), lam * problem.form.scale * problem.form.scale
    if lam.shape[0] == 1:
        return one(L[0], mu[0], b)
    return jax.vmap(lambda L, mu, b: one(L, mu, b[:, None])[:, 0], (0, 0, 1), 1)(L, mu, b)


def _coef_value(problem: Cholesky, lam: Lam) -> Float[Array, "a t"]:
    form, lam = problem.form, jnp.atleast_1d(lam)
    L = _lower(problem, lam)
    rhs = form.y if problem.design.wide else matmul(form.X.T, form.y)
    if lam.shape[0] == 1:
        solved = cho_solve((L[0], True), rhs)
    else:
        solved = jax.vmap(lambda L, b: cho_solve((L, True), b), (0, 1), 1)(L, rhs)
    w = form.unit[:, None] * (matmul(form.X.T, solved) if problem.design.wide else solved)
    free = matmul(form.free_to_coef, form.free_y) - matmul(form.centre, w)
    return jnp.concatenate([w, free]) * form.y_scale[None, :]


def _live_solve(problem: Cholesky, lam: Lam, b: Float[Array, "a t"]) -> Float[Array, "a t"]:
    """(AᵀωA + λP)⁻¹ b with A = [X Z], live, by the frozen Cholesky factors."""
    design, lam = problem.design, jnp.atleast_1d(lam)
    still, still_lam = jax.lax.stop_gradient((problem, lam))
    form, d = still.form, design.X.shape[1]

    def product(w: Array) -> Array:
        return design.adjoint(design.weigh(design.product(w))) + lam[None, :] * (design.padded_penalty() * w)

    def solve(_: Any, b: Array) -> Array:
        inner = form.unit[:, None] * (b[:d] - matmul(form.centre.T, b[d:]))
        w = form.unit[:, None] * _solve(still, still_lam, inner)
        free = matmul(form.free_to_coef, matmul(form.free_to_coef.T, b[d:])) - matmul(form.centre, w)
        return jnp.concatenate([w, free])

    return jax.lax.custom_linear_solve(product, b, solve, symmetric=True)


def _coef_live(problem: Cholesky, lam: Lam) -> Array:
    design = problem.design
    return _live_solve(problem, lam, design.adjoint(design.weigh(design.y)))


def _dof_value(problem: Cholesky, lam: Lam) -> Lam:
    """q + m − λ' tr(Gram + λ')⁻¹, by the inverse triangle: its squared norm is that trace."""
    form, m = problem.form, problem.gram.shape[0]
    shape, lam = jnp.shape(lam), jnp.atleast_1d(lam)
    eye = jnp.eye(m, dtype=lam.dtype)

    def one(L: Array, mu: Array) -> Array:
        return m - mu * jnp.sum(jnp.square(solve_triangular(L, eye, lower=True)))

    dof = jax.vmap(one)(_lower(problem, lam), lam * form.scale * form.scale)
    return (dof + form.free_to_coef.shape[0]).reshape(shape)


def _dof_live(problem: Cholesky, lam: Lam) -> Lam:
    design = problem.design
    A = jnp.concatenate([design.X, design.Z], axis=1)

    def one(lam: Array) -> Array:
        if design.wide:
            return jnp.sum(_live_solve(problem, lam, A.T).T * design.weigh(A))
        return A.shape[1] - lam * jnp.trace(_live_solve(problem, lam, jnp.diag(design.padded_penalty()[:, 0])))

    return jax.vmap(one)(jnp.atleast_1d(lam)).reshape(jnp.shape(lam))


_coef = attach(_coef_value, _coef_live)
_dof = attach(_dof_value, _dof_live)
