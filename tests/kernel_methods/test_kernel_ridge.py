"""Kernel ridge against dense algebra on a zoo of point sets, against scikit-learn, and in its derivatives."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.gaussian_process.kernels as gp
from lines import check_derivatives
from scipy.interpolate import BarycentricInterpolator
from sklearn.datasets import load_wine
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge

import jaxridge as jxr
from jaxridge import RESULTS, kernels, select
from jaxridge.kernel_methods import Cholesky, Eigen, Mixed, Tridiagonal, from_kernel
from jaxridge.linalg import tridiagonal as reflections

SOLVERS = {"eigen": Eigen(), "tridiagonal": Tridiagonal(), "cholesky": Cholesky()}
LAMS = np.array([1e-5, 1e-2, 1.0, 1e2])
N = 9


def points():
    """Generic points, repeated ones, near neighbours, all the same, far apart."""
    rng = np.random.default_rng(5)
    plain = rng.standard_normal((N, 2))
    twins = plain.copy()
    twins[4:8] = plain[:4]
    near = plain.copy()
    near[4:8] = plain[:4] + 1e-9
    return {"plain": plain, "twins": twins, "near": near, "same": np.ones((N, 2)), "far": 1e3 * plain}


POINTS = points()
Y = np.random.default_rng(6).standard_normal((N, 2))
WEIGHTS = {"none": None, "some": np.exp(Y[:, 0]), "zero": np.exp(Y[:, 0]) * (np.arange(N) != 2)}
NEW = np.random.default_rng(7).standard_normal((3, 2))


def bordered(K, lam, weights, intercept):
    """The inverse of [[K + λ/ω, 1], [1ᵀ, 0]] over the rows of positive weight, in the place of all rows."""
    (used,) = np.nonzero(weights > 0)
    M = np.block(
        [[K[np.ix_(used, used)] + np.diag(lam / weights[used]), np.ones((len(used), 1))], [np.ones(len(used)), 0]]
    )
    size = len(used) + intercept
    inverse, where = np.zeros((len(K) + 1,) * 2), np.append(used, len(K))[:size]
    inverse[np.ix_(where, where)] = np.linalg.inv(M[:size, :size])
    return inverse


def solve(K, y, lam, weights, intercept):
    """α and b by one dense solve."""
    solution = bordered(K, lam, weights, intercept) @ np.append(y, np.zeros((1, y.shape[1])), axis=0)
    return solution[:-1], solution[-1]


def brute(K, across, y, lam, weights, intercept):
    """Everything by refitting and by explicit inverses; k(x, x) = 1 at new points."""
    n, w = len(K), np.ones(len(K)) if weights is None else weights
    used = w > 0
    alpha, b = solve(K, y, lam, w, intercept)
    residual = y - K @ alpha - b
    inverse = bordered(K, lam, w, intercept)
    hat = np.append(K, np.ones((n, 1)), axis=1) @ inverse[:, :n]
    loo = residual.copy()
    for i in np.flatnonzero(used):
        a, c = solve(K, y, lam, w * (np.arange(n) != i), intercept)
        loo[i] = y[i] - K[i] @ a - c
    m, reduced = used.sum() - intercept, np.sqrt(w)[:, None] * K * np.sqrt(w)
    if intercept:
        basis = np.linalg.svd(np.sqrt(w)[:, None] @ np.sqrt(w)[None])[0][:, 1:]
        reduced = basis.T @ reduced @ basis
    logdet = np.linalg.slogdet(np.eye(len(reduced)) + reduced / lam)[1]
    rss, dof = np.sum(w[:, None] * residual**2, axis=0), np.trace(hat)
    sigma2 = (rss + lam * np.sum(alpha * (K @ alpha), axis=0)) / m
    new = np.append(across, np.full((len(across), 1), float(intercept)), axis=1)
    return {
        "predict": across @ alpha + b,
        "intercept": b,
        "rss": rss,
        "dof": dof,
        "alpha": alpha,
        "squared norm": np.sum(alpha * (K @ alpha), axis=0),
        "loo": np.sum(w[:, None] * loo**2, axis=0) / w.sum(),
        "gcv": used.sum() * rss / (used.sum() - dof) ** 2,
        "evidence": 0.5 * (m * np.log(2 * np.pi * sigma2) + m + logdet),
        "variance": (1 - np.sum(new @ inverse * new, axis=1))[:, None] * sigma2 / lam,
    }


@partial(jax.jit, static_argnames=("solver", "intercept"))
def everything(X, y, lam, weights, new, *, solver, intercept):
    """What `brute` computes, through the public verbs."""
    problem = {"kernel": kernels.RBF(), "weights": weights, "intercept": intercept, "solver": SOLVERS[solver]}
    path = jxr.kernel_ridge_path(X, y, lam[None], **problem)
    rules = {"gcv": select.gcv, "evidence": select.evidence} | ({} if solver == "tridiagonal" else {"loo": select.loo})
    scores = {name: jxr.kernel_ridge_score(X, y, lam, rule=rule, **problem) for name, rule in rules.items()}
    posterior = jxr.kernel_posterior(X, y, lam, **problem)
    more = {"predict": path.predict(new)[0]} | {name: getattr(path, name)[0] for name in ("intercept", "rss", "dof")}
    more["squared norm"] = path.norm[0] ** 2
    return scores | more | {"variance": posterior.variance(new)}, path.result


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("weights", "intercept"), [("none", False), ("none", True), ("some", True), ("zero", True)])
def test_against_refits(solver, weights, intercept):
    """Predictions, dof, leave-one-out by refitting, GCV, evidence and variances on every point set, at every λ."""
    w = WEIGHTS[weights]
    for name, X in POINTS.items():
        if name == "same" and not intercept:
            continue
        K, across = gp.RBF()(X), gp.RBF()(NEW, X)
        for lam in LAMS:
            got, result = everything(X, Y, lam, w, NEW, solver=solver, intercept=intercept)
            assert np.all(np.asarray(result == RESULTS.successful)), (name, lam)
            want = brute(K, across, Y, lam, w, intercept)
            # The condition number of K + λ, up to 1e6 here, times eps is 1e-10.
            for key, value in got.items():
                scale = np.max(np.abs(want[key])) + (1.0 if key in ("predict", "intercept", "squared norm") else 0.0)
                if key in ("loo", "gcv") and name == "same":
                    continue
                error = np.max(np.abs(np.asarray(value) - want[key])) / scale
                # αᵀKα moves by eps‖α‖² with the last digit of K, and ‖α‖ ≤ ‖y‖/λ.
                moved = 1e-15 * np.max(np.sum(want["alpha"] ** 2, axis=0)) / scale if key == "squared norm" else 0.0
                assert error <= 1e-9 + moved, (name, lam, key, error)


def test_float32_factor_with_float64_coefficients():
    """Coefficients of the mixed route equal those of the dense solve in float64, for λ above the float32 floor."""
    X = np.random.default_rng(9).standard_normal((60, 2))
    y, lams, w = np.sin(X), np.array([1e-8, 1e-3, 1e-1, 10.0]), np.exp(X[:, 1])
    path = jxr.kernel_ridge_path(X, y, lams, kernel=kernels.RBF(), weights=w, solver=Mixed())
    assert np.all(np.asarray(path.result == RESULTS.successful).T == [False, True, True, True])
    for lam, alpha in zip(lams[1:], path.dual_coef[1:], strict=True):
        want, _ = solve(gp.RBF()(X), y, lam, w, True)
        # The condition number of K + λ/ω is up to 1e6 here.
        np.testing.assert_allclose(alpha, want, rtol=0, atol=1e-9 * np.max(np.abs(want)))
    assert np.all(np.asarray(path.result == RESULTS.unresolved).T == [True, False, False, False])
    with pytest.raises(ValueError, match="it refines to float64"):
        jxr.kernel_ridge(np.float32(X), np.float32(y), 1.0, kernel=kernels.RBF(), solver=Mixed())


def test_against_sklearn():
    """KernelRidge, and a Gaussian process of signal variance σ²/λ with its evidence, at 1e-8."""
    X, lam, noise = POINTS["twins"], 0.03, 0.2
    problem = {"kernel": kernels.Matern52([0.5, 2.0]), "intercept": False}
    fit = jxr.kernel_ridge(X, Y, lam, **problem)
    kernel = gp.Matern([0.5, 2.0], nu=2.5)
    sk = KernelRidge(alpha=lam, kernel=lambda a, b: kernel(a[None], b[None])[0, 0]).fit(X, Y)
    np.testing.assert_allclose(fit.dual_coef, sk.dual_coef_, rtol=1e-8)
    np.testing.assert_allclose(fit.predict(NEW), sk.predict(NEW), rtol=1e-8)
    process = GaussianProcessRegressor(gp.ConstantKernel(noise / lam) * kernel, alpha=noise, optimizer=None).fit(
        X, Y[:, 0]
    )
    mean, covariance = process.predict(NEW, return_cov=True)
    posterior = jxr.kernel_posterior(X, Y[:, 0], lam, noise=noise, **problem)
    np.testing.assert_allclose(posterior.mean(NEW), mean, rtol=1e-8)
    np.testing.assert_allclose(posterior.covariance(NEW), covariance, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(posterior.variance(NEW), np.diagonal(covariance), rtol=1e-8)
    rule = select.marginal_likelihood(noise)
    score = jxr.kernel_ridge_score(X, Y[:, 0], lam, rule=rule, **problem)
    np.testing.assert_allclose(score, -process.log_marginal_likelihood_value_, rtol=1e-10)


def test_linear_kernel_is_ridge():
    """Coefficients, leave-one-out, GCV, dof and evidence of the linear kernel are those of ridge."""
    w, rules = WEIGHTS["some"], (select.loo, select.gcv, select.evidence, select.kfold(4))

    def by(path, cv):
        def run(X):
            whole = path(X, Y, LAMS, weights=w)
            return whole.predict(NEW), whole.dof, [cv(X, Y, LAMS, weights=w, rule=rule).scores for rule in rules]

        return jax.jit(run)(POINTS["plain"])

    kernel = by(*(partial(verb, kernel=kernels.Linear()) for verb in (jxr.kernel_ridge_path, jxr.kernel_ridge_cv)))
    for ours, theirs, rtol in zip(kernel, by(jxr.ridge_path, jxr.ridge_cv), (1e-8, 1e-8, 1e-7), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol)


def test_folds_and_holdout_by_refitting():
    """Held-out losses for folds of unequal length and for rows kept apart, and the λ that each takes."""
    X, kernel = POINTS["plain"], kernels.RBF()
    K = np.asarray(kernel.matrix(X))
    for labels in ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 1, 1, 1, 2, 2]):
        choice = jxr.kernel_ridge_cv(X, Y, LAMS, kernel=kernel, rule=select.kfold(labels=labels))
        for lam, score in zip(LAMS, choice.scores, strict=True):
            losses = []
            for fold in range(3):
                out = np.array(labels) == fold
                a, b = solve(K, Y, lam, (~out).astype(float), True)
                losses.append(np.mean((Y[out] - K[out] @ a - b) ** 2, axis=0))
            np.testing.assert_allclose(score, np.mean(losses, axis=0), rtol=1e-9)
    # One target of many points goes another way than several.
    points = np.random.default_rng(3).standard_normal((40, 2))
    one, two = (
        jxr.kernel_ridge_cv(points, y, LAMS, kernel=kernel, rule=select.kfold(2)).scores
        for y in (points[:, 0], points[:, [0, 0]])
    )
    np.testing.assert_allclose(two, np.stack([one, one], axis=1), rtol=1e-8)
    target = np.sin(NEW)
    choice = jxr.kernel_ridge_cv(X, Y, LAMS, kernel=kernel, rule=select.holdout(NEW, target), refine=True)
    expected = [
        np.mean((target - np.asarray(jxr.kernel_ridge(X, Y, lam, kernel=kernel).predict(NEW))) ** 2, 0) for lam in LAMS
    ]
    np.testing.assert_allclose(choice.scores, expected, rtol=1e-10)


def test_lam_per_target_paths_and_blocks():
    """A λ for each target, a path at another λ, predictions in blocks: all the same numbers."""
    X, kernel = POINTS["plain"], kernels.RBF()
    choice = jxr.kernel_ridge_cv(X, Y, LAMS, kernel=kernel, per_target=True)
    assert choice.lam.shape == (2,)
    for j in range(2):
        alone = jxr.kernel_ridge_cv(X, Y[:, j], LAMS, kernel=kernel)
        assert float(alone.lam) == float(choice.lam[j])
        np.testing.assert_allclose(alone.fit.predict(NEW), choice.fit.predict(NEW)[:, j], rtol=1e-10)
    path = jxr.kernel_ridge_path(X, Y, LAMS, kernel=kernel)
    np.testing.assert_allclose(path.at(LAMS[1]).predict(NEW), path[1].predict(NEW), rtol=1e-12)
    np.testing.assert_allclose(path[1].predict(NEW, memory=2 * 8 * N), path.predict(NEW)[1], rtol=1e-12)
    # So many columns that they are turned by an explicit Q; and a λ of which nothing but the mean is left.
    wide = jxr.kernel_ridge_path(X, Y, np.append(np.repeat(LAMS, 3), np.inf), kernel=kernel)
    np.testing.assert_allclose(wide.dual_coef[:-1:3], path.dual_coef, rtol=1e-9)
    np.testing.assert_allclose(wide.rss[:-1:3], path.rss, rtol=1e-9)
    np.testing.assert_allclose(wide.rss[-1], np.sum((Y - Y.mean(0)) ** 2, axis=0), rtol=1e-12)
    two = jxr.kernel_ridge(X, Y, jnp.asarray(LAMS[:2]), kernel=kernel)
    np.testing.assert_allclose(two.dual_coef[:, 1], path.dual_coef[1, :, 1], rtol=1e-9)
    many = jax.vmap(lambda lam: jxr.kernel_ridge(X, Y, lam, kernel=kernel).dual_coef)(jnp.asarray(LAMS))
    np.testing.assert_allclose(many, path.dual_coef, rtol=1e-9, atol=1e-9)


EVERY = [
    Eigen(),
    Tridiagonal(),
    Cholesky(),
    jxr.Iterative(jax.random.key(0), tol=1e-6, rank=4),
    jxr.Nystroem(jax.random.key(0), rank=N),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", EVERY)
def test_the_norm_of_the_function_falls_in_lam(solver, dtype):
    """√(αᵀKα) of the coefficients that come back, in any units, from every solver; 0 at λ = ∞."""
    X, lams = POINTS["plain"].astype(dtype), np.array([1e-2, 1.0, 1e2, np.inf], dtype)
    for unit in (1.0, 1e-15, 1e15):
        y = (unit * Y).astype(dtype)
        problem = {"kernel": kernels.RBF(), "weights": WEIGHTS["zero"].astype(dtype)}
        path = jxr.kernel_ridge_path(X, y, lams, solver=solver, **problem)
        assert np.all(np.diff(path.norm, axis=0) < 0)
        np.testing.assert_array_equal(path.norm[-1], 0.0)
        alpha, K = np.asarray(path.dual_coef, float), np.asarray(kernels.RBF().matrix(path.points), float)
        # Conjugate gradients in float32 stop at 1e-4 of the right-hand side.
        np.testing.assert_allclose(path.norm, np.sqrt(np.sum(alpha * (K @ alpha), axis=1)), rtol=1e-3, atol=1e-30)


BALL_SOLVERS = {"default": None, "nystroem": jxr.Nystroem(jax.random.key(0), rank=N)}


@pytest.mark.parametrize("solver", BALL_SOLVERS)
def test_ball_is_kernel_ridge_at_its_multiplier(solver):
    """Radii on the boundary, inside and outside, one for each target; as `ridge_ball` for a linear kernel."""
    X, solver = POINTS["plain"], BALL_SOLVERS[solver]
    problem = {"kernel": kernels.RBF(), "weights": WEIGHTS["some"], "solver": solver}
    full = np.sqrt(jxr.kernel_ridge_ball(X, Y, np.inf, **problem).norm ** 2)
    for radius in (0.3 * full, full * [0.5, 1.5], full * [1e-6, 0.99]):
        fit = jxr.kernel_ridge_ball(X, Y, radius, **problem)
        np.testing.assert_allclose(fit.norm, np.minimum(radius, full), rtol=1e-9)
        at = jxr.kernel_ridge(X, Y, fit.lam, kernel=kernels.RBF(), weights=WEIGHTS["some"], solver=Eigen())
        np.testing.assert_allclose(fit.predict(NEW), at.predict(NEW), rtol=1e-7, atol=1e-9)
        assert np.all(np.asarray(fit.lam == 0) == (radius > full))
    none = jxr.kernel_ridge_ball(X, Y, 0.0, **problem)
    assert np.all(np.isinf(none.lam))
    np.testing.assert_allclose(none.predict(NEW), np.tile(none.intercept, (3, 1)))
    assert codes(jxr.kernel_ridge_ball(X, Y, [-1.0, np.nan], **problem).result) == {"invalid_radius"}
    alike = jxr.kernel_ridge_ball(X, Y, 0.2, **problem | {"kernel": kernels.Linear()})
    linear = jxr.ridge_ball(X, Y, 0.2, weights=WEIGHTS["some"])
    np.testing.assert_allclose(alike.lam, linear.lam, rtol=1e-8)
    np.testing.assert_allclose(alike.predict(NEW), linear.predict(NEW), rtol=1e-8)


@pytest.mark.parametrize("solver", EVERY)
def test_a_large_mean_of_y_costs_float32_no_digits(solver):
    """κ·eps = (‖K‖/λ)·eps ≤ 2e-5 is what rounding leaves; y far from 0 must not make it more."""
    points, y = POINTS["plain"].astype(np.float32), (1e5 + Y).astype(np.float32)
    problem = {"kernel": kernels.RBF(), "weights": np.float32(WEIGHTS["some"])}
    found = jxr.kernel_ridge(points, y, 0.1, solver=solver, **problem)
    wanted = jxr.kernel_ridge(points.astype(float), y.astype(float), 0.1, **problem)
    assert found.dual_coef.dtype == jnp.float32
    of, wanted_of = (
        np.asarray(kernels.RBF().matrix(NEW, fit.points.astype(float))) @ np.asarray(fit.dual_coef)
        for fit in (found, wanted)
    )
    np.testing.assert_allclose(of, wanted_of, rtol=0, atol=2e-5 * np.max(np.abs(wanted_of)))
    np.testing.assert_allclose(found.intercept, wanted.intercept, rtol=2e-7)
    np.testing.assert_allclose(found.rss, wanted.rss, rtol=1e-4)


def test_large_solvers_behind_the_same_verbs():
    """Conjugate gradients give the dense path; Nyström at full rank too, with its leave-one-out; refusals by name."""
    X, kernel, key = POINTS["plain"], kernels.RBF(), jax.random.key(1)
    problem = {"kernel": kernel, "weights": WEIGHTS["some"]}
    dense = jxr.kernel_ridge_path(X, Y, LAMS, **problem)
    rule = select.holdout(NEW, np.sin(NEW))
    best = jxr.kernel_ridge_cv(X, Y, LAMS, rule=rule, per_target=True, **problem)
    for solver in (jxr.Iterative(key, tol=1e-12, rank=4), jxr.Nystroem(key, rank=N)):
        path = jxr.kernel_ridge_path(X, Y, LAMS, solver=solver, **problem)
        np.testing.assert_allclose(path.predict(NEW), dense.predict(NEW), rtol=1e-8)
        assert codes(path.result) == {"successful"}
        choice = jxr.kernel_ridge_cv(X, Y, LAMS, rule=rule, per_target=True, solver=solver, **problem)
        np.testing.assert_allclose(choice.scores, best.scores, rtol=1e-8)
        np.testing.assert_allclose(choice.lam, best.lam)
        np.testing.assert_allclose(choice.fit.predict(NEW), best.fit.predict(NEW), rtol=1e-8)
    assert path.iterations is None
    for rule in (select.loo, select.gcv):
        ours = jxr.kernel_ridge_cv(X, Y, LAMS, rule=rule, solver=jxr.Nystroem(key, rank=N), **problem).scores
        np.testing.assert_allclose(ours, jxr.kernel_ridge_cv(X, Y, LAMS, rule=rule, **problem).scores, rtol=1e-7)
    with pytest.raises(ValueError, match=r"not to be had from an iterative.*select\.holdout.*Nystroem\(key\)"):
        jxr.kernel_ridge_cv(X, Y, LAMS, solver=jxr.Iterative(key), **problem)
    np.testing.assert_allclose(path.at(LAMS[1]).dual_coef, path[1].dual_coef, rtol=1e-9)
    with pytest.raises(ValueError, match="make lam a part of lams"):
        jxr.kernel_ridge_path(X, Y, LAMS, solver=jxr.Iterative(key), **problem).at(1.0)
    # Beyond its memory the same call is iterative, and says so.
    X = np.random.default_rng(4).standard_normal((60, 2))
    small = jxr.kernel_ridge_path(X, X[:, 0], LAMS, kernel=kernel, memory=130_000)
    assert small.iterations is not None
    dense = jxr.kernel_ridge_path(X, X[:, 0], LAMS, kernel=kernel)
    np.testing.assert_allclose(small.predict(NEW), dense.predict(NEW), atol=1e-4)
    with pytest.raises(ValueError, match="the smallest that works"):
        jxr.kernel_ridge_path(X, X[:, 0], LAMS, kernel=kernel, memory=1000)


def test_no_array_of_lams_by_points_by_points():
    """The compiled path and the leave-one-out curve hold a few n × n arrays and nothing that grows with k n²."""
    n, k = 64, 50
    X, y = jnp.ones((n, 2)), jnp.ones((n, 1))
    for verb in (jxr.kernel_ridge_path, jxr.kernel_ridge_cv):
        full = jax.jit(lambda X, y, lams, verb=verb: jax.tree.leaves(verb(X, y, lams, kernel=kernels.RBF()))[0:8])
        memory = full.lower(X, y, jnp.ones(k)).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 16 * n * n * 8 + 8 * k * n * 8, verb


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_programs_that_are_shipped(platform):
    """The default routes, folds and the tridiagonal form, which XLA lacks on TPUs, are exported and stored."""
    X, y = jnp.asarray(POINTS["plain"][:8]), jnp.asarray(Y[:8])

    def scores(X, y):
        rules = select.gcv, select.kfold(3)
        return [jxr.kernel_ridge_cv(X, y, LAMS, kernel=kernels.RBF(), rule=rule).scores for rule in rules]

    program = jax.export.export(jax.jit(scores), platforms=[platform])(X, y)
    assert "callback" not in program.mlir_module()
    again = jax.export.deserialize(program.serialize())
    if platform == jax.default_backend():
        np.testing.assert_allclose(again.call(X, y), scores(X, y), rtol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 65, 67])
def test_householder_s_tridiagonal_form(n):
    """K = QTQᵀ, by LAPACK and by products alone; rotations by panels are those of the matrix Q, there and back."""
    rng = np.random.default_rng(n)
    K = rng.standard_normal((n, n))
    K = jnp.asarray(K + K.T)
    # Already tridiagonal from some column on: nothing to reflect there.
    K = K.at[3:, : n // 2].set(0.0).at[: n // 2, 3:].set(0.0) if n > 5 else K
    for form in (reflections.tridiagonal, reflections._by_products):
        packed, d, off, taus = jax.jit(form)(K)
        T = np.diag(d) + np.diag(off, 1) + np.diag(off, -1)
        Q = np.eye(n)
        Q[1:, 1:] = jax.lax.linalg.householder_product(packed[1:, :-1], taus)
        np.testing.assert_allclose(Q @ T @ Q.T, K, atol=1e-14 * n)
        panels = reflections.reflections(packed, taus)
        for columns in (1, n, 3 * n):
            x = jnp.asarray(rng.standard_normal((n, columns)))
            for turn, transpose in ((Q, False), (Q.T, True)):
                turned = reflections.rotate(panels, x, transpose=transpose)
                np.testing.assert_allclose(turned, turn @ np.asarray(x), atol=1e-14 * n)
    alone = reflections.reflections(
        *(x for i, x in enumerate(reflections.tridiagonal(jnp.ones((1, 1)))) if i in (0, 3))
    )
    assert reflections.rotate(alone, jnp.full((1, 1), 3.0), transpose=True) == 3.0


def gauss(x, z):
    return jnp.exp(-0.5 * jnp.sum(jnp.square(x - z)))


NET = eqx.nn.MLP(2, 2, 3, 1, activation=jnp.tanh, key=jax.random.key(3))
OWN = {
    "a function of pairs": (kernels.Pairwise(gauss), kernels.RBF(), lambda x: x),
    "a map": (kernels.RBF().on(lambda x: jnp.tanh(x)), kernels.RBF(), jnp.tanh),
    "a network": (2.0 * kernels.Pairwise(gauss).on(NET), 2.0 * kernels.RBF(), jax.vmap(NET)),
}
GRID = np.array([0.1, 1.0])
VERBS = {
    "kernel_ridge": lambda X, y, k: jxr.kernel_ridge(X, y, 0.1, kernel=k),
    "path": lambda X, y, k: jxr.kernel_ridge_path(X, y, kernel=k),
    "at": lambda X, y, k: jxr.kernel_ridge_path(X, y, GRID, kernel=k).at(0.3),
    "cv": lambda X, y, k: jxr.kernel_ridge_cv(X, y, GRID, kernel=k, rule=select.kfold(2)).fit,
    "ball": lambda X, y, k: jxr.kernel_ridge_ball(X, y, 0.5, kernel=k),
    "compare": lambda X, y, k: jxr.kernel_ridge_compare(X, y, {"a": select.gcv, "b": select.loo}, GRID, kernel=k),
    "posterior": lambda X, y, k: jxr.kernel_posterior(X, y, 0.1, kernel=k, noise=0.1).fit,
    "banded": lambda X, y, k: jxr.kernel_ridge_banded(X, y, GRID, kernels=[k, 0.5 * k]),
    "svm": lambda X, y, k: jxr.svm(X, jnp.sign(y), 0.1, kernel=k),
    "svm_path": lambda X, y, k: jxr.svm_path(X, jnp.sign(y), GRID, kernel=k),
    "nystroem": lambda X, y, k: jxr.kernel_ridge_path(X, y, GRID, kernel=k, solver=jxr.Nystroem(centres=X[:4])),
    "iterative": lambda X, y, k: jxr.kernel_ridge(X, y, 0.1, kernel=k, solver=jxr.Iterative(jax.random.key(0))),
}


@pytest.mark.parametrize(
    ("of", "verb"), [(of, verb) for of in OWN for verb in VERBS if of == "a network" or verb in ("path", "svm")]
)
def test_kernels_of_one_s_own_in_every_verb(of, verb):
    """What holds a function is the kernel that it equals, and its models come out of jit and vmap like others."""
    own, same, features = OWN[of]
    fn = VERBS[verb]
    X, y = jnp.asarray(POINTS["plain"]), jnp.asarray(Y[:, 0])
    got, want = jax.jit(lambda X, y: fn(X, y, own))(X, y), fn(features(X), y, same)
    np.testing.assert_allclose(got.dual_coef, want.dual_coef, rtol=1e-6, atol=1e-8)
    assert jax.tree.structure(jax.tree.map(lambda x: x, got)) == jax.tree.structure(got)


def test_new_points_take_the_precision_of_the_model_and_never_its_whole_numbers():
    kernel, times = kernels.RBF().on(lambda p: p["t"]), np.arange(6)[:, None]
    y, new = jnp.sin(jnp.arange(6.0)), np.array([[0.5], [2.7]])
    want = jxr.kernel_ridge(times.astype(float), y, 0.1, kernel=kernels.RBF()).predict(new)
    whole = jxr.kernel_ridge({"t": times}, y, 0.1, kernel=kernel)
    np.testing.assert_allclose(whole.predict({"t": new}), want, rtol=1e-12)
    single = jxr.kernel_ridge({"t": times.astype(np.float32)}, y.astype(jnp.float32), 0.1, kernel=kernel)
    assert single.predict({"t": new}).dtype == jnp.float32
    np.testing.assert_allclose(single.predict({"t": new}), want, rtol=1e-4)


def test_a_kernel_with_a_function_among_its_leaves_is_told():
    class Mine(kernels.Kernel):
        function: object

        def __call__(self, x, z):
            return self.function(x, z)

    with pytest.raises(ValueError, match=r"kernel Mine holds .* declare that field with"):
        jxr.kernel_ridge_path(POINTS["plain"], Y, LAMS, kernel=Mine(gauss))


def test_classes_in_closed_form():
    """One-hot classes and least-squares support vectors: error rates by leave-one-out equal those of refits."""
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(3), 5)
    X = rng.standard_normal((15, 2)) + 1.5 * np.array([[0, 0], [1, 0], [0, 1]])[labels]
    hot, signs, kernel, lam = np.eye(3)[labels], np.where(labels == 0, 1.0, -1.0), kernels.RBF(), 0.3
    K = np.asarray(kernel.matrix(X))
    out = [solve(K, np.column_stack([hot, signs]), lam, 1.0 - np.eye(15)[i], True) for i in range(15)]
    predicted = np.stack([K[i] @ a + b for i, (a, b) in enumerate(out)])
    wrong = np.mean(np.argmax(predicted[:, :3], 1) != labels)
    assert 0 < wrong < 1
    rule = select.misclassification
    np.testing.assert_allclose(jxr.kernel_ridge_score(X, hot, lam, kernel=kernel, rule=rule), np.full(3, wrong))
    wrong = np.mean(predicted[:, 3] * signs < 0)
    np.testing.assert_allclose(jxr.kernel_ridge_score(X, signs, lam, kernel=kernel, rule=rule), wrong)
    # The linear system of Suykens and Vandewalle (1999), with γ = 1/λ.
    system = np.block(
        [[np.zeros((1, 1)), signs[None]], [signs[:, None], np.outer(signs, signs) * K + lam * np.eye(15)]]
    )
    b, *support = np.linalg.solve(system, np.append(0.0, np.ones(15)))
    fit = jxr.kernel_ridge(X, signs, lam, kernel=kernel)
    np.testing.assert_allclose(fit.dual_coef, support * signs, rtol=1e-9)
    np.testing.assert_allclose(fit.intercept, b, rtol=1e-9)


@pytest.mark.parametrize(
    ("rule", "kernel", "solver"),
    [
        (select.loo, kernels.RBF, Eigen()),
        (select.evidence, kernels.RBF, Cholesky()),
        (select.gcv, kernels.Matern32, Tridiagonal()),
        (select.kfold(3), kernels.RBF, Tridiagonal()),
    ],
)
def test_derivatives_of_scores(rule, kernel, solver):
    """Order two, forward and reverse, along a line through length scale, λ, weights, points and y at once.

    With a repeated point where the kernel is smooth, and a weight of zero, which stays: such rows are not counted.
    """
    X = jnp.asarray(POINTS["plain"])[:6]
    if kernel is kernels.RBF:
        X = X.at[5].set(X[0])
    weights = jnp.asarray(np.exp(Y[:6, 1]) * (np.arange(6) != 1))
    at = (jnp.asarray(0.8), jnp.asarray(0.2), weights, X, jnp.asarray(Y[:6]))

    def scores(scale, lam, weights, X, y):
        options = {"kernel": kernel(scale), "rule": rule, "weights": weights, "solver": solver}
        return jxr.kernel_ridge_score(X, y, lam, **options)

    check_derivatives(scores, at, rtol=1e-6, reverse_twice=False, keep_zeros=True)


def test_derivative_at_a_weight_of_zero():
    """What a first measurement at a point would change, against a one-sided difference."""
    X, w = jnp.asarray(POINTS["plain"]), jnp.asarray(WEIGHTS["zero"])

    @jax.jit
    @jax.value_and_grad
    def both(w):
        spectrum = from_kernel(kernels.RBF().matrix(X), jnp.asarray(Y), weights=w, intercept=True)
        return jnp.sum(spectrum.loo_residual(jnp.asarray(0.2)) ** 2)

    h = 1e-4  # wrong by h³/4 times a fourth derivative, and by rounding over h
    value, one, two, three = (both(w.at[2].set(k * h))[0] for k in range(4))
    difference = (-11 * value + 18 * one - 9 * two + 2 * three) / (6 * h)
    np.testing.assert_allclose(both(w)[1][2], difference, rtol=1e-6)


def test_repeated_eigenvalues():
    """K = 2I: gradients of leave-one-out are finite and those of a dense inverse."""
    y = jnp.asarray(Y)

    def ours(K):
        return jnp.sum(select.loo(spectrum_of(K).problem, spectrum_of(K), jnp.asarray(0.5)))

    def spectrum_of(K):
        return from_kernel(0.5 * (K + K.T), y)

    def dense(K):
        G = jnp.linalg.inv(0.5 * (K + K.T) + 0.5 * jnp.eye(N))
        return jnp.sum(jnp.mean(jnp.square(G @ y / jnp.diagonal(G)[:, None]), axis=0))

    K = 2.0 * jnp.eye(N)
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(K), jax.jit(jax.grad(dense))(K), atol=1e-12)


def test_training_a_kernel_by_optax_or_a_trust_region():
    """Length scale, weights of a sum and λ by evidence: both optimisers reach a stationary point, and the same."""
    rng = np.random.default_rng(12)
    X = rng.uniform(-2, 2, (40, 1))
    y = np.sin(3 * X[:, 0]) + 0.2 * rng.standard_normal(40)

    def loss(p, _=None):
        kernel = jnp.exp(p[0]) * kernels.RBF(jnp.exp(p[1])) + jnp.exp(p[2]) * kernels.Linear()
        rule = select.marginal_likelihood(jnp.exp(p[3]))
        return jxr.kernel_ridge_score(X, y, jnp.exp(p[3]), kernel=kernel, rule=rule)

    found = jxr.minimize(loss, jnp.array([0.0, 0.0, -2.0, -2.0]), gtol=1e-6)
    assert float(loss(found.value)) < float(loss(jnp.array([0.0, 0.0, -2.0, -2.0]))) - 1.0
    np.testing.assert_allclose(jax.grad(loss)(found.value), np.zeros(4), atol=1e-3)
    np.testing.assert_allclose(np.exp(found.value[3]), 0.04, rtol=1.0)


NYSTROEM, ITERATIVE = jxr.Nystroem(jax.random.key(0)), jxr.Iterative(jax.random.key(0), rank=3)


def codes(result):
    return {name for name in RESULTS._name_to_item if np.any(np.asarray(result == getattr(RESULTS, name)))}


def spoilt(value):
    """The points, one coordinate of one of them with another value."""
    return np.where(np.arange(2 * N).reshape(N, 2) == 5, value, POINTS["plain"])


BAD_VALUES = {
    "NaN in points": ({"points": POINTS["plain"] * np.nan}, "nonfinite_kernel"),
    "NaN in one point": ({"points": spoilt(np.nan), "kernel": kernels.Matern32()}, "nonfinite_kernel"),
    "an infinite point": ({"points": spoilt(np.inf), "kernel": kernels.Linear()}, "nonfinite_kernel"),
    "a point infinitely far away": ({"points": spoilt(np.inf), "kernel": kernels.Matern12()}, "nonfinite_kernel"),
    "NaN in y": ({"y": Y * np.nan}, "nonfinite_input"),
    "a length scale that training made negative": ({"scale": -1.0}, "nonfinite_kernel"),
    "a negative lam": ({"lam": -1.0}, "invalid_lam"),
    "a negative weight": ({"weights": -np.ones(N)}, "invalid_weights"),
    "one negative weight": ({"weights": np.where(np.arange(N) == 3, -1.0, 1.0)}, "invalid_weights"),
    "no weight at all": ({"weights": np.zeros(N)}, "invalid_weights"),
    "an infinite weight": ({"weights": np.where(np.arange(N) == 3, np.inf, 1.0)}, "nonfinite_input"),
    "an indefinite matrix": ({"K": np.diag([1.0, 1.0, -5.0])}, "indefinite_kernel"),
    "a matrix that is not symmetric": ({"K": np.eye(3) + np.eye(3, k=1)}, "indefinite_kernel"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_have_a_code(name):
    """NaN with a code, under every factorisation and solver that can see it."""
    change, code = BAD_VALUES[name]
    lam, weights = change.get("lam", 1.0), change.get("weights")
    X, y, kernel = change.get("points", POINTS["plain"]), change.get("y", Y), change.get("kernel", kernels.RBF())
    if "K" in change:
        X, y, kernel = change["K"], Y[:3], kernels.Precomputed()
    if "scale" in change:
        kernel = jax.tree.map(lambda x: x * change["scale"], kernel)
    for solver in (None, Eigen(), *(() if "K" in change else (ITERATIVE, NYSTROEM))):
        fit = jxr.kernel_ridge(X, y, lam, kernel=kernel, weights=weights, solver=solver)
        assert codes(fit.result) == {code}
        assert np.all(np.isnan(fit.dual_coef))
        assert np.all(np.isnan(fit.rss))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lam_below_rounding_is_reported_and_finite(solver, dtype):
    """Repeated points at λ = 0 and at λ = eps²: a code, and predictions of the least λ that the dtype resolves."""
    X, y = POINTS["twins"].astype(dtype), Y.astype(dtype)
    y[4:8] = y[:4]
    for lam in (0.0, float(jnp.finfo(dtype).eps) ** 2):
        fit = jxr.kernel_ridge(X, y, lam, kernel=kernels.RBF(), solver=SOLVERS[solver])
        assert codes(fit.result) == {"unresolved"}
        np.testing.assert_allclose(fit.predict(X), y, atol=1e3 * np.sqrt(float(jnp.finfo(dtype).eps)))
    well = jxr.kernel_ridge(np.eye(3, dtype=dtype), y[:3], 0.0, kernel=kernels.Linear(), solver=Eigen())
    assert codes(well.result) == {"successful"}


def test_one_point():
    """n = 1: the intercept takes it; without one α = y/(k + λ)."""
    X, y = np.ones((1, 2)), np.array([3.0])
    fit = jxr.kernel_ridge(X, y, 1.0, kernel=kernels.RBF())
    assert float(fit.intercept) == 3.0
    assert float(fit.dual_coef[0]) == 0.0
    for solver in (*SOLVERS.values(), Mixed()):
        fit = jxr.kernel_ridge(X, y, 1.0, kernel=kernels.RBF(), intercept=False, solver=solver)
        assert float(fit.dual_coef[0]) == 1.5
        path = jxr.kernel_ridge_path(X, y, [1.0, 2.0], kernel=kernels.RBF(), solver=solver)
        np.testing.assert_array_equal(path.intercept, [3.0, 3.0])
        np.testing.assert_array_equal(path.dual_coef, np.zeros((2, 1)))
    # Two points in two folds: each is predicted by the other.
    scores = jxr.kernel_ridge_cv(NEW[:2], [1.0, 3.0], [1.0], kernel=kernels.RBF(), rule=select.kfold(2)).scores
    np.testing.assert_allclose(scores, [4.0])


PLACE = kernels.RBF().on(lambda point: point["a"])


def choice_by(rule, solver=None, points=POINTS["plain"], kernel=kernels.RBF()):
    return jxr.kernel_ridge_cv(points, Y, [1.0], kernel=kernel, rule=rule, solver=solver)


@pytest.mark.parametrize("solver", [None, NYSTROEM])
def test_points_of_any_structure_held_out(solver):
    wanted = choice_by(select.holdout(NEW, Y[:3]), solver)
    found = choice_by(select.holdout({"a": NEW}, Y[:3]), solver, {"a": POINTS["plain"]}, PLACE)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize(("lam", "noise"), [(0.0, 1.0), (-1.0, 1.0), (1.0, -1.0)])
def test_no_posterior_without_noise_or_prior(lam, noise):
    """What cannot be refused, since it is traced, is NaN."""
    posterior = jax.jit(partial(jxr.kernel_posterior, NEW, Y[:3], kernel=kernels.RBF()))
    assert jnp.all(jnp.isnan(posterior(lam=lam, noise=noise).variance(NEW)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jxr.kernel_ridge(NEW, Y, 1.0, kernel=kernels.RBF()), "points has .* rows and y"),
        (lambda: jxr.kernel_ridge(NEW[:, 0], Y[:3], 1.0, kernel=kernels.RBF()), r"use points\[:, None\]"),
        (lambda: jxr.kernel_ridge(NEW, Y[:3], 1.0, kernel="rbf"), "kernel is 'rbf'"),
        (lambda: jxr.kernel_ridge(NEW, Y[:3], [1.0, 2.0, 3.0], kernel=kernels.RBF()), "lam has shape"),
        (lambda: jxr.kernel_ridge(NEW, Y[:3], 1.0, kernel=kernels.RBF(), weights=[1.0]), "weights has shape"),
        (lambda: jxr.kernel_ridge(NEW, Y[:3], 1.0, kernel=kernels.RBF()).predict(Y[:, :1]), "X has points of shape"),
        (
            lambda: jxr.kernel_ridge({"a": NEW}, Y[:3], 1.0, kernel=PLACE).predict({"b": NEW}),
            r"X has points of shape \{'b': .* model of shape \{'a'",
        ),
        (lambda: choice_by(select.holdout(NEW[:, :1], Y[:3])), "holdout: X has points of shape"),
        (lambda: choice_by(select.holdout(NEW[:, :1], Y[:3]), NYSTROEM), "holdout: X has points of shape"),
        (lambda: choice_by(select.holdout(NEW, Y[:3, :1])), "holdout: y has 1 targets and the problem 2"),
        (lambda: choice_by(select.holdout(NEW, Y[:3, :1]), NYSTROEM), "holdout: y has 1 targets and the problem 2"),
        (lambda: choice_by(select.kfold(3), NYSTROEM), r"kfold is not offered by Nystroem; use select\.loo"),
        (lambda: choice_by(select.loo, jxr.Nystroem(centres=NEW[:, :1])), "centres has points of shape"),
        (lambda: choice_by(select.loo, "eigen"), r"solver is 'eigen'; pass kernel_methods\."),
        (lambda: choice_by(select.loo, jxr.Iterative), "solver is the class Iterative"),
        (lambda: jxr.Iterative(3), "key is 3"),
        (lambda: jxr.Iterative(jax.random.key(0), rank=1.5), r"rank is 1\.5; pass a whole number from 0 on"),
        (lambda: jxr.Nystroem(jax.random.key(0), rank=0), "rank is 0; pass a whole number from 1 on"),
        (lambda: jxr.kernel_ridge(NEW, Y[:3], 1.0, kernel=kernels.RBF(), memory="2 GB"), "memory is '2 GB'"),
        (
            lambda: jxr.kernel_ridge(NEW, Y[:3], 1.0, kernel=kernels.Pairwise(lambda x, z: x * z)),
            r"kernel gives shape \(2,\) for a pair",
        ),
        (lambda: jxr.kernel_posterior(NEW, Y[:3], 0.0, kernel=kernels.RBF()), r"lam is 0\.0; a posterior"),
        (
            lambda: jxr.kernel_ridge_ball(NEW, Y[:3], 1.0, kernel=kernels.RBF(), solver=ITERATIVE),
            r"kernel_ridge_ball looks for its lam.*Iterative.*Nystroem\(key\)",
        ),
        (lambda: jxr.kernel_ridge_ball(NEW, Y[:3], [1.0] * 3, kernel=kernels.RBF()), "radius has shape"),
        (
            lambda: jxr.kernel_posterior(NEW, Y[:3], 1.0, kernel=kernels.RBF(), noise=[1.0, -1.0]),
            "noise is .*posterior",
        ),
        (lambda: jxr.kernel_ridge({}, Y[:3], 1.0, kernel=kernels.RBF()), "points needs arrays"),
        (lambda: jxr.kernel_posterior(NEW, Y[:3], [1.0, 2.0], kernel=kernels.RBF()), "one lam for all targets"),
        (
            lambda: from_kernel(jnp.eye(3), jnp.ones((3, 1)), solver=Tridiagonal()).loo_residual(jnp.asarray(1.0)),
            r"use solver=Eigen\(\)",
        ),
        (lambda: jxr.kernel_ridge_cv(NEW, Y[:3], [[1.0, 2.0]], kernel=kernels.RBF()), "per_target=True"),
        (
            lambda: jxr.kernel_ridge(
                np.eye(3), Y[:3], 1.0, kernel=2.0 * kernels.Precomputed(), solver=jxr.Iterative(jax.random.key(0))
            ),
            r"solver is Iterative.*kernels\.Pairwise",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_runge():
    """1/(1 + 25x²) at equal steps: the polynomial through them diverges, kernel ridge at its own λ does not.

    The polynomial's errors are those that the literature has: 1.9 at 11 points, 60 at 21, 1e5 at 41.
    """
    runge = lambda x: 1 / (1 + 25 * x**2)  # noqa: E731
    dense, kernel, lams = np.linspace(-1, 1, 501), kernels.Matern52(0.5), np.logspace(-12, 2, 29)
    polynomial, ridge, noisy = [], [], []
    noise = 0.01 * np.random.default_rng(0).standard_normal(41)
    for n in (11, 21, 41):
        x = np.linspace(-1, 1, n)
        polynomial.append(np.max(np.abs(BarycentricInterpolator(x, runge(x))(dense) - runge(dense))))
        for errors, y in ((ridge, runge(x)), (noisy, runge(x) + noise[:n])):
            choice = jxr.kernel_ridge_cv(x[:, None], y, lams, kernel=kernel)
            errors.append(np.max(np.abs(choice.fit.predict(dense[:, None]) - runge(dense))))
    np.testing.assert_allclose(polynomial, [1.9, 60, 1e5], rtol=0.05)
    assert ridge[0] < 0.1
    # Twice the points gain at least what two derivatives of the kernel's paths give, 2².
    assert ridge[2] < ridge[1] / 4 < ridge[0] / 16
    # Three standard deviations of the noise, where the polynomial is off by millions.
    assert noisy[2] < 0.03


class Features(eqx.Module):
    """A feature network with a kernel ridge head, its λ and its length scale."""

    network: eqx.Module
    log_lam: jax.Array
    log_scale: jax.Array

    def head(self, X, Y, verb=jxr.kernel_ridge):
        kernel = kernels.RBF(jnp.exp(self.log_scale)).on(self.network)
        return verb(X, Y, jnp.exp(self.log_lam), kernel=kernel)


def trained(model, X, Y, steps, rate):
    """By Adam on the closed-form leave-one-out error."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    adam = optax.adam(rate)

    @jax.jit
    def loss(params):
        return jnp.mean(eqx.combine(params, static).head(X, Y, jxr.kernel_ridge_score))

    @jax.jit
    def step(carry, _):
        params, state = carry
        updates, state = adam.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        (params, _), _ = jax.jit(partial(jax.lax.scan, step, length=steps))((params, adam.init(params)), None)
    return eqx.combine(params, static), loss, params


def test_a_network_with_a_kernel_head_beats_the_head_alone():
    """Wine cultivars by chemistry: trained end to end, against the same head at its best λ and length scale."""
    X, labels = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, Y = ((X - X.mean(0)) / X.std(0))[order], np.eye(3)[labels[order]]
    X, X_test, Y, Y_test = X[:89], X[89:], Y[:89], Y[89:]
    network = eqx.nn.MLP(13, 8, 16, 1, jnp.tanh, key=jax.random.key(0))
    start = Features(network, jnp.asarray(-2.0), jnp.asarray(0.0))
    model, loss, params = trained(start, X, Y, 60, 0.02)
    alone, _, _ = trained(Features(eqx.nn.Identity(), jnp.asarray(-2.0), jnp.asarray(1.3)), X, Y, 60, 0.1)
    error = lambda model: float(jnp.mean(jnp.square(model.head(X, Y).predict(X_test) - Y_test)))  # noqa: E731
    assert error(model) < 0.85 * error(alone)

    where = lambda p: p.network.layers[0].weight  # noqa: E731
    moved = lambda h: loss(eqx.tree_at(where, params, where(params).at[2, 5].add(h)))  # noqa: E731
    difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(where(jax.grad(loss)(params))[2, 5], difference, rtol=1e-6, atol=1e-10)
