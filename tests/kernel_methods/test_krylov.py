"""Kernel ridge past the n × n wall against dense algebra: conjugate gradients, pivoted Cholesky, Nyström, Fourier."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import check_derivatives

import jaxridge as jxr
from jaxridge import RESULTS, kernels, select
from jaxridge.core import plan
from jaxridge.core.factored import Terms
from jaxridge.core.rows import copies
from jaxridge.kernel_methods import Iterative, Mixed, Nystroem, Tridiagonal
from jaxridge.kernel_methods.form import KernelProblem
from jaxridge.kernels import KernelProduct, features
from jaxridge.linalg import LowRank, conjugate_gradients, pivoted_cholesky

rng = np.random.default_rng(11)
n, t = 40, 2
X = rng.standard_normal((n, 3))
X[5] = X[7]
weights = rng.uniform(0.5, 2.0, n)
weights[[3, 11]] = 0.0
X, Y, WEIGHTS = jnp.asarray(X), jnp.asarray(rng.standard_normal((n, t))), jnp.asarray(weights)
LAMS = jnp.array([1e-3, 1e-1, 10.0])
SCALE = jnp.array([1.0, 2.0, 1.5])
KEY = jax.random.key(0)


def dense(kernel, points, y, lams, weights, centres):
    """(α, b) with coefficients for the centres, from the normal equations; differentiable."""
    K, P, m = kernel.matrix(points, centres), kernel.matrix(centres), len(centres)
    A, w = jnp.concatenate([K, jnp.ones((len(y), 1))], axis=1), weights[:, None]

    def one(lam):
        x = jnp.linalg.solve(A.T @ (w * A) + lam * jnp.pad(P, ((0, 1), (0, 1))), A.T @ (w * y))
        return x[:m], x[m]

    return jax.vmap(one)(lams)


def bordered(kernel, points, y, lams, weights=None, intercept=True):
    """(α, b, rss) with a coefficient for each point, from ΩKα + λα + ωb = Ωy, 1ᵀα = 0; differentiable."""
    w, size = jnp.ones(len(y)) if weights is None else weights, len(y)
    K, border = kernel.matrix(points), float(intercept)

    def one(lam):
        M = jnp.zeros((size + 1, size + 1)).at[:size, :size].set(w[:, None] * K + lam * jnp.eye(size))
        M = M.at[:size, size].set(border * w).at[size, :size].set(border).at[size, size].set(1.0 - border)
        x = jnp.linalg.solve(M, jnp.concatenate([w[:, None] * y, jnp.zeros((1, y.shape[1]))]))
        r = y - K @ x[:size] - x[size:]
        return x[:size], x[size], jnp.sum(w[:, None] * jnp.square(r), axis=0)

    return jax.vmap(one)(lams)


def path_of(solver, kernel, points, y, lams, weights=None, intercept=True):
    """The models of a grid, with an axis of targets."""
    problem = KernelProblem(kernel=kernel, points=points, y=y, weights=weights, terms=Terms(intercept))
    return solver.factor(problem, lams).fits(lams)


exact = jax.jit(bordered, static_argnames="intercept")


def numbers(path):
    return path.dual_coef, path.intercept, path.rss


def relative(a, b):
    return max(float(jnp.max(jnp.abs(p - q)) / jnp.max(jnp.abs(q))) for p, q in zip(a, b, strict=True))


def small(lams=LAMS):
    """Seven rows at a time, nothing stored."""
    least = (
        plan.kernel_blocks(n, len(lams) * t, 15, jnp.dtype("float64"), 2**30).bytes - 8 * n * n - 3 * 8 * n * (n - 7)
    )
    return Iterative(KEY, tol=1e-12, rank=15, memory=least)


def smaller():
    """Seven rows at a time and one column, beside six solutions."""
    least = 8 * n * (3 * 15 + 2 * 6 + 15) + 7 * 3 * 8 * n
    blocks = plan.kernel_blocks(n, len(LAMS) * t, 15, jnp.dtype("float64"), least)
    assert (blocks.rows, blocks.together, blocks.columns, blocks.bytes) == (7, 1, 6, least)
    return Iterative(KEY, tol=1e-12, rank=15, memory=least)


@pytest.mark.parametrize(
    ("intercept", "weights", "stored"), [(True, None, True), (True, WEIGHTS, False), (False, WEIGHTS, True)]
)
def test_conjugate_gradients_equal_dense_algebra(intercept, weights, stored):
    # Twelve columns, so that the last ones go on in a narrower block.
    lams = jnp.array([1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0])
    solver, kernel = Iterative(KEY, tol=1e-12, rank=15) if stored else small(lams), kernels.Matern32(SCALE)
    path = jax.jit(lambda y: path_of(solver, kernel, X, y, lams, weights, intercept))(Y)
    alpha, b, rss = exact(kernel, X, Y, lams, weights, intercept=intercept)
    assert relative((path.dual_coef, path.rss), (alpha, rss)) < 1e-9
    np.testing.assert_allclose(path.intercept, b, atol=1e-10)
    assert bool(jnp.all(path.result == RESULTS.successful))
    # Columns stop one by one: a larger λ is easier.
    assert np.all(np.diff(np.asarray(path.iterations), axis=0) < 0)
    assert float(jnp.max(path.residual_norm)) <= 1e-12


def test_half_of_the_kernel_gives_the_product():
    kernel, V = kernels.Matern32(SCALE), jnp.asarray(np.sin(np.arange(3.0 * n))).reshape(n, 3)
    K = kernel.matrix(X)
    # Numbers of blocks: 1, an odd one that divides n, one that does not, an even one made odd, and one row at a time.
    for block in (n, 8, 6, 10, 1):
        product = KernelProduct(kernel, X, None, block)
        np.testing.assert_allclose(jax.jit(lambda V, product=product: product(V))(V), K @ V, rtol=1e-13, atol=1e-13)


def derivatives(numbers_of, args, direction):
    """Gradients of a generic function of all numbers, and their change along a direction: (first, second) order."""
    c = jnp.asarray(np.cos(np.arange(n * t))).reshape(n, t)

    def value(*args):
        alpha, b, rss = numbers_of(*args)
        return jnp.sum(jnp.sin(alpha) * c[None, : alpha.shape[1]]) + jnp.sum(b**2) + jnp.sum(jnp.log(rss))

    gradient = jax.grad(value, argnums=tuple(range(len(args))))
    return jax.jit(lambda args, v: jax.jvp(gradient, args, v))(args, direction)


ARGS = (SCALE, Y, LAMS, X, WEIGHTS)
DIRECTION = tuple(0.1 * jnp.asarray(np.sin(1.0 + np.arange(a.size))).reshape(a.shape) for a in ARGS)


@pytest.mark.parametrize("solver", [small, pytest.param(smaller, marks=pytest.mark.whole)])
def test_derivatives_of_both_orders_equal_those_of_dense_algebra(solver):
    ours = derivatives(
        lambda s, y, lams, x, w: numbers(path_of(solver(), kernels.Matern32(s), x, y, lams, w)), ARGS, DIRECTION
    )
    reference = derivatives(lambda s, y, lams, x, w: bordered(kernels.Matern32(s), x, y, lams, w), ARGS, DIRECTION)
    for order in (0, 1):
        for a, b in zip(ours[order], reference[order], strict=True):
            assert relative([a], [b]) < 1e-7


def test_groups_of_columns_give_the_path_of_all():
    """Five of 20 columns at a time: the same numbers; a bad target spoils its own columns only."""
    kernel, bad, lams = kernels.Matern32(SCALE), Y.at[0, 1].set(jnp.nan), jnp.logspace(-3, 1, 10)
    memory = 8 * n * (3 * 15 + 2 * 20 + 15 * 5) + 20 * 3 * 8 * n
    assert plan.kernel_blocks(n, 20, 15, jnp.dtype("float64"), memory).together == 5
    few, all = (
        jax.jit(lambda y, m=m: path_of(Iterative(KEY, tol=1e-12, rank=15, memory=m), kernel, X, y, lams, WEIGHTS))
        for m in (memory, 2**30)
    )
    assert relative(numbers(few(Y)), numbers(all(Y))) < 1e-11
    spoilt = few(bad)
    assert np.all(np.asarray(spoilt.result == RESULTS.successful) == [True, False])
    assert relative([spoilt.dual_coef[:, :, 0]], [few(Y).dual_coef[:, :, 0]]) < 1e-11


@pytest.mark.parametrize("columns", [40, 120])
def test_a_solve_takes_the_memory_of_its_plan(columns):
    """All 40 columns at once and 120 in groups, in 4 MiB: temporary arrays and results of the compiled program."""
    points, solver = jnp.ones((512, 3)), Iterative(KEY, rank=20, memory=2**22)
    blocks = plan.kernel_blocks(512, columns, 20, jnp.dtype("float64"), solver.memory)
    assert (blocks.together == columns) == (columns == 40)
    solve = jax.jit(lambda X, y, lams: numbers(path_of(solver, kernels.RBF(), X, y, lams)))
    memory = solve.lower(points, jnp.ones((512, columns // 10)), jnp.ones(10)).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes <= blocks.bytes


def test_solve_under_jit_and_vmap_with_poison_in_unsolved_columns_only():
    A = kernels.RBF(SCALE).matrix(X)

    def solved(g, lams, max_steps=500):
        x, stats = conjugate_gradients.solve(lambda V: A @ V, g, lams, tol=1e-10, max_steps=max_steps)
        return x, stats.result(lams)

    lams = jnp.array([1e-2, 1.0])
    batch = jnp.stack([Y, 2.0 * Y[::-1]])
    x, _ = jax.jit(jax.vmap(solved, in_axes=(0, None)))(batch, lams)
    for i, g in enumerate(batch):
        for j, lam in enumerate(lams):
            np.testing.assert_allclose(x[i, :, j], np.linalg.solve(A + lam * np.eye(n), g[:, j]), atol=1e-8)
    # Enough steps for the second column, too few for the first.
    lams = jnp.array([1e-6, 10.0])
    short = jax.jit(lambda g: solved(g, lams, 15))
    x, result = short(Y)
    assert (result == RESULTS.max_products)[0]
    assert (result == RESULTS.successful)[1]
    assert bool(jnp.all(jnp.isfinite(x)))
    gradient = jax.jit(jax.grad(lambda g, share: jnp.sum(short(g)[0] ** 2 * share[None, :])))
    assert bool(jnp.all(jnp.isfinite(gradient(Y, jnp.array([0.0, 1.0])))))
    both = gradient(Y, jnp.array([1.0, 1.0]))
    assert bool(jnp.all(jnp.isnan(both[:, 0])))
    assert bool(jnp.all(jnp.isfinite(both[:, 1])))


def test_codes_say_what_was_reached():
    kernel, lams = kernels.RBF(0.3), jnp.array([1e-6, 1.0, -1.0], "float32")
    path = jax.jit(lambda X, Y: path_of(Iterative(KEY, rank=0, tol=1e-7), kernel, X, Y, lams))
    X32, Y32 = X.astype("float32"), Y.astype("float32")
    half = path(X32, Y32)
    assert (half.result == RESULTS.residual_floor)[0, 0]
    assert (half.result == RESULTS.successful)[1, 0]
    assert (half.result == RESULTS.invalid_lam)[2, 0]
    assert 1e-7 < float(half.residual_norm[0, 0]) < 1e-1
    bad = path(X32, Y32.at[0, 0].set(jnp.nan)).result
    assert (bad == RESULTS.nonfinite_input)[1, 0]
    assert (bad == RESULTS.successful)[1, 1]
    assert (path(X32.at[0].set(jnp.nan), Y32).result == RESULTS.nonfinite_kernel)[1, 0]


@partial(jax.jit, static_argnames=("rank", "block"))
def pivots_of(K, rank, key=KEY, block=None):
    return pivoted_cholesky(jnp.diagonal(K), lambda i: K[:, i], rank, key, block)


def test_pivoted_cholesky_is_near_the_best_and_stops_at_the_rank():
    K = kernels.RBF(0.7).matrix(jnp.asarray(rng.uniform(-1.0, 1.0, (200, 2))))
    pivots = pivots_of(K, 30)
    F, indices = np.asarray(pivots.F), np.asarray(pivots.indices)
    np.testing.assert_allclose(F @ F[indices].T, np.asarray(K)[:, indices], atol=1e-10)
    assert len(set(indices.tolist())) == 30 == int(pivots.count)
    # Near the best: twice the error of the best of half the rank is a loose bound.
    assert np.trace(K) - np.sum(np.square(pivots.F)) < 2.0 * np.linalg.eigvalsh(K)[:-15].sum()
    twice = kernels.RBF().matrix(jnp.concatenate([X[:5], X[:5]]))
    F = np.asarray(pivots_of(twice, 10).F)
    np.testing.assert_allclose(F @ F.T, twice, atol=1e-12)
    assert not np.any(F[:, 5:])


def test_pivots_are_drawn_in_proportion_to_the_diagonal():
    K = jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0]))
    first_two = jax.vmap(lambda key: pivots_of(K, 2, key, block=4).indices)(jax.random.split(KEY, 4000))
    counts = np.bincount(np.asarray(first_two[:, 0]), minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.1, 0.2, 0.3, 0.4], atol=0.03)
    after_last = np.asarray(first_two[first_two[:, 0] == 3, 1])
    np.testing.assert_allclose(
        np.bincount(after_last, minlength=4) / len(after_last), [1 / 6, 2 / 6, 0.5, 0], atol=0.05
    )


def test_the_preconditioner_inverts_its_own_matrix_and_saves_steps():
    x, g = jnp.asarray(rng.uniform(-1.0, 1.0, (150, 2))), jnp.asarray(rng.standard_normal((150, 2)))
    K, lams = kernels.Matern52(1.0).matrix(x), 150 * jnp.array([1e-7, 1e-4])

    @jax.jit
    def counts(g):
        F = pivoted_cholesky(jnp.diagonal(K), lambda i: K[:, i], 60, KEY).F
        M, inside = LowRank.of(F), F @ (F.T @ g)
        inverted = M(lams)(F @ (F.T @ inside) + lams[None, :] * inside) / (M.least + lams)[None, :]
        steps = [
            conjugate_gradients.solve(lambda V: K @ V, g, lams, P, max_steps=2000)[1].iterations
            for P in (M, conjugate_gradients.identity)
        ]
        return inside, inverted, steps

    inside, inverted, steps = counts(g)
    np.testing.assert_allclose(inverted, inside, rtol=1e-7, atol=1e-7)
    assert np.all(np.asarray(steps[0]) * 3 < np.asarray(steps[1]))


def at_points(kernel, centres, alpha):
    return np.asarray(kernel.matrix(X, centres)) @ np.asarray(alpha)


def test_nystroem_at_full_rank_is_exact_kernel_ridge():
    kernel = kernels.RBF(SCALE)
    path = jax.jit(lambda y: path_of(Nystroem(KEY, rank=n), kernel, X, y, LAMS, WEIGHTS))(Y)
    alpha, b, rss = exact(kernel, X, Y, LAMS, WEIGHTS)
    np.testing.assert_allclose(at_points(kernel, path.points, path.dual_coef), at_points(kernel, X, alpha), atol=1e-7)
    np.testing.assert_allclose(path.intercept, b, atol=1e-7)
    np.testing.assert_allclose(path.rss, rss, rtol=1e-7)
    root = np.sqrt(WEIGHTS)
    outside = np.eye(n) - np.outer(root, root) / np.sum(root**2)
    e = np.linalg.eigvalsh(outside @ (root[:, None] * np.asarray(kernel.matrix(X)) * root) @ outside)
    np.testing.assert_allclose(path.dof, [np.sum(e / (e + lam)) + 1.0 for lam in np.asarray(LAMS)], rtol=1e-7)


def test_repeated_centres_add_nothing():
    K = np.asarray(kernels.RBF(SCALE).matrix(X))[:, :8]
    phi = np.asarray(jax.jit(lambda centres: features.nystroem_at(kernels.RBF(SCALE), centres)(X))(X[:8]))
    assert np.sum(np.any(phi != 0, axis=0)) == 7
    np.testing.assert_allclose(phi @ phi.T, K @ np.linalg.pinv(K[:8], rcond=1e-12) @ K.T, atol=1e-10)


@pytest.mark.parametrize("some", [slice(None), slice(3, 12)])
def test_leverage_scores(some):
    """Against matrices of the kernel alone; with all points as centres they sum to the degrees of freedom."""
    kernel, lam, root = kernels.RBF(SCALE), 0.3, np.sqrt(np.asarray(WEIGHTS))
    K = root[:, None] * np.asarray(kernel.matrix(X)) * root
    C = root[:, None] * np.asarray(kernel.matrix(X, X[some]))
    M = C.T @ C
    inside = np.linalg.pinv(np.asarray(kernel.matrix(X[some])), rcond=1e-12, hermitian=True) @ M
    inside = inside @ np.linalg.pinv(M + lam * np.asarray(kernel.matrix(X[some])), rcond=1e-12) @ C.T
    scores = features.leverage_scores(kernel, X, lam, X[some], weights=WEIGHTS)
    np.testing.assert_allclose(scores, np.minimum((np.diag(K) - np.sum(C.T * inside, axis=0)) / lam, 1.0), atol=1e-9)
    if some == slice(None):
        np.testing.assert_allclose(scores, np.diag(K @ np.linalg.inv(K + lam * np.eye(n))), atol=1e-9)


def test_centres_by_leverage_find_what_is_rare():
    """Ninety points in one place and ten far from it: equal chances miss most of these."""
    points = jnp.concatenate([jnp.zeros(90), 10.0 * jnp.arange(1.0, 11.0)])[:, None]
    draw = partial(features.leverage, kernels.RBF(), points, 20, 1e-3)
    assert all(jnp.sum(draw(key=key) > 5.0) == 10 for key in jax.random.split(KEY, 5))
    assert jnp.sum(features.uniform(points, 20, key=KEY) > 5.0) < 10


def test_derivatives_of_nystroem_at_fixed_centres_equal_those_of_dense_algebra():
    centres = X[jnp.array([0, 5, 9, 20])]

    def of(solution):
        def numbers_of(s, y, lams, x, w):
            kernel = kernels.RBF(s)
            points, alpha, b = solution(kernel, x, y, lams, w)
            return jnp.einsum("ij,kjt->kit", kernel.matrix(x, points), alpha), b, jnp.ones(1)

        return derivatives(numbers_of, ARGS, DIRECTION)

    def streamed(*problem):
        path = path_of(Nystroem(centres=centres), *problem)
        return path.points, path.dual_coef, path.intercept

    found, wanted = of(streamed), of(lambda *problem: (centres, *dense(*problem, centres)))
    for order in (0, 1):
        for a, b in zip(found[order], wanted[order], strict=True):
            assert relative([a], [b]) < 1e-7


def test_fourier_features_converge_to_the_kernel():
    kinds = kernels.RBF(SCALE), kernels.Matern12(2.0), kernels.Matern32(SCALE), kernels.Matern52(), kernels.Laplace(3.0)

    @partial(jax.jit, static_argnums=0)
    def error(size, kernel):
        phi = features.fourier(kernel, 3, size, key=KEY)(X)
        return jnp.sqrt(jnp.mean((phi @ phi.T - kernel.matrix(X)) ** 2))

    for kernel in kinds:
        assert error(20_000, kernel) < 1.5 / np.sqrt(20_000)


def test_blocks_of_kernels_by_pairs_count_their_differences():
    alive = lambda kernel: copies(lambda rows: kernel.matrix(rows, X), X)  # noqa: E731
    assert alive(kernels.RBF(SCALE)) == 3
    assert alive(kernels.Laplace()) == 1 + 2 * 3


def test_misuse_is_said_before_anything_runs():
    with pytest.raises(ValueError, match=r"smallest that works is memory=[0-9]+") as error:
        path_of(Iterative(KEY, memory=1000), kernels.RBF(), X, Y, LAMS)
    least = int(str(error.value).split("memory=")[1].rstrip("."))
    assert plan.kernel_blocks(n, 6, 40, jnp.dtype("float64"), least).rows == 1
    with pytest.raises(ValueError, match="smallest that works"):
        plan.kernel_blocks(n, 6, 40, jnp.dtype("float64"), least - 1)
    assert plan.kernel_blocks(n, 1, 40, jnp.dtype("float64"), (120 + 15 + 3) * 8 * n).rows == 1
    with pytest.raises(ValueError, match="smallest that works"):
        path_of(Nystroem(KEY, memory=1000), kernels.RBF(), X, Y, LAMS)
    with pytest.raises(ValueError, match="key"):
        Nystroem()
    with pytest.raises(ValueError, match=r"lam is 0\.0"):
        features.leverage(kernels.RBF(), X, 3, 0.0, key=KEY)
    with pytest.raises(ValueError, match=r"features\.nystroem"):
        features.fourier(kernels.Linear(), 3, 10, key=KEY)
    with pytest.raises(ValueError, match="even"):
        features.fourier(kernels.RBF(), 3, 9, key=KEY)


@pytest.mark.parametrize("rule", [select.gcv, select.loo, select.evidence], ids=["gcv", "loo", "evidence"])
def test_scores_of_nystroem_have_derivatives_in_lam_and_y_and_refuse_the_rest(rule):
    """The fit follows y, which a frozen model would not say."""
    solver = Nystroem(centres=X[:6])

    def score(X, y, lam):
        return jxr.kernel_ridge_score(X, y, lam, kernel=kernels.RBF(), rule=rule, solver=solver)

    check_derivatives(lambda y, lam: score(X, y, lam), (Y, jnp.array(0.3)), rtol=1e-6)
    with pytest.raises(ValueError, match="Differentiate select"):
        jax.grad(lambda X: jnp.sum(score(X, Y, 0.3)))(X)


@pytest.mark.parametrize(
    "solver",
    [None, Tridiagonal(), pytest.param(Mixed(), marks=pytest.mark.whole), Nystroem(centres=X[:6])],
    ids=["default", "tridiagonal", "mixed", "nystroem"],
)
def test_fits_have_derivatives_in_lam(solver):
    def numbers_of(lam):
        fit = jxr.kernel_ridge(X, Y, lam, kernel=kernels.RBF(), solver=solver)
        return fit.dual_coef, fit.intercept, fit.rss

    check_derivatives(numbers_of, (jnp.array(0.7),), rtol=1e-6)
