"""Inverse problems: formulas, the Krylov space, rules, constrained forms, derivatives, codes and what is refused."""

import json
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize

import jaxridge as jxr
from jaxridge import RESULTS, inverse, operators, select
from jaxridge.inverse import testproblems
from jaxridge.inverse.per_lam import PerLamSpectrum
from jaxridge.inverse.within import DiagonalFactored

N = 16
PROBLEMS = {
    name: (np.asarray(problem.A), np.asarray(problem.b))
    for name in ("shaw", "phillips", "heat", "deriv2", "gravity", "foxgood", "baart")
    for problem in [getattr(testproblems, name)(N)]
}
D1, D2 = np.diff(np.eye(N), axis=0), np.diff(np.eye(N), 2, axis=0)
SMOOTH = {"I": None, "D1": D1, "D2": D2}
LAMS = np.array([1e-8, 1e-3, 10.0])
NOISE = 1e-3 * np.random.default_rng(3).standard_normal(N)
KEY = jax.random.key(0)


class Products(operators.Operator):
    """A matrix that is known by its products only."""

    matrix: jax.Array

    def apply(self, x):
        return self.matrix @ x


def operator(A):
    A = jnp.asarray(A)
    x, b = (jax.ShapeDtypeStruct((n,), A.dtype) for n in A.shape[::-1])
    return Products(x, b, A)


def krylov(**options):
    return inverse.GolubKahan(**({"key": KEY, "tol": 1e-11, "budget": 64} | options))


def direct(A, b, lam, L, x_ref=0.0, weights=None):
    """The normal equations."""
    L = np.eye(A.shape[1]) if L is None else L
    W = np.eye(A.shape[0]) if weights is None else np.diag(weights)
    rhs = (A.T @ W @ b).T + lam * L.T @ L @ np.broadcast_to(x_ref, A.shape[1])
    return np.linalg.solve(A.T @ W @ A + lam * L.T @ L, rhs.T)


@cache
def exact(name, smooth, lam):
    """x, ‖r‖², ‖Lx‖², m − dof and log det(I + AK(AK)ᵀ/λ) in sixty digits, for the whitened penalty."""
    with mpmath.workdps(60):
        A, b = mpmath.matrix(PROBLEMS[name][0].tolist()), mpmath.matrix((PROBLEMS[name][1] + NOISE).tolist())
        L = mpmath.eye(N) if SMOOTH[smooth] is None else mpmath.matrix(SMOOTH[smooth].tolist())
        H = A.T * A + mpmath.mpf(lam) * (L.T * L)
        inv = H**-1
        x = inv * (A.T * b)
        r, Lx = b - A * x, L * x
        hat = A * inv * A.T
        trace = sum(1 - hat[i, i] for i in range(N))
        return [float(v) for v in x], float((r.T * r)[0]), float((Lx.T * Lx)[0]), float(trace)


@jax.jit
def gcv_and_rest(spectrum, lams):
    return jax.vmap(lambda lam: (select.gcv(spectrum.problem, spectrum, lam), spectrum.residual_dof(lam)))(lams)


@pytest.mark.parametrize("smooth", SMOOTH)
def test_formulas_against_sixty_digits(smooth):
    for name, (A, b) in PROBLEMS.items():
        b = b + NOISE
        path = inverse.tikhonov_path(A, b, LAMS, L=SMOOTH[smooth])
        gcv, rest = gcv_and_rest(path.factored, LAMS)
        for i, lam in enumerate(LAMS):
            L = np.eye(N) if SMOOTH[smooth] is None else SMOOTH[smooth]
            bound = max(1e-9, 100 * np.finfo(float).eps * np.linalg.cond(np.vstack([A, np.sqrt(lam) * L])))
            x, rss, squared, trace = exact(name, smooth, lam)
            # A residual is small beside b, and known to eps of it.
            np.testing.assert_allclose(path.x[i], x, rtol=0, atol=bound * np.linalg.norm(x))
            np.testing.assert_allclose(path.rss[i] ** 0.5, rss**0.5, rtol=0, atol=bound * np.linalg.norm(b))
            np.testing.assert_allclose(path.norm[i], squared**0.5, rtol=0, atol=bound * np.linalg.norm(x) * 4)
            np.testing.assert_allclose(rest[i], trace, rtol=bound)
            np.testing.assert_allclose(
                gcv[i, 0], N * rss / trace**2, rtol=2 * bound, atol=(bound * np.linalg.norm(b)) ** 2
            )


@pytest.mark.parametrize("smooth", SMOOTH)
def test_krylov_space_is_brute_force(smooth):
    A, b = PROBLEMS["phillips"]
    b, weights, x_ref = b + NOISE, np.exp(NOISE * 500), np.linspace(0, 1, N)
    L = np.eye(N) if SMOOTH[smooth] is None else SMOOTH[smooth]
    lams = np.array([0.0, 1e-4, 1e-2, 1.0, np.inf])
    options = {"L": SMOOTH[smooth], "weights": weights, "x_ref": x_ref}
    path = inverse.tikhonov_path(operator(A), b, lams, solver=krylov(), **options)
    spectrum, root = path.factored, np.sqrt(weights)
    Z, rest = np.asarray(spectrum.probes), jax.vmap(spectrum.residual_dof)(jnp.asarray(lams))
    for i, lam in enumerate(lams[1:-1], 1):
        x = direct(A, b, lam, SMOOTH[smooth], x_ref, weights)
        np.testing.assert_allclose(path.x[i], x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(path.rss[i], weights @ (A @ x - b) ** 2, rtol=1e-8)
        np.testing.assert_allclose(path.norm[i], np.linalg.norm(L @ (x - x_ref)), rtol=1e-8)
        # m − dof by the probes is the mean of zᵀ(I − H)z for just these z.
        hat = root[:, None] * A @ np.linalg.solve(A.T @ (weights[:, None] * A) + lam * L.T @ L, A.T * root)
        np.testing.assert_allclose(rest[i], np.mean(np.sum(Z * (Z - Z @ hat.T), axis=1)), rtol=1e-3)
    np.testing.assert_allclose(path.x[-1], direct(A, b, 1e9, SMOOTH[smooth], x_ref, weights), atol=1e-5)
    assert path.norm[-1] == 0
    assert np.all(path.error_bound[1:] <= 1e-11)
    assert np.all((path.result == RESULTS.successful)[1:])
    assert np.all(path.steps[1:] >= 0)
    assert path.factored.products <= 2 * N + 1 + 2 * 2 + 1


def test_a_basis_that_is_not_kept_orthogonal_has_the_same_solutions():
    A, b = PROBLEMS["gravity"]
    lams = np.array([1e-5, 1e-2, 1.0])
    path = inverse.tikhonov_path(operator(A), b + NOISE, lams, solver=krylov(orthogonal=False))
    assert np.all(path.result == RESULTS.successful)
    for lam, x in zip(lams, path.x, strict=True):
        np.testing.assert_allclose(x, direct(A, b + NOISE, lam, None), rtol=1e-8, atol=1e-9)


def test_images_several_right_hand_sides_and_pytrees():
    rng = np.random.default_rng(1)
    F0, F1 = rng.standard_normal((5, 4)), rng.standard_normal((3, 3))
    A, B, dense = (
        operators.Separable([jnp.asarray(F0), jnp.asarray(F1)]),
        rng.standard_normal((5, 3, 2)),
        np.kron(F0, F1),
    )
    each = inverse.tikhonov(A, B, np.array([0.3, 3.0]), solver=krylov()).x
    for j, lam in enumerate([0.3, 3.0]):
        expected = direct(dense, B[..., j].ravel(), lam, None).reshape(4, 3)
        np.testing.assert_allclose(each[..., j], expected, rtol=1e-9, atol=1e-12)
    pair = {"u": jax.ShapeDtypeStruct((2,), float), "v": jax.ShapeDtypeStruct((), float)}
    M = jnp.asarray(rng.standard_normal((4, 3)))
    two = operators.function(lambda x: M[:, :2] @ x["u"] + M[:, 2] * x["v"], pair)
    x = inverse.tikhonov(two, B[:4, 0, 0], 0.1, solver=krylov()).x
    np.testing.assert_allclose([*x["u"], x["v"]], direct(np.asarray(M), B[:4, 0, 0], 0.1, None), rtol=1e-9)


@pytest.mark.parametrize(("boundary", "smooth"), [("periodic", True), ("reflective", True), ("periodic", False)])
def test_transforms_are_brute_force(boundary, smooth):
    blur, rng = operators.gaussian_blur((6, 5), 1.1, boundary=boundary, radius=2), np.random.default_rng(2)
    ends = {"periodic": "periodic", "reflective": "free"}[boundary]
    smoother = operators.difference((6, 5), boundary=ends) if smooth else None
    b, x_ref, lams = rng.standard_normal((6, 5)), rng.standard_normal((6, 5)), np.array([1e-3, 0.1, 10.0])
    choice = inverse.tikhonov_cv(blur, b, lams, L=smoother, x_ref=x_ref, refine=False)
    spectrum = choice.path.factored
    assert isinstance(spectrum, DiagonalFactored)
    A, L = np.asarray(blur.as_matrix()), np.asarray(smoother.as_matrix()) if smooth else np.eye(30)
    W = np.ones((30, 1)) / np.sqrt(30) if smooth else np.zeros((30, 0))
    for i, lam in enumerate(lams):
        x = direct(A, b.ravel(), lam, L, x_ref.ravel())
        H = A.T @ A + lam * L.T @ L
        rss, rest = np.sum((A @ x - b.ravel()) ** 2), 30 - np.trace(A @ np.linalg.solve(H, A.T))
        np.testing.assert_allclose(choice.path.x[i].ravel(), x, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(choice.path.rss[i], rss, rtol=1e-8)
        np.testing.assert_allclose(choice.path.norm[i], np.linalg.norm(L @ (x - x_ref.ravel())), rtol=1e-8)
        np.testing.assert_allclose(choice.scores[i], 30 * rss / rest**2, rtol=1e-7)
        # det(I + ĀĀᵀ/λ) on what the null space leaves.
        K = A @ np.linalg.pinv(L)
        K = K - A @ W @ np.linalg.lstsq(A @ W, K, rcond=None)[0]
        logdet = np.linalg.slogdet(np.eye(30) + K @ K.T / lam)[1]
        np.testing.assert_allclose(spectrum.logdet(jnp.asarray(lam)), logdet, rtol=1e-8)
    assert choice.lam == lams[int(np.argmin(choice.scores))]


def test_difference_operators_are_their_matrices():
    A, b = PROBLEMS["deriv2"]
    L, lams = operators.difference(N, 2), LAMS[1:]
    for given in (A, operator(A)):
        path = inverse.tikhonov_path(given, b + NOISE, lams, L=L, solver=None if given is A else krylov())
        for lam, x in zip(lams, path.x, strict=True):
            np.testing.assert_allclose(x, direct(A, b + NOISE, lam, D2), rtol=1e-6, atol=1e-8 * np.abs(x).max())
    # A two-dimensional L is taller than wide; the u of least norm lies in its range.
    blur, L = operators.gaussian_blur((5, 4), 0.8, boundary="zero"), operators.difference((5, 4))
    b = np.random.default_rng(0).standard_normal((5, 4))
    x = inverse.tikhonov(blur, b, 0.2, L=L, solver=krylov()).x
    expected = direct(np.asarray(blur.as_matrix()), b.ravel(), 0.2, np.asarray(L.as_matrix()))
    np.testing.assert_allclose(x.ravel(), expected, rtol=1e-8)


def test_an_operator_without_pseudo_inverse_takes_a_solve_for_each_lam():
    A, b = PROBLEMS["phillips"]
    L, solver = D2 + 0.1 * np.eye(N)[:-2], inverse.PerLam(tol=1e-13)
    assert isinstance(inverse.tikhonov_path(operator(A), b, [1.0], L=operator(L)).factored, PerLamSpectrum)
    path = inverse.tikhonov_path(operator(A), b, LAMS[1:], L=operator(L), solver=solver)
    for lam, x in zip(LAMS[1:], path.x, strict=True):
        np.testing.assert_allclose(x, direct(A, b, lam, L), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="brings its pseudo-inverse"):
        path.factored.dof(1.0)


OF_OPERATORS = {
    "tikhonov": lambda A, b: jxr.tikhonov(A, b, 0.1),
    "path": lambda A, b: jxr.tikhonov_path(A, b, [0.1, 1.0]),
    "path per lam": lambda A, b: jxr.tikhonov_path(A, b, [0.1, 1.0], solver=inverse.PerLam()),
    "at": lambda A, b: jxr.tikhonov_path(A, b, [0.1, 1.0]).at(0.3),
    "cv": lambda A, b: jxr.tikhonov_cv(A, b, [0.1, 1.0], rule=select.discrepancy(0.1)).fit,
    "ball": lambda A, b: jxr.tikhonov_ball(A, b, 0.5),
    "residual": lambda A, b: jxr.tikhonov_residual(A, b, 0.5),
}


@pytest.mark.parametrize("verb", OF_OPERATORS)
def test_operators_of_functions_under_transforms(verb):
    """A model holds its operator, whose function comes out of jit, vmap and grad with it."""
    rng = np.random.default_rng(7)
    M = jnp.asarray(rng.standard_normal((9, 4)))
    b, fn = M @ jnp.arange(4.0) + 0.1 * jnp.cos(jnp.arange(9.0)), OF_OPERATORS[verb]
    A, want = operators.function(lambda x: M @ x, 4), fn(M, b).x
    np.testing.assert_allclose(jax.jit(lambda b: fn(A, b))(b).x, want, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda b: fn(A, b))(b[None]).x[0], want, rtol=1e-6)
    slope = jax.grad(lambda b, A: jnp.sum(fn(A, b).x @ jnp.arange(4.0)))
    np.testing.assert_allclose(slope(b, A), slope(b, M), rtol=1e-5)


def test_whitening_is_generalised_least_squares():
    A, b = PROBLEMS["heat"]
    root = np.tril(np.random.default_rng(4).standard_normal((N, N))) + 4 * np.eye(N)
    S = np.linalg.inv(root)  # noise of covariance root rootᵀ
    expected = np.linalg.solve(A.T @ S.T @ S @ A + 0.01 * np.eye(N), A.T @ S.T @ S @ b)
    for given in (A, operator(A)):
        solver = None if given is A else krylov()
        x = inverse.tikhonov(given, b, 0.01, whiten=S, solver=solver).x
        np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-9)


def test_truncation_picard_resolution_and_covariance():
    A, b = PROBLEMS["heat"]
    U, s, Vt = np.linalg.svd(A)
    path = inverse.tsvd(A, b, [0, 3, 8])
    for r, x, rss in zip(path.ranks, path.x, path.rss, strict=True):
        np.testing.assert_allclose(x, Vt[:r].T @ ((U.T @ b)[:r] / s[:r]), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(rss, np.sum((U.T @ b)[r:] ** 2), rtol=1e-9, atol=1e-28)
    smooth = inverse.tsvd(A, b, [0], L=D1)
    one = A.sum(axis=1)
    np.testing.assert_allclose(smooth.x[0], np.full(N, one @ b / (one @ one)), rtol=1e-9)
    record = inverse.picard(A, b)
    np.testing.assert_allclose(record.singular_values, s, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(record.coefficients, np.abs(U.T @ b), rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(
        inverse.filter_factors(A, LAMS), s[:, None] ** 2 / (s[:, None] ** 2 + LAMS), rtol=1e-7, atol=1e-20
    )
    H = A.T @ A + 0.1 * D2.T @ D2
    np.testing.assert_allclose(inverse.resolution(A, 0.1, L=D2), np.linalg.solve(H, A.T @ A), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(inverse.covariance(A, 0.1, 0.5, L=D2), 0.5 * np.linalg.inv(H), rtol=1e-7, atol=1e-9)
    gradient = jax.grad(lambda b: jnp.sum(inverse.tsvd(A, b, [3]).x))(b)
    np.testing.assert_allclose(gradient, (U[:, :3] / s[:3]) @ Vt[:3].sum(axis=1), rtol=1e-8)
    with pytest.raises(ValueError, match="derivatives in b only"):
        jax.grad(lambda A: jnp.sum(inverse.tsvd(A, b, [3]).x))(jnp.asarray(A))


SHAW = json.loads((Path(__file__).parents[1] / "data" / "shaw20.json").read_text())


def test_shaw_of_the_gnu_scientific_library():
    """Its GCV λ to six digits, the least of three minima, and its L-curve λ, taken from three points of a grid."""
    A = testproblems.shaw(20).A
    lams = jnp.logspace(-25, 1, 250)
    found = inverse.compare(A, np.array(SHAW["b"]), {"gcv": select.gcv, "l_curve": select.l_curve}, lams)
    np.testing.assert_allclose(found.lam[0], SHAW["gcv_lambda_squared"], rtol=1e-6)
    np.testing.assert_allclose(found.lam[1], SHAW["lcurve_lambda_squared"], rtol=2e-3)
    scores = np.asarray(found.choices["gcv"].scores)
    assert np.sum((scores[1:-1] < scores[:-2]) & (scores[1:-1] < scores[2:])) == 3
    assert "disagree" not in found.message()
    assert "l_curve" in str(found)


def test_rules_by_their_definitions():
    A, b = PROBLEMS["phillips"]
    b, t = b + NOISE, np.linspace(-12, 2, 2001)
    path = inverse.tikhonov_path(A, b, np.exp(t))
    spectrum, step = path.factored, t[1] - t[0]
    score = lambda rule: np.asarray(jax.jit(jax.vmap(lambda lam: rule(spectrum.problem, spectrum, lam)[0]))(path.lams))  # noqa: E731
    inner, slope = slice(200, -200, 100), lambda v: np.gradient(v, step)
    x, y = 0.5 * np.log(np.asarray(path.rss)), np.log(np.asarray(path.norm))
    curvature = (slope(x) * slope(slope(y)) - slope(slope(x)) * slope(y)) / np.hypot(slope(x), slope(y)) ** 3
    np.testing.assert_allclose(-score(select.l_curve)[inner], curvature[inner], rtol=1e-3, atol=1e-3)
    change = np.sum(np.gradient(np.asarray(path.x), step, axis=0) ** 2, axis=1)
    np.testing.assert_allclose(score(select.quasi_optimality)[inner], change[inner], rtol=1e-3)
    dof = np.array([np.trace(A @ direct(A, np.eye(N), lam, None)) for lam in np.exp(t[inner])])
    risk = np.asarray(path.rss)[inner] / N + 2e-6 * dof / N - 1e-6
    np.testing.assert_allclose(score(select.predictive_risk(1e-6))[inner], risk, rtol=1e-8, atol=1e-12)
    # The estimate is right on average: over noise, it is the squared error of the fit.
    truth = PROBLEMS["phillips"][1]
    B = truth[:, None] + 0.01 * np.random.default_rng(6).standard_normal((N, 4000))
    many = inverse.tikhonov_cv(A, B, [0.05], rule=select.predictive_risk(1e-4), refine=False)
    risk = np.mean((A @ np.asarray(many.fit.x) - truth[:, None]) ** 2)
    np.testing.assert_allclose(np.mean(many.scores), risk, rtol=0.05)


@pytest.mark.parametrize("given", ["matrix", "products"])
def test_constrained_forms_and_discrepancy(given):
    A, b = PROBLEMS["gravity"]
    b, L = b + NOISE, D1
    M, solver = (A, None) if given == "matrix" else (operator(A), krylov(tol=1e-9))
    for radius in (0.05, 0.3):
        fit = inverse.tikhonov_ball(M, b, radius, L=L, solver=solver)
        np.testing.assert_allclose(np.linalg.norm(L @ fit.x), radius, rtol=1e-7)
        np.testing.assert_allclose(fit.x, direct(A, b, float(fit.lam), L), rtol=1e-6)
    slack = inverse.tikhonov_ball(M, b, 1e9, L=L, solver=solver)
    assert slack.lam == 0
    tight = inverse.tikhonov_ball(M, b, 0.0, L=L, solver=solver)
    assert np.isinf(tight.lam)
    assert tight.norm <= 1e-10
    for delta in (0.02, 1.0):
        fit = inverse.tikhonov_residual(M, b, delta, L=L, solver=solver)
        np.testing.assert_allclose(np.linalg.norm(A @ fit.x - b), delta, rtol=1e-7)
        assert fit.result == RESULTS.successful
    choice = inverse.tikhonov_cv(M, b, np.logspace(-4, 1, 8), rule=select.discrepancy(1e-4, 1.1), L=L, solver=solver)
    np.testing.assert_allclose(choice.fit.rss, 1.21 * 1e-4 * N, rtol=1e-7)
    assert not choice.at_edge
    assert choice.message() == ""
    low, high = (
        inverse.tikhonov_cv(M, b, np.logspace(-4, 1, 8), rule=select.discrepancy(noise), L=L, solver=solver)
        for noise in (0.0, 1e6)
    )
    assert low.lam == 0
    assert np.isinf(high.lam)
    assert high.fit.result == RESULTS.trivial_residual
    assert low.fit.result == RESULTS.unreachable_residual
    one = A.sum(axis=1)
    np.testing.assert_allclose(high.fit.x, np.full(N, one @ b / (one @ one)), rtol=1e-8)
    bad = inverse.tikhonov_residual(M, b, -1.0, L=L, solver=solver)
    assert bad.result == RESULTS.invalid_radius
    assert np.all(np.isnan(bad.x))


def test_rules_on_a_krylov_space_see_solved_lams_only():
    A, b = PROBLEMS["shaw"]
    lams = np.logspace(-12, 2, 15)
    choice = inverse.tikhonov_cv(operator(A), b + NOISE, lams, solver=krylov(budget=6, tol=1e-6), refine=False)
    solved = np.asarray(choice.path.error_bound) <= 1e-6
    assert 0 < solved.sum() < 15
    assert np.array_equal(np.isnan(choice.scores), ~solved)
    assert np.array_equal((choice.path.result == RESULTS.max_products), ~solved)
    assert np.array_equal(choice.path.steps >= 0, solved)
    assert choice.path.factored.products == 2 * 6 + 1
    assert choice.beside_unresolved == (not solved[int(choice.index) - 1])
    late = inverse.tikhonov_cv(
        operator(A), b, lams, rule=lambda design, spectrum, lam: spectrum.rss(lam), solver=krylov(budget=6, tol=1e-6)
    )
    assert late.beside_unresolved
    assert "not solved" in late.message()
    with pytest.raises(ValueError, match="needs random probes"):
        inverse.tikhonov_cv(operator(A), b, lams, solver=krylov(key=None))


OF = jnp.array([1.0, 0.7, 0.3, 0.1])


def summary(A, b, lam, L, x_ref, weights, products):
    """A number made of all exits of a solution, but for the trace where there are no probes."""
    options = {"L": L, "x_ref": x_ref, "weights": weights, "nullity": 2}
    M, solver = (operator(A), krylov(tol=1e-13, probes=2)) if products else (A, None)
    path = inverse.tikhonov_path(M, b, lam[None], solver=solver, **options)
    rest = path.factored.residual_dof(lam)
    return OF @ jnp.stack([path.x[0] @ jnp.cos(jnp.arange(1.0 * A.shape[1])), path.rss[0], path.norm[0], rest])


def brute_summary(A, b, lam, L, x_ref, w, Z):
    H = A.T @ (w[:, None] * A) + lam * L.T @ L
    x = jnp.linalg.solve(H, A.T @ (w * b) + lam * L.T @ (L @ x_ref))
    r, root = A @ x - b, jnp.sqrt(w)[:, None]
    fitted = root * (A @ jnp.linalg.solve(H, A.T @ (root * Z.T)))
    rest = jnp.mean(jnp.sum(Z.T * (Z.T - fitted), axis=0))
    norm = jnp.linalg.norm(L @ (x - x_ref))
    return OF @ jnp.stack([x @ jnp.cos(jnp.arange(1.0 * A.shape[1])), r @ (w * r), norm, rest])


@pytest.mark.parametrize("products", [False, pytest.param(True, marks=pytest.mark.whole)])
def test_derivatives_to_second_order_in_everything(products):
    rng = np.random.default_rng(7)
    A = jnp.asarray(rng.standard_normal((9, 6)) * 0.6 ** np.arange(6))
    L = jnp.asarray(np.diff(np.eye(6), 2, axis=0) + 0.05 * rng.standard_normal((4, 6)))
    args = (A, jnp.asarray(rng.standard_normal(9)), jnp.asarray(0.2), L, jnp.ones(6), jnp.exp(jnp.arange(9.0) / 9.0))
    along = [jnp.asarray(rng.standard_normal(jnp.shape(x))) for x in args]
    # The trace is exact from a matrix, so that every unit vector is a probe; its second derivative is refused there.
    Z = jax.random.rademacher(KEY, (2, 9), float) if products else 3.0 * jnp.eye(9)

    def orders(fn, *more):
        line = lambda s: fn(*(x + s * d for x, d in zip(args, along, strict=True)), *more)  # noqa: E731
        first = jax.value_and_grad(line)
        return jax.jit(lambda s: jax.jvp(first, (s,), (jnp.ones(()),)) if products else first(s))(jnp.zeros(()))

    mine, theirs = orders(summary, products), orders(brute_summary, Z)
    np.testing.assert_allclose(jax.tree.leaves(mine), jax.tree.leaves(theirs), rtol=1e-8)


def test_blur_width_by_gradient_and_its_curvature_over_a_grid_of_lams():
    rng = np.random.default_rng(8)
    b, truth, lams = rng.standard_normal(12), rng.standard_normal(12), jnp.array([0.01, 0.1, 1.0])

    def loss(width, lam, products):
        A = operators.gaussian_blur(12, width, boundary="zero", radius=3)
        if products:
            x = inverse.tikhonov(A, b, lam, solver=krylov(tol=1e-13)).x
        else:
            M = A.as_matrix()
            x = jnp.linalg.solve(M.T @ M + lam * jnp.eye(12), M.T @ b)
        return jnp.sum(jnp.square(x - truth))

    def orders(products):
        first = jax.grad(loss, (0, 1))
        both = lambda width, lam: jax.jvp(lambda w: first(w, lam, products), (width,), (jnp.ones(()),))  # noqa: E731
        return jnp.stack(jax.tree.leaves(jax.jit(jax.vmap(both, in_axes=(None, 0)))(jnp.asarray(1.0), lams)))

    np.testing.assert_allclose(orders(True), orders(False), rtol=1e-7)


CHOSEN = {
    "gcv": lambda A, b, **o: inverse.tikhonov_cv(A, b, np.logspace(-6, 1, 15), rule=select.gcv, **o).lam,
    "discrepancy": lambda A, b, **o: inverse.tikhonov_residual(A, b, 0.1, **o).lam,
    "ball": lambda A, b, **o: inverse.tikhonov_ball(A, b, 1.0, **o).lam,
}


@pytest.mark.parametrize(
    ("rule", "products"),
    [("gcv", False), ("discrepancy", False), ("ball", False), ("discrepancy", True), ("ball", True)],
)
def test_chosen_lam_is_differentiable(rule, products):
    problem = testproblems.phillips(N)
    A, b, along = problem.A, problem.b + 20 * NOISE, jnp.asarray(np.random.default_rng(9).standard_normal(N))

    def log_lam(s):
        M = (1.0 + 0.1 * s) * A
        M = operator(M) if products else M
        solver = krylov(tol=1e-12) if products else None
        return jnp.log(CHOSEN[rule](M, b + s * 0.01 * along, solver=solver))

    step = 1e-4
    at, slopes = jax.jit(jax.vmap(jax.value_and_grad(log_lam)))(step * jnp.arange(-2.0, 3.0))
    np.testing.assert_allclose(slopes[2], (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * step), rtol=1e-6)


def test_breakdown_is_exact():
    A = jnp.diag(jnp.array([3.0, 2.0, 1.0, 0.0]))
    b = jnp.array([3.0, 2.0, 0.0, 1.0])  # two directions of the range, and one outside
    path = inverse.tikhonov_path(operator(A), b, [1e-8, 0.5], solver=krylov())
    np.testing.assert_allclose(path.x[1], np.diag(A) * b / (np.diag(A) ** 2 + 0.5), atol=1e-15)
    assert np.all(path.error_bound <= 1e-11)
    assert path.factored.products <= 2 * 3 + 1
    nothing = inverse.tikhonov_path(operator(A), 0 * b, [0.0, 1.0], solver=krylov())
    assert np.all(nothing.x == 0)
    assert np.all(nothing.rss == 0)


def test_scales_and_float32():
    A, b = PROBLEMS["deriv2"]
    for size in (1e-150, 1e150):
        path = inverse.tikhonov_path(operator(A * size), b * size, LAMS[1:] * 1e-3, solver=krylov())
        assert np.all(np.isfinite(path.x[:, 0])) or size < 1
    x = inverse.tikhonov(operator(A * 1e150), b, 1e298, solver=krylov()).x
    np.testing.assert_allclose(x * 1e150, direct(A, b, 0.01, None), rtol=1e-9)
    A32, b32 = jnp.asarray(A, jnp.float32), jnp.asarray(b, jnp.float32)
    for M, solver in ((A32, None), (operator(A32), krylov(tol=1e-4))):
        fit = inverse.tikhonov(M, b32, 1e-3, L=D1.astype(np.float32), solver=solver)
        assert fit.x.dtype == jnp.float32
        assert fit.result == RESULTS.successful
        np.testing.assert_allclose(fit.x, direct(A, b, 1e-3, D1), rtol=1e-3, atol=1e-4)


def code(A, b, lam, **options):
    return inverse.tikhonov(A, b, lam, **options).result


@pytest.mark.parametrize("products", [False, True])
def test_codes(products):
    A, b = PROBLEMS["phillips"]
    M = lambda A: operator(A) if products else A  # noqa: E731
    solver = krylov() if products else None
    assert code(M(A), b, 1.0, solver=solver) == RESULTS.successful
    assert code(M(A), b, -1.0, solver=solver) == RESULTS.invalid_lam
    assert code(M(A), b * np.nan, 1.0, solver=solver) == RESULTS.nonfinite_input
    assert code(M(A + np.inf), b, 1.0, solver=solver) == RESULTS.nonfinite_input
    assert code(M(A), b, 1.0, weights=-np.ones(N), solver=solver) == RESULTS.invalid_weights
    # D1 does not see a constant, and neither do differences of neighbours.
    assert code(M(D1), b[1:], 1.0, L=D1, solver=solver) == RESULTS.shared_null_space
    assert code(M(A - A.mean(axis=1, keepdims=True)), b, 1.0, L=D1, solver=solver) == RESULTS.shared_null_space
    path = inverse.tikhonov_path(M(A), b, [np.nan, 1.0, -1.0], solver=solver)
    assert np.isnan(np.asarray(path.x)).any(axis=1).tolist() == [True, False, True]


MISUSE = {
    "A is a function; say which x": lambda A, b: inverse.tikhonov(lambda x: A @ x, b, 1.0),
    "A is complex": lambda A, b: inverse.tikhonov(A + 0j, b, 1.0),
    "only real floating operators": lambda A, b: inverse.tikhonov(
        operators.function(lambda x: jax.lax.complex(x, x), N), b, 1.0
    ),
    "b has shape (15,) and A gives (16,)": lambda A, b: inverse.tikhonov(A, b[1:], 1.0),
    "L takes x of 15 numbers and A of 16": lambda A, b: inverse.tikhonov(A, b, 1.0, L=D1[:, 1:]),
    "nullity is 17": lambda A, b: inverse.tikhonov(A, b, 1.0, L=np.eye(N), nullity=17),
    "x_ref has shape (3,)": lambda A, b: inverse.tikhonov(A, b, 1.0, x_ref=np.ones(3)),
    "weights has shape (3,)": lambda A, b: inverse.tikhonov(A, b, 1.0, weights=np.ones(3)),
    "both given": lambda A, b: inverse.tikhonov(A, b, 1.0, weights=np.ones(N), whiten=np.eye(N)),
    "lam has shape (3,)": lambda A, b: inverse.tikhonov(A, b, np.ones(3)),
    "lams is empty": lambda A, b: inverse.tikhonov_path(A, b, []),
    "kfold needs the rows": lambda A, b: inverse.tikhonov_cv(operator(A), b, rule=select.kfold(3)),
    "L is traced": lambda A, b: jax.jit(lambda L: inverse.tikhonov(A, b, 1.0, L=L).x)(D1),
    "b is float64 and A maps float32": lambda A, b: inverse.tikhonov(
        operators.function(lambda x: x, N, jnp.float32), b, 1.0
    ),
    "solver is 'lsqr'; pass Direct()": lambda A, b: inverse.tikhonov(A, b, 1.0, solver="lsqr"),
    "key is 7": lambda A, b: inverse.GolubKahan(7),
    "budget 0": lambda A, b: inverse.GolubKahan(budget=0),
    "rules is empty": lambda A, b: inverse.compare(A, b, {}),
}


@pytest.mark.parametrize("message", MISUSE)
def test_misuse_is_named(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MISUSE[message](*PROBLEMS["phillips"])


def test_smoothness_that_is_true_helps_and_one_that_is_not_does_not():
    """deriv2 has a straight line to find, gravity no constant: errors at the best λ of a grid up to ∞, 1 % noise."""
    lams = jnp.concatenate([jnp.logspace(-12, 6, 91), jnp.array([jnp.inf])])

    def least(problem, order):
        B = jnp.stack([problem.noisy(jax.random.key(seed), 0.01) for seed in range(5)], axis=1)
        L = None if order is None else np.diff(np.eye(64), order, axis=0)
        x = inverse.tikhonov_path(problem.A, B, lams, L=L).x
        return np.min(np.linalg.norm(x - problem.x[None, :, None], axis=1), axis=0)

    line, bump = testproblems.deriv2(64), testproblems.gravity(64)
    assert np.all(least(line, None) >= 10 * least(line, 2))
    assert np.all(least(bump, 1) >= least(bump, None))


def test_a_solution_that_must_not_be_negative():
    A, b = PROBLEMS["phillips"]
    fit = jxr.least_squares(lambda x, A: A @ x - b, np.full(N, 0.1), A, lam=1e-2, bounds=(0.0, None))
    expected, _ = scipy.optimize.nnls(np.vstack([A, 0.1 * np.eye(N)]), np.concatenate([b, np.zeros(N)]))
    assert np.sum(expected == 0) > 1
    np.testing.assert_allclose(fit.value, expected, atol=1e-7)


def test_a_lam_beyond_the_range_of_the_dtype_has_its_code():
    """A of 1e-20 in float32: λ near A² is no float32, which is neither a noise level nor a negative λ."""
    rng = np.random.default_rng(0)
    A, b = (1e-20 * rng.standard_normal((20, 5))).astype("f4"), (1e-10 * rng.standard_normal(20)).astype("f4")
    found = (
        inverse.tikhonov_residual(A, b, np.float32(3e-10)),
        inverse.tikhonov_ball(A, b, np.float32(1e9)),
        inverse.tikhonov_cv(A, b).fit,
        inverse.tikhonov_cv(A, b, rule=select.discrepancy(np.float32(1e-20))).fit,
        jxr.ridge_cv(A, b).fit,
    )
    assert [bool(fit.result == jxr.RESULTS.overflow) for fit in found] == [True] * len(found)


@pytest.mark.parametrize("solver", [inverse.GolubKahan(), inverse.Direct()])
def test_default_grids_stay_in_the_range_of_the_dtype(solver):
    rng = np.random.default_rng(0)
    path = inverse.tikhonov_path(1e-150 * rng.standard_normal((20, 5)), rng.standard_normal(20), solver=solver)
    lams = np.asarray(path.lams)
    assert np.all(np.diff(lams) > 0)
