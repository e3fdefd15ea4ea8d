"""Every public verb with its arrays, for the table of transforms.

A `Row` says what may be differentiated and which cells are refused, with the words of the refusal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import jaxridge as jxr
from jaxridge import features, inverse, kernel_methods, kernels, operators, optimize, select, spectrum, stream, training

ROWS: dict[str, dict[str, "Row"]] = {
    name: {} for name in ("linear", "kernel_methods", "inverse", "optimize", "training")
}
SECOND = "fwd rev, rev rev, scan fwd rev, scan rev rev"


@dataclass(frozen=True)
class Row:
    """A verb as a function of named arrays that gives arrays."""

    verb: str
    fn: Callable[..., Any]
    args: dict[str, Any]
    lam: str | None  # a grid of it is vmapped
    still: tuple[str, ...]  # what only chooses, and has no derivative
    flat: tuple[str, ...]  # derivatives that are 0
    rows: tuple[str, ...]  # arguments with an axis of observations in front
    bad: str | None  # where a NaN is put
    refused: dict[str, str] = field(default_factory=dict)
    rtol: float = 2e-6  # of derivatives, by differences
    same: float = 1e-8  # of one program and another
    forward: bool = True


def row(wing, name, verb, fn, args, *, lam="lam", rows=(), bad="", still=(), flat=(), refused=None, **more):
    lam = lam if lam in args else None
    bad = (rows[0] if rows else next(iter(args))) if bad == "" else bad
    assert name not in ROWS[wing], name
    ROWS[wing][name] = Row(verb, fn, args, lam, tuple(still), tuple(flat), tuple(rows), bad, refused or {}, **more)


def read(record, names):
    """The numbers of a record by name."""
    return tuple(attrgetter(name)(record) for name in names.split())


def data(n, d, seed):
    """Features, a target, weights, penalties: a problem in which rules have their optimum within `LAMS`."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 0.5
    y = X @ np.linspace(1.0, -1.0, d) + rng.standard_normal(n)
    return X, y, np.exp(0.3 * rng.standard_normal(n)), np.exp(0.3 * rng.standard_normal(d))


X, Y, W, P = data(16, 3, 14)
WIDE, WIDE_Y, WIDE_W, WIDE_P = data(8, 11, 3)
LAMS = np.logspace(-1.5, 2.5, 7)
LAM = np.array(0.7)


def linear():
    add = lambda name, verb, fn, args, **more: row(  # noqa: E731
        "linear", name, verb, fn, args, rows=[x for x in ("X", "y", "weights") if x in args], **more
    )
    both = {"X": X, "y": Y, "lam": LAM, "weights": W, "penalty": P}
    wide = {"X": WIDE, "y": WIDE_Y, "lam": LAM, "weights": WIDE_W, "penalty": WIDE_P}
    fit = "coef intercept rss"
    for name, args in {"tall": both, "wide": wide}.items():
        for kind in ("from_design", "from_gram", "from_cholesky"):
            solver = getattr(spectrum, kind)
            one = lambda X, y, lam, solver=solver, **more: read(  # noqa: E731
                jxr.ridge(X, y, lam, solver=solver, **more), fit
            )
            add(f"ridge {name} {kind}", "ridge", one, args)
    places = jnp.asarray(np.argwhere(np.abs(X) > 0.3))

    def products(data, y, lam, weights, penalty):
        X = BCOO((data, places), shape=(16, 3))
        solver = jxr.GolubKahan(tol=1e-11, budget=20)
        return read(jxr.ridge(X, y, lam, weights=weights, penalty=penalty, standardize=True, solver=solver), fit)

    entries = {
        "data": X[tuple(np.asarray(places).T)],
        **{name: both[name] for name in ("y", "lam", "weights", "penalty")},
    }
    add("ridge sparse", "ridge", products, entries)
    plain = {"X": X, "y": np.stack([Y, 0.5 * Y**2], 1), "lam": np.array([0.3, 2.0])}
    add(
        "ridge targets, standardize",
        "ridge",
        lambda X, y, lam: read(jxr.ridge(X, y, lam, standardize=True, unpenalized=1), fit),
        plain,
    )
    path = {"X": X, "y": Y, "lams": LAMS[1:4], "weights": W}
    grid = lambda X, y, lams, weights: read(jxr.ridge_path(X, y, lams, weights=weights), fit)  # noqa: E731
    add("ridge_path", "ridge_path", grid, path, lam="lams")
    add(
        "ridge_path at",
        "ridge_path",
        lambda X, y, lam, penalty: read(jxr.ridge_path(X, y, LAMS[:2], penalty=penalty).at(lam), fit),
        {"X": X, "y": Y, "lam": LAM, "penalty": P},
    )
    add(
        "ridge_path default",
        "ridge_path",
        lambda X, y: read(jxr.ridge_path(X, y), "coef"),
        {"X": X, "y": Y},
        rtol=1e-4,
        still=("X",),
        bad="y",
    )
    dof = lambda X, y, lam, weights, penalty: jxr.ridge(X, y, lam, weights=weights, penalty=penalty).dof  # noqa: E731
    # A by-product of the fit; `Spectrum.exact` has its second derivatives.
    add("ridge dof", "ridge", dof, both, flat=("y",), refused={"fwd rev, rev rev": "NaN for numbers"}, still=())

    def posterior(names, **options):
        def fn(X, y, lam=None, **more):
            found = jxr.ridge_posterior(X, y, lam, **options, **more)
            new = 1.1 * X[:3] + 0.2
            return *read(found, names), found.predict(new), found.variance(new), found.covariance_times(new[0])

        return fn

    add("ridge_posterior tall", "ridge_posterior", posterior("coef sd noise prior"), both)
    args = wide | {"noise": np.array(0.5)}
    add("ridge_posterior wide", "ridge_posterior", posterior("coef sd prior"), args)
    args = {"X": X, "y": Y, "weights": W}
    chosen = posterior("lam coef sd noise log_evidence")
    add("ridge_posterior evidence", "ridge_posterior", chosen, args, refused={SECOND: r"select\.exact"}, rtol=1e-5)

    def expected(coef, noise, lams):
        found = jxr.ridge_risk(WIDE.astype(coef.dtype), coef, noise, lams, penalty=WIDE_P)
        return read(found, "bias2 variance mse prediction_bias2 prediction_variance prediction_risk dof")

    args = {"coef": np.cos(np.arange(11.0)), "noise": np.array(0.5), "lams": LAMS[1:4]}
    row("linear", "ridge_risk", "ridge_risk", expected, args, lam="lams", bad="coef")

    def banded(X, y, lams, **more):
        found = jxr.ridge_banded(X, y, lams, groups=[j % 2 for j in range(X.shape[1])], **more)
        return *read(found, "coef intercept rss"), found.predict_bands(1.1 * X[:2])

    lams = np.array([0.4, 2.5])
    add("ridge_banded tall", "ridge_banded", banded, {"X": X, "y": Y, "lams": lams, "weights": W, "penalty": P})
    args = {"X": WIDE, "y": np.stack([WIDE_Y, WIDE_Y**2], 1), "lams": np.stack([lams, 1.3 * lams[::-1]], 1)}
    add("ridge_banded wide, targets", "ridge_banded", banded, args)
    score = lambda rule: lambda X, y, lam, weights: jxr.ridge_score(X, y, lam, rule=rule, weights=weights)  # noqa: E731
    once = {"X": X, "y": Y, "lam": LAM, "weights": W}
    twice = r"select\.exact"
    rules = {
        "loo": select.loo,
        "gcv": select.gcv,
        "evidence": select.evidence,
        "likelihood": select.marginal_likelihood(0.8),
        "predictive_risk": select.predictive_risk(0.8),
    }
    for name, rule in rules.items():
        add(f"ridge_score {name}", "ridge_score", score(rule), once, refused={SECOND: twice})
    rules = {
        "exact loo": select.exact(select.loo),
        "exact gcv": select.exact(select.gcv),
        "kfold": select.kfold(4),
        "quasi_optimality": select.quasi_optimality,
        "l_curve": select.l_curve,
        "discrepancy": select.discrepancy(0.5),
    }
    for name, rule in rules.items():
        add(f"ridge_score {name}", "ridge_score", score(rule), once)

    def held(X, y, lam, weights):
        return jxr.ridge_score(X, y, lam, weights=weights, rule=select.holdout(X[:3] + 0.3, y[:3]))

    add("ridge_score holdout", "ridge_score", held, once)
    labels = select.kfold(labels=[0, 1, 2, 3] * 4)
    cv = lambda rule, names, **options: (  # noqa: E731
        lambda X, y, lams, **more: read(jxr.ridge_cv(X, y, lams, rule=rule, **options, **more), names)
    )
    grid = {"X": X, "y": Y, "lams": LAMS, "weights": W}
    for name, rule in {"loo": select.loo, "gcv": select.gcv, "evidence": select.evidence}.items():
        # Scores come back beside the fit, whose second derivatives they must not stop.
        nothing = {"fwd rev, rev rev": "NaN for numbers"}
        add(f"ridge_cv {name}", "ridge_cv", cv(rule, "scores fit.coef"), grid, lam="lams", refused=nothing)
        # λ* is a root of the slope of the rule, whose derivative in X is its last one.
        refined = cv(rule, "lam fit.coef", refine=True)
        add(f"ridge_cv {name} refined", "ridge_cv", refined, grid, lam=None, still=("lams",), refused={SECOND: twice})
    add("ridge_cv coefficients", "ridge_cv", cv(select.loo, "fit.coef"), grid, lam="lams")
    add("ridge_cv kfold refined", "ridge_cv", cv(select.kfold(4), "lam", refine=True), grid, still=("lams",))
    add("ridge_cv labels", "ridge_cv", cv(labels, "scores fit.coef"), grid, lam="lams")
    targets = {"X": X, "y": np.stack([Y, Y + 0.4 * X[:, 0] ** 2], 1), "lams": LAMS}
    options = {"per_target": True, "refine": True}
    name = "ridge_cv evidence per target, refined"
    add(name, "ridge_cv", cv(select.evidence, "lam", **options), targets, still=("lams",), refused={SECOND: twice})

    def compared(X, y, lams, weights):
        return read(jxr.ridge_compare(X, y, {"loo": select.loo, "gcv": select.gcv}, lams, weights=weights), "lam coef")

    add("ridge_compare", "ridge_compare", compared, grid, still=("lams",), refused={SECOND: twice})
    size = {"X": X, "y": Y, "radius": np.array(0.5), "weights": W, "penalty": P}
    ball = lambda X, y, radius, **more: read(jxr.ridge_ball(X, y, radius, **more), fit + " lam")  # noqa: E731
    add("ridge_ball", "ridge_ball", ball, size, lam="radius")
    signed = lambda X, y, lam, **more: read(jxr.ridge_positive(X, y, lam, **more), fit)  # noqa: E731
    add("ridge_positive", "ridge_positive", signed, both)
    size = {"X": X, "y": Y, "fraction": np.array(0.4), "weights": W, "penalty": P}
    part = lambda X, y, fraction, **more: read(jxr.ridge_fraction(X, y, fraction, **more), fit + " lam")  # noqa: E731
    add("ridge_fraction", "ridge_fraction", part, size, lam="fraction")
    streams(add)
    sparse(add)


def sparse(add):
    both = {"X": X, "y": Y, "lam": np.array(9.0), "weights": W, "penalty": P}
    fit = "coef intercept rss"
    one = lambda X, y, lam, **more: read(jxr.lasso(X, y, lam, **more), fit)  # noqa: E731
    add("lasso", "lasso", one, both)
    add("lasso elastic net", "lasso", one, both | {"lam2": np.array(0.8)})
    wide = {"X": WIDE, "y": WIDE_Y, "lam": np.array(2.0), "weights": WIDE_W, "penalty": WIDE_P}
    add("lasso wide", "lasso", one, wide)
    path = {"X": X, "y": Y, "lams": np.array([3.0, 9.0]), "weights": W}
    grid = lambda X, y, lams, weights: read(jxr.lasso_path(X, y, lams, weights=weights), fit)  # noqa: E731
    add("lasso_path", "lasso_path", grid, path, lam="lams")
    ball = lambda X, y, radius, **more: read(jxr.lasso_ball(X, y, radius, **more), fit + " lam")  # noqa: E731
    size = {"X": X, "y": Y, "radius": np.array(1.1), "weights": W, "penalty": P}
    add("lasso_ball", "lasso_ball", ball, size, lam="radius")

    def chosen(X, y, lams, weights):
        return read(jxr.lasso_cv(X, y, lams, rule=select.kfold(4), weights=weights), "scores fit.coef")

    add("lasso_cv", "lasso_cv", chosen, path, lam="lams")


def streams(add):
    def finished(X, y, weights):
        # The Gram matrix of float32 rows, and what follows from it, would be in float64.
        empty = stream.init(3, 1, dtype=X.dtype, gram=False)
        rows = stream.update(empty, X[:8], y[:8], weights[:8])
        return stream.finish(stream.merge(rows, stream.update(empty, X[8:], y[8:], weights[8:])))

    smooth = lambda X, y, lam, weights: (  # noqa: E731
        finished(X, y, weights).coef(lam),
        finished(X, y, weights).rss(lam),
    )
    args = {"X": X, "y": Y, "lam": LAM, "weights": W}
    add("stream finish", "stream.finish", smooth, args)
    dof = lambda X, y, lam, weights: (finished(X, y, weights).dof(lam), finished(X, y, weights).logdet(lam))  # noqa: E731
    add("stream dof", "stream.finish", dof, args, flat=("y",), refused={SECOND: r"select\.exact"})

    def dealt(X, y, weights):
        rows = stream.init(3, dtype=X.dtype, folds=4, gram=False)
        return stream.update(stream.update(rows, X[:8], y[:8], weights[:8]), X[8:], y[8:], weights[8:])

    def path(X, y, lams, weights, penalty):
        found = stream.path(dealt(X, y, weights), lams, penalty=penalty, unpenalized=1, standardize=True)
        return read(found, "coef intercept rss")

    args = {"X": X, "y": Y, "lams": LAMS[1:4], "weights": W, "penalty": P}
    add("stream path", "stream.path", path, args, lam="lams")

    def chosen(X, y, lams, weights):
        return read(stream.choose(dealt(X, y, weights), lams, rule=select.kfold(4)), "scores fit.coef")

    args = {"X": X, "y": Y, "lams": LAMS, "weights": W}
    add("stream choose", "stream.choose", chosen, args, lam="lams")

    def collected(X, y, lams, weights, scale):
        phi = features.nystroem_at(kernels.RBF(scale), X[:4])
        still = jax.lax.stop_gradient((phi, X, y, weights))
        found = stream.finish(stream.collect(still[0], still[1], still[2][:, None], weights=still[3], block=4))
        return stream.coefficients(found, phi, X, y[:, None], lams, weights=weights, block=4)

    args = {"X": X, "y": Y, "lams": LAMS[2:4], "weights": W, "scale": np.array(1.3)}
    add("stream coefficients", "stream.coefficients", collected, args, lam="lams", rtol=1e-5)

    phi = lambda X: X  # noqa: E731

    def second_pass(X, y, lams, weights):
        found = stream.finish(stream.collect(phi, X, y[:, None], weights=weights, block=4))
        more = {"weights": weights, "block": 4}
        return (
            stream.leave_one_out(found, phi, X, y[:, None], lams, **more),
            stream.leverage(found, phi, X, lams, **more),
        )

    args = {"X": X, "y": Y, "lams": LAMS[2:4], "weights": W}
    add("stream leave_one_out", "stream.leave_one_out", second_pass, args, lam="lams", still=("X", "weights"), bad="y")
    add(
        "stream leverage",
        "stream.leverage",
        lambda **args: second_pass(**args)[1],
        args,
        lam="lams",
        flat=("y",),
        still=("X", "weights"),
        bad=None,
    )


def machines(add):
    # Labels choose, and have no derivative. At these λ no row is so near the margin that differences step over it.
    labels = np.sign(Y - 1.1 * np.median(Y))
    losses = {
        "hinge": jxr.margins.Hinge(),
        "squared hinge": jxr.margins.SquaredHinge(),
        "epsilon": jxr.margins.EpsilonInsensitive(0.3),
    }
    names = "coef intercept dual_coef norm objective"
    for name, loss in losses.items():
        one = lambda X, y, lam, loss=loss, **more: read(jxr.svm(X, y, lam, loss=loss, **more), names)  # noqa: E731
        lam = np.array(0.8 if loss.labels else 2.3)
        args = {"X": X, "y": labels if loss.labels else Y, "lam": lam, "weights": W, "penalty": P}
        still = ("y",) if loss.labels else ()
        add(f"svm {name}", "svm", one, args, still=still)

    def in_kernel(X, y, lam, scale, weights):
        fit = jxr.svm(X, y, lam, kernel=kernels.RBF(scale), weights=weights)
        return read(fit, "intercept dual_coef norm objective")

    args = {"X": X, "y": labels, "lam": np.array(0.15), "scale": np.array(1.3), "weights": W}
    add("svm kernel", "svm", in_kernel, args, still=("y",))
    path = lambda X, y, lams, weights: read(jxr.svm_path(X, y, lams, weights=weights), names)  # noqa: E731
    args = {"X": X, "y": labels, "lams": np.array([0.55, 0.24]), "weights": W}
    add("svm_path", "svm_path", path, args, lam="lams", still=("y",))

    def chosen(X, y, lams, weights):
        found = jxr.svm_cv(X, y, lams, folds=3, loss=jxr.margins.SquaredHinge(), weights=weights)
        return read(found, "scores lam fit.coef")

    add("svm_cv", "svm_cv", chosen, args, lam="lams", still=("y", "lams"))


def kernel_wing():
    add = lambda name, verb, fn, args, **more: row(  # noqa: E731
        "kernel_methods", name, verb, fn, args, rows=[x for x in ("points", "y", "weights") if x in args], **more
    )
    K, key, RBF = kernel_methods, jax.random.key(7), kernels.RBF
    points, y, w = X, Y, W
    live = {"points": points, "y": y, "lam": np.array(0.3), "scale": np.array(1.1), "weights": w}
    fit = "dual_coef intercept rss norm"
    solvers = {"default": None, "eigen": K.Eigen(), "tridiagonal": K.Tridiagonal(), "mixed": K.Mixed()}
    large = {
        "iterative": jxr.Iterative(key, tol=1e-12),
        "nystroem": jxr.Nystroem(key, rank=5),
    }

    def ridge(solver, names=fit, **options):
        def fn(points, y, lam, scale, **more):
            found = jxr.kernel_ridge(points, y, lam, kernel=RBF(scale), solver=solver, **options, **more)
            return read(found, names)

        return fn

    loose = {"iterative": {"rtol": 1e-5, "same": 1e-6}, "nystroem": {"rtol": 1e-5, "same": 1e-6}}
    loose["mixed"] = {"refused": {"dtype": "so pass that, with x64 on"}}
    for name, solver in (solvers | large).items():
        more = loose.get(name, {})
        if name == "nystroem":
            # Pivots are chosen again for each problem, and jump.
            solver = jxr.Nystroem(centres=points[:5])
        add(f"kernel_ridge {name}", "kernel_ridge", ridge(solver), live, **more)
    bare = {name: x for name, x in live.items() if name != "weights"}
    add("kernel_ridge bare", "kernel_ridge", ridge(None, intercept=False), bare)

    size = {name: x for name, x in live.items() if name != "lam"} | {"radius": np.array(0.9)}

    def ball(points, y, radius, scale, weights):
        fit = jxr.kernel_ridge_ball(points, y, radius, kernel=RBF(scale), weights=weights)
        return read(fit, "dual_coef intercept rss norm lam")

    add("kernel_ridge_ball", "kernel_ridge_ball", ball, size, lam="radius", rtol=1e-5)

    def path(solver):
        def fn(points, y, lams, scale, **more):
            found = jxr.kernel_ridge_path(points, y, lams, kernel=RBF(scale), solver=solver, **more)
            at = found.at(jnp.asarray(0.9, lams.dtype)) if found.factored is not None else found[0]
            return read(found, fit), read(at, fit)

        return fn

    grid = {"points": points, "y": y, "lams": LAMS[2:4], "scale": np.array(1.1), "weights": w}
    for name, solver in (solvers | large).items():
        more = loose.get(name, {})
        if name == "nystroem":
            solver = jxr.Nystroem(centres=points[:5])
        add(f"kernel_ridge_path {name}", "kernel_ridge_path", path(solver), grid, lam="lams", **more)
    dof = lambda points, y, lams, scale: jxr.kernel_ridge_path(points, y, lams, kernel=RBF(scale)).dof  # noqa: E731
    add(
        "kernel_ridge_path dof",
        "kernel_ridge_path",
        dof,
        {k: v for k, v in grid.items() if k != "weights"},
        lam="lams",
        flat=("y",),
    )
    rules = {"loo": select.loo, "gcv": select.gcv, "evidence": select.evidence, "kfold": select.kfold(4)}

    def score(rule, solver=None):
        return lambda points, y, lam, scale, **more: jxr.kernel_ridge_score(
            points, y, lam, kernel=RBF(scale), rule=rule, solver=solver, **more
        )

    for name, rule in rules.items():
        add(f"kernel_ridge_score {name}", "kernel_ridge_score", score(rule), live)

    def held(points, y, lam, scale):
        rule = select.holdout(points[:3] + 0.3, y[:3])
        return jxr.kernel_ridge_score(points, y, lam, kernel=RBF(scale), rule=rule)

    add("kernel_ridge_score holdout", "kernel_ridge_score", held, bare)
    fixed = jxr.Nystroem(centres=points[:5])
    add(
        "kernel_ridge_score nystroem loo",
        "kernel_ridge_score",
        score(select.loo, fixed),
        bare,
        still=("points", "scale"),
        bad="y",
    )

    def cv(rule, names, solver=None, **options):
        def fn(points, y, lams, scale, **more):
            found = jxr.kernel_ridge_cv(points, y, lams, kernel=RBF(scale), rule=rule, solver=solver, **options, **more)
            return read(found, names)

        return fn

    grid = grid | {"lams": np.logspace(-2, 2, 7)}
    for name, rule in rules.items():
        add(f"kernel_ridge_cv {name}", "kernel_ridge_cv", cv(rule, "scores fit.dual_coef"), grid, lam="lams")
    for name in ("loo", "gcv"):
        refined = cv(rules[name], "lam fit.dual_coef", refine=True)
        add(f"kernel_ridge_cv {name} refined", "kernel_ridge_cv", refined, grid, still=("lams",), rtol=1e-5)

    def compared(points, y, lams, scale, weights):
        rules = {"loo": select.loo, "gcv": select.gcv}
        found = jxr.kernel_ridge_compare(points, y, rules, lams, kernel=RBF(scale), weights=weights)
        return read(found, "lam dual_coef norm")

    add("kernel_ridge_compare", "kernel_ridge_compare", compared, grid, still=("lams",), rtol=1e-5)

    def posterior(solver):
        def fn(points, y, lam, scale, noise, **more):
            found = jxr.kernel_posterior(points, y, lam, kernel=RBF(scale), noise=noise, solver=solver, **more)
            new = 1.1 * points[:3]
            return found.mean(new), found.variance(new), found.covariance(new)

        return fn

    def banded(points, y, lams, scale, **more):
        found = jxr.kernel_ridge_banded(points, y, lams, kernels=[RBF(scale), jxr.kernels.Linear()], **more)
        return *read(found, "dual_coef intercept"), found.predict(1.1 * points[:3])

    args = {name: x for name, x in live.items() if name != "lam"} | {"lams": np.array([0.5, 2.0])}
    add("kernel_ridge_banded", "kernel_ridge_banded", banded, args)
    args = live | {"noise": np.array(0.5)}
    add("kernel_posterior", "kernel_posterior", posterior(None), args)
    add("kernel_posterior eigen", "kernel_posterior", posterior(K.Eigen()), args)

    C = points[:5] + 0.2
    at = lambda points, C, scale: features.nystroem_at(RBF(scale), C)(points)  # noqa: E731
    add("features nystroem_at", "features.nystroem_at", at, {"points": points, "C": C, "scale": np.array(1.1)})
    drawn = lambda points, scale: jnp.sum(features.nystroem(RBF(scale), points, 16, key=key)(points), axis=1)  # noqa: E731
    # Of all points features are a rotation of the kernel's; which one, the pivots say.
    add("features nystroem", "features.nystroem", drawn, {"points": points, "scale": np.array(0.5)})
    fourier = lambda points, scale: features.fourier(RBF(scale), 3, 4, key=key, dtype=points.dtype)(points)  # noqa: E731
    add("features fourier", "features.fourier", fourier, {"points": points, "scale": np.array(1.1)})
    scores = lambda points, lam, scale: features.leverage_scores(RBF(scale), points, lam, points[2:9])  # noqa: E731
    args = {"points": points, "lam": np.array(0.2), "scale": np.array(1.1)}
    add(
        "features leverage_scores", "features.leverage_scores", scores, args, still=("points", "lam", "scale"), bad=None
    )
    machines(
        lambda name, verb, fn, args, **more: row(
            "kernel_methods", name, verb, fn, args, rows=[x for x in ("X", "y", "weights") if x in args], **more
        )
    )


BLUR = np.exp(-0.5 * np.subtract.outer(np.arange(16.0) * 7 / 16, np.arange(7.0)) ** 2)
TRUTH = np.array([0.0, 0.5, 2.0, 2.0, 1.0, -1.0, 0.3])
NOISY = BLUR @ TRUTH + 0.1 * np.random.default_rng(11).standard_normal(16)


def inverse_wing():
    add = lambda name, verb, fn, args, **more: row(  # noqa: E731
        "inverse", name, verb, fn, args, rows=[x for x in ("A", "b", "weights") if x in args], **more
    )
    slopes = np.diff(np.eye(7), axis=0)

    def free(dtype):
        return operators.difference(7, dtype=dtype)

    def ring(dtype):
        return operators.difference(16, boundary="periodic", dtype=dtype)

    def made(options, dtype):
        """With the L of that dtype."""
        return options | ({"L": options["L"](dtype)} if "L" in options else {})

    live = {"A": BLUR, "b": NOISY, "lam": np.array(0.1), "x_ref": TRUTH[::-1].copy(), "weights": W}
    fit, loose = "x rss norm", {"rtol": 1e-5, "same": 1e-6}
    solvers = {
        "direct": ({}, {}),
        "difference": ({"L": free}, {}),
        "krylov": ({"solver": jxr.GolubKahan(tol=1e-12)}, loose),
        "per lam": ({"solver": jxr.PerLam(tol=1e-12), "L": free}, loose),
    }

    def verb(of, names=fit, **options):
        def fn(A, b, *size, **more):
            given = {name: more.pop(name) for name in ("lam", "lams", "radius", "delta") if name in more}
            return read(of(A, b, *size, *given.values(), **made(options, A.dtype), **more), names)

        return fn

    for name, (options, more) in solvers.items():
        add(f"tikhonov {name}", "tikhonov", verb(jxr.tikhonov, **options), live, **more)
        grid = live | {"lams": np.array([0.05, 0.4])}
        del grid["lam"], grid["x_ref"]
        add(f"tikhonov_path {name}", "tikhonov_path", verb(jxr.tikhonov_path, **options), grid, lam="lams", **more)
    of_L = lambda A, b, lam, L: read(jxr.tikhonov(A, b, lam, L=L, nullity=1), fit)  # noqa: E731
    add("tikhonov L", "tikhonov", of_L, {"A": BLUR, "b": NOISY, "lam": np.array(0.1), "L": slopes})

    def blurred(of, names=fit, **options):
        def fn(width, b, **given):
            A = operators.gaussian_blur((16,), width, boundary="periodic", radius=2)
            return read(of(A, b, *given.values(), **made(options, b.dtype)), names)

        return fn

    args = {"width": np.array(0.8), "b": NOISY, "lam": np.array(0.1)}
    add("tikhonov diagonal", "tikhonov", blurred(jxr.tikhonov, L=ring), args, bad="b")
    args = {"width": np.array(0.8), "b": NOISY, "lams": np.array([0.05, 0.4])}
    add("tikhonov_path diagonal", "tikhonov_path", blurred(jxr.tikhonov_path, L=ring), args, lam="lams", bad="b")
    for of, word, value in ((jxr.tikhonov_ball, "radius", 1.5), (jxr.tikhonov_residual, "delta", 0.9)):
        args = {"A": BLUR, "b": NOISY, word: np.array(value), "weights": W}
        add(of.__name__, of.__name__, verb(of, fit + " lam"), args, lam=word)
        args = {"width": np.array(0.8), "b": NOISY, word: np.array(value)}
        add(f"{of.__name__} diagonal", of.__name__, blurred(of, fit + " lam"), args, lam=word, bad="b")
    lams = np.logspace(-3, 1, 6)
    args = {"A": BLUR, "b": NOISY, "lams": lams}

    def cv(rule, names="fit.x lam", **options):
        return lambda A, b, lams, **more: read(
            jxr.tikhonov_cv(A, b, lams, rule=rule(**more) if more else rule, **options), names
        )

    twice = {SECOND: r"select\.exact"}
    add("tikhonov_cv gcv", "tikhonov_cv", cv(select.gcv), args, still=("lams",), refused=twice)
    scores = cv(select.gcv, "scores", refine=False)
    # Scores come back beside the fit, whose second derivatives they must not stop; λ stays positive along differences.
    nothing = {"fwd rev, rev rev": "NaN for numbers"}
    add("tikhonov_cv scores", "tikhonov_cv", scores, args | {"lams": 10 * lams}, lam="lams", refused=nothing)
    more = args | {"noise": np.array(0.02)}
    # The differences err by 1e-5 here: at half their step they agree to 2e-6.
    add("tikhonov_cv discrepancy", "tikhonov_cv", cv(select.discrepancy), more, still=("lams",), rtol=1e-4)
    add("tikhonov_cv predictive_risk", "tikhonov_cv", cv(select.predictive_risk), more, still=("lams",), refused=twice)
    probed = jxr.GolubKahan(jax.random.key(5), probes=2, tol=1e-12)
    krylov = cv(select.gcv, "fit.x scores", refine=False, solver=probed)
    add(
        "tikhonov_cv krylov",
        "tikhonov_cv",
        krylov,
        args | {"lams": 10 * lams},
        lam="lams",
        still=("A",),
        bad="b",
        **loose,
    )

    def compared(A, b, noise):
        rules = {"discrepancy": select.discrepancy(noise), "gcv": select.gcv}
        return read(inverse.compare(A, b, rules, lams), "lam rss norm")

    args = {"A": BLUR, "b": NOISY, "noise": np.array(0.02)}
    # The differences err by 4e-6 here, and agree at half their step.
    add("compare", "inverse.compare", compared, args, refused=twice, rtol=1e-5)
    args = {"A": BLUR, "b": NOISY, "weights": W}
    add(
        "picard",
        "inverse.picard",
        lambda A, b, weights: read(inverse.picard(A, b, weights=weights), "coefficients ratios"),
        args,
        still=("A", "weights"),
        bad="b",
    )
    add("tsvd", "inverse.tsvd", lambda b: read(inverse.tsvd(BLUR.astype(b.dtype), b, [2, 4, 6]), fit), {"b": NOISY})
    of = lambda A, lam: inverse.filter_factors(A, lam)  # noqa: E731
    add("filter_factors", "inverse.filter_factors", of, {"A": BLUR, "lam": np.array(0.1)}, refused=twice)
    of = lambda A, lam, weights: inverse.resolution(A, lam, weights=weights)  # noqa: E731
    add("resolution", "inverse.resolution", of, {"A": BLUR, "lam": np.array(0.1), "weights": W})
    of = lambda A, lam, noise, weights: inverse.covariance(A, lam, noise, weights=weights, L=free(A.dtype))  # noqa: E731
    args = {"A": BLUR, "lam": np.array(0.1), "noise": np.array(0.02), "weights": W}
    add("covariance", "inverse.covariance", of, args)

    def diagonal(h, z, lam, penalty):
        found = inverse.from_diagonal(h, z, penalty=penalty)
        return found.coef(lam), found.rss(lam), found.dof(lam), found.logdet(lam)

    args = {"h": Y, "z": NOISY, "lam": LAM, "penalty": np.arange(1.0, 17.0)}
    row("inverse", "from_diagonal", "inverse.from_diagonal", diagonal, args, rows=("h", "z", "penalty"))
    triangle = np.linalg.qr(X, mode="r")

    def from_triangle(R, z, lam, rss):
        found = spectrum.from_triangle(R, z, rows=16, rss=rss)
        return found.coef(lam), found.rss(lam)

    args = {"R": triangle, "z": Y[:3], "lam": LAM, "rss": np.array(2.0)}
    row("linear", "from_triangle", "spectrum.from_triangle", from_triangle, args, rows=(), bad="z")


TIMES = np.linspace(0.0, 4.0, 16)
DECAY = 2.5 * np.exp(-0.9 * TIMES) + 0.6 + 0.1 * np.random.default_rng(6).standard_normal(16)


def decay(x, y):
    return x[0] * jnp.exp(-x[1] * jnp.linspace(0.0, 4.0, 16, dtype=y.dtype)) + x[2] - y


def nonlinear():
    add = lambda name, verb, fn, args, **more: row(  # noqa: E731
        "optimize", name, verb, fn, args, rows=[x for x in ("y",) if x in args], **more
    )
    LM, TR, n, loss = jxr.LevenbergMarquardt, jxr.TrustRegion, optimize, jxr.losses
    more = {"rtol": 1e-5, "same": 1e-6}

    def fitted(names="value cost", verb=jxr.least_squares, residual=decay, words=(), **options):
        def fn(y, **live):
            start = jnp.array([1.0, 1.5, 0.0], y.dtype)
            bounds = {"bounds": (live.pop("low"), live.pop("high"))} if "low" in live else {}
            return read(verb(residual, start, y, **live, **bounds, **options), names)

        return fn

    solvers = {
        "levenberg": LM(),
        "cholesky": LM(linear=n.cholesky, acceleration=False),
        "products": LM(linear=n.products),
        "trust region": TR(),
        "dogleg": TR(step=n.dogleg, linear=n.cholesky),
        "steihaug": TR(step=n.steihaug, linear=n.products),
    }
    for name, solver in solvers.items():
        add(f"least_squares {name}", "least_squares", fitted(solver=solver), {"y": DECAY}, **more)
    args = {"y": DECAY, "lam": np.array(0.3), "x_ref": np.array([2.0, 0.5, 1.0])}
    add("least_squares lam", "least_squares", fitted(), args, **more)
    args = {"y": DECAY, "low": np.array([0.0, 1.2, 0.0]), "high": np.array([9.0, 9.0, 3.0])}
    for name in ("levenberg", "trust region"):
        add(f"least_squares bounds {name}", "least_squares", fitted(solver=solvers[name]), args, flat=("high",), **more)
    for name, rho in {"huber": loss.scaled(loss.huber, 0.2), "cauchy": loss.cauchy, "soft_l1": loss.soft_l1}.items():
        add(f"least_squares {name}", "least_squares", fitted(loss=rho), {"y": DECAY}, **more)
    args = {"y": DECAY, "lams": np.array([0.01, 1.0])}
    # Where λ = .01 leaves the level to the data a search ends within 1e-8, which differences divide by their step.
    wide = more | {"rtol": 1e-4}
    add("least_squares_path", "least_squares_path", fitted(verb=jxr.least_squares_path), args, lam="lams", **wide)

    def batch(y, lam):
        both, start = jnp.stack([y, 1.1 * y]), jnp.broadcast_to(jnp.array([1.0, 1.0, 0.0], y.dtype), (2, 3))
        return read(jxr.least_squares_batch(decay, start, both, lam=lam), "value cost")

    add("least_squares_batch", "least_squares_batch", batch, {"y": DECAY, "lam": np.array(0.1)}, **more)

    def valley(x, a):
        return (a[1] - x[0]) ** 2 + a[0] * (x[1] - x[0] ** 2) ** 2 + (x[2] - 0.3) ** 2

    for name, solver in {"": TR(), " steihaug": solvers["steihaug"]}.items():
        fn = fitted(verb=jxr.minimize, residual=valley, solver=solver)
        row("optimize", f"minimize{name}", "minimize", fn, {"y": np.array([9.0, 1.1])}, **more)
    rng = np.random.default_rng(2)
    H = rng.standard_normal((4, 4))
    H = H + H.T
    within = lambda H, g, radius: read(jxr.trust_region_subproblem(H, g, radius), "step multiplier")  # noqa: E731
    args = {"H": H, "g": rng.standard_normal(4), "radius": np.array(0.7)}
    row("optimize", "trust_region_subproblem", "trust_region_subproblem", within, args, lam="radius", bad="g")

    def uncertain(y):
        found = optimize.uncertainty(decay, jxr.least_squares(decay, jnp.array([1.0, 1.0, 0.0], y.dtype), y), y)
        return read(found, "covariance sigma standard_errors")

    add("uncertainty", "optimize.uncertainty", uncertain, {"y": DECAY}, **more)

    def at_the_end(y):
        found = optimize.linearised(decay, jxr.least_squares(decay, jnp.array([1.0, 1.0, 0.0], y.dtype), y), y)
        return found.residual, found.jacobian

    add("linearised", "optimize.linearised", at_the_end, {"y": DECAY}, **more)


def trained():
    add = lambda name, verb, fn, args, **more: row(  # noqa: E731
        "training", name, f"training.{verb}", fn, args, rows=[x for x in ("X", "y") if x in args], lam=None, **more
    )
    t, key = training, jax.random.key(0)
    data = {"X": X, "y": Y}
    numbers = {"learning_rate": np.array(0.05), "weight_decay": np.array(0.3)}

    def end(make, names="coef lam", **options):
        return lambda X, y, **numbers: read(t.fixed_point(make(**numbers), X, y, **options), names)

    coupled, still = partial(t.CoupledDecay, momentum=0.5), {"flat": ("learning_rate",)}
    add("fixed_point coupled", "fixed_point", end(coupled), data | numbers, **still)
    add("fixed_point after the rate", "fixed_point", end(t.IndependentDecay), data | numbers)
    M = {"M": np.diag([1.0, 2.0, 0.5]) + 0.1}
    add("fixed_point M", "fixed_point", end(t.PreconditionedDecay, "coef"), data | numbers | M, **still)
    add("fixed_point AdamW", "fixed_point", end(t.AdamW, "coef", batch=1), data | numbers, **still)
    add("fixed_point cautious", "fixed_point", end(t.CautiousDecay, "coef", batch=1), data | numbers, **still)
    box = data | {"weight_decay": np.array(1.5)}
    add("fixed_point box", "fixed_point", end(partial(t.AdamW, 0.1), "coef"), box, rtol=1e-5)
    convert = lambda decay, beta, scale: t.lam_of(t.DecoupledDecay(0.1, decay, beta), scale)  # noqa: E731
    args = {"decay": np.array(0.3), "beta": np.array(0.9), "scale": np.array(0.1)}
    add("lam_of", "lam_of", convert, args)

    def run(make, **options):
        return lambda X, y, **numbers: read(t.train(make(**numbers), X, y, 20, burn=5, **options), "last mean")

    add("train", "train", run(coupled), data | numbers)
    add("train on rows", "train", run(coupled, batch=3, key=key), data | numbers)
    add(
        "stopping_filter",
        "stopping_filter",
        t.stopping_filter,
        {"s": np.array([0.1, 2.0]), "learning_rate": np.array(0.1), "steps": np.array(9.5), "scale": np.array(0.5)},
    )
    add(
        "lam_of_stopping",
        "lam_of_stopping",
        t.lam_of_stopping,
        {"learning_rate": np.array(0.1), "steps": np.array(9.5), "scale": np.array(0.5)},
    )
    states = {"x": np.array([-1.0, 0.3, 2.0]), "noise": np.array(0.3)}
    add("drift", "drift", lambda x, noise: t.drift(jnp.tanh, x, noise), states)
    add("drift_expansion", "drift_expansion", lambda x, noise: t.drift_expansion(jnp.tanh, x, noise), states)
    add("differential", "differential", t.differential, {"X": X})
    decayed = lambda transformation, g, w: transformation.update(g, None, w)[0]  # noqa: E731
    step = {"a": np.array([0.1, 0.2]), "g": np.array([1.0, -0.4]), "w": np.array([0.5, 0.6])}
    add("group_decay", "group_decay", lambda a, g, w: decayed(t.group_decay(a), g, w), step)
    add("cautious_decay", "cautious_decay", lambda a, g, w: decayed(t.cautious_decay(a), g, w), step)
    synapses = {"X": X - np.mean(X, 0), "y": 0.3 * Y / np.std(Y), "rate": np.array(0.05), "noise": np.array(0.05)}
    device = lambda noise: t.Device(t.Tanh(), noise)  # noqa: E731

    def predicted(update, batch):
        return lambda X, y, rate, noise: read(
            t.effective_lam(device(noise), update, X, y, rate, batch=batch), "weight deviation"
        )

    loose = {"rtol": 1e-3, "same": 1e-6}
    # Under both flags by which the tests compile quickly XLA makes NaN of the reverse of a scan; under either alone,
    # and without, it is that of a loop to 1e-12.
    flags = {"scan, scan fwd rev, scan rev rev": "NaN for numbers"}
    add("effective_lam", "effective_lam", predicted(t.ClosedLoop(), None), synapses, refused=flags, **loose)
    pulses = synapses | {"noise": np.array(0.5)}
    add(
        "effective_lam rows",
        "effective_lam",
        predicted(t.PulseNoise(), 1),
        pulses,
        refused={SECOND: "first derivatives for batch=1"},
        **loose,
    )

    def measured(X, y, rate, noise):
        found = t.simulate(device(noise), t.ClosedLoop(), X, y, rate, 6, burn=2, chains=3, key=key)
        return read(found, "weight weight_error")

    add("simulate", "simulate", measured, synapses)


for fill in (linear, kernel_wing, inverse_wing, nonlinear, trained):
    fill()
