"""The same choice of λ and the same coefficients as himalaya, target by target."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr

himalaya = pytest.importorskip("himalaya.ridge", reason="himalaya comes with the bench extra")


@pytest.mark.parametrize("shape", [(60, 8), (20, 30)], ids=["tall", "wide"])
def test_five_folds_equal_ridgecv(shape):
    rng = np.random.default_rng(0)
    n, d, t = *shape, 4
    X, lams = rng.standard_normal(shape) + 2, np.logspace(-2, 4, 13)
    y = X @ rng.standard_normal((d, t)) + rng.standard_normal((n, t)) * [0.1, 1.0, 10.0, 100.0]
    theirs = himalaya.RidgeCV(lams, fit_intercept=True, cv=5, solver_params={"warn": False}).fit(X, y)
    ours = jxr.ridge_cv(X, y, lams, rule=jxr.select.kfold(5), per_target=True)
    np.testing.assert_allclose(ours.lam, theirs.best_alphas_)
    np.testing.assert_allclose(ours.fit.coef, theirs.coef_, rtol=1e-8, atol=1e-10)
    # It keeps the score of its first target only, and adds 1e-10 log λ so that ties go to the larger λ.
    np.testing.assert_allclose(jnp.min(ours.scores[:, 0]), -theirs.cv_scores_[0], rtol=1e-8, atol=1e-9)
