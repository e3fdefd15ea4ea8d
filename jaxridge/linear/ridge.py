"""Ridge regression: one λ, a whole path, the λ to take, and the two forms with a bound on the norm.

Every verb minimises, over coefficients w and intercept b,

    ‖y − Xw − b‖² + λ‖w‖²                                    no 1/n, no ½, b without a penalty

with weights Σᵢ ωᵢ(·)ᵢ² and per-column penalties λ Σⱼ pⱼ wⱼ² where they are given. The same number elsewhere:
scikit-learn ``alpha`` = λ; glmnet ``lambda`` = λ/n (and glmnet scales y to unit variance); Falkon ``penalty`` =
λ/n; texts on inverse problems write λ² for our λ; a prior precision of the coefficients is λ/σ².
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float, Int
from jaxridge.linear.design import Data, Problem, Terms, as_floats, as_function, checked, design_of
from jaxridge.linear.spectrum import from_cholesky, from_design, from_gram
from jaxridge.select.constraint import lam_of_norm

Solver = Callable[..., Any]


class Fit(eqx.Module):
    """A fitted linear model: ``predict(X) = X @ coef + intercept``.

    ``coef`` (d,) or (d, t), ``intercept`` () or (t,), ``lam`` as it was used, ``dof`` (effective degrees of
    freedom, the intercept counted), ``rss`` (weighted residual sum of squares), ``result`` (`RESULTS`, one for
    each target).
    """

    coef: Float[Array, "d *t"]
    intercept: Float[Array, "*t"]
    lam: Array
    dof: Array
    rss: Float[Array, "*t"]
    result: Any

    def predict(self, X: Any) -> Float[Array, "n *t"]:
        """Predictions (n,) or (n, t) for new rows (n, d)."""
        return _predict(X, self.coef, self.intercept)


class Path(eqx.Module):
    """A model for every λ of a grid, from one factorisation; the leading axis k is the grid.

    ``lams`` (k,), ``coef`` (k, d[, t]), ``intercept`` (k[, t]), ``dof`` (k,), ``rss`` (k[, t]), ``result``
    (k[, t]). ``path[i]`` is the `Fit` at the i-th λ, ``path.at(lam)`` the one at any other λ.
    """

    lams: Array
    coef: Float[Array, "k d *t"]
    intercept: Float[Array, "k *t"]
    dof: Array
    rss: Float[Array, "k *t"]
    result: Any
    spectrum: Any

    def __len__(self) -> int:
        return self.lams.shape[0]

    def __getitem__(self, i: int) -> Fit:
        pick = partial(jax.tree.map, lambda x: x[i])
        return Fit(*(pick(x) for x in (self.coef, self.intercept, self.lams, self.dof, self.rss, self.result)))

    def at(self, lam: Any) -> Fit:
        """The model at any λ, without another factorisation of X."""
        return _fit_at(self.spectrum, as_lam(lam, self.spectrum.design.y, self.spectrum.design.terms))

    def predict(self, X: Any) -> Float[Array, "k n *t"]:
        """Predictions at every λ: (k, n) or (k, n, t)."""
        return jax.vmap(_predict, in_axes=(None, 0, 0))(as_floats("X", X, (2,)), self.coef, self.intercept)


class Choice(eqx.Module):
    """The λ that a rule takes from a grid, and why.

    ``lam`` () or, per target, (t,); ``lams`` (k,) and ``scores`` (k[, t]), lower is better; ``spread`` is the
    standard error of each score where the rule has one; ``index`` the grid point taken; ``at_edge`` whether
    that is an end of the grid, so that a better λ may lie outside; ``fit`` the model at ``lam``.
    """

    lam: Array
    lams: Array
    scores: Float[Array, "k *t"]
    spread: Float[Array, "k *t"] | None
    index: Int[Array, "*t"]
    at_edge: Bool[Array, "*t"]
    fit: Any

    def message(self) -> str:
        """What a reader should know about this choice; empty if there is nothing to say."""
        if not bool(jnp.any(self.at_edge)):
            return ""
        low, high = (float(end) for end in select.ends(self.lams.ravel()))
        return (
            f"The chosen lam lies at an edge of the grid [{low:.3g}, {high:.3g}], so a better one may lie "
            "outside: widen lams."
        )


def ridge(X: Any, y: Any, lam: Any, *, solver: Solver = from_design, **problem: Unpack[Problem]) -> Fit:
    """Ridge regression at one λ.

    min over w, b of ‖y − Xw − b‖² + λ‖w‖², by QR and SVD. At λ = 0 it is the least-squares solution of minimum
    norm. ``vmap`` over ``lam`` factorises once; gradients of every order reuse that factorisation.

    Args:
        X: (n, d) features. y: (n,) or (n, t) targets.
        lam: λ >= 0, a scalar or one for each target (t,), in units of y² / w².
        solver: ``spectrum.from_design`` (exact), ``spectrum.from_gram`` (faster, condition number squared) or
            ``spectrum.from_cholesky`` (fastest for one λ).
        problem: ``intercept``, ``standardize``, ``weights``, ``penalty``, ``unpenalized``; see `design.Problem`.

    Returns a `Fit`. Bad values (NaN, negative λ) give NaN and a code in ``fit.result``.
    Raises ValueError for shapes, dtypes and column numbers that cannot be meant.
    Equals ``sklearn.linear_model.Ridge(alpha=lam)``. Hoerl and Kennard (1970), Technometrics 12, 55.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0])
    >>> print(jxr.ridge(X, y, 2.0).coef, jxr.ridge(X, y, 0.0).intercept.round(5))
    [1.] 1.0
    """
    data, terms = checked(X, y, **problem)
    return _ridge(data, as_lam(lam, data.y, terms), terms, solver)


def ridge_path(X: Any, y: Any, lams: Any = None, *, solver: Solver = from_design, **problem: Unpack[Problem]) -> Path:
    """Ridge regression at every λ of a grid from one factorisation of X.

    Args are those of `ridge`, with ``lams`` (k,), or (k, t) for a grid per target, in any order, repetitions
    allowed; None takes `select.grid`, log-spaced over what the data can resolve.

    Returns a `Path`; each λ has its own code, and a bad one leaves the others alone.
    Equals ``sklearn.linear_model.Ridge`` fitted k times. Cost: QR and SVD once, then O(d² t) for each λ.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.ridge_path(jnp.eye(4), jnp.ones(4), [0.0, 1.0], intercept=False)
    >>> print(path.dof, path.at(3.0).coef)
    [4. 2.] [0.25 0.25 0.25 0.25]
    """
    data, terms = checked(X, y, **problem)
    return _ridge_path(data, as_lams(lams, data.y), terms, solver)


def ridge_cv(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    rule: Callable[..., Array] = select.loo,
    pick: Callable[..., Array] = select.lowest,
    per_target: bool = False,
    refine: bool = False,
    solver: Solver = from_design,
    memory: int = plan.MEMORY,
    **problem: Unpack[Problem],
) -> Choice:
    """Ridge regression at the λ that a rule takes: leave-one-out by default, without refitting anything.

    Args beyond those of `ridge_path`:
        rule: ``select.loo``, ``select.gcv``, ``select.kfold(5)``, ``select.holdout(X, y)``, or any function
            ``(design, spectrum, lam) -> (t,)`` of which less is better.
        pick: ``select.lowest``, or ``select.one_standard_error`` for the largest λ that is as good up to noise.
        per_target: a λ for each column of y instead of one for all (by their mean score).
        refine: move on from the best grid point to the optimum between its neighbours. ``choice.lam`` then has
            the derivatives of that optimum, by the implicit function theorem.
        memory: bytes that the scores may use at a time.

    Returns a `Choice`. Coefficients are formed for the chosen λ only.
    Equals ``sklearn.linear_model.RidgeCV(alphas=lams)``. Golub, Heath and Wahba (1979), Technometrics 21, 215.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)
    >>> X = jnp.stack([x, x**2, x**3], axis=1)
    >>> choice = jxr.ridge_cv(X, x + 0.1 * jnp.cos(9 * x), [1e-3, 1e-1, 1e1])
    >>> print(choice.lam, choice.at_edge)
    0.1 False
    """
    data, terms = checked(X, y, **problem)
    lams = as_lams(lams, data.y)
    if lams is not None and lams.ndim == 2 and not per_target:
        raise ValueError("lams has a grid for each target; pass per_target=True, or a grid of shape (k,).")
    return _ridge_cv(data, lams, rule, terms, pick, per_target, refine, solver, memory)


def ridge_ball(X: Any, y: Any, radius: Any, **problem: Unpack[Problem]) -> Fit:
    """Least squares inside a ball: min ‖y − Xw − b‖² subject to ‖w‖ <= radius.

    The multiplier λ comes back as ``fit.lam``, one for each target; it is 0 where the least-squares solution
    of minimum norm lies inside. The norm is that of the penalised coordinates, (Σⱼ pⱼ wⱼ²)^½ with p the
    penalties, which ``standardize`` multiplies by the variances; unpenalised columns do not count.

    Args: as for `ridge`, with radius >= 0 a scalar or (t,). Derivatives flow through radius and data.
    Equals the solution of the secular equation ‖w(λ)‖ = radius; Gander (1981), Numer. Math. 36, 291.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.ridge_ball(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0, intercept=False)
    >>> print(fit.coef.round(5), fit.lam.round(4))
    [0.6 0.8] 4.0
    """
    data, terms = checked(X, y, **problem)
    return _ridge_norm(data, as_lam(radius, data.y, terms, "radius"), terms, False)


def ridge_fraction(X: Any, y: Any, fraction: Any, **problem: Unpack[Problem]) -> Fit:
    """Ridge at a given fraction of the least-squares norm: ‖w(λ)‖ = fraction · ‖w(0)‖, λ as ``fit.lam``.

    Args: as for `ridge_ball`, with fraction in [0, 1]: 1 is least squares (λ = 0), 0 is w = 0 (λ = ∞).
    Equals ``fracridge.fracridge``; Rokem and Kay (2020), GigaScience 9, giaa133.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.ridge_fraction(jnp.eye(2), jnp.array([3.0, 4.0]), 0.5, intercept=False)
    >>> print(fit.coef.round(5), fit.lam.round(4))
    [1.5 2. ] 1.0
    """
    data, terms = checked(X, y, **problem)
    return _ridge_norm(data, as_lam(fraction, data.y, terms, "fraction"), terms, True)


def as_lam(lam: Any, y: Array, terms: Terms, name: str = "lam") -> Array:
    """A scalar, or one number for each target, in the dtype of the data."""
    lam = as_floats(name, lam, (0, 1)).astype(y.dtype)
    if lam.ndim == 1 and (terms.single or lam.shape != y.shape[1:]):
        hint = "for a grid use ridge_path" if name == "lam" else "one number for each target"
        raise ValueError(f"{name} has shape {lam.shape}; a scalar is needed, or (t,) for t targets; {hint}.")
    return lam


def as_lams(lams: Any, y: Array) -> Array | None:
    """A grid (k,), or (k, t)."""
    if lams is None:
        return None
    lams = as_floats("lams", lams, (1, 2)).astype(y.dtype)
    if lams.shape[0] == 0:
        raise ValueError("lams is empty; pass at least one lambda, or None for a grid from the data.")
    if lams.ndim == 2 and lams.shape[1] != y.shape[1]:
        raise ValueError(f"lams has shape {lams.shape}; a grid per target needs (k, {y.shape[1]}), a common one (k,).")
    return lams


def _predict(X: Any, coef: Array, intercept: Array) -> Array:
    X = as_floats("X", X, (2,))
    if X.shape[1] != coef.shape[0]:
        raise ValueError(f"X has {X.shape[1]} columns and the model was fitted on {coef.shape[0]}; pass the same ones.")
    dtype = np.promote_types(X.dtype, coef.dtype)
    product = matmul(X.astype(dtype), coef.astype(dtype))
    return product + jnp.broadcast_to(intercept.astype(dtype), product.shape)


def squeeze(terms: Terms, x: Any) -> Any:
    """Drop the axis of targets where y had none."""
    return jax.tree.map(lambda leaf: leaf[..., 0], x) if terms.single else x


def _fit(spectrum: Any, lam: Array) -> Fit:
    """The model at one λ of a factored problem."""
    terms = spectrum.design.terms
    coef, intercept = spectrum.design.split(spectrum.coef(lam))
    rss, result = squeeze(terms, (spectrum.rss(lam), spectrum.result(lam)))
    return Fit(coef, intercept, lam, spectrum.dof_or_nan(lam), rss, result)


_fit_at = jax.jit(_fit)


def _factored(data: Data, terms: Terms, solver: Any) -> Any:
    solver = as_function("solver", solver, "spectrum.from_design, spectrum.from_gram or spectrum.from_cholesky")
    return solver(design_of(data, terms))


@partial(jax.jit, static_argnames=("terms", "solver"))
def _ridge(data: Data, lam: Array, terms: Terms, solver: Solver) -> Fit:
    return _fit(_factored(data, terms, solver), lam)


@partial(jax.jit, static_argnames=("terms", "solver"))
def _ridge_path(data: Data, lams: Array | None, terms: Terms, solver: Solver) -> Path:
    if solver is from_gram and lams is not None and plan.gram(lams.shape[0]).route == "cholesky":
        solver = from_cholesky
    spectrum = _factored(data, terms, solver)
    lams = select.grid(spectrum) if lams is None else lams
    fits = jax.vmap(partial(_fit, spectrum))(lams)
    return Path(lams, fits.coef, fits.intercept, fits.dof, fits.rss, fits.result, spectrum.without_rows())


@eqx.filter_jit
def _ridge_cv(
    data: Data,
    lams: Array | None,
    rule: Any,
    terms: Terms,
    pick: Any,
    per_target: bool,
    refine: bool,
    solver: Solver,
    memory: int,
) -> Choice:
    spectrum = _factored(data, terms, solver)
    lams = select.grid(spectrum) if lams is None else lams
    found = select.search(rule, spectrum, lams, pick, per_target, refine, memory, terms.single)
    return Choice(*found, _fit(spectrum, found.lam))


@partial(jax.jit, static_argnames=("terms", "relative"))
def _ridge_norm(data: Data, size: Array, terms: Terms, relative: bool) -> Fit:
    """The fit whose penalised norm is ``size``, or ``size`` times the norm at λ = 0, for each target."""
    spectrum = from_design(design_of(data, terms))
    valid = (size >= 0) & (size <= 1) if relative else size >= 0
    size = jnp.broadcast_to(poison(size, valid), data.y.shape[1:])
    lam = lam_of_norm(spectrum, size * spectrum.norm(jnp.zeros_like(size)) if relative else size)
    fit = _fit(spectrum, lam)
    result = override(RESULTS.invalid_radius, ~jnp.broadcast_to(valid, size.shape), spectrum.result(lam))
    lam, dof, result = squeeze(terms, (lam, fit.dof, result))
    return eqx.tree_at(lambda f: (f.lam, f.dof, f.result), fit, (lam, dof, result))
