"""Support vector machines: interior-point references, the duals of SVC, units, derivatives, codes, what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import check_derivatives

import jaxridge as jxr
from jaxridge import RESULTS, features, kernels, margins

datasets = pytest.importorskip("sklearn.datasets")
sk = pytest.importorskip("sklearn.svm")

REFERENCES = json.loads((Path(__file__).parents[1] / "data" / "margins_and_sparsity.json").read_text())
HINGE, SQUARED, TUBE = margins.Hinge(), margins.SquaredHinge(), margins.EpsilonInsensitive(0.1)
LOSSES = {"hinge": HINGE, "squared hinge": SQUARED, "epsilon": TUBE}
RNG = np.random.default_rng(3)
N, D = 40, 4
X = RNG.standard_normal((N, D)) + 2.0
Y = np.sign(X[:, 0] - 2.0 + 0.7 * RNG.standard_normal(N))
W, P = np.exp(0.3 * RNG.standard_normal(N)), np.exp(0.3 * RNG.standard_normal(D))
T = X @ RNG.standard_normal(D) + RNG.standard_normal(N)

whole = pytest.mark.whole
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def target(loss):
    return Y if loss.labels else T


def cancer():
    X, y = datasets.load_breast_cancer(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), np.where(y == 1, 1.0, -1.0)


def column(block, name):
    return np.array([row[name] for row in REFERENCES[block]["rows"]])


@pytest.mark.parametrize(
    ("block", "loss", "value", "support"),
    [
        ("svm_hinge_breast_cancer", HINGE, "primal", "n_sv"),
        ("svm_squared_hinge_breast_cancer", SQUARED, "objective", "n_active"),
    ],
)
def test_machines_are_the_references(block, loss, value, support):
    """Four decades of λ on the breast cancer data: objective, margin, intercept and the size of the support."""
    X, y = cancer()
    path = jxr.svm_path(X, y, column(block, "lam"), loss=loss)
    np.testing.assert_allclose(path.objective, column(block, value), rtol=1e-12)
    np.testing.assert_allclose(path.margin, column(block, "margin"), rtol=1e-11)
    np.testing.assert_allclose(path.intercept, column(block, "b"), atol=1e-11)
    np.testing.assert_array_equal(path.support.sum(axis=1), column(block, support))
    assert float(jnp.max(path.gap)) < 1e-12
    assert bool(jnp.all(path.result == RESULTS.successful))
    errors = np.sum(np.asarray(path.predict(X)) != y, axis=1)
    if loss is HINGE:
        np.testing.assert_array_equal(errors, column(block, "n_errors"))


def test_real_targets_are_the_references():
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y = (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()
    path = jxr.svm_path(X, y, column("svr_diabetes", "lam"), loss=TUBE)
    np.testing.assert_allclose(path.objective, column("svr_diabetes", "primal"), rtol=1e-12)
    # The reference's own point is good to 2e-11.
    np.testing.assert_allclose(path.coef, column("svr_diabetes", "w"), atol=1e-10)
    np.testing.assert_allclose(path.intercept, column("svr_diabetes", "b"), atol=1e-11)
    assert float(jnp.max(path.gap)) < 1e-12


KERNELS = {"linear": kernels.Linear(), "rbf": kernels.RBF(5.0), "laplace": kernels.Laplace(10.0)}


@pytest.mark.parametrize("name", ["rbf", *(pytest.param(name, marks=whole) for name in ("linear", "laplace"))])
def test_kernels_against_the_dual_of_svc(name):
    """Weak duality: no primal lies below their dual, ours by less than 1e-12 of it, and supports are the same."""
    (X, y), lams = cancer(), np.array([10.0, 1.0, 0.1])
    X, y = X[::3], y[::3]
    path = jxr.svm_path(X, y, lams, kernel=KERNELS[name])
    K = np.asarray(KERNELS[name].matrix(jnp.asarray(X)))
    for i, lam in enumerate(lams):
        theirs = sk.SVC(C=0.5 / lam, kernel="precomputed", tol=1e-12).fit(K, y)
        beta = np.zeros(len(y))
        beta[theirs.support_] = 2 * lam * theirs.dual_coef_[0]
        dual = np.abs(beta).sum() - beta @ K @ beta / (4 * lam)
        assert -1e-14 < path.objective[i] / dual - 1 < 1e-11
        mine = 2 * lam * np.asarray(path.dual_coef[i])
        own = np.abs(mine).sum() - mine @ K @ mine / (4 * lam)
        assert abs(path.objective[i] / own - 1) < 1e-12
        np.testing.assert_array_equal(np.flatnonzero(path.support[i]), np.sort(theirs.support_))
        np.testing.assert_allclose(path[i].decision_function(X), K @ path.dual_coef[i] + path.intercept[i], atol=1e-9)
    assert bool(jnp.all(path.result == RESULTS.successful))
    if name == "linear":
        linear = jxr.svm_path(X, y, lams)
        np.testing.assert_allclose(path.norm, linear.norm, rtol=1e-9)
        np.testing.assert_allclose(path.dual_coef, linear.dual_coef, rtol=1e-6, atol=1e-8)


@whole
def test_scalings_of_scikit_learn():
    """C = 1/2λ for all of theirs; a penalised intercept is a column of ones."""
    lam = 0.8
    theirs = sk.SVC(C=0.5 / lam, kernel="linear", tol=1e-10).fit(X, Y, sample_weight=W)
    ours = jxr.svm(X, Y, lam, weights=W)
    np.testing.assert_allclose(ours.coef, theirs.coef_[0], atol=1e-6)
    np.testing.assert_allclose(ours.dual_coef[theirs.support_], theirs.dual_coef_[0], atol=1e-6)
    theirs = sk.SVR(C=0.5 / lam, kernel="linear", epsilon=0.1, tol=1e-10).fit(X, T)
    np.testing.assert_allclose(jxr.svm(X, T, lam, loss=TUBE).coef, theirs.coef_[0], atol=1e-6)
    theirs = sk.LinearSVC(C=0.5 / lam, dual=False, tol=1e-12, max_iter=100_000).fit(X, Y)
    ours = jxr.svm(np.c_[X, np.ones(N)], Y, lam, loss=SQUARED, intercept=False)
    np.testing.assert_allclose(ours.coef, np.append(theirs.coef_[0], theirs.intercept_), atol=1e-6)


@pytest.mark.parametrize("loss", [SQUARED, *(pytest.param(loss, marks=whole) for loss in (HINGE, TUBE))])
def test_units_offsets_weights_and_repeated_rows(loss):
    y = target(loss)
    base = jxr.svm(X, y, 1.0, loss=loss)
    for unit in (1e-12, 1e12):
        fit = jxr.svm(X * unit, y, unit**2, loss=loss)
        np.testing.assert_allclose(fit.coef * unit, base.coef, rtol=1e-10)
        assert fit.result == RESULTS.successful
    np.testing.assert_allclose(jxr.svm(X + 1e6, y, 1.0, loss=loss).coef, base.coef, rtol=1e-7, atol=1e-9)
    tiny = jxr.svm(X, y, 1e-9, loss=loss, weights=np.full(N, 1e-9))
    np.testing.assert_allclose(tiny.coef, base.coef, rtol=1e-9)
    third = np.arange(N) % 3 == 0
    without = jxr.svm(X, y, 1.0, loss=loss, weights=W * ~third)
    fewer = jxr.svm(X[~third], y[~third], 1.0, loss=loss, weights=W[~third])
    np.testing.assert_allclose(without.coef, fewer.coef, rtol=1e-9)
    np.testing.assert_array_equal(without.dual_coef[third], 0.0)
    twice = jxr.svm(X, y, 1.0, loss=loss, weights=1.0 + third)
    repeated = jxr.svm(np.concatenate([X, X[third]]), np.concatenate([y, y[third]]), 1.0, loss=loss)
    np.testing.assert_allclose(twice.coef, repeated.coef, rtol=1e-9)
    assert float(repeated.gap) < 1e-12
    single = jxr.svm(X.astype(np.float32), y.astype(np.float32), np.float32(1.0), loss=loss)
    assert single.coef.dtype == single.gap.dtype == jnp.float32
    # λ‖Δw‖² is no more than the gap.
    bound = np.sqrt(float(single.gap * single.objective)) + 1e-5
    np.testing.assert_allclose(np.asarray(single.coef), base.coef, atol=bound)
    assert float(single.gap) < 1e-5


@pytest.mark.parametrize("n", [10, pytest.param(1_000_000, marks=whole)])
def test_rows_in_float32(n):
    rng = np.random.default_rng(n)
    X = (rng.standard_normal((n, 2)) + 30.0).astype(np.float32)
    y = np.where(X[:, 0] - X[:, 1] + rng.standard_normal(n) > 0, 1.0, -1.0).astype(np.float32)
    lam = np.float32(0.01 * n)
    single = jxr.svm(X, y, lam, loss=SQUARED)
    double = jxr.svm(X.astype(float), y.astype(float), float(lam), loss=SQUARED)
    assert single.result == RESULTS.successful
    np.testing.assert_allclose(np.asarray(single.coef), double.coef, rtol=1e-3)


@whole
def test_paths_targets_and_many_problems():
    """λ in any order, a grid for each target, one against the rest, problems by vmap: all are the fits one by one."""
    lams = np.array([1.0, 30.0, 0.1])
    path = jxr.svm_path(X, Y, lams)
    alone = [jxr.svm(X, Y, lam) for lam in lams]
    np.testing.assert_allclose(path.coef, np.stack([fit.coef for fit in alone]), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(path[1:].lams, lams[1:])
    kinds, classes = margins.one_vs_rest(np.where(X[:, 1] > 2.5, "c", np.where(Y > 0, "a", "b")))
    assert classes.tolist() == ["a", "b", "c"]
    many = jxr.svm_path(X, kinds, np.stack([lams, 2 * lams, 3 * lams], axis=1))
    np.testing.assert_allclose(many.coef[2, :, 1], jxr.svm(X, kinds[:, 1], 0.2).coef, rtol=1e-8, atol=1e-10)
    assert many[0].predict(X).shape == (N, 3)
    assert np.mean(classes[np.argmax(many[2].decision_function(X), axis=1)] == classes[np.argmax(kinds, axis=1)]) > 0.8
    Xs = jnp.stack([X, X + 0.1 * np.sin(X)])
    batch = jax.jit(jax.vmap(lambda X: jxr.svm_path(X, Y, lams)))(Xs)
    np.testing.assert_allclose(batch.coef[0], path.coef, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(batch.coef[1], jxr.svm_path(Xs[1], Y, lams).coef, rtol=1e-9, atol=1e-11)


def test_least_squares_on_labels_is_a_machine_whose_rows_all_lie_within_the_margin():
    """As λ grows every row is within it: the squared hinge is ridge there."""
    lam = 1e4
    machine, ridge = jxr.svm(X, Y, lam, loss=SQUARED), jxr.ridge(X, Y, lam)
    np.testing.assert_allclose(machine.coef, ridge.coef, rtol=1e-9)
    np.testing.assert_allclose(machine.intercept, ridge.intercept, rtol=1e-9)
    assert bool(jnp.all(machine.support))


@whole
def test_nystroem_features_are_the_kernel():
    """With every point a centre the linear machine on features is that of the kernel."""
    kernel = kernels.RBF(1.5)
    phi = features.nystroem_at(kernel, jnp.asarray(X))
    ours, exact = jxr.svm(phi(jnp.asarray(X)), Y, 0.5), jxr.svm(X, Y, 0.5, kernel=kernel)
    np.testing.assert_allclose(ours.objective, exact.objective, rtol=1e-8)
    np.testing.assert_allclose(ours.norm, exact.norm, rtol=1e-6)


@whole
def test_cross_validation_counts_errors_of_refits():
    """Each fold has labels as the whole has; the folds are refitted one by one."""
    lams = np.array([0.1, 3.0, 100.0])
    choice = jxr.svm_cv(X, Y, lams, folds=4)
    order = np.argsort(Y, kind="stable")
    errors = []
    for i in range(4):
        test = order[i::4]
        train = np.setdiff1d(np.arange(N), test)
        path = jxr.svm_path(X[train], Y[train], lams)
        errors.append(np.mean(np.asarray(path.predict(X[test])) != Y[test], axis=1))
    np.testing.assert_allclose(choice.scores, np.mean(errors, axis=0), rtol=1e-12)
    np.testing.assert_allclose(choice.spread, np.std(errors, axis=0, ddof=1) / 2, rtol=1e-12)
    assert float(choice.lam) == lams[int(np.argmin(choice.scores))]
    np.testing.assert_allclose(choice.fit.coef, jxr.svm(X, Y, choice.lam).coef, rtol=1e-9)


def numbers(fit):
    return fit.coef, fit.intercept, fit.dual_coef, fit.norm, 0.1 * fit.objective


DERIVATIVES = {
    "hinge": (
        lambda X, lam, w, p: numbers(jxr.svm(X, Y, lam, weights=w, penalty=p, standardize=True)),
        (X, 2.0, W, P),
    ),
    "hinge without intercept": (
        lambda X, lam, w: numbers(jxr.svm(X, Y, lam, weights=w, intercept=False))[:1],
        (X, 2.0, W),
    ),
    "squared hinge": (
        lambda X, lam, w, p: numbers(jxr.svm(X, Y, lam, loss=SQUARED, weights=w, penalty=p)),
        (X, 2.0, W, P),
    ),
    "epsilon": (
        lambda X, y, lam, e: numbers(jxr.svm(X, y, lam, loss=margins.EpsilonInsensitive(e))),
        (X, T, 2.0, 0.3),
    ),
    "kernel, hinge": (
        lambda X, lam, w, s: numbers(jxr.svm(X, Y, lam, weights=w, kernel=kernels.RBF(s)))[1:],
        (X, 0.5, W, 1.5),
    ),
    "kernel, squared hinge": (
        lambda X, lam, w, s: numbers(jxr.svm(X, Y, lam, loss=SQUARED, weights=w, kernel=kernels.RBF(s)))[1:],
        (X, 0.5, W, 1.5),
    ),
}


@pytest.mark.parametrize("name", ["hinge", *(pytest.param(name, marks=whole) for name in list(DERIVATIVES)[1:])])
def test_derivatives_in_every_argument(name):
    """Coefficients, intercept, multipliers, norm and objective to second order in every mode, against differences."""
    fn, args = DERIVATIVES[name]
    check_derivatives(fn, tuple(jnp.asarray(x) for x in args), rtol=1e-6, step=2e-4)


@whole
def test_gradients_of_many_lams_at_once():
    """jit(vmap(grad)) over λ and data, each as the differences say."""
    lams = jnp.array([0.3, 2.0])
    total = lambda X, lam: jnp.sum(jnp.sin(jxr.svm(X, Y, lam).decision_function(X[:3] + 0.2)))  # noqa: E731
    program = jax.jit(jax.vmap(jax.value_and_grad(total, (0, 1)), (None, 0)))
    V, h = jnp.asarray(RNG.standard_normal((N, D))), 1e-6
    _, (of_X, of_lam) = program(jnp.asarray(X), lams)
    up, down = program(jnp.asarray(X + h * V), lams + h)[0], program(jnp.asarray(X - h * V), lams - h)[0]
    np.testing.assert_allclose(jnp.sum(of_X * V[None], axis=(1, 2)) + of_lam, (up - down) / (2 * h), rtol=1e-6)


def test_where_no_row_lies_on_the_margin_the_intercept_is_an_interval():
    """Two against two, far from the margin: a code, the middle, and NaN for its derivative alone."""
    x = np.array([[-1.0], [-1.2], [1.0], [1.2]])
    y, lam = np.array([-1.0, -1.0, 1.0, 1.0]), 100.0
    fit = jxr.svm(x, y, lam)
    assert fit.result == RESULTS.undetermined_intercept
    np.testing.assert_allclose(fit.intercept, 0.0, atol=1e-12)
    np.testing.assert_allclose(fit.coef, y @ x / (2 * lam), rtol=1e-12)
    assert bool(jnp.isnan(jax.jacfwd(lambda lam: jxr.svm(x, y, lam).intercept)(lam)))
    slope = jax.grad(lambda lam: jxr.svm(x, y, lam).coef[0])(lam)
    np.testing.assert_allclose(slope, -fit.coef[0] / lam, rtol=1e-9)


def test_separable_data_and_a_lam_that_vanishes():
    """The hard margin: all rows beyond it, and no gap to the dual ‖w‖² = Σ|a|; the code says where rounding counts."""
    y = np.sign(X[:, 0] - 2.0)
    for lam in (1e-3, 1e-6, 1e-9):
        fit = jxr.svm(X, y, lam)
        np.testing.assert_allclose(np.min(y * fit.decision_function(X)), 1.0, rtol=1e-6)
        np.testing.assert_allclose(fit.norm**2, np.sum(np.abs(fit.dual_coef)), rtol=1e-6)
        assert fit.result in (RESULTS.successful, RESULTS.open_gap, RESULTS.at_kink)


CODES = [
    ({"lam": 0.0}, RESULTS.lam_not_positive),
    ({"lam": -1.0}, RESULTS.lam_not_positive),
    ({"lam": np.nan}, RESULTS.lam_not_positive),
    ({"X": X * np.where(np.arange(N)[:, None] == 3, np.nan, 1.0)}, RESULTS.nonfinite_input),
    ({"y": 0.5 * (Y + 1.0)}, RESULTS.invalid_labels),
    ({"y": np.ones(N)}, RESULTS.one_class),
    ({"weights": -W}, RESULTS.invalid_weights),
    ({"penalty": -P}, RESULTS.invalid_penalty),
]


@pytest.mark.parametrize("i", range(len(CODES)))
def test_what_cannot_be_has_a_code_and_no_number(i):
    changed, code = CODES[i]
    fit = jxr.svm(**{"X": X, "y": Y, "lam": 1.0, "weights": W, "penalty": P} | changed)
    assert fit.result == code, RESULTS[fit.result]
    assert bool(jnp.all(jnp.isnan(fit.coef)))


@whole
def test_what_is_not_solved_says_so():
    assert jxr.svm(X, Y, 1.0, tol=1e-30).result == RESULTS.open_gap
    early = jxr.svm(X, Y, 1.0, max_steps=2)
    assert early.result == RESULTS.open_gap
    assert float(early.gap) > 1e-3
    crossed = jxr.svm(X, T, 1.0, loss=margins.EpsilonInsensitive(-1.0))
    assert crossed.result == RESULTS.negative_epsilon
    no_kernel = jxr.svm(np.where(X > 4.0, np.nan, X), Y, 1.0, kernel=kernels.RBF())
    assert no_kernel.result == RESULTS.nonfinite_kernel


@whole
def test_a_bad_member_leaves_the_others_alone():
    program = jax.jit(jax.vmap(jax.value_and_grad(lambda X: jnp.sum(jxr.svm(X, Y, 1.0).coef ** 2))))
    Xs = jnp.stack([X, X + 0.1])
    good, bad = program(Xs), program(Xs.at[1, 0, 0].set(jnp.nan))
    np.testing.assert_array_equal(good[1][0], bad[1][0])
    assert bool(jnp.isnan(bad[0][1]))
    assert bool(jnp.all(jnp.isnan(bad[1][1])))
    path = jxr.svm_path(X, Y, [1.0, -1.0, 0.5])
    np.testing.assert_allclose(path.coef[2], jxr.svm(X, Y, 0.5).coef, rtol=1e-9)
    assert bool(jnp.all(jnp.isnan(path.coef[1])))


REFUSED = {
    "one_vs_rest": lambda: jxr.svm(X, np.where(Y > 0, "good", "bad"), 1.0),
    "where": lambda: jxr.svm(X, Y > 0, 1.0),
    "loss is 'hinge'": lambda: jxr.svm(X, Y, 1.0, loss="hinge"),
    "penalty": lambda: jxr.svm(X, Y, 1.0, penalty=P, kernel=kernels.RBF()),
    "lam has shape": lambda: jxr.svm(X, Y, [1.0, 2.0]),
    "max_steps": lambda: jxr.svm(X, Y, 1.0, max_steps=0),
    "folds": lambda: jxr.svm_cv(X, Y, [1.0], folds=1),
    "nystroem": lambda: jxr.svm(np.zeros((5001, 1)), np.ones(5001), 1.0, kernel=kernels.RBF()),
    "one class": lambda: margins.one_vs_rest(["a", "a"]),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(word):
    with pytest.raises(ValueError, match=word):
        REFUSED[word]()
