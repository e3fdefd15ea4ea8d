"""Rows a batch at a time: sums that stand for all of them, and with them every λ of the exact path.

`init`, `update` and `merge` gather rows (a monoid, so that shards merge in any order). `path` and `choose` answer from
them what `ridge_path` and `ridge_cv` answer from all rows at once, and `finish` makes a `Spectrum`: coefficients,
residual norms, degrees of freedom, GCV, evidence, and k-fold where rows were dealt to folds. `collect` gathers features
of points, φ(x), that are never all in memory. What needs the rows themselves goes over them once more: `coefficients`
for derivatives in the features, `leave_one_out` for the score.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import select
from jaxridge.core.checks import as_flag, as_lams
from jaxridge.core.implicit import first_order_only, linear_root
from jaxridge.core.numbers import filled, matmul, safe_divide
from jaxridge.core.rows import blocks, count, map_rows, sum_rows
from jaxridge.core.types import Array, Float
from jaxridge.linear import accumulator, host
from jaxridge.linear.accumulator import Rows
from jaxridge.linear.carrier import damping_of, projected, projected_back, unfiltered, within
from jaxridge.linear.held_out import held_out
from jaxridge.linear.host import on_device
from jaxridge.linear.spectrum import Spectrum
from jaxridge.select.choice import Choice, Path
from jaxridge.select.rules import KFold

__all__ = [
    "Rows",
    "choose",
    "coefficients",
    "collect",
    "finish",
    "init",
    "leave_one_out",
    "leverage",
    "merge",
    "path",
    "update",
]

Features = Callable[[Any], Float[Array, "n d"]]


def init(
    features: int,
    targets: int | None = None,
    *,
    intercept: bool = True,
    dtype: Any = None,
    gram: bool | None = None,
    folds: int = 0,
    on_host: bool = False,
) -> Rows:
    """No rows yet, of that many features and targets.

    Args:
        targets: t for y (n, t); None for y (n,), and answers without an axis of targets.
        dtype: of the rows; JAX's default float if it is None.
        gram: keep the Gram matrix, and not the triangle. None does so for float32 rows where float64 can be had (x64,
            or the host), and the spectrum is then in float64.
        folds: deal rows to that many folds in turn, the i-th to fold i mod folds, for `select.kfold`; 0 for none.
        on_host: keep sums in NumPy's float64, whether x64 is on or not, and add them by its BLAS: for rows that come
            as NumPy arrays, outside of ``jit`` and without derivatives.

    >>> import jax.numpy as jnp
    >>> from jaxridge import stream
    >>> rows = stream.update(stream.init(1, 1), jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0]))
    >>> print(stream.finish(rows).coef(jnp.array(2.0))[:, 0].round(4))
    [1. 2.]
    """
    kind = {
        "intercept": as_flag("intercept", intercept),
        "dtype": dtype or jnp.result_type(float),
        "gram": gram,
        "folds": folds,
    }
    return (host if on_host else accumulator).init(features, targets, **kind)


def update(rows: Rows, X: Float[Array, "n d"], y: Float[Array, "n *t"], weights: Array | None = None) -> Rows:
    """Add rows: features (n, d), targets (n,) or (n, t), weights (n,) as for `jaxridge.ridge`; n may be 0.

    A triangle by QR of the old one on top of the new rows: 2(n + p)p² flops for p = d + t + 1, so batches of a few p
    rows or more cost little beyond one QR of everything. A Gram matrix np² flops.
    """
    fits = X.ndim == 2 and X.shape == (y.shape[0], rows.features) and y.size == y.shape[0] * rows.targets
    if not fits or y.ndim > 2:
        raise ValueError(
            f"X has shape {X.shape} and y {y.shape}; these rows have {rows.features} features and {rows.targets} "
            "targets."
        )
    if X.shape[0] == 0:
        return rows
    if not _on_host(rows):
        return accumulator.update(rows, X, y.reshape(X.shape[0], -1), weights)
    omega: Any = None if weights is None else np.where(np.asarray(weights) >= 0, np.asarray(weights), np.nan)
    return host.update(rows, np.asarray(X), np.asarray(y), omega)


def merge(a: Rows, b: Rows) -> Rows:
    """The rows of both, fold by fold."""
    if not accumulator.alike(a, b):
        raise ValueError("merge needs rows of the same features, targets, intercept, folds and form; init both alike.")
    return (host if _on_host(a) and _on_host(b) else accumulator).merge(a, b)


def finish(rows: Rows, penalty: Any = None, *, unpenalized: Any = (), standardize: bool = False) -> Spectrum:
    """The spectrum of all rows, without leverages; ``penalty`` (d,) and the others as for `jaxridge.ridge`.

    Its coefficients are those of the features with a penalty and then of the others, the intercept first;
    ``spectrum.problem.split`` puts them into the order of the columns.
    Equals ``from_design`` of the rows. Derivatives in rows go through `update`, and for the features need columns that
    are linearly independent (with a Gram matrix they are NaN else); `coefficients` has no such limit.
    """
    return accumulator.finish(on_device(rows), penalty, unpenalized=unpenalized, standardize=standardize)


def moments(rows: Rows) -> tuple[float, np.ndarray]:
    """Σω, and the weighted variance of every feature and target, in NumPy; 0 for a column that is constant."""
    sums = host.whole(jax.tree.map(np.asarray, rows))
    return host.moments(sums)


def _on_host(rows: Rows) -> bool:
    return isinstance(rows.summed, np.ndarray)


def path(
    rows: Rows, lams: Any = None, *, penalty: Any = None, unpenalized: Any = (), standardize: bool = False
) -> Path:
    """Ridge regression on streamed rows at every λ of a grid: `jaxridge.ridge_path`, from sums alone.

    Args are those of `jaxridge.ridge_path`; the intercept and weights are those of `init` and `update`.

    >>> import jax.numpy as jnp
    >>> from jaxridge import stream
    >>> rows = stream.update(stream.init(1), jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0]))
    >>> print(stream.path(rows, [0.0, 2.0]).coef[:, 0].round(4))
    [2. 1.]
    """
    rows = on_device(rows)
    return _path(rows, _grid(rows, lams), penalty, unpenalized, standardize)


def choose(
    rows: Rows,
    lams: Any = None,
    *,
    rule: Callable[..., Array] = select.gcv,
    pick: Callable[..., Array] = select.lowest,
    per_target: bool = False,
    refine: bool = False,
    penalty: Any = None,
    unpenalized: Any = (),
    standardize: bool = False,
) -> Choice:
    """Ridge regression on streamed rows at the λ that a rule takes: `jaxridge.ridge_cv`, from sums alone.

    Args beyond those of `path` are those of `jaxridge.ridge_cv`.
        rule: ``select.gcv``, ``select.evidence``, ``select.holdout(X, y)``, another that needs no leverages, or
            ``select.kfold(folds)`` for rows that `init` deals to that many folds: i mod folds, for the i-th row.

    >>> import jax.numpy as jnp
    >>> from jaxridge import select, stream
    >>> x = jnp.arange(6.0)
    >>> rows = stream.update(stream.init(1, folds=3), x[:, None], 2 * x)
    >>> print(stream.choose(rows, [0.0, 1.0], rule=select.kfold(3)).lam)
    0.0
    """
    rows = on_device(rows)
    lams = _grid(rows, lams)
    if lams is not None and lams.ndim == 2 and not per_target:
        raise ValueError("lams has a grid for each target; pass per_target=True, or a grid of shape (k,).")
    terms = (penalty, unpenalized, standardize)
    return _choose(rows, lams, rule, pick, per_target, refine, *terms)


def _grid(rows: Rows, lams: Any) -> Array | None:
    return as_lams(lams, jnp.zeros((0, rows.targets), rows.summed.dtype))


@eqx.filter_jit
def _path(rows: Rows, lams: Array | None, penalty: Any, unpenalized: Any, standardize: bool) -> Path:
    factored = finish(rows, penalty, unpenalized=unpenalized, standardize=standardize)
    grid: Array = factored.default_grid() if lams is None else lams
    return Path(grid, factored.fits(grid), factored)


@eqx.filter_jit
def _choose(
    rows: Rows,
    lams: Array | None,
    rule: Any,
    pick: Any,
    per_target: bool,
    refine: bool,
    penalty: Any,
    unpenalized: Any,
    standardize: bool,
) -> Choice:
    factored = finish(rows, penalty, unpenalized=unpenalized, standardize=standardize)
    grid: Array = factored.default_grid() if lams is None else lams
    found = select.search(by_sums(rule, rows, factored), factored, grid, pick, per_target, refine)
    return Choice(*found, select.with_code(found, factored.fit(found.lam)))


def by_sums(rule: Any, rows: Rows, factored: Spectrum) -> Any:
    """The rule; k-fold by the folds that the rows were dealt to."""
    if not isinstance(rule, KFold):
        return rule
    if rule.key is not None or rule.given is not None or rule.loss is not jnp.square or rule.folds != rows.folds:
        raise ValueError(
            f"rule: rows that are streamed were dealt to {rows.folds} folds as they came; pass "
            "stream.init(..., folds=k) and select.kfold(k), without key, labels, splits or a loss of its own."
        )
    problem = factored.problem
    penalty, _ = problem.split(jnp.concatenate([problem.penalty, jnp.ones(problem.free, problem.y.dtype)])[:, None])
    return held_out(rows, penalty.reshape(-1), unpenalized=problem.terms.unpenalized)


@eqx.filter_jit
def collect(
    features: Features,
    points: Any,
    y: Float[Array, "n t"],
    *,
    intercept: bool = True,
    weights: Float[Array, " n"] | None = None,
    block: int = 4096,
) -> Rows:
    """All rows (φ(xᵢ), yᵢ) of a model that is linear in features, a block of points at a time.

    Args:
        features: points ↦ (n, d), row by row. points: a pytree with a leading axis n. y: (n, t). block: of points.
    """
    shape = jax.eval_shape(features, jax.tree.map(lambda x: x[:1], points))
    weights = filled(y.shape[:1], 1.0, y.dtype) if weights is None else weights
    split, present = blocks((points, y, weights), min(block, count(points)))

    def add(rows: Rows, batch: Any) -> tuple[Rows, None]:
        (points, y, weights), present = batch
        return update(rows, features(points), y, jnp.where(present, weights, 0.0)), None

    # In the dtype of the features: a model of them is in it too.
    empty = init(shape.shape[1], y.shape[1], intercept=intercept, dtype=shape.dtype, gram=False)
    return jax.lax.scan(jax.checkpoint(add), empty, (split, present))[0]


def _with_ones(spectrum: Spectrum, phi: Float[Array, "n d"]) -> Float[Array, "n a"]:
    """[φ 1], in the order of the coefficients: columns without a penalty last."""
    terms = spectrum.problem.terms
    free = np.array(terms.unpenalized, int)
    kept = phi[:, np.setdiff1d(np.arange(phi.shape[1]), free)] if len(free) else phi
    ones = jnp.ones((phi.shape[0], spectrum.problem.free - len(free)), phi.dtype)
    return jnp.concatenate([kept, ones, phi[:, free]], axis=1)


@eqx.filter_jit
def coefficients(
    spectrum: Spectrum,
    features: Features,
    points: Any,
    y: Float[Array, "n t"],
    lams: Float[Array, "k *t"],
    *,
    weights: Float[Array, " n"] | None = None,
    block: int = 4096,
) -> Float[Array, "k a t"]:
    """Coefficients of a collected model at every λ, with derivatives in all that ``features`` reads, y, λ and ω.

    The spectrum, that of `collect` for the same rows, gives the values. Derivatives of every order are those of
    Aᵀω(Aw − y) + λPw = 0, by passes over the rows; being normal equations they lose accuracy with the square of the
    condition number, where values do not.
    """
    frozen, penalty = jax.lax.stop_gradient(spectrum), spectrum.problem.padded_penalty()
    weights = filled(y.shape[:1], 1.0, y.dtype) if weights is None else weights
    values = jax.vmap(frozen.coef)(jax.lax.stop_gradient(lams))  # (k, a, t)
    (k, a, t), factor = values.shape, frozen.factor
    lam = jnp.broadcast_to(lams if lams.ndim == 2 else lams[:, None], (k, t)).reshape(-1)
    still = jax.lax.stop_gradient(lam)
    s, lam = unfiltered(factor, still), within(factor, lam)
    damping = damping_of(factor, within(factor, still))
    W = jnp.moveaxis(values, 1, 0).reshape(a, -1)

    def equation(W: Array) -> Array:
        def part(rows: Any, present: Array) -> Array:
            points, y, weights = rows
            A = _with_ones(spectrum, features(points))
            Y = jnp.broadcast_to(y[:, None, :], (y.shape[0], k, t)).reshape(-1, k * t)
            used = jnp.where(present, weights, 0.0)[:, None]
            return matmul(A.T, used * (matmul(A, projected(factor, still, W)) - Y))

        seen = projected_back(factor, still, sum_rows(part, (points, y, weights), block))
        return seen + lam[None, :] * (penalty * W)

    def solve(b: Array) -> Array:
        return factor.times(safe_divide(factor.transposed_times(b), jnp.square(s) + damping))

    return jnp.moveaxis(linear_root(equation, W, solve).reshape(a, k, t), 0, 1)


LEVERAGES = (
    "features or weights: leverages of a streamed model have derivatives in lam only, and its leave-one-out score in "
    "lam and y. Differentiate select.gcv, or the loss on rows kept apart through stream.coefficients."
)


def leverages_of(
    spectrum: Spectrum, lam: Float[Array, " c"], phi: Float[Array, "n d"], weights: Float[Array, " n"]
) -> Float[Array, "n c"]:
    """h = ω aᵀCa of rows a = [φ 1], C = T diag(1/(s² + λ'β)) Tᵀ: right in λ, and for the rows an error, not a part."""
    A = _with_ones(spectrum, phi)
    T, s = jax.lax.stop_gradient((spectrum.factor.T, spectrum.factor.s))
    damping = damping_of(spectrum.factor, lam)
    T, s, A, weights = first_order_only((T, s, A, weights), (A, weights), LEVERAGES)
    seen = safe_divide(jnp.ones_like(damping), jnp.square(s)[:, None] + damping)
    return weights[:, None] * matmul(jnp.square(matmul(A, T)), seen)


def leverage(
    spectrum: Spectrum,
    features: Features,
    points: Any,
    lam: Any,
    *,
    weights: Float[Array, " n"] | None = None,
    block: int = 4096,
) -> Float[Array, "n c"]:
    """Leverages hᵢ of a collected model at λ, or at each of c of them; a second pass over the rows."""
    return _leverage(spectrum, features, points, jnp.atleast_1d(lam), weights, block)


@eqx.filter_jit
def _leverage(
    spectrum: Spectrum, features: Features, points: Any, lam: Array, weights: Array | None, block: int
) -> Float[Array, "n c"]:
    weights = filled((count(points),), 1.0, lam.dtype) if weights is None else weights
    one = lambda rows: leverages_of(spectrum, lam, features(rows[0]), rows[1])  # noqa: E731
    return map_rows(one, (points, weights), block)


@eqx.filter_jit
def leave_one_out(
    spectrum: Spectrum,
    features: Features,
    points: Any,
    y: Float[Array, "n t"],
    lams: Float[Array, "k *t"],
    *,
    weights: Float[Array, " n"] | None = None,
    loss: Callable[[Array], Array] = jnp.square,
    block: int = 4096,
) -> Float[Array, "k t"]:
    """Mean leave-one-out loss of a collected model at every λ, Σω loss(rᵢ/(1 − hᵢ))/Σω; a second pass over the rows.

    Equals `select.leave_one_out` on the matrix of features, except that 1 − hᵢ is a difference here. Has
    derivatives in λ and y; a ``ValueError`` for others.
    """
    weights = filled(y.shape[:1], 1.0, y.dtype) if weights is None else weights
    total = leave_one_out_sum(spectrum, features, points, y, lams, weights=weights, loss=loss, block=block)
    return total / jnp.sum(weights)


@eqx.filter_jit
def leave_one_out_sum(
    spectrum: Spectrum,
    features: Features,
    points: Any,
    y: Float[Array, "n t"],
    lams: Float[Array, "k *t"],
    *,
    weights: Float[Array, " n"],
    loss: Callable[[Array], Array] = jnp.square,
    block: int = 4096,
) -> Float[Array, "k t"]:
    """Σω loss(rᵢ/(1 − hᵢ)) over some of the rows, for sources that give them a batch at a time."""
    w = jax.vmap(spectrum.coef)(lams)  # (k, a, t)
    k, a, t = w.shape

    def part(rows: Any, present: Array) -> Array:
        points, y, weights = rows
        phi = features(points)
        A, h = _with_ones(spectrum, phi), leverages_of(spectrum, lams.reshape(-1), phi, weights)
        h = h.reshape(y.shape[0], k, -1)
        r = y[:, None, :] - matmul(A, jnp.moveaxis(w, 1, 0).reshape(a, -1)).reshape(-1, k, t)
        used = jnp.where(present, weights, 0.0)
        return jnp.sum(used[:, None, None] * loss(r / jnp.broadcast_to(1.0 - h, r.shape)), axis=0)

    return sum_rows(part, (points, y, weights), block)
