"""Rows streamed into a triangle against the path of all of them at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import design, select, spectrum, stream

rng = np.random.default_rng(5)
n = 50
X, Y = jnp.asarray(rng.standard_normal((n, 3)) + 3.0), jnp.asarray(rng.standard_normal((n, 2)))
WEIGHTS = jnp.asarray(rng.uniform(0.5, 2.0, n)).at[4].set(0.0)
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
        coef, b = spectrum.design.split(jax.vmap(spectrum.coef)(LAMS))
        gcv = jax.vmap(lambda lam: select.gcv(spectrum.design, spectrum, lam))(LAMS)
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
    F = phi(1.0)(X)
    parts = [stream.update(stream.init(7, 2), F[i : i + 17], Y[i : i + 17]) for i in range(0, n, 17)]
    there, back = (
        stream.merge(stream.merge(parts[0], parts[1]), parts[2]),
        stream.merge(parts[2], stream.merge(*parts[:2])),
    )
    lam = jnp.array(1.0)
    coefs = [stream.finish(rows).coef(lam) for rows in (there, back)]
    np.testing.assert_allclose(*coefs, atol=1e-12)
    np.testing.assert_allclose(coefs[0][:-1], jxr.ridge(F, Y, 1.0).coef, atol=1e-12)


def test_derivatives_equal_those_of_all_rows_at_once():
    args = (jnp.array(1.3), Y, LAMS, WEIGHTS)
    direction = tuple(0.1 * jnp.asarray(np.sin(1.0 + np.arange(a.size))).reshape(a.shape) for a in args)

    def streamed(s, y, lams, w):
        return jnp.sum(jnp.sin(stream.coefficients(collected(s, y, w), phi(s), X, y, lams, weights=w, block=13)))

    def at_once(s, y, lams, w):
        path = jxr.ridge_path(phi(s)(X), y, lams, weights=w)
        return jnp.sum(jnp.sin(path.coef)) + jnp.sum(jnp.sin(path.intercept))

    found, wanted = (
        jax.jit(lambda args, v, f=f: jax.jvp(jax.grad(f, argnums=(0, 1, 2, 3)), args, v))(args, direction)
        for f in (streamed, at_once)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_leave_one_out_has_derivatives_in_y_and_lam_and_says_so_elsewhere():
    def streamed(y, lam):
        return jnp.sum(stream.leave_one_out(collected(1.0, y, None), phi(1.0), X, y, lam[None], block=13))

    def at_once(y, lam):
        problem = design.make_design(phi(1.0)(X), y)
        return jnp.sum(select.loo(problem, spectrum.from_design(problem), lam))

    found, wanted = (jax.jit(jax.grad(f, argnums=(0, 1)))(Y, jnp.array(0.5)) for f in (streamed, at_once))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-12)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-9)
    one = collected(1.0, Y, None)
    with pytest.raises(ValueError, match="derivatives in lam only"):
        jax.grad(lambda s: jnp.sum(stream.leave_one_out(one, phi(s), X, Y, LAMS)))(1.0)


def test_misuse_names_the_argument():
    rows = stream.init(7, 2)
    with pytest.raises(ValueError, match="7 features and 2 targets"):
        stream.update(rows, X, Y)
    with pytest.raises(ValueError, match="merge needs"):
        stream.merge(rows, stream.init(7, 2, intercept=False))
