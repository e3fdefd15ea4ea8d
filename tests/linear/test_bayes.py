"""Ridge as a posterior: against brute force, reference numbers, scikit-learn, and its own promises in simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import select, spectrum

RESULTS = jxr.RESULTS


def problem(n, d, t=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 1.0
    y = X @ rng.standard_normal((d, t)) + rng.standard_normal((n, t)) + 5.0
    return X, y, rng.uniform(0.5, 2.0, n), rng.uniform(0.5, 2.0, d)


def by_hand(X, y, lam, noise, weights, penalty, free):
    """Mean and covariance of [w, b] from the normal equations."""
    A = np.column_stack([X, np.ones(len(X))])
    P = lam * np.diag([*np.where(np.isin(np.arange(X.shape[1]), free), 0.0, penalty), 0.0])
    C = np.linalg.inv(A.T @ (weights[:, None] * A) + P)
    return C @ A.T @ (weights * y), noise * C


@pytest.mark.parametrize(
    ("shape", "solver", "weighted"),
    [
        ((30, 4), spectrum.from_design, True),
        ((6, 11), spectrum.from_design, True),
        pytest.param((6, 11), spectrum.from_gram, False, marks=pytest.mark.whole),
        pytest.param((30, 4), spectrum.from_gram, False, marks=pytest.mark.whole),
        pytest.param((5, 4), spectrum.from_design, False, marks=pytest.mark.whole),
    ],
    ids=["tall weighted", "wide weighted", "wide gram", "tall gram", "square"],
)
def test_posterior_against_normal_equations(shape, solver, weighted):
    X, y, weights, penalty = problem(*shape)
    options = {"weights": weights, "penalty": penalty, "unpenalized": (1,)} if weighted else {}
    lam, noise = np.array([0.7, 30.0]), np.array([0.5, 2.0])
    found = jxr.ridge_posterior(X, y, lam, noise=noise, solver=solver, **options)
    bound = {"rtol": 1e-9, "atol": 1e-11}
    new, v = X[:3] * 1.5, np.cos(np.arange(shape[1]))
    rows = np.column_stack([new, np.ones(3)])
    for j in range(2):
        known = (weights, penalty, [1]) if weighted else (np.ones(shape[0]), np.ones(shape[1]), [])
        mean, cov = by_hand(X, y[:, j], lam[j], noise[j], *known)
        np.testing.assert_allclose(found.coef[:, j], mean[:-1], **bound)
        np.testing.assert_allclose(found.sd[:, j], np.sqrt(np.diag(cov))[:-1], **bound)
        np.testing.assert_allclose(found.intercept_sd[j], np.sqrt(cov[-1, -1]), **bound)
        variance = np.sum(rows @ cov * rows, axis=1)
        np.testing.assert_allclose(found.variance(new)[:, j], variance, **bound)
        np.testing.assert_allclose(found.covariance_times(v)[:, j], (cov @ np.append(v, 0.0))[:-1], **bound)
        centre, low, high = found.prediction(new)
        np.testing.assert_allclose((high - low)[:, j] / 2, 1.959963984540054 * np.sqrt(variance + noise[j]), **bound)
        np.testing.assert_allclose(centre[:, j], rows @ mean, **bound)
    np.testing.assert_allclose(found.prior, noise / lam)


@pytest.mark.whole
def test_samples_have_the_covariance_of_the_posterior():
    """A covariance of 20 000 draws to six standard errors, for every target, tall and wide."""
    count = 20_000
    for shape in ((12, 3), (4, 6)):
        X, y, weights, penalty = problem(*shape)
        found = jxr.ridge_posterior(X, y, 0.8, noise=np.array([0.5, 2.0]), weights=weights, penalty=penalty)
        coef, intercept = found.sample(jax.random.key(0), count)
        draws = np.concatenate([coef, intercept[:, None]], axis=1)
        for j, noise in enumerate((0.5, 2.0)):
            mean, cov = by_hand(X, y[:, j], 0.8, noise, weights, penalty, [])
            sd = np.sqrt(np.diag(cov))
            assert np.max(np.abs(draws[:, :, j].mean(axis=0) - mean) / sd) < 6 / np.sqrt(count)
            got = np.cov(draws[:, :, j].T)
            error = np.sqrt((np.square(cov) + np.outer(sd, sd) ** 2) / count)
            assert np.max(np.abs(got - cov) / error) < 6
        at = found.sample_predictions(X[:2], jax.random.key(0), count)
        np.testing.assert_allclose(at, np.einsum("md,cdt->cmt", X[:2], coef) + np.asarray(intercept)[:, None])


def test_sampled_variances_give_students_t():
    X, y, _, _ = problem(9, 2, 1)
    found = jxr.ridge_posterior(X, y[:, 0], 0.5)
    draws = np.asarray(found.sample(jax.random.key(1), 20_000)[0])
    low, high = map(np.asarray, found.interval(0.9))
    inside = np.mean((draws > low) & (draws < high), axis=0)
    assert np.max(np.abs(inside - 0.9)) < 5 * np.sqrt(0.09 / 20_000)
    assert found.degrees == 8
    narrow, wide = (np.ptp(np.stack(found.interval(0.9, plug_in=plug_in)), axis=0) for plug_in in (True, False))
    np.testing.assert_allclose(wide / narrow, 1.8595480375228424 / 1.6448536269514722, rtol=1e-9)


REFERENCE = {  # 40-digit roots of the slope of the evidence, on the singular values in float64
    True: {"lam": 0.03369593151077907, "noise": 2939.1756731452574, "prior": 87226.42590263567,
           "log_evidence": -2400.860005464527},
    False: {"lam": 0.0336118407058066, "noise": 2932.3835830190746, "prior": 87242.5764683721,
            "log_evidence": -2405.771307605374},
}  # fmt: skip
DIABETES_SD = [
    58.49034743891496, 59.7418554576762, 64.49399160525067, 63.59834450865339, 189.82547391377315, 163.82804929699344,
    122.37962823551854, 130.7370774822096, 99.02071164166185, 64.26365888920309,
]  # fmt: skip


@pytest.mark.parametrize("restricted", [True, pytest.param(False, marks=pytest.mark.whole)])
def test_evidence_of_diabetes_against_forty_digits(restricted):
    X, y = pytest.importorskip("sklearn.datasets").load_diabetes(return_X_y=True)
    found = jxr.ridge_posterior(X, y, restricted=restricted)
    for name, value in REFERENCE[restricted].items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-11)
    rule = select.marginal_likelihood(restricted=restricted)
    choice = jxr.ridge_cv(X, y, np.geomspace(1e-3, 1.0, 30), rule=rule, refine=True)
    np.testing.assert_allclose(choice.lam, found.lam, rtol=1e-10)
    if restricted:
        np.testing.assert_allclose(found.sd, DIABETES_SD, rtol=1e-11)
        np.testing.assert_allclose(found.variance(X[:1]), [47.81602756584607], rtol=1e-11)
        np.testing.assert_allclose(found.predict(X[:1]), [202.63413960564793], rtol=1e-11)
    else:
        theirs = pytest.importorskip("sklearn.linear_model").BayesianRidge(
            alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-12, max_iter=1000
        )
        theirs.fit(X, y)
        np.testing.assert_allclose(found.lam, theirs.lambda_ / theirs.alpha_, rtol=1e-8)
        np.testing.assert_allclose(found.sd, np.sqrt(np.diag(theirs.sigma_)), rtol=1e-8)


def slope(lam, e, squares, outside, count):
    import mpmath

    f = [x / (x + lam) for x in e]
    misfit = outside + mpmath.fsum((1 - a) * z for a, z in zip(f, squares, strict=True))
    return mpmath.fsum(a * ((1 - a) * z * count / misfit - 1) for a, z in zip(f, squares, strict=True))


@pytest.mark.whole
@pytest.mark.parametrize("shape", [(30, 8), (10, 40), (20, 20)], ids=["tall", "wide", "square"])
def test_lam_of_most_evidence_against_a_fine_grid(shape):
    """Whatever the noise: the end, or a stationary point to 1e-10 in log λ of 40 digits, and none lower on a grid."""
    mpmath = pytest.importorskip("mpmath")
    n, d = shape
    rng = np.random.default_rng(3)
    X = rng.standard_normal(shape) * np.logspace(0, -3, d)
    F = X @ rng.standard_normal((d, 60))
    Y = F + rng.standard_normal((n, 60)) * F.std(axis=0) / np.sqrt(np.logspace(-3, 4, 60))
    found = jxr.ridge_posterior(X, Y)
    U, s, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    rank = min(d, n - 1)
    U, e = U[:, :rank], np.square(s[:rank])
    Z2 = np.square(U.T @ (Y - Y.mean(axis=0)))
    outside = np.sum(np.square(Y - Y.mean(axis=0)), axis=0) - Z2.sum(axis=0) if d < n - 1 else np.zeros(60)
    x = np.linspace(np.log(e[-1]) - 25.0, np.log(e[0]) + 25.0, 4000)
    lams = np.exp(x)[:, None]
    levels = (n - 1) * np.log(lams / (e + lams) @ Z2 + outside) + np.sum(np.log1p(e / lams), axis=1)[:, None]
    best = np.argmin(levels, axis=0)
    prior_only, perfect = (np.asarray(found.result == code) for code in (RESULTS.prior_only, RESULTS.perfect_fit))
    least = levels[best, np.arange(60)]
    # Rounding in levels of a hundred.
    np.testing.assert_array_equal(prior_only, levels[-1] - least < 1e-11)
    np.testing.assert_array_equal(perfect, levels[0] - least < 1e-11)
    assert prior_only.any()
    assert perfect.any() == (d > n)
    assert np.all(found.coef[:, prior_only] == 0)
    assert np.all(found.sd[:, prior_only] == 0)
    assert np.all(np.isinf(found.lam[prior_only]))
    inner = np.flatnonzero(~prior_only & ~perfect)
    np.testing.assert_allclose(np.log(found.lam[inner]), x[best[inner]], atol=2 * (x[1] - x[0]))
    with mpmath.workdps(40):
        for j in inner[:: max(1, len(inner) // 4)]:
            data = ([mpmath.mpf(a) for a in e], [mpmath.mpf(a) for a in Z2[:, j]], mpmath.mpf(outside[j]), n - 1)
            log_lam = mpmath.log(float(found.lam[j]))
            exact = mpmath.findroot(lambda u, data=data: slope(mpmath.exp(u), *data), log_lam)
            # Rounding in the squares of singular values of condition 1e3 comes in too.
            assert abs(exact - log_lam) < 1e-10


def test_perfect_fits_and_empty_columns():
    X, _, _, _ = problem(12, 3)
    found = jxr.ridge_posterior(X, X @ [1.0, -2.0, 0.5] + 3.0)
    assert found.result == RESULTS.perfect_fit
    np.testing.assert_allclose(found.coef, [1.0, -2.0, 0.5], rtol=1e-12)
    assert found.noise == 0
    assert found.lam == 0
    assert np.isinf(found.log_evidence)
    np.testing.assert_array_equal(found.sd, 0.0)
    np.testing.assert_allclose(found.prior, np.sum(np.square(found.coef)) / 11, rtol=1e-12)
    for empty in (np.zeros((12, 2)), np.ones((12, 2)), np.zeros((12, 0))):
        found = jxr.ridge_posterior(empty, np.sin(np.arange(12.0)))
        assert found.result == RESULTS.prior_only
        np.testing.assert_allclose(found.noise, np.var(np.sin(np.arange(12.0)), ddof=1), rtol=1e-12)
    assert jxr.ridge_posterior(X, np.full(12, 2.0)).result == RESULTS.prior_only
    # More columns than rows: interpolation without noise leaves the prior's variance where X does not see.
    X, y, _, _ = problem(5, 40, 1, seed=2)
    found = jxr.ridge_posterior(X, X @ np.ones(40) + 2.0)
    assert found.result == RESULTS.perfect_fit
    np.testing.assert_allclose(found.predict(X), X @ np.ones(40) + 2.0, rtol=1e-12)
    A = X - X.mean(axis=0)
    projector = np.eye(40) - np.linalg.pinv(A) @ A
    np.testing.assert_allclose(found.sd, np.sqrt(found.prior * np.diag(projector)), rtol=1e-9)
    np.testing.assert_allclose(found.variance(X), 0.0, atol=1e-12)


@pytest.mark.whole
def test_a_known_noise():
    """λ of most evidence for a given σ², against the rule on a fine grid."""
    X, y, _, _ = problem(30, 5)
    found = jxr.ridge_posterior(X, y, noise=2.0)
    rule = select.marginal_likelihood(2.0)
    choice = jxr.ridge_cv(X, y, np.geomspace(1e-4, 1e6, 200), rule=rule, per_target=True, refine=True)
    np.testing.assert_allclose(found.lam, choice.lam, rtol=1e-9)
    np.testing.assert_allclose(found.log_evidence, -np.min(choice.scores, axis=0), rtol=1e-3)
    assert np.isinf(found.degrees)


@pytest.mark.whole
def test_coverage_in_simulation():
    """10 000 repetitions of the model: intervals hold what they say, within binomial bounds of five deviations."""
    repeats, n, tau, sigma = 10_000, 15, 1.5, 0.8
    rng = np.random.default_rng(5)
    X = rng.standard_normal((n, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 2.0]])
    w, b = tau * rng.standard_normal((3, repeats)), 3.0
    y = X @ w + b + sigma * rng.standard_normal((n, repeats))
    for noise, plug_in in ((None, False), (sigma**2, True)):
        found = jxr.ridge_posterior(X, y, (sigma / tau) ** 2, noise=noise)
        low, high = found.interval(0.9, plug_in=plug_in)
        inside = np.mean((low < w) & (w < high), axis=1)
        new = rng.standard_normal((2, 3))
        _, low, high = found.prediction(new, 0.9, plug_in=plug_in)
        measured = new @ w + b + sigma * rng.standard_normal((2, repeats))
        inside = np.append(inside, np.mean((low < measured) & (measured < high), axis=1))
        assert np.max(np.abs(inside - 0.9)) < 5 * np.sqrt(0.09 / repeats)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("of_X", "of_y", "dtype"), [(1e-12, 1.0, np.float32), (1e12, 1e-6, np.float32), (1e-12, 1e12, np.float64)]
)
def test_units(of_X, of_y, dtype):
    X, y, _, _ = problem(40, 4, 1)
    plain = jxr.ridge_posterior(X, y[:, 0])
    found = jxr.ridge_posterior((X * of_X).astype(dtype), (y[:, 0] * of_y).astype(dtype))
    rtol = 1e-3 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(found.coef * (of_X / of_y), plain.coef, rtol=rtol)
    np.testing.assert_allclose(found.sd * (of_X / of_y), plain.sd, rtol=rtol)
    np.testing.assert_allclose(found.lam / of_X**2, plain.lam, rtol=100 * rtol)
    assert found.result == RESULTS.successful


@pytest.mark.whole
def test_a_million_rows_far_from_zero():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((1_000_000, 3)) + 1000.0
    y = X @ [1.0, 0.5, 0.0] + rng.standard_normal(1_000_000)
    double, single = jxr.ridge_posterior(X, y), jxr.ridge_posterior(X.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(double.sd, 1e-3 * np.sqrt(double.noise), rtol=1e-2)
    np.testing.assert_allclose(single.sd, double.sd, rtol=1e-3)
    np.testing.assert_allclose(single.noise, double.noise, rtol=1e-3)


def test_the_lam_of_most_evidence_is_differentiable():
    """λ*, and deviations and predictions at it, against differences of the whole procedure."""
    X, y, _, _ = problem(15, 3)
    new = X[:2] + 0.3
    rng = np.random.default_rng(1)
    dX, dy = rng.standard_normal(X.shape), rng.standard_normal(y.shape)

    def all_of_it(h):
        found = jxr.ridge_posterior(X + h * dX, y + h * dy)
        return jnp.log(found.lam), found.noise, found.sd, found.variance(new), found.log_evidence

    _, slopes = jax.jvp(all_of_it, (0.0,), (1.0,))
    h = 1e-4
    above, below = all_of_it(h), all_of_it(-h)
    for slope, up, down in zip(slopes, above, below, strict=True):
        np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)


def test_bad_values_and_shapes():
    X, y, _, _ = problem(8, 2)
    with pytest.raises(ValueError, match=r"lam is 0\.0; a posterior needs a positive one"):
        jxr.ridge_posterior(X, y, 0.0)
    with pytest.raises(ValueError, match="noise is -1"):
        jxr.ridge_posterior(X, y, 1.0, noise=-1.0)
    with pytest.raises(ValueError, match=r"spectrum\.from_design"):
        jxr.ridge_posterior(X, y, solver=spectrum.from_cholesky)
    found = jxr.ridge_posterior(X, y, 1.0)
    with pytest.raises(ValueError, match="v has shape"):
        found.covariance_times(np.ones(3))
    with pytest.raises(ValueError, match="X has 3 columns"):
        found.variance(np.ones((1, 3)))
    with pytest.raises(ValueError, match="key is 0"):
        found.sample(0)
    with pytest.raises(ValueError, match="Samples of a posterior have no derivatives"):
        jax.grad(lambda X: jxr.ridge_posterior(X, y, 1.0).sample(jax.random.key(0))[0].sum())(jnp.asarray(X))
    traced = jax.jit(lambda lam, noise: jxr.ridge_posterior(X, y, lam, noise=noise))
    assert np.all(np.isnan(traced(-1.0, 1.0).sd))
    assert np.all(traced(-1.0, 1.0).result == RESULTS.invalid_lam)
    assert np.all(traced(1.0, -1.0).result == RESULTS.invalid_noise)
    spoilt = y.copy()
    spoilt[0, 1] = np.nan
    codes = jxr.ridge_posterior(X, spoilt).result
    np.testing.assert_array_equal(codes == RESULTS.nonfinite_input, [False, True])


def test_it_prints_and_keeps_names(tmp_path):
    X, y, _, _ = problem(8, 2)
    found = jxr.ridge_posterior(X, y[:, 0])
    assert "log evidence" in str(found)
    jxr.save(tmp_path / "posterior.npz", found)
    loaded = jxr.load(tmp_path / "posterior.npz")
    np.testing.assert_array_equal(loaded.interval(), found.interval())
    with pytest.raises(ValueError, match="without its factor"):
        loaded.variance(X)
