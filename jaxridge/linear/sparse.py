"""Sparse least squares: the lasso and the elastic net at every λ, from one path of knots.

Every verb minimises, over coefficients w and intercept b,

    ‖y − Xw − b‖² + λ Σⱼ pⱼ|wⱼ| + λ₂ Σⱼ pⱼ wⱼ²                      no 1/n, no ½, b without a penalty

with the weights and penalty factors p of `jaxridge.ridge`; λ₂ = 0 is the lasso, λ₂ > 0 the elastic net. The same
numbers elsewhere: scikit-learn's ``Lasso(alpha)`` is λ = 2n alpha, its ``ElasticNet(alpha, l1_ratio=ρ)`` λ = 2nρ alpha
and λ₂ = n(1 − ρ) alpha; glmnet's ``lambda`` the same with its ``alpha`` as ρ, on a y of unit variance; the ``enet`` of
R's elasticnet calls λ₂ ``lambda``. With ``standardize`` wⱼ counts times the standard deviation of its column.
"""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.checks import as_floats, as_lam, as_lams, names_of
from jaxridge.core.implicit import root
from jaxridge.core.numbers import poison
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.linear.design import Data, Options, Terms, checked
from jaxridge.linear.fit import Fit
from jaxridge.linear.support import Sparse, sparse_of
from jaxridge.select.choice import Choice, Path

__all__ = ["lasso", "lasso_ball", "lasso_cv", "lasso_path"]

# The d × d tableau of 2000 columns takes 32 MB, and its path some seconds.
MOST_COLUMNS = 2000


@verb(checked)
def lasso(
    X: Any, y: Any, lam: Any, *, lam2: Any = None, max_knots: int | None = None, **problem: Unpack[Options]
) -> Fit:
    """The lasso at one λ, or with ``lam2`` the elastic net, exactly.

    min over w, b of ‖y − Xw − b‖² + λ‖w‖₁ + λ₂‖w‖², by the path of its knots from the λ at which all coefficients are
    0. Those that are 0 are so to the bit.

    Args:
        X: (n, d) features, d <= 2000. y: (n,) or (n, t) targets.
        lam: λ >= 0, a scalar or one for each target (t,), in units of y² / w. lam2: λ₂ >= 0 in units of y² / w².
        max_knots: how many to follow; None is four for each column, or row if there are fewer, and 32.
        problem: ``intercept``, ``standardize``, ``weights``, ``penalty``, ``unpenalized``; see `design.Options`.

    Returns a `Fit`, whose ``dof`` counts coefficients that are not 0. Derivatives of every order, those of the support
    as it is: at a knot, with the code ``at_kink``, towards larger λ. ``not_unique`` says that columns depend on each
    other, so that others could take their place. Bad values give NaN and a code. ``dof`` of the elastic net has no
    derivative, NaN.
    Raises ValueError for shapes and dtypes that cannot be meant, and for more than 2000 columns.
    Equals ``sklearn.linear_model.Lasso(alpha=lam / (2 * n))``. Tibshirani (1996), J. R. Statist. Soc. B 58, 267.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.lasso(jnp.eye(3), jnp.array([3.0, -2.0, 0.5]), 2.0, intercept=False)
    >>> print(fit.coef, fit.dof)
    [ 2. -1.  0.] 2.0
    """
    data, terms = checked(X, y, **problem)
    lam = as_lam(lam, data.y, terms.single)
    return _lasso(data, lam, _lam2(lam2, data), terms, _most(max_knots, data)).with_names(names_of(X))


@verb(checked)
def lasso_path(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    lam2: Any = None,
    max_knots: int | None = None,
    **problem: Unpack[Options],
) -> Path:
    """The lasso or elastic net at every λ of a grid, from one path that is followed down to the least of them.

    Args are those of `lasso`, with ``lams`` (k,), or (k, t) for a grid per target, in any order; None takes 100 of
    them, log-spaced from where all coefficients are 0 to a thousandth of it.

    Returns a `Path`, whose ``at`` gives any λ as large as the least. ``path.factored.knots()`` are the λ down to it at
    which the path bends: between them coefficients are linear.
    Equals ``sklearn.linear_model.lasso_path(X, y, alphas=lams / (2 * n))`` and, at its knots, ``lars_path``.
    Cost: d² n for the Gram matrix, then O(d²) for each knot.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.lasso_path(jnp.eye(3), jnp.array([3.0, -2.0, 0.5]), [4.0, 2.0], intercept=False)
    >>> print(path.coef, path.at(3.0).coef, path.factored.knots()[:3])
    [[ 1.  0.  0.]
     [ 2. -1.  0.]] [ 1.5 -0.5  0. ] [ 6.  4. nan]
    """
    data, terms = checked(X, y, **problem)
    path = _lasso_path(data, as_lams(lams, data.y), _lam2(lam2, data), terms, _most(max_knots, data))
    return path.with_names(names_of(X))


@verb(checked)
def lasso_cv(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    lam2: Any = None,
    rule: Callable[..., Array] | None = None,
    pick: Callable[..., Array] = select.lowest,
    per_target: bool = False,
    max_knots: int | None = None,
    memory: int = plan.MEMORY,
    **problem: Unpack[Options],
) -> Choice:
    """The lasso or elastic net at the λ that a rule takes: five folds by default.

    Args beyond those of `lasso_path`: ``rule``, `select.kfold(...)`, `select.holdout(...)` or `select.gcv` (with the
    number of coefficients as degrees of freedom); ``pick``, ``per_target`` and ``memory`` as for `jaxridge.ridge_cv`.

    Returns a `Choice`. Equals ``sklearn.linear_model.LassoCV(alphas=lams / (2 * n))``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 10)
    >>> X = jnp.stack([x, jnp.cos(9 * x), jnp.sin(7 * x)], axis=1)
    >>> choice = jxr.lasso_cv(X, 2 * x + 0.1 * jnp.cos(5 * x), [0.01, 0.1, 1.0, 10.0])
    >>> print(choice.lam, choice.fit.coef != 0)
    0.1 [ True  True False]
    """
    data, terms = checked(X, y, **problem)
    lams, rule = as_lams(lams, data.y), select.kfold(5) if rule is None else rule
    if lams is not None and lams.ndim == 2 and not per_target:
        raise ValueError("lams has a grid for each target; pass per_target=True, or a grid of shape (k,).")
    most = _most(max_knots, data)
    choice = _lasso_cv(data, lams, _lam2(lam2, data), rule, terms, pick, per_target, memory, most)
    return choice.with_names(names_of(X))


@verb(checked)
def lasso_ball(X: Any, y: Any, radius: Any, *, max_knots: int | None = None, **problem: Unpack[Options]) -> Fit:
    """Least squares inside a diamond: min ‖y − Xw − b‖² subject to Σⱼ pⱼ|wⱼ| <= radius.

    The multiplier λ comes back as ``fit.lam``, one for each target: ‖w‖₁ is linear in it between the knots. It is 0
    where the least-squares solution of the path lies inside. Beside `jaxridge.ridge_ball`, which is round.

    Args: as for `lasso`, with radius >= 0 a scalar or (t,). Derivatives flow through radius and data.
    Equals the constrained form of Tibshirani (1996), J. R. Statist. Soc. B 58, 267.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.lasso_ball(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0, intercept=False)
    >>> print(fit.coef, fit.lam)
    [0. 1.] 6.0
    """
    data, terms = checked(X, y, **problem)
    radius = as_lam(radius, data.y, terms.single, "radius")
    return _lasso_ball(data, radius, terms, _most(max_knots, data)).with_names(names_of(X))


def _lam2(lam2: Any, data: Data) -> Array | None:
    return None if lam2 is None else as_floats("lam2", lam2, (0,)).astype(data.y.dtype)


def _most(max_knots: int | None, data: Data) -> int:
    """How many knots to follow, or a ``ValueError`` for too many columns."""
    n, d = data.X.shape
    if d > MOST_COLUMNS:
        raise ValueError(
            f"X has {d} columns, and the path of the lasso is followed here on a d × d matrix, for {MOST_COLUMNS} at "
            "most; for more use coordinate descent, as in the packages celer and skglm."
        )
    if max_knots is None:
        return 4 * min(n, d) + 32
    if not isinstance(max_knots, int) or max_knots < 1:
        raise ValueError(f"max_knots is {max_knots!r}; pass a whole number, 1 or more, or None.")
    return max_knots


@eqx.filter_jit
def _lasso(data: Data, lam: Array, lam2: Array | None, terms: Terms, most: int) -> Fit:
    return sparse_of(data, terms, lam2, lam, most).fit(lam)


@eqx.filter_jit
def _lasso_path(data: Data, lams: Array | None, lam2: Array | None, terms: Terms, most: int) -> Path:
    factored = sparse_of(data, terms, lam2, lams, most)
    grid: Array = factored.default_grid() if lams is None else lams
    return Path(grid, factored.fits(grid), factored)


@eqx.filter_jit
def _lasso_cv(
    data: Data,
    lams: Array | None,
    lam2: Array | None,
    rule: Any,
    terms: Terms,
    pick: Any,
    per_target: bool,
    memory: int,
    most: int,
) -> Choice:
    factored = sparse_of(data, terms, lam2, lams, most)
    grid: Array = factored.default_grid() if lams is None else lams
    found = select.search(rule, factored, grid, pick, per_target, False, memory)
    return Choice(*found, select.with_code(found, factored.fit(found.lam)))


@eqx.filter_jit
def _lasso_ball(data: Data, radius: Array, terms: Terms, most: int) -> Fit:
    factored = sparse_of(data, terms, None, jnp.zeros((), data.y.dtype), most)
    valid = radius >= 0
    radius = jnp.broadcast_to(poison(radius, valid), data.y.shape[1:])
    lam = _lam_of_norm(factored, radius)
    fit = factored.fit(lam)
    result = override(RESULTS.invalid_radius, ~jnp.broadcast_to(valid, radius.shape), factored.result(lam))
    lam, result = factored.problem.squeeze((lam, result))
    return eqx.tree_at(lambda f: (f.lam, f.result), fit, (lam, result))


def _lam_of_norm(factored: Sparse, radius: Float[Array, " t"]) -> Float[Array, " t"]:
    """λ with Σ p|w| = radius for each target; 0 where the end of the path lies inside, ∞ where radius is 0."""
    found = factored.lam_of_norm(jax.lax.stop_gradient(radius))
    inner = (found > 0) & jnp.isfinite(found) | jnp.isnan(found)

    def excess(lam: Array) -> Array:
        norm = factored.penalty_of(factored.coef(jnp.where(inner, lam, 0.0)))
        return jnp.where(inner, norm - radius, lam)

    lam = root(excess, jnp.where(inner, found, 0.0))
    return jnp.where(inner, lam, found)
