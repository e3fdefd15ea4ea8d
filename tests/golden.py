"""A golden corpus: what every verb gives on small problems, and its first derivatives, held to numbers once stored.

    python tests/golden.py --write [NAME ...]    store what is computed now in data/golden.npz
    python tests/golden.py [NAME ...]            compute again and compare; status 1 if anything is beyond ULPS

Each NAME is that of a case or how it begins. One program for each case gives its arrays, their derivatives along a
fixed direction through all arguments (forward mode), and those of a fixed sum of them in every argument (reverse mode).
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import conftest  # noqa: F401  (the strictness and the settings of the tests)
import jax
import jax.numpy as jnp
import numpy as np

import jaxridge as jxr

DATA = Path(__file__).parent / "data" / "golden.npz"
ULPS = 64
CASES = {}

LAMS = np.array([0.05, 0.4, 1.5, 6.0, 40.0])
FIT, PATH = "coef intercept lam dof rss", "lams coef intercept dof rss"
CHOICE = "lam scores index at_edge fit.coef fit.intercept fit.dof fit.rss"
DUAL, DUALS = "dual_coef intercept lam rss", "lams dual_coef intercept rss"
SOLUTION, SOLUTIONS = "x lam rss norm error_bound", "lams x rss norm error_bound steps products"
TIKHONOV_CHOICE = "lam scores index at_edge beside_unresolved fit.x fit.rss fit.norm fit.error_bound"
PARTIAL, SMOOTH = "coef rss squared_norm dof residual_dof", "coef rss squared_norm norm"
EXITS = PARTIAL + " residual norm one_minus_leverage loo_residual logdet"
DUAL_EXITS = "dual_coef intercept residual rss squared_norm dof residual_dof logdet"


def case(name, fn, /, *args, hold=(), forward=True, single=False, **options):
    """A case of arguments and options, once more in float32 if ``single``; those that ``hold`` numbers are constant."""
    for suffix, dtype in [("", np.float64), (", float32", np.float32)][: 1 + single]:
        assert name + suffix not in CASES, name
        CASES[name + suffix] = partial(fn, **options), args, hold, forward, dtype


def read(record, names):
    """Numbers of a record by name, and whether it counts as solved."""
    where = {"products": "factored.products"}
    found = {name: attrgetter(where.get(name, name))(record) for name in names.split()}
    return found | ({"solved": record.result == jxr.RESULTS.successful} if hasattr(record, "result") else {})


def call(verb, names, words, *args, count=3, scale=None, make=None, also=None, **options):
    """What a verb gives of ``count`` arguments; the next are called by ``words``, the rest are what a rule is made of.

    An argument called scale is that of the kernel ``scale(...)``.
    """
    given = dict(zip(words.split(), args[count:], strict=False))
    if "scale" in given:
        given["kernel"] = (scale or jxr.kernels.RBF)(scale=given.pop("scale"))
    if make is not None:
        given["rule"] = make(*args[count + len(words.split()) :])
    found = verb(*args[:count], **given, **options)
    return (read(found, names) if names else {"value": found}) | (also(found, args[0]) if also else {})


def exits(spectrum, lam, names=EXITS):
    """What a spectrum says at one λ."""
    solved = spectrum.result(jax.lax.stop_gradient(lam)) == jxr.RESULTS.successful
    return {name: getattr(spectrum, name)(lam) for name in names.split()} | {"solved": solved}


def rows(n, d, seed, dependent=False):
    """Features, one target and two, weights with a zero, penalties, and rows kept apart."""
    rng = np.random.default_rng(seed)
    X, slope = rng.standard_normal((n + 3, d)) + 0.5, np.stack([np.linspace(1, -1, d), np.ones(d)], 1)
    if dependent:
        X[:, -1] = X[:, 0] - 2 * X[:, 1]
    Y = X @ slope + rng.standard_normal((n + 3, 2))
    w, p = np.exp(0.3 * rng.standard_normal(n)), np.exp(0.3 * rng.standard_normal(d))
    used, w[1] = w.copy(), 0.0
    return SimpleNamespace(X=X[:n], y=Y[:n, 0], Y=Y[:n], w=w, used=used, p=p, new=X[n:], new_Y=Y[n:])


T, WIDE, DEPENDENT, P, LONG = rows(10, 3, 1), rows(6, 7, 2), rows(8, 4, 3, True), rows(9, 2, 5), rows(16, 3, 12)
INNER = rows(10, 3, 14)  # rules have their optimum within LAMS
SHAPES, LABELS = {"tall": T, "wide": WIDE, "dependent": DEPENDENT}, [0, 1, 1, 2, 0, 2, 2, 1, 0, 0]


def grid(verb, names, *args, **options):
    """Some λ of a grid that is made from the data."""
    return {name: x[np.array([5, 30])] for name, x in read(verb(*args, **options), names).items()}


def linear_exits(X, y, lam, w=None, p=None, *, make, names=EXITS, exact=False, **options):
    spectrum = make(jxr.design.make_design(X, y, weights=w, penalty=p, **options))
    return exits(spectrum.exact() if exact else spectrum, lam, names)


def ridge_cases():
    S, s, both = jxr.spectrum, jxr.select, "weights penalty"
    ridge, ball = partial(call, jxr.ridge, FIT, both), partial(call, jxr.ridge_ball, FIT, both)
    fraction = partial(call, jxr.ridge_fraction, FIT, both)
    new = lambda path, X: {"new": path.predict(X[:2]), "picked": path[1].predict(X[:2])}  # noqa: E731
    path = partial(call, jxr.ridge_path, PATH, both, also=new)
    for shape, D in SHAPES.items():
        for kind in ("from_gram", "from_cholesky"):
            case(f"ridge {shape} {kind}", ridge, D.X, D.y, 0.7, D.w, D.p, solver=getattr(S, kind))
        case(f"ridge {shape}", ridge, D.X, D.Y, 0.7, D.w, D.p, single=shape == "wide")
        case(f"ridge_path {shape}", path, D.X, D.Y, LAMS[1:4], D.w, D.p, single=shape == "tall")
        case(f"spectrum design {shape}", linear_exits, D.X, D.y, 0.7, D.w, D.p, make=S.from_design)
    case("ridge lam per target", ridge, T.X, T.Y, np.array([0.2, 3.0]), T.w, intercept=False)
    case("ridge standardize", ridge, T.X, T.y, 0.7, T.w, T.p, standardize=True)
    case("ridge unpenalized", ridge, T.X, T.Y, 0.7, T.w, T.p, unpenalized=(0, 2))
    options = {"unpenalized": 1, "standardize": True, "intercept": False}
    case("ridge options gram", ridge, T.X, T.Y, 0.7, T.w, T.p, solver=S.from_gram, **options)
    for lam in (0.0, np.inf, -1.0):
        case(f"ridge lam {lam}", ridge, T.X, T.Y, lam, T.w, hold=(2,))
    for kind in ("from_gram", "from_cholesky"):
        case(f"ridge_path {kind}", path, T.X, T.y, LAMS[1:3], T.w, solver=getattr(S, kind))
    case("ridge_path lams per target", path, T.X, T.Y, LAMS[1:].reshape(2, 2), T.w, unpenalized=1)
    at = lambda X, y, lam: read(jxr.ridge_path(X, y, LAMS[:2]).at(lam), FIT)  # noqa: E731
    case("ridge_path at", at, T.X, T.Y, 0.9, hold=(0,))
    case("ridge_ball", ball, T.X, T.Y, 0.8, T.w, T.p, single=True)
    case("ridge_fraction", fraction, T.X, T.Y, np.array([0.6, 0.9]), T.w, T.p, single=True)
    case("spectrum gram", linear_exits, T.X, T.y, 0.7, T.w, make=S.from_gram)
    names = "dof residual_dof one_minus_leverage loo_residual"
    case("spectrum exact", linear_exits, T.X, T.y, 0.7, T.w, make=S.from_design, unpenalized=1, exact=True, names=names)
    case("spectrum cholesky", linear_exits, T.X, T.Y, 0.7, T.w, T.p, make=S.from_cholesky, names=PARTIAL)

    live, cv = (T.X, T.Y, LAMS, T.w), partial(call, jxr.ridge_cv, CHOICE, "weights")
    spread = partial(call, jxr.ridge_cv, CHOICE + " spread", "weights")
    misfit = lambda design, spectrum, lam: spectrum.rss(lam) + lam * spectrum.squared_norm(lam)  # noqa: E731
    rules = {"gcv": s.gcv, "evidence": s.evidence, "own": misfit, "exact": s.exact(s.loo)}
    rules |= {"l_curve": s.l_curve, "quasi_optimality": s.quasi_optimality}
    for name, rule in rules.items():
        case(f"ridge_cv {name}", cv, *live, rule=rule)
    rules = {"loo": s.loo, "abs": s.leave_one_out(jnp.abs), "kfold": s.kfold(2, key=jax.random.key(3))}
    rules["labels"] = s.kfold(labels=LABELS, loss=jnp.abs)
    for name, rule in rules.items():
        case(f"ridge_cv {name}", spread, *live, rule=rule, pick=s.one_standard_error if name == "abs" else s.lowest)
    for make in (s.marginal_likelihood, s.discrepancy, s.predictive_risk):
        case(f"ridge_cv {make.__name__}", cv, *live, 0.8, make=make)
    case("ridge_cv holdout", spread, *live, T.new, T.new_Y, make=s.holdout)
    case("ridge_cv misclassification", cv, T.X, np.sign(T.y), LAMS, T.w, rule=s.misclassification)
    inner = (INNER.X, INNER.y, LAMS, INNER.w)
    for name, rule in {"loo": s.loo, "gcv": s.gcv, "kfold": s.kfold(3)}.items():
        case(f"ridge_cv refine {name}", cv, *inner, rule=rule, refine=True, single=name == "gcv")
    inner = (INNER.X, INNER.Y, LAMS, INNER.w)
    case("ridge_cv refine per target", cv, *inner, rule=s.evidence, per_target=True, refine=True)
    case("ridge_cv lams per target", cv, T.X, T.Y, np.stack([LAMS, 2 * LAMS], 1), rule=s.gcv, per_target=True)
    case("ridge_cv one_standard_error", spread, *live, pick=s.one_standard_error, rule=s.kfold(3))
    case("ridge_cv cholesky", cv, *live, rule=s.gcv, solver=S.from_cholesky)
    case("ridge_cv options", cv, *live, standardize=True, unpenalized=0, solver=S.from_gram, memory=700)
    case("ridge_path grid", partial(grid, jxr.ridge_path, PATH), T.X, T.y, standardize=True, single=True)


def posterior(X, y, lam, scale, w=None, noise=None, **options):
    found = jxr.kernel_posterior(X, y, lam, kernel=jxr.kernels.RBF(scale), noise=noise, weights=w, **options)
    with jax.numpy_rank_promotion("allow"):
        return {name: getattr(found, name)(1.1 * X[:3]) for name in ("mean", "variance", "covariance")}


def matrices(X, Z, scale, kinds):
    made = {name: make(scale=scale) for name, make in kinds.items()}
    found = {f"{name} K": kernel.matrix(X) for name, kernel in made.items()}
    found |= {f"{name} across": kernel.matrix(X, Z) for name, kernel in made.items()}
    return found | {f"{name} pair": kernel.diagonal(X) + kernel(X[0], Z[0])[None] for name, kernel in made.items()}


def kernel_cases():
    k, K, s, key, RBF = jxr.kernels, jxr.kernel_methods, jxr.select, jax.random.key(7), jxr.kernels.RBF
    kinds = {kind.__name__: kind for kind in (RBF, k.Matern12, k.Matern32, k.Matern52, k.Laplace, k.Linear)}
    kinds |= {kind.__name__: kind for kind in (k.Cosine, k.Polynomial, k.Periodic, k.ArcCosine)}
    kinds["sum"] = lambda scale: 2.0 * k.RBF(scale) + k.Linear(scale) * k.ArcCosine(0)
    kinds["on"] = lambda scale: RBF(scale[:1]).on(lambda x: x[:1]) * k.Periodic(scale[1]).on(lambda x: x[1:])
    kinds["Pairwise"] = lambda scale: k.Pairwise(lambda x, z: jnp.exp(-jnp.sum(jnp.square((x - z) / scale))))
    kinds["parts"] = lambda scale: k.RationalQuadratic(scale[0], scale) + k.Polynomial(2, scale[1])
    case("kernels", matrices, P.X[:3], P.new[:2], P.p, kinds=kinds, single=True)
    new = lambda fit, X: {"new": fit.predict(X[:3] + 0.1)}  # noqa: E731
    at = lambda path, X: read(path.at(jnp.asarray(0.9, X.dtype)), DUAL) | new(path, X)  # noqa: E731
    ridge = partial(call, jxr.kernel_ridge, DUAL, "scale weights", also=new)
    path = partial(call, jxr.kernel_ridge_path, DUALS + " dof", "scale weights", also=at)

    def factored(X, y, lam, w, make, names):
        return exits(K.from_kernel(RBF().matrix(X), y, weights=w, intercept=True, solver=make), lam, names)

    solvers = {"": K.Eigen(), "_tridiagonal": K.Tridiagonal(), "_cholesky": K.Cholesky(), "_mixed": K.Mixed()}
    for kind, solver in solvers.items():
        name, hold = f"from_kernel{kind}", () if not kind else (2,)
        case(f"kernel_path {name}", path, P.X, P.y, LAMS[1:3], 0.9, P.w, solver=solver, hold=hold)
        names = DUAL_EXITS + " one_minus_leverage loo_residual" * (kind in ("", "_cholesky"))
        case(f"spectrum {name}", factored, P.X, P.Y, 0.3, P.w, make=solver, names=names)
    large = {"iterative": jxr.Iterative(key, tol=1e-10), "iterative rank 3": jxr.Iterative(key, rank=3)}
    large |= {"nystroem": jxr.Nystroem(key, rank=4), "nystroem centres": jxr.Nystroem(centres=P.new)}
    for name, solver in large.items():
        iterations, options = " iterations" * ("iterative" in name), {"solver": solver, "forward": "iterative" in name}
        path = partial(call, jxr.kernel_ridge_path, DUALS + iterations, "scale weights", also=new)
        case(f"kernel_path {name}", path, P.X, P.y, LAMS[1:3], 0.9, P.w, single=name == "nystroem", **options)
    case("kernel_path nystroem dof", path, P.X, P.y, LAMS[1:3], 0.9, solver=large["nystroem"], hold=(0, 3))
    case("kernel_ridge scales", ridge, P.X, P.y, 0.3, P.p, P.w, scale=k.Laplace, hold=(2,))
    case("kernel_ridge", ridge, P.X, P.y, 0.3, 0.9, P.w, hold=(2,), single=True)
    for name, solver in large.items():
        if "3" in name or "centres" in name:
            options = {"solver": solver, "forward": "iterative" in name, "intercept": False}
            case(f"kernel_ridge {name}", ridge, P.X, P.Y, 0.3, 0.9, **options)
    case("kernel_ridge lam per target", ridge, P.X, P.Y, np.array([0.1, 2.0]), 0.9, solver=K.Eigen())
    known = lambda X, y: read(jxr.kernel_ridge(RBF().matrix(X), y, 0.3, kernel=k.Precomputed()), DUAL)  # noqa: E731
    case("kernel_ridge Precomputed", known, P.X, P.y)
    case("kernel_path grid", partial(grid, jxr.kernel_ridge_path, DUALS), P.X, P.y, kernel=RBF())

    cv = partial(call, jxr.kernel_ridge_cv, "lam scores index at_edge fit.dual_coef fit.rss", "scale weights")
    score = partial(call, jxr.kernel_ridge_score, "", "scale weights")
    live, one = (P.X, P.Y, LAMS, 0.9, P.w), (P.X, P.Y, 0.3, 0.9, P.w)
    rules = {"loo": s.loo, "gcv": s.gcv, "evidence": s.evidence, "kfold": s.kfold(3)}
    for name, rule in rules.items():
        hold = () if name == "loo" else (2,)
        case(f"kernel_cv {name}", cv, *live, rule=rule, hold=hold, single=name == "gcv")
        case(f"kernel_score {name}", score, *one, rule=rule, single=name == "evidence")
    case("kernel_cv holdout", cv, *live, P.new, P.new_Y, make=s.holdout, hold=(2,))
    case("kernel_score labels", score, *one, rule=s.kfold(labels=LABELS[:9]))
    case("kernel_score holdout", score, *one, P.new, P.new_Y, make=s.holdout)
    case("kernel_score likelihood", score, *one, 0.8, make=s.marginal_likelihood)
    for name in ("gcv", "loo"):
        case(f"kernel_cv refine {name}", cv, *live, rule=rules[name], refine=True, solver=K.Eigen())
    case("kernel_cv refine", cv, *live, rule=s.gcv, refine=True, hold=range(5))
    case("kernel_cv misclassification", cv, P.X, np.sign(P.y), *live[2:], rule=s.misclassification)
    case("kernel_cv iterative holdout", cv, *live, P.new, P.new_Y, make=s.holdout, solver=large["iterative"])
    case("kernel_cv nystroem gcv", cv, *live[:4], rule=s.gcv, solver=large["nystroem"], hold=(0, 3))
    case("kernel_cv nystroem loo", cv, *live[:4], solver=large["nystroem"], hold=(0, 3))
    case("kernel_posterior", posterior, P.X, P.y, 0.3, 0.9, P.w, 0.5, intercept=False, hold=(2,), single=True)
    case("kernel_posterior intercept", posterior, P.X, P.Y, 0.3, 0.9, P.w, solver=K.Eigen())


RANDOM = np.random.default_rng(11)
BLUR = np.exp(-0.5 * np.subtract.outer(np.arange(9.0), 1.2 * np.arange(7.0)) ** 2)
TRUTH = np.array([0.0, 0.5, 2.0, 2.0, 1.0, -1.0, 0.3])
SEEN = (BLUR @ TRUTH)[:, None] * np.array([1.0, -0.5]) + 0.1 * RANDOM.standard_normal((9, 2))
IMAGE, SLOPES = RANDOM.standard_normal((4, 5)), np.diff(np.eye(7), axis=0)
OMEGA = np.exp(0.3 * RANDOM.standard_normal(9)) * (np.arange(9) != 4)


def blurred(verb, width, b, *live, boundary="periodic", **terms):
    """Of a blur whose width is live."""
    return verb(jxr.operators.gaussian_blur(b.shape, width, boundary=boundary, radius=2), b, *live, **terms)


def compare(A, b, noise, names, **terms):
    rules = {"discrepancy": jxr.select.discrepancy(noise), "gcv": jxr.select.gcv, "l_curve": jxr.select.l_curve}
    found = jxr.inverse.compare(A, b, {name: rules[name] for name in names}, np.logspace(-3, 1, 6), **terms)
    return read(found, "lam rss norm spread")


def inverse_cases():
    i, o, s, b, B, krylov = jxr.inverse, jxr.operators, jxr.select, SEEN[:, 0], SEEN, jxr.GolubKahan()
    free, ring, image = o.difference(7), o.difference(9, boundary="periodic"), o.difference((4, 5))
    probed, each = jxr.GolubKahan(jax.random.key(5), probes=2), jxr.PerLam(tol=1e-10)
    x0, lams, grid_lams, words = TRUTH[::-1], np.array([0.01, 0.3, 4.0]), np.logspace(-3, 1, 6), "x_ref weights L"
    solve, verbs = partial(call, jxr.tikhonov, SOLUTION, words), (jxr.tikhonov_ball, jxr.tikhonov_residual)

    case("tikhonov", solve, BLUR, B, 0.1, single=True)
    case("tikhonov x_ref weights", solve, BLUR, b, 0.1, x0, OMEGA)
    case("tikhonov L", solve, BLUR, B, 0.1, x0, OMEGA, SLOPES, nullity=1)
    case("tikhonov difference", solve, BLUR, b, 0.1, x0, OMEGA, L=o.difference(7, 2))
    case("tikhonov whiten", partial(call, jxr.tikhonov, SOLUTION, "whiten"), BLUR, b, 0.1, np.eye(9) - np.eye(9, k=1))
    case("tikhonov diagonal", partial(blurred, solve), 0.8, B[:, 0], 0.1, b, L=ring)
    case("tikhonov diagonal image", partial(blurred, solve), 0.8, IMAGE, 0.1, boundary="reflective", L=image)
    case("tikhonov krylov", solve, BLUR, b, 0.1, x0, OMEGA, solver=krylov)
    case("tikhonov krylov image", partial(blurred, solve), 0.8, IMAGE, 0.1, boundary="zero", L=image)
    case("tikhonov per lam", solve, BLUR, b, 0.1, x0, OMEGA, L=SLOPES, nullity=1, solver=each)
    case("tikhonov function", solve, BLUR, B, 0.1, L=o.function(lambda x: x[1:] - 0.9 * x[:-1], 7), solver=each)
    for verb, size in zip(verbs, (1.5, 0.6), strict=True):
        name, solve = verb.__name__, partial(call, verb, SOLUTION, words)
        case(name, solve, BLUR, B, size, single=True)
        case(f"{name} difference", solve, BLUR, b, size, x0, OMEGA, L=free)
        case(f"{name} diagonal", partial(blurred, solve), 0.8, b, size)
    case("tikhonov_residual krylov", solve, BLUR, b, 0.6, solver=krylov)
    at = lambda path, A: read(path.at(0.2), "x rss") | {"picked": path[1].norm}  # noqa: E731
    path = partial(call, jxr.tikhonov_path, SOLUTIONS, words, also=at)
    case("tikhonov_path", path, BLUR, B, lams, x0, OMEGA, single=True)
    case("tikhonov_path diagonal", partial(blurred, path), 0.8, b, lams, L=ring)
    case("tikhonov_path krylov", path, BLUR, b, lams, x0, OMEGA, L=free, solver=krylov)
    case("tikhonov_path per lam", path, BLUR, b, lams[1:], L=free, solver=each)
    case("tikhonov_path grid", partial(grid, jxr.tikhonov_path, "lams x rss norm"), BLUR, b)
    cv, live = partial(call, jxr.tikhonov_cv, TIKHONOV_CHOICE, ""), (BLUR, b, grid_lams)
    for rule in (s.gcv, s.l_curve, s.quasi_optimality):
        case(f"tikhonov_cv {rule.__name__}", cv, *live, rule=rule, single=rule is s.gcv)
    for name, rule in {"loo": s.loo, "kfold": s.kfold(3), "evidence": s.evidence}.items():
        case(f"tikhonov_cv {name}", cv, BLUR, B, grid_lams, rule=rule, refine=name == "evidence")
    case("tikhonov_cv discrepancy", cv, BLUR, B, grid_lams, 0.01, make=s.discrepancy, per_target=True)
    case("tikhonov_cv predictive_risk", cv, BLUR, B, grid_lams, 0.01, make=s.predictive_risk, L=free)
    case("tikhonov_cv diagonal", partial(blurred, cv), 0.8, b, grid_lams, 0.02, make=s.discrepancy, L=ring)
    case("tikhonov_cv krylov", cv, *live, solver=probed)
    case("tikhonov_cv krylov discrepancy", cv, *live, 0.01, make=s.discrepancy, solver=krylov)
    case("compare", compare, BLUR, b, 0.01, names=("discrepancy", "gcv", "l_curve"))
    case("compare krylov", compare, BLUR, b, 0.01, solver=probed, names=("discrepancy", "gcv"))
    ratios = partial(call, i.picard, "singular_values coefficients ratios", "weights", count=2)
    case("picard", ratios, BLUR, B, OMEGA, L=free)
    case("tsvd", partial(call, i.tsvd, "x rss norm", "", ranks=[2, 4, 6], count=2), BLUR, B, L=free, hold=(0,))
    case("filter_factors", partial(call, i.filter_factors, "", "", count=2), BLUR, lams, L=free)
    case("resolution", partial(call, i.resolution, "", "weights", count=2), BLUR, 0.1, OMEGA, L=free)
    case("covariance", partial(call, i.covariance, "", "weights"), BLUR, 0.1, 0.02, L=free)


DECAY = 2.5 * np.exp(-0.9 * np.linspace(0, 4, 9)) + 0.6 + 0.1 * np.random.default_rng(6).standard_normal((3, 9))


def curve(x, t):
    return x[0] * jnp.exp(-x[1] * t) + x[2]


def decay(x, y):
    return curve(x, jnp.linspace(0.0, 4.0, 9, dtype=y.dtype)) - y


def fitted(y, *live, names=(), verb=jxr.least_squares, residual=decay, **options):
    """``names`` are those of the live options."""
    start = jnp.broadcast_to(jnp.array([1.0, 1.0, 0.0], y.dtype), (*y.shape[:-1], 3))
    return read(verb(residual, start, y, **dict(zip(names, live, strict=True)), **options), "value cost active success")


def uncertain(y):
    from jaxridge.optimize import uncertainty

    found = uncertainty(decay, jxr.least_squares(decay, jnp.array([1.0, 1.0, 0.0]), y), y)
    numbers, predict = read(found, "covariance sigma dof standard_errors correlation"), lambda x: curve(x, jnp.ones(2))
    bands = {"interval": found.interval(), "band": found.confidence(predict), "later": found.prediction(predict, 0.8)}
    return numbers | {name: jnp.stack(band) for name, band in bands.items()}


def nonlinear_cases():
    n, loss, y, LM, TR = jxr.optimize, jxr.losses, DECAY[0], jxr.LevenbergMarquardt, jxr.TrustRegion
    solvers = {"levenberg": LM(), "cholesky": LM(linear=n.cholesky, acceleration=False)}
    solvers |= {"products": LM(linear=n.products), "trust": TR(), "dogleg": TR(step=n.dogleg, linear=n.cholesky)}
    solvers["steihaug"] = TR(step=n.steihaug, linear=n.products)
    for name, solver in solvers.items():
        case(f"least_squares {name}", fitted, y, solver=solver, single=name == "levenberg")
    case("least_squares lam", fitted, y, 0.3, np.array([2.0, 0.5, 1.0]), names=("lam", "x_ref"), single=True)
    boxed = lambda y, low, high, **options: fitted(y, bounds=(low, high), **options)  # noqa: E731
    box = np.array([0.0, 1.2, 0.0]), np.array([9.0, 9.0, 0.5])
    case("least_squares bounds", boxed, y, *box)
    case("least_squares bounds trust", boxed, y, *box, solver=solvers["trust"])
    case("least_squares huber", fitted, y, loss=loss.scaled(loss.huber, 0.2))
    case("least_squares cauchy", fitted, y, loss=loss.cauchy)
    case("least_squares gauss_newton", fitted, y, derivative=n.gauss_newton, jacobian=jax.jacrev)
    fewer = lambda x, y: {"a": x[0] * x[1] - y[0], "b": x[2] - x[0] - y[1]}  # noqa: E731
    case("least_squares fewer", fitted, np.array([1.5, -0.5]), 0.2, names=("lam",), residual=fewer)
    case("least_squares_path", fitted, y, np.array([0.01, 1.0]), names=("lams",), verb=jxr.least_squares_path)
    case("least_squares_batch", fitted, DECAY, verb=jxr.least_squares_batch, single=True)
    options = {"verb": jxr.least_squares_batch, "block": 2, "bounds": (0.0, 0.9), "lam": 0.1}
    case("least_squares_batch bounds", fitted, DECAY, **options)
    valley = lambda x, a: (a[1] - x[0]) ** 2 + a[0] * (x[1] - x[0] ** 2) ** 2 + x[2] ** 2  # noqa: E731
    least = partial(fitted, verb=jxr.minimize, residual=valley)
    case("minimize", least, np.array([9.0, 1.1]))
    case("minimize steihaug", least, np.array([9.0, 1.1]), solver=solvers["steihaug"])
    case("minimize bounds", least, np.array([9.0, 1.1]), bounds=(None, 0.7))
    H, g = RANDOM.standard_normal((4, 4)), RANDOM.standard_normal(4)
    within = partial(call, jxr.trust_region_subproblem, "step multiplier hard", "")
    case("trust_region_subproblem", within, H + H.T, g, 0.7, single=True)
    case("trust_region_subproblem inside", within, H @ H.T + np.eye(4), g, 30.0)
    case("trust_region_subproblem hard", within, np.diag([1.0, -1.0]), np.array([2.0, 0.0]), 2.0)
    case("uncertainty", uncertain, y)
    kinds = {rho.__name__: rho for rho in (loss.linear, loss.huber, loss.soft_l1, loss.cauchy, loss.arctan)}
    case("losses", lambda z: {name: rho(z) for name, rho in kinds.items()}, np.array([0.2, 0.9, 5.0]))


def streamed(X, Y, w, lam, names):
    t = jxr.stream
    parts = [t.update(t.init(3, 2, dtype=X.dtype), X[i], Y[i], w[i]) for i in (slice(8), slice(8, 16))]
    return exits(t.finish(t.merge(*parts)), lam, names)


def collected(X, Y, lams, scale, w):
    t, phi = jxr.stream, jxr.features.nystroem_at(jxr.kernels.RBF(scale), P.new)
    still = jax.lax.stop_gradient((phi, X, Y, w))
    spectrum = t.finish(t.collect(*still[:3], weights=still[3], block=4))
    return {"coefficients": t.coefficients(spectrum, phi, X, Y, lams, weights=w, block=4)}


def second_pass(X, Y, lams, w):
    t, phi, more = jxr.stream, jxr.features.nystroem_at(jxr.kernels.RBF(), P.new), {"weights": w, "block": 4}
    spectrum = t.finish(t.collect(phi, X, Y, **more))
    score = t.leave_one_out(spectrum, phi, X, Y, lams, **more)
    return {"score": score, "leverage": t.leverage(spectrum, phi, X, lams, **more)}


def by_products(X, G, lams, scale, preconditioned=False):
    a, c, kernel = jxr.linalg, jxr.linalg.conjugate_gradients, jxr.kernels.RBF(scale)
    product = jxr.kernels.KernelProduct.make(kernel, X, stored=False, block=4)
    frozen, x = jax.lax.stop_gradient((kernel, X))
    pivots = a.pivoted_cholesky(frozen.diagonal(x), lambda i: frozen.matrix(x, x[i]), 4, jax.random.key(2))
    M = a.LowRank.of(pivots.F) if preconditioned else c.identity
    x, stats = c.solve(product, G, lams, M, tol=1e-10)
    return {"x": x, "iterations": stats.iterations, "pivots": pivots.indices, "F": pivots.F, "count": pivots.count}


def bidiagonal(A, b, lams):
    g = jxr.linalg.golub_kahan
    run = g.bidiagonalise(lambda x: A @ x, lambda y: A.T @ y, b, A.shape[1], jnp.asarray(LAMS[:3]), tol=1e-3)
    found = {"B": run.bidiagonal.matrix(), "steps": run.steps, "share": g.residual_share(run.bidiagonal, lams)}
    small = g.Projected.of(run.bidiagonal)
    return found | {name: jax.vmap(getattr(small, name))(lams) for name in ("y", "rss", "squared_norm")}


def applied(x, operators):
    found = {name: A.mv(x) for name, A in operators.items()}
    found |= {f"{name} back": A.T.mv(jnp.cos(A.mv(x))) for name, A in operators.items()}
    pinv = {f"{name} pinv": A.pinv(jnp.sin(A.mv(x))) for name, A in operators.items() if hasattr(A, "pinv")}
    return found | pinv


def diagonal(h, g, z, lam, names=PARTIAL + " norm logdet filter_factors"):
    spectrum = jxr.inverse.from_diagonal(jax.lax.complex(h, g), jax.lax.complex(z, 0.5 * z), penalty=g)
    return exits(spectrum, lam, names.removeprefix("coef ")) | {"coef": spectrum.coef(lam).real}


def other_cases():
    S, f, o, k, key = jxr.spectrum, jxr.features, jxr.operators, jxr.kernels, jax.random.key(1)

    def triangle(R, z, lam, rss, p, names):
        return exits(S.from_triangle(R, z, rows=9, rss=rss, unpenalized=1, penalty=p), lam, names)

    live, every = (np.triu(T.X[:3]), T.Y[:3], 0.7, 2.0, T.p), PARTIAL + " norm logdet"
    # Without rows, degrees of freedom have derivatives in λ alone.
    case("spectrum triangle", triangle, *live, names=SMOOTH, single=True)
    case("spectrum triangle dof", triangle, *live, names=every, hold=(0, 4))
    case("stream", streamed, LONG.X, LONG.Y, LONG.used, 0.7, names=SMOOTH, single=True)
    case("stream dof", streamed, LONG.X, LONG.Y, LONG.used, 0.7, names=every, hold=(0, 1, 2))
    case("stream collect", collected, P.X, P.Y, LAMS[1:3], 0.9, P.w)
    case("stream leave_one_out", second_pass, P.X, P.Y, LAMS[1:3], P.w, hold=(0, 3))
    real = lambda h, z, lam, p: exits(jxr.inverse.from_diagonal(h, z, penalty=p), lam, every)  # noqa: E731
    case("spectrum diagonal", real, T.y, T.Y, 0.7, np.arange(10.0), single=True)
    case("spectrum diagonal complex", diagonal, T.y, T.Y[:, 1], T.Y, 0.7)

    def nystroem(X, scale):
        phi = f.nystroem(k.RBF(scale), X, 4, key=key)
        return {"phi": phi(X), "dual": phi.dual_coef(X[:4])}

    def fourier(X, scale, kinds=(k.RBF, k.Matern32, k.Laplace)):
        return {kind.__name__: f.fourier(kind(scale), 2, 4, key=key, dtype=X.dtype)(X) for kind in kinds}

    case("features nystroem", nystroem, P.X, 0.9, single=True)
    case("features nystroem_at", lambda X, C, scale: {"phi": f.nystroem_at(k.Matern52(scale), C)(X)}, P.X, P.new, 0.9)
    case("features fourier", fourier, P.X, 0.9, single=True)
    scores = lambda X, lam, scale, w: {"h": f.leverage_scores(k.RBF(scale), X, lam, X[2:7], weights=w)}  # noqa: E731
    case("features leverage_scores", scores, P.X, 0.2, 0.9, P.used)
    drawn = lambda X: {"h": f.leverage(k.RBF(), X, 4, 0.1, key=key), "u": f.uniform(X, 4, key=key)}  # noqa: E731
    case("features leverage", drawn, P.X, hold=(0,))
    for name in ("", " preconditioned"):
        case(f"krylov{name}", by_products, P.X, P.Y, np.array([0.1, 2.0]), 0.9, preconditioned=bool(name))
    case("golub_kahan", bidiagonal, BLUR, SEEN[:, 0], LAMS[:2], hold=(0, 1))
    rays = [[[0.5, 0.0], [3.5, 4.5]], [[0.0, 2.2], [4.0, 1.1]]]
    operators = {"radon": o.radon((4, 5), np.linspace(0, 3, 4), bins=5), "rays": o.line_integrals((4, 5), rays)}
    operators["difference"] = o.difference((4, 5), 2, boundary="periodic")
    operators["subsample"] = o.subsample((4, 5), np.s_[::2, 1:4]) @ o.gaussian_blur((4, 5), 1.0)

    def blurs(width, psf, x):
        made = {edge: o.gaussian_blur((4, 5), width, boundary=edge, radius=2) for edge in ("zero", "periodic")}
        return applied(x, made | {"blur": o.blur((4, 5), psf)})

    case("operators", applied, IMAGE, operators=operators)
    case("operators signal", applied, SEEN[:, 0], operators={"difference": o.difference(9, 2)})
    case("operators blur", blurs, np.array([0.7, 1.1]), IMAGE[:3, :3], IMAGE, single=True)
    problems = {name: getattr(jxr.testproblems, name)(8) for name in ("shaw", "phillips", "heat", "deriv2", "foxgood")}
    case("testproblems", lambda x: {name: problem.A @ x - problem.b for name, problem in problems.items()}, T.X[:8, 0])


def program(fn, hold, forward):
    """Arrays of a case, their derivatives along a direction, and those of a fixed sum of them in every argument."""

    def share(x):
        return jnp.where(jnp.isfinite(x), jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), 0.0)

    @jax.jit
    def run(args, along):
        live = [i for i in range(len(args)) if i not in hold]

        def split(*moving):
            given = dict(zip(live, moving, strict=True))
            found = fn(*(given.get(i, x) for i, x in enumerate(args)))
            found = {name: jnp.asarray(x) for name, x in found.items() if x is not None}
            smooth = {name: x for name, x in found.items() if jnp.issubdtype(x.dtype, jnp.floating)}
            return smooth, {name: x for name, x in found.items() if name not in smooth}

        moving, along = tuple(args[i] for i in live), tuple(along[i] for i in live)
        if not live:
            return {**split()[0], **split()[1]}
        smooth, pull, rest = jax.vjp(split, *moving, has_aux=True)
        found = smooth | rest
        if forward:
            found |= {f"jvp {name}": x for name, x in jax.jvp(split, moving, along, has_aux=True)[1].items()}
        backward = pull({name: share(x) for name, x in smooth.items()})
        return found | {f"vjp {i}": x for i, x in zip(live, backward, strict=True)}

    return run


def compute(name):
    """The arrays of a case by name, or the error that it raises."""
    fn, args, hold, forward, dtype = CASES[name]
    try:
        rng, args = np.random.default_rng(9), tuple(jnp.asarray(x, dtype) for x in args)
        along = tuple(jnp.asarray(rng.standard_normal(x.shape), dtype) for x in args)
        return {f"{name}: {key}": np.asarray(x) for key, x in program(fn, hold, forward)(args, along).items()}
    except Exception as error:
        return error


def load():
    """Arrays by name, taken from the front of one flat array for each dtype."""
    with np.load(DATA) as stored:
        flat, found = {key: stored[key] for key in stored.files}, {}
    for name, dtype, shape in json.loads(flat.pop("index").tobytes()):
        found[name], flat[dtype] = np.split(flat[dtype], [int(np.prod(shape))])
        found[name] = found[name].reshape(shape)
    return found


def save(found):
    index = [[name, x.dtype.name, x.shape] for name, x in found.items()]
    flat = {dtype: [x.ravel() for x in found.values() if x.dtype.name == dtype] for _, dtype, _ in index}
    text = np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), np.uint8)
    np.savez_compressed(DATA, index=text, **{dtype: np.concatenate(parts) for dtype, parts in flat.items()})


def deviation(stored, now):
    """Units in the last place of the largest entry; infinite where kinds, shapes or exact entries differ."""
    if stored is None or now is None or stored.dtype != now.dtype or stored.shape != now.shape:
        return np.inf
    exact = stored.dtype.kind != "f"
    if np.array_equal(stored, now, equal_nan=not exact):
        return 0.0
    finite = np.isfinite(stored)
    if exact or not np.array_equal(stored[~finite], now[~finite], equal_nan=True):
        return np.inf
    old, new = stored[finite].astype(float), now[finite].astype(float)
    size = np.max(np.abs(old), initial=0.0) * float(np.finfo(stored.dtype).eps)
    far = float(np.max(np.abs(new - old), initial=0.0))
    return far / size if size > 0 and np.isfinite(far) else np.inf


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="store what is computed")
    parser.add_argument("names", nargs="*", help="cases, or how they begin")
    options = parser.parse_args()
    for fill in (ridge_cases, kernel_cases, inverse_cases, nonlinear_cases, other_cases):
        fill()
    stored = load() if DATA.exists() else {}
    names, found, far, failed = [name for name in CASES if name.startswith(tuple(options.names or [""]))], {}, {}, 0
    # One program is traced while another is compiled.
    with ThreadPoolExecutor(2) as pool:
        for name, arrays in zip(names, pool.map(compute, names), strict=True):
            if isinstance(arrays, Exception):
                print(f"{name}: {type(arrays).__name__}: {str(arrays).splitlines()[0]}", flush=True)
                failed += 1
                continue
            found |= arrays
            known = {} if options.write else {key: x for key, x in stored.items() if key.startswith(f"{name}: ")}
            ulps = {
                key: deviation(known.get(key), arrays.get(key)) for key in ({} if options.write else known | arrays)
            }
            far |= ulps
            worst = max(ulps, key=ulps.get, default=None)
            if worst and ulps[worst] > 0:
                print(f"{worst}: {ulps[worst]:.3g} ulp, {sum(u > 0 for u in ulps.values())} arrays differ", flush=True)
    if options.write:
        save({key: x for key, x in stored.items() if key.partition(": ")[0] in CASES} | found)
    equal, beyond = sum(u == 0 for u in far.values()), sum(u > ULPS for u in far.values()) + failed
    worst = max(far, key=far.get, default="nothing")
    most = f"largest deviation {far.get(worst, 0.0):.3g} ulp in {worst}"
    print(f"golden: {len(names)} cases, {len(found)} arrays, {equal} equal to the bit, {most}, {beyond} beyond {ULPS}")
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
