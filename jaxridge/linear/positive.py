"""Ridge with coefficients that are not negative: which of them are 0, by pivoting, and ridge on the others.

The minimum over w >= 0 of ‖y − Xw − b‖² + λ‖w‖² is where, for H = XᵀX + λP and g = Hw − Xᵀy,

    w >= 0        g >= 0        wⱼ gⱼ = 0.

Given the columns with wⱼ > 0 it is ridge on these alone, from which value and derivatives are read.
"""

import dataclasses
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxridge.core.checks import as_lam, names_of
from jaxridge.core.implicit import frozen
from jaxridge.core.numbers import inner, matmul
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.linear.design import Data, Design, Options, Terms, checked, design_of
from jaxridge.linear.fit import Fit
from jaxridge.linear.spectrum import from_design

__all__ = ["ridge_positive"]

PATIENCE = 3  # exchanges of all wrong signs that may fail to lessen them, before one at a time


@verb(checked)
def ridge_positive(X: Any, y: Any, lam: Any, **problem: Unpack[Options]) -> Fit:
    """Ridge regression with coefficients that are not negative: min over w >= 0, b of ‖y − Xw − b‖² + λ‖w‖².

    Args: as for `jaxridge.ridge`, with λ > 0. Columns in ``unpenalized`` and the intercept may have any sign.

    Returns a `Fit`, whose ``dof`` are those of ridge on the columns that are not 0. Codes are ``at_kink`` where a
    coefficient is just becoming 0 or leaving it, so that derivatives are those of one side, and
    ``lam_not_positive`` for λ = 0 or ∞. Derivatives of every order. For other bounds see `jaxridge.least_squares`.
    Equals ``sklearn.linear_model.Ridge(positive=True)``, and ``scipy.optimize.nnls`` as λ → 0.
    Portugal, Júdice and Vicente (1994), Mathematics of Computation 63, 625: block principal pivoting.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> print(jxr.ridge_positive(jnp.eye(3), jnp.array([4.0, -1.0, 2.0]), 1.0, intercept=False).coef)
    [2. 0. 1.]
    """
    data, terms = checked(X, y, **problem)
    lam = as_lam(lam, data.y, terms.single)
    return _ridge_positive(data, lam, terms).with_names(names_of(X))


@partial(jax.jit, static_argnames="terms")
def _ridge_positive(data: Data, lam: Array, terms: Terms) -> Fit:
    design = design_of(data, terms)
    if terms.single:
        return _one(design, design.y[:, 0], lam)
    targets = jnp.broadcast_to(lam, design.y.shape[1:])
    fits = jax.vmap(partial(_one, design), in_axes=(1, 0))(design.y, targets)
    return dataclasses.replace(fits, coef=fits.coef.T, lam=lam)


def _one(design: Design, y: Float[Array, " n"], lam: Scalar) -> Fit:
    """The fit of one target."""
    single = design.terms._replace(single=True)
    whole = dataclasses.replace(design, y=y[:, None], terms=single)
    free, kink, solved = _support(*frozen((whole, lam)))
    # A product, which leaves NaN where it was.
    part = dataclasses.replace(whole, X=whole.X * free[None, :].astype(y.dtype))
    fit = from_design.factor(part).fit(lam)
    # What rounding leaves of a column of zeros.
    kept = [j for j in range(fit.coef.shape[0]) if j not in design.terms.unpenalized]
    signs = jnp.ones_like(fit.coef).at[jnp.array(kept, int)].set(free.astype(y.dtype))
    fine = fit.result == RESULTS.successful
    result = override(RESULTS.at_kink, fine & kink, fit.result)
    result = override(RESULTS.open_gap, fine & ~solved, result)
    result = override(RESULTS.lam_not_positive, (lam == 0) | jnp.isinf(lam), result)
    return dataclasses.replace(fit, coef=fit.coef * signs, result=result)


def _support(design: Design, lam: Scalar) -> tuple[Bool[Array, " d"], Bool[Array, ""], Bool[Array, ""]]:
    """Which wⱼ > 0, whether one is just becoming so, and whether all signs are right.

    Signs that are wrong change sides all together, and one by one where that has not lessened them.
    """
    H, c = _normal(design, lam)
    d, eps = c.shape[0], jnp.finfo(c.dtype).eps
    slack = 10.0 * d * eps * jnp.linalg.norm(c)

    def at(free: Bool[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """w and g; wⱼ is in units in which Hⱼⱼ = 1."""
        both = free[:, None] & free[None, :]
        L = jnp.linalg.cholesky(jnp.where(both, H, jnp.eye(d, dtype=H.dtype)), symmetrize_input=False)
        w = cho_solve((L, True), jnp.where(free, c, 0.0))
        return w, jnp.where(free, 0.0, matmul(H, w) - c)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        free, least, patience, _, step = state
        w, g = at(free)
        wrong = jnp.where(free, w < 0, g < -slack)
        count = jnp.sum(wrong)
        patience = jnp.where(count < least, PATIENCE, patience - 1)
        last = jnp.arange(d) == d - 1 - jnp.argmax(wrong[::-1])
        following = free ^ jnp.where(patience >= 0, wrong, wrong & last)
        return following, jnp.minimum(count, least), patience, count == 0, step + 1

    start = (jnp.zeros(d, bool), jnp.array(d + 1), jnp.array(PATIENCE), jnp.array(False), jnp.array(0))
    going = lambda state: ~state[3] & (state[4] < 10 * d + 100)  # noqa: E731
    free, _, _, solved, _ = jax.lax.while_loop(going, advance, start)
    w, g = at(free)
    kink = jnp.any(jnp.where(free, jnp.abs(w), jnp.abs(g)) <= slack)
    return free, kink, solved


def _normal(design: Design, lam: Scalar) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """H and Xᵀy on the complement of Z, in units in which H has a diagonal of ones."""
    root = jnp.ones_like(design.y) if design.weights is None else jnp.sqrt(design.weights)[:, None]
    Q = jnp.linalg.qr(root * design.Z)[0]
    X, y = root * design.X, root * design.y
    # Twice: of many rows with an offset once leaves more than signs can bear, for Qᵀ Q is 1 up to rounding.
    for _ in range(2):
        X, y = X - matmul(Q, matmul(Q.T, X)), y - matmul(Q, matmul(Q.T, y))
    size = jnp.sqrt(jnp.sum(jnp.square(X), axis=0) + lam * design.penalty)
    unit = jnp.where(size > 0, size, 1.0)
    X = X / unit[None, :]
    H = inner(X, X) + jnp.diag(lam * design.penalty / jnp.square(unit))
    return H, inner(X, y)[:, 0]
