"""Rows streamed into a triangle against the path of all of them at once; derivatives with `Nystroem` in test_krylov."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import select
from jaxridge.linear import design, spectrum, stream

rng = np.random.default_rng(5)
n = 50
X, Y = jnp.asarray(rng.standard_normal((n, 3)) + 3.0), jnp.asarray(rng.standard_normal((n, 2)))
WEIGHTS = jnp.asarray(np.where(np.arange(n) == 4, 0.0, rng.uniform(0.5, 2.0, n)))
LAMS = jnp.array([1e-3, 1.0, 1e2])


def phi(s):
    """Seven features, one of them twice."""
    return lambda x: jnp.concatenate([x, jnp.sin(s * x), x[:, :1]], axis=1)


def collected(s, y, weights, intercept=True):
    return stream.finish(stream.collect(phi(s), X, y, intercept=intercept, weights=weights, block=13))


@pytest.mark.parametrize(("intercept", "weights"), [(True, None), (False, WEIGHTS)])
def test_streamed_rows_equal_all_rows_at_once(intercept, weights):
    @jax.jit
    def streamed(y):
        spectrum, more = collected(1.0, y, weights, intercept), {"weights": weights, "block": 13}
        coef, b = spectrum.problem.split(jax.vmap(spectrum.coef)(LAMS))
        gcv = jax.vmap(lambda lam: select.gcv(spectrum.problem, spectrum, lam))(LAMS)
        loo = stream.leave_one_out(spectrum, phi(1.0), X, y, LAMS, **more)
        h = stream.leverage(spectrum, phi(1.0), X, LAMS, **more)
        return coef, b, jax.vmap(spectrum.rss)(LAMS), jax.vmap(spectrum.dof)(LAMS), gcv, loo, h

    @jax.jit
    def at_once(y):
        problem = design.make_design(phi(1.0)(X), y, intercept=intercept, weights=weights)
        spectrum_ = spectrum.from_design(problem)
        coef, b = problem.split(jax.vmap(spectrum_.coef)(LAMS))
        gcv, loo = (jax.vmap(lambda lam, f=f: f(problem, spectrum_, lam))(LAMS) for f in (select.gcv, select.loo))
        h = 1.0 - jax.vmap(lambda lam: spectrum_.one_minus_leverage(lam)[:, 0], out_axes=1)(LAMS)
        h = h if weights is None else jnp.where(weights[:, None] > 0, h, 0.0)
        return coef, b, jax.vmap(spectrum_.rss)(LAMS), jax.vmap(spectrum_.dof)(LAMS), gcv, loo, h

    for a, b in zip(streamed(Y), at_once(Y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_shards_merge_in_any_order():
    @jax.jit
    def coefs(F, y):
        a, b, c = (stream.update(stream.init(7, 2), F[i : i + 17], y[i : i + 17]) for i in range(0, n, 17))
        orders = stream.merge(stream.merge(a, b), c), stream.merge(c, stream.merge(b, a))
        return [stream.finish(rows).coef(jnp.array(1.0))[:-1] for rows in orders]

    there, back = coefs(phi(1.0)(X), Y)
    np.testing.assert_allclose(there, back, atol=1e-12)
    np.testing.assert_allclose(there, jxr.ridge(phi(1.0)(X), Y, 1.0).coef, atol=1e-12)


def test_leave_one_out_has_derivatives_in_y_and_lam_and_says_so_elsewhere():
    def streamed(y, lam):
        return jnp.sum(stream.leave_one_out(collected(1.0, y, None), phi(1.0), X, y, lam[None], block=13))

    def at_once(y, lam):
        problem = design.make_design(phi(1.0)(X), y)
        return jnp.sum(select.loo(problem, spectrum.from_design(problem), lam))

    found, wanted = (jax.jit(jax.grad(f, argnums=(0, 1)))(Y, jnp.array(0.5)) for f in (streamed, at_once))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-12)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-9)
    with pytest.raises(ValueError, match="derivatives in lam only"):
        jax.jit(jax.grad(lambda s: jnp.sum(stream.leave_one_out(collected(1.0, Y, None), phi(s), X, Y, LAMS))))(1.0)


def test_misuse_names_the_argument():
    rows = stream.init(7, 2)
    with pytest.raises(ValueError, match="7 features and 2 targets"):
        stream.update(rows, X, Y)
    with pytest.raises(ValueError, match="merge needs"):
        stream.merge(rows, stream.init(7, 2, intercept=False))
