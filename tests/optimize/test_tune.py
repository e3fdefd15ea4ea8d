"""Tuning by gradients: against SciPy's minimum, per target, from several starts, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxridge as jxr
from jaxridge import kernels, select

RESULTS = jxr.RESULTS


def data(n=30, d=4, t=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return jnp.asarray(X), jnp.asarray(X @ rng.standard_normal((d, t)) + 2.0 * rng.standard_normal((n, t)))


def test_log_lams_of_columns_against_scipy():
    """Leave-one-out over a λ for each column."""
    scipy = pytest.importorskip("scipy.optimize")
    X, y = data()
    score = lambda p, y: jxr.ridge_score(X, y, 1.0, penalty=jnp.exp(p))  # noqa: E731
    found = jxr.tune(score, jnp.zeros(4), y[:, 0], gtol=1e-7)
    both = jax.jit(jax.value_and_grad(score))
    theirs = scipy.minimize(lambda p: tuple(map(np.asarray, both(p, y[:, 0]))), np.zeros(4), jac=True, tol=1e-10)
    np.testing.assert_allclose(found.score, theirs.fun, rtol=1e-9)
    assert found.result == RESULTS.gradient_converged
    assert found.gradient_norm < 1e-7 * max(1.0, found.score)
    np.testing.assert_allclose(np.nanmin(found.scores), found.score)
    mean = jxr.tune(lambda p, y: jxr.ridge_score(X, y, jnp.exp(p)), 0.0, y)
    best = jxr.ridge_cv(X, y, np.geomspace(1e-3, 1e4, 60), refine=True)
    np.testing.assert_allclose(np.exp(mean.value), best.lam, rtol=1e-4)
    assert mean.score.shape == (3,)


@pytest.mark.whole
def test_every_target_has_its_own():
    X, y = data()
    found = jxr.tune(
        lambda p, y: jxr.ridge_score(X, y, jnp.exp(p), rule=select.gcv), jnp.zeros(3), y, per_target=True, steps=400
    )
    best = jxr.ridge_cv(X, y, np.geomspace(1e-3, 1e4, 60), rule=select.gcv, per_target=True, refine=True)
    np.testing.assert_allclose(found.value, np.log(best.lam), atol=1e-3)
    assert found.scores.shape == (401, 1, 3)
    assert np.all(found.result == RESULTS.gradient_converged)


def test_several_starts_find_the_lower_of_two_minima():
    wells = lambda p, _: (p["a"] ** 2 - 1.0) ** 2 + 0.3 * p["a"]  # noqa: E731
    alone = jxr.tune(wells, {"a": 1.2})
    found = jxr.tune(wells, {"a": 1.2}, starts=6, spread=2.0, key=jax.random.key(0))
    assert alone.value["a"] > 0
    assert found.value["a"] < 0
    assert found.start > 0
    assert found.scores.shape == (101, 6)


@pytest.mark.whole
def test_a_kernel_and_lam_by_evidence():
    X, y = data()
    X, y = X[:, :1], jnp.sin(2.0 * X[:, :1]) + 0.1 * y
    score = lambda p, y: jxr.kernel_ridge_score(  # noqa: E731
        X, y, jnp.exp(p["lam"]), kernel=kernels.RBF(jnp.exp(p["scale"])), rule=select.evidence
    )
    found = jxr.tune(score, {"lam": 0.0, "scale": 0.5}, y[:, 0], gtol=1e-9, steps=300)
    other = jxr.minimize(score, {"lam": jnp.array(0.0), "scale": jnp.array(0.5)}, y[:, 0])
    np.testing.assert_allclose(found.score, other.cost, rtol=1e-8)


def test_what_it_refuses_and_what_it_says(capfd):
    square = lambda p, _: jnp.sum(p * p)  # noqa: E731
    for call, said in (
        (lambda: jxr.tune(square, jnp.array([1])), "floating arrays"),
        (lambda: jxr.tune(lambda p, _: jnp.outer(p, p), jnp.ones(2)), "score gives"),
        (lambda: jxr.tune(square, jnp.ones(2), per_target=True), "per_target: a score"),
        (lambda: jxr.tune(square, jnp.ones(2), starts=3), "need a key"),
        (lambda: jxr.tune(square, jnp.ones(2), optimizer="adam"), "one of optax"),
        (lambda: jax.grad(lambda a: jxr.tune(lambda p, a: (p - a) ** 2, 0.0, a).value)(1.0), "tune has no derivatives"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(TypeError, match="is it steps"):
        jxr.tune(square, jnp.ones(2), step=3)
    assert jxr.tune(square, jnp.ones(2), optimizer=optax.sgd(1e-3), steps=3).result == RESULTS.max_steps
    assert jxr.tune(lambda p, _: jnp.log(p), -1.0).result == RESULTS.nonfinite_start
    broken = jxr.tune(lambda p, _: jnp.log(p), 1.0, optimizer=optax.sgd(0.3), steps=50)
    assert broken.result == RESULTS.nonfinite_region
    assert np.isfinite(broken.score)
    seen = []
    jxr.tune(square, jnp.ones(2), optimizer=optax.sgd(0.1), steps=4, progress=lambda k, s: seen.append(int(k)))
    jax.effects_barrier()
    assert seen == [1, 2, 3, 4]
