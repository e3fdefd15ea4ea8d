"""Ridge with a λ for each band of columns, and for each target: min ‖y − Xw − b‖² + Σ_g λ_g‖w_g‖².

Bands may be off (λ_g = ∞) or free (λ_g = 0). A search finds the λs of every target: by evidence, by descent on held-out
rows from there, or at random, which is what others do. One λ for all bands, times a number for each of them, is what
`jaxridge.ridge` does with ``penalty``, from one factorisation; here each target has a Cholesky factorisation at a step.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from jaxridge.core.checks import as_floats, names_of
from jaxridge.core.factored import Model
from jaxridge.core.implicit import map_with_rules, without_derivatives
from jaxridge.core.numbers import exponent, inner, matmul, poison, power_of_two, safe_divide
from jaxridge.core.results import RESULTS, first_failure, override
from jaxridge.core.types import Array, Bool, Float
from jaxridge.core.verbs import verb
from jaxridge.linear import rounding
from jaxridge.linear.bands import Columns, Rows, System, inverses, scales
from jaxridge.linear.cholesky import least_eigenvalue
from jaxridge.linear.design import Data, Design, Options, Terms, checked, design_of
from jaxridge.linear.fit import in_order, predict
from jaxridge.linear.searches import Search, evidence

__all__ = ["BandedFit", "ridge_banded", "ridge_banded_cv"]


NO_DERIVATIVES = (
    "ridge_banded_cv has no derivatives: pass the lams that it found to jaxridge.ridge_banded for those of the fit."
)


class Bands(NamedTuple):
    """Which columns belong together: a number for each column, and a label for each number."""

    of_columns: tuple[int, ...]
    labels: tuple[Any, ...]

    def matrix(self, dtype: Any) -> Float[Array, "d G"]:
        """1 where a column belongs to a band."""
        return jax.nn.one_hot(jnp.array(self.of_columns, int), len(self.labels), dtype=dtype)


class BandedFit(Model):
    """A linear model with a λ for each band: ``predict(X) = X @ coef + intercept``.

    ``coef`` (d,) or (d, t), ``intercept`` () or (t,), ``lams`` (G,) or (G, t) in the order of ``bands.labels``, ``rss``
    and ``result``; ``score_found`` what a search made least, or None.
    """

    coef: Float[Array, "d *t"]
    intercept: Float[Array, "*t"]
    lams: Float[Array, "G *t"]
    rss: Float[Array, "*t"]
    result: Any
    bands: Bands = eqx.field(static=True, repr=False)
    score_found: Float[Array, "*t"] | None = None
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    @verb()
    def predict(self, X: Any) -> Float[Array, "n *t"]:
        """Predictions (n,) or (n, t) for new rows (n, d)."""
        return predict("X", X, self.coef, self.intercept, self.names)

    def predict_bands(self, X: Any) -> Float[Array, "G n *t"]:
        """What each band adds to them: the sum over bands is ``predict(X) - intercept``."""
        X = in_order("X", X, self.names).astype(self.coef.dtype)
        parts = self.bands.matrix(X.dtype)
        flat = self.coef.reshape(self.coef.shape[0], -1)
        out = jax.vmap(lambda part: matmul(X, part[:, None] * flat), 1)(parts)
        return out.reshape(out.shape[0], X.shape[0], *self.coef.shape[1:])

    def score_bands(self, X: Any, y: Any) -> Float[Array, "G *t"]:
        """R² split by band, (G,) or (G, t): the parts add up to ``score(X, y)``.

        With y less its intercept, part g is Σᵢ ŷ_g(2y − ŷ)/Σ(y − ȳ)², and each has an equal share of what the intercept
        leaves of the mean. Equals ``himalaya.scoring.r2_score_split`` where that is 0.
        """
        y = as_floats("y", y, (1, 2)).astype(self.coef.dtype)
        parts = self.predict_bands(X)
        if y.shape != parts.shape[1:]:
            raise ValueError(f"y has shape {y.shape} and the predictions {parts.shape[1:]}; pass targets of the rows.")
        y = y - self.intercept[None]
        total, variation = jnp.sum(parts, axis=0), jnp.sum(jnp.square(y - jnp.mean(y, axis=0)[None]), axis=0)
        offset = variation - jnp.sum(jnp.square(y), axis=0)
        gained = jnp.sum(parts * (2.0 * y - total)[None], axis=1) + (offset / parts.shape[0])[None]
        return safe_divide(gained, jnp.broadcast_to(variation, gained.shape))

    def norms(self) -> Float[Array, "G *t"]:
        """‖w_g‖ of each band."""
        squares = jnp.square(self.coef).reshape(self.coef.shape[0], -1)
        norms = jnp.sqrt(matmul(self.bands.matrix(squares.dtype).T, squares))
        return norms.reshape(-1, *self.coef.shape[1:])


@verb(checked)
def ridge_banded(X: Any, y: Any, lams: Any, *, groups: Any, **problem: Unpack[Options]) -> BandedFit:
    """Ridge regression with a λ for each band of columns, for all targets or for each.

    min over w, b of ‖y − Xw − b‖² + Σ_g λ_g‖w_g‖², by a Cholesky factorisation for each set of λs, in columns or
    in rows by shape: right to the condition of X squared.

    Args:
        X, y: those of `jaxridge.ridge`.
        lams: (G,), or (G, t) for a set of λs for each target; 0 is a free band, ∞ one that is off. In the order of the
            labels, as they first come.
        groups: (d,) labels of the columns, or a dict of labels with slices or column numbers.
        problem: ``intercept``, ``standardize``, ``weights``, ``penalty`` as for `jaxridge.ridge`.

    Returns a `BandedFit`. ``unresolved`` where rounding may change coefficients by a twentieth, as for λ = 0 on
    dependent columns; with fewer rows than columns λs must be positive (``lam_not_positive``). Derivatives of every
    order in X, y, λs, weights and penalty. Equals ``himalaya.ridge.GroupRidge`` at its ``deltas`` = −log λ.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> X = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> print(jxr.ridge_banded(X, X @ jnp.array([1.0, 1.0]), [2.0, jnp.inf], groups=["a", "b"]).coef)
    [0.5 0. ]
    """
    data, terms, bands = _checked(X, y, groups, problem)
    lams = _as_lams(lams, data, terms, bands)
    fit = _banded(data, lams, terms, bands)
    return fit.with_names(names_of(X))


@verb(checked)
def ridge_banded_cv(
    X: Any, y: Any, *, groups: Any, search: Search = evidence(), **problem: Unpack[Options]
) -> BandedFit:
    """`ridge_banded` with the λs of every band and target that a search finds.

    Args:
        X, y, groups, problem: those of `ridge_banded`.
        search: ``searches.evidence()``, ``searches.descent()`` or ``searches.random_search(key, lams)``.

    Returns a `BandedFit` with the λs (G,) or (G, t) as ``lams``, and ``score_found`` () or (t,), lower is better: −2
    log evidence up to a constant, or the mean squared error on held-out rows in units of y's power of two.
    ``bands_off`` where some bands explain nothing, so that their λ is ∞. Derivatives raise ValueError: those of a fit
    are `ridge_banded`'s at its ``lams``.
    Equals what ``himalaya.ridge.GroupRidgeCV`` approximates by random draws.

    >>> import jax, jax.numpy as jnp, jaxridge as jxr
    >>> X = jax.random.normal(jax.random.key(0), (40, 6))
    >>> y = X[:, 0] + 0.1 * X[:, 1] + 0.1 * jax.random.normal(jax.random.key(1), (40,))
    >>> fit = jxr.ridge_banded_cv(X, y, groups={"one": [0], "two": [1], "rest": slice(2, 6)})
    >>> print(bool(fit.lams[0] < fit.lams[1] < fit.lams[2]))
    True
    """
    data, terms, bands = _checked(X, y, groups, problem)
    return _banded_cv(data, search, terms, bands).with_names(names_of(X))


def bands_of(groups: Any, d: int) -> Bands:
    """Labels of columns, or a dict of columns for each label, as `Bands`."""
    if isinstance(groups, Mapping):
        owner = np.full(d, -1)
        for number, (label, columns) in enumerate(groups.items()):
            if not isinstance(columns, slice):
                columns = np.atleast_1d(columns)
                columns = columns.astype(int) if columns.size == 0 else columns
            index = np.arange(d)[columns]
            if index.size == 0:
                raise ValueError(f"groups: band {label!r} has no columns; leave it out.")
            if np.any(owner[index] >= 0):
                raise ValueError(f"groups: column {index[owner[index] >= 0][0]} belongs to two bands; name it once.")
            owner[index] = number
        if np.any(owner < 0):
            raise ValueError(f"groups: column {np.flatnonzero(owner < 0)[0]} belongs to no band; name every column.")
        return Bands(tuple(owner.tolist()), tuple(groups))
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(labels) != d:
        raise ValueError(f"groups has {len(labels)} labels and X {d} columns; pass one for each column, or a dict.")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return Bands(tuple(numbers[label] for label in labels), tuple(numbers))


def _checked(X: Any, y: Any, groups: Any, problem: Any) -> tuple[Data, Terms, Bands]:
    if problem.get("unpenalized", ()) != ():
        raise ValueError("unpenalized: give these columns a band of their own, with lam 0.")
    data, terms = checked(X, y, **problem)
    return data, terms, bands_of(groups, data.X.shape[1])


def _as_lams(lams: Any, data: Data, terms: Terms, bands: Bands) -> Float[Array, "G *t"]:
    lams, count = as_floats("lams", lams, (1, 2)).astype(data.y.dtype), len(bands.labels)
    one_each = (count,) if terms.single else (count, data.y.shape[1])
    if lams.shape not in ((count,), one_each):
        wanted = f"({count},)" if terms.single else f"({count},) or {one_each}"
        raise ValueError(f"lams has shape {lams.shape}; a number for each of {count} bands is needed: {wanted}.")
    return lams


class Prepared(NamedTuple):
    """X and y about their means, weighted, in powers of two, and the way back."""

    X: Float[Array, "n d"]
    y: Float[Array, "n t"]
    mean: Float[Array, " d"]
    y_mean: Float[Array, " t"]
    unit: Float[Array, " d"]  # w = unit · ŵ · y_scale, λ' = λ scale²
    scale: Array
    y_scale: Float[Array, " t"]
    ones: Float[Array, " n"] | None

    def back(self, w: Float[Array, "d t"]) -> tuple[Array, Array]:
        """Coefficients and intercepts in the user's units."""
        coef = self.unit[:, None] * w * self.y_scale[None, :]
        return coef, self.y_mean - matmul(self.mean, coef)


def prepared(problem: Design) -> Prepared:
    """Live; its scales are constants."""
    X, y, dtype = problem.X, problem.y, problem.X.dtype
    mean, y_mean = (problem.mean(M) if problem.intercept else jnp.zeros(M.shape[1], dtype) for M in (X, y))
    X, y = X - mean[None, :], y - y_mean[None, :]
    root = None
    if (weights := problem.weights) is not None:
        root = jnp.where(weights > 0, jnp.sqrt(jnp.where(weights > 0, weights, 1.0)), 0.0)
        X, y = root[:, None] * X, root[:, None] * y
    shrink = 1.0 / jnp.sqrt(problem.penalty)
    largest = jnp.max(jnp.max(jnp.abs(jax.lax.stop_gradient(X)), axis=0, initial=0.0) * shrink, initial=0.0)
    scale = power_of_two(-exponent(jax.lax.stop_gradient(largest)), dtype)
    unit = shrink * scale
    y_scale = power_of_two(exponent(jnp.max(jnp.abs(jax.lax.stop_gradient(y)), axis=0)), dtype)
    ones = None
    if problem.intercept:
        ones = jnp.ones(X.shape[0], dtype) if root is None else root
    return Prepared(X * unit[None, :], y / y_scale[None, :], mean, y_mean, unit, scale, y_scale, ones)


def _system(form: Prepared, bands: Bands) -> System:
    """By shape, under ``stop_gradient``."""
    X = jax.lax.stop_gradient(form.X)
    member = bands.matrix(X.dtype)
    if X.shape[0] > X.shape[1]:
        return Columns(X, inner(X, X), member)
    return Rows(jax.lax.map(lambda part: matmul(X * part[None, :], X.T), member.T))


def _solve(
    X: Float[Array, "n d"], y: Float[Array, "n c"], lam: Float[Array, " G"], member: Float[Array, "d G"]
) -> tuple[Float[Array, "d c"], Bool[Array, " c"]]:
    """Coefficients for one set of λs, live by the equation that defines them, and whether rounding may lose them."""
    still = jax.lax.stop_gradient
    n, d = X.shape
    length = jnp.linalg.norm(still(y), axis=0)
    if n > d:
        s, e = (matmul(member, x) for x in scales(lam))
        H = still(s)[:, None] * inner(still(X), still(X)) * still(s)[None, :] + jnp.diag(still(e))
        L = jnp.linalg.cholesky(H, symmetrize_input=False)
        product = lambda u: s[:, None] * matmul(X.T, matmul(X, s[:, None] * u)) + e[:, None] * u  # noqa: E731
        right = s[:, None] * matmul(X.T, y)
        u = jax.lax.custom_linear_solve(product, right, lambda _, b: cho_solve((L, True), b), symmetric=True)
        D = jnp.linalg.norm(L, axis=1)
        half = safe_divide(L, jnp.broadcast_to(D[:, None], L.shape))
        size = jnp.linalg.norm(D[:, None] * still(u), axis=0)
        growth = rounding.of_tall_gram(jnp.linalg.norm(half), least_eigenvalue(half), length, size)
        w = s[:, None] * u
    else:
        v = matmul(member, inverses(lam))
        A = matmul(still(X) * still(v)[None, :], still(X).T) + jnp.eye(n, dtype=X.dtype)
        L = jnp.linalg.cholesky(A, symmetrize_input=False)
        product = lambda a: matmul(X, v[:, None] * matmul(X.T, a)) + a  # noqa: E731
        alpha = jax.lax.custom_linear_solve(product, y, lambda _, b: cho_solve((L, True), b), symmetric=True)
        w = v[:, None] * matmul(X.T, alpha)
        largest = jnp.sqrt(jnp.linalg.norm(A))
        size = jnp.linalg.norm(jnp.sqrt(still(v))[:, None] * matmul(still(X).T, still(alpha)), axis=0)
        growth = rounding.of_wide_gram(largest, jnp.ones((), X.dtype), jnp.linalg.norm(still(alpha), axis=0), size)
    lost = (rounding.cholesky_unit(X.shape, X.dtype) * growth > rounding.LOST) & (length > 0)
    return w, lost


@partial(jax.jit, static_argnames=("terms", "bands"))
def _banded(data: Data, lams: Float[Array, "G *t"], terms: Terms, bands: Bands) -> BandedFit:
    problem = design_of(data, terms)
    return _fit(problem, prepared(problem), lams, bands)


def _fit(problem: Design, form: Prepared, lams: Float[Array, "G *t"], bands: Bands) -> BandedFit:
    member, t, wide = bands.matrix(form.X.dtype), form.y.shape[1], form.X.shape[0] <= form.X.shape[1]
    damping = poison(lams, lams >= 0) * form.scale * form.scale
    if lams.ndim == 1 or t == 1:
        w, lost = _solve(form.X, form.y, damping.reshape(lams.shape[0]), member)
    else:
        one = lambda each: _solve(form.X, each[1][:, None], each[0], member)  # noqa: E731
        w, lost = _each_target(one, (damping.T, form.y.T))
    coef, intercept = form.back(w)
    rss = jnp.sum(problem.weigh(jnp.square(problem.y - matmul(problem.X, coef) - intercept[None, :])), axis=0)
    columns = jnp.broadcast_to(lams.reshape(lams.shape[0], -1), (lams.shape[0], t))
    checks = _checks(problem)
    positive = jnp.all(columns > 0, axis=0) if wide else jnp.array(True)
    result = first_failure(
        *checks,
        (~jnp.all(columns >= 0, axis=0), RESULTS.invalid_lam),
        (~positive, RESULTS.lam_not_positive),
        (lost | ~jnp.all(jnp.isfinite(coef), axis=0), RESULTS.unresolved),
        shape=(t,),
    )
    coef, intercept, rss, result = problem.squeeze((coef, intercept, rss, result))
    lams = problem.squeeze(columns)
    return BandedFit(coef, intercept, lams, rss, result, bands)


def _each_target(fn: Callable[[Any], Any], xs: Any) -> Any:
    """``fn`` of every target, one after another: a batch of small triangular solves costs thirty times as much."""
    w, lost = map_with_rules(fn, xs)
    return w[:, :, 0].T, lost[:, 0]


def _checks(problem: Design) -> tuple[tuple[Array, Any], ...]:
    weights, finite = problem.weights, jnp.all(jnp.isfinite(problem.X)) & jnp.all(jnp.isfinite(problem.penalty))
    good = jnp.array(True) if weights is None else jnp.all(weights >= 0) & jnp.any(weights > 0)
    return (
        (~(finite & jnp.all(jnp.isfinite(problem.y), axis=0)), RESULTS.nonfinite_input),
        (~good, RESULTS.invalid_weights),
        (~jnp.all(problem.penalty > 0), RESULTS.invalid_penalty),
    )


@eqx.filter_jit
def _banded_cv(data: Data, search: Search, terms: Terms, bands: Bands) -> BandedFit:
    data = without_derivatives(data, NO_DERIVATIVES)
    problem = design_of(data, terms)
    form = prepared(problem)
    count = jnp.asarray(problem.rows() - problem.free, form.y.dtype)
    usable = jnp.isfinite(form.X).all() & jnp.all(jnp.isfinite(form.y), axis=0)
    y = jnp.where(usable[None, :], form.y, 0.0)
    found = search.find(_system(form, bands), y, count, form.ones)
    lams = jnp.where(usable[None, :], found.lams / form.scale / form.scale, jnp.nan)
    fit = _fit(problem, form, lams[:, 0] if terms.single else lams, bands)
    score, off = problem.squeeze((found.score, jnp.any(jnp.isinf(lams), axis=0)))
    off &= fit.result == RESULTS.successful
    result = override(RESULTS.bands_off, off, fit.result)
    return eqx.tree_at(lambda f: (f.result, f.score_found), fit, (result, score), is_leaf=lambda x: x is None)
