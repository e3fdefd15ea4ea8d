"""Rows streamed into a triangle against the path of all of them at once; derivatives with `Nystroem` in test_krylov."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_no_rows_at_all_and_whole_numbers():
    """An empty batch adds nothing, rows are counted in whole numbers, and merging with nothing changes nothing."""
    empty = stream.init(3, 2)
    rows = stream.update(stream.update(empty, X[:20], Y[:20]), X[:0], Y[:0])
    assert rows.rows == 20
    assert jnp.issubdtype(rows.rows.dtype, jnp.integer)
    for both in (stream.merge(empty, rows), stream.merge(rows, empty)):
        assert both.rows == 20
        np.testing.assert_allclose(
            stream.finish(both).coef(jnp.array(1.0)), stream.finish(rows).coef(jnp.array(1.0)), rtol=1e-12
        )


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("gram", [True, False])
def test_rows_far_from_zero(gram, intercept):
    """Float32 rows a thousand deviations from zero, condition 1e2, in batches of two shards."""
    rng = np.random.default_rng(7)
    rows = (1000.0 + rng.standard_normal((6000, 3)) @ np.diag([1.0, 0.1, 0.01])).astype(np.float32)
    y = ((rows - 1000.0) @ np.array([1.0, 2.0, 3.0]) + rng.standard_normal(6000)).astype(np.float32)
    wide, target = rows.astype(float), y.astype(float)
    if intercept:
        wide, target = wide - wide.mean(axis=0), target - target.mean()
    exact = np.linalg.lstsq(np.r_[wide, np.eye(3)], np.r_[target, np.zeros(3)])[0]
    shards = []
    for part in np.split(np.arange(6000), [2500]):
        shard = stream.init(3, 1, intercept=intercept, dtype="float32", gram=gram)
        for batch in np.array_split(part, 5):
            shard = stream.update(shard, rows[batch], y[batch])
        shards.append(shard)
    spectrum_ = stream.finish(stream.merge(*shards))
    lam = jnp.ones((), spectrum_.problem.X.dtype)
    condition = 1e2 if intercept else 1e5 * np.sqrt(3)
    error = np.linalg.norm(np.asarray(spectrum_.coef(lam))[:3, 0] - exact) / np.linalg.norm(exact)
    assert error <= condition * (1e-11 if gram else 1e-6)
    assert np.all(np.asarray(spectrum_.result(lam) == jxr.RESULTS.successful)) or not gram


@pytest.mark.parametrize("gram", [pytest.param(True, marks=pytest.mark.whole), False])
def test_derivatives_of_streamed_rows(gram):
    """To second order along one line, as of all rows at once; with a Gram matrix NaN where features are dependent."""
    direction = jnp.asarray(rng.standard_normal(X.shape))

    def score(step):
        rows = stream.init(3, 2, gram=gram)
        for part in (slice(0, 20), slice(20, n)):
            rows = stream.update(rows, (X + step * direction)[part], Y[part])
        factored = stream.finish(rows)
        return jnp.sum(jax.vmap(factored.rss)(LAMS) + jax.vmap(factored.squared_norm)(LAMS))

    def at_once(step):
        factored = spectrum.from_design(design.make_design(X + step * direction, Y))
        return jnp.sum(jax.vmap(factored.rss)(LAMS) + jax.vmap(factored.squared_norm)(LAMS))

    for f in (lambda g: g, jax.grad, lambda g: jax.grad(jax.grad(g)), lambda g: jax.jacfwd(jax.grad(g))):
        assert float(jax.jit(f(score))(0.1)) == pytest.approx(float(jax.jit(f(at_once))(0.1)), rel=1e-8)

    def dependent(x):
        rows = stream.update(stream.init(2, 1, gram=gram), jnp.stack([x, x], axis=1), Y[:, 0])
        return jnp.sum(stream.finish(rows).rss(jnp.array(1.0)))

    assert not gram or np.all(np.isnan(jax.grad(dependent)(X[:, 0])))


PENALTY = jnp.array([1.0, 0.5, 2.0, 1.0, 3.0, 1.0, 0.7])
TERMS = [
    ({"penalty": PENALTY, "unpenalized": (1, -2), "standardize": True}, True, WEIGHTS, False),
    ({}, False, None, True),
]
UPDATE = jax.jit(stream.update)


def dealt(weights, intercept=True, gram=False, folds=4):
    F = phi(1.0)(X)
    rows = stream.init(7, 2, folds=folds, gram=gram, intercept=intercept)
    for part in (slice(0, 1), slice(1, 26), slice(26, n)):
        rows = UPDATE(rows, F[part], Y[part], None if weights is None else weights[part])
    return rows


@pytest.mark.parametrize(("terms", "intercept", "weights", "gram"), TERMS, ids=["all terms", "none"])
def test_path_and_choice_equal_those_of_all_rows(terms, intercept, weights, gram):
    """All terms of ridge, and k-fold from the same pass."""
    F, more = phi(1.0)(X)[:, : 6 if gram else 7], {"weights": weights, "intercept": intercept, **terms}
    rows = dealt(weights, intercept)
    if gram:
        rows = UPDATE(stream.init(6, 2, folds=4, gram=True, intercept=intercept), F, Y, weights)
    at_once = jxr.ridge_path(F, Y, LAMS, **more)
    streamed = stream.path(rows, LAMS, **terms)
    for name in ("coef", "intercept", "dof", "rss"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(at_once, name), rtol=1e-9, atol=1e-11)
    streamed = stream.choose(rows, LAMS, rule=select.kfold(4), per_target=True, **terms)
    at_once = jxr.ridge_cv(F, Y, LAMS, rule=select.kfold(labels=np.arange(n) % 4), per_target=True, **more)
    np.testing.assert_allclose(streamed.scores, at_once.scores, rtol=1e-9)
    np.testing.assert_allclose(streamed.spread, at_once.spread, rtol=1e-7)
    np.testing.assert_allclose(streamed.fit.coef, at_once.fit.coef, rtol=1e-8, atol=1e-11)


def test_a_vector_of_targets_has_no_axis_of_them():
    rows = UPDATE(stream.init(3), X, Y[:, 0], WEIGHTS)
    found, wanted = stream.choose(rows), jxr.ridge_cv(X, Y[:, 0], weights=WEIGHTS, rule=select.gcv)
    assert found.fit.coef.shape == (3,)
    assert found.fit.result == jxr.RESULTS.successful
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-8)


def test_leave_one_out_of_unpenalised_columns():
    F = phi(1.0)(X)[:, :6]
    rows = UPDATE(stream.init(6, 2, gram=True), F, Y, WEIGHTS)
    found = stream.leave_one_out(stream.finish(rows, unpenalized=2), lambda x: x, F, Y, LAMS, weights=WEIGHTS, block=13)
    wanted = jxr.ridge_cv(F, Y, LAMS, weights=WEIGHTS, unpenalized=2, per_target=True).scores
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_rules_of_streams_are_asked_for_by_name():
    folds, none = stream.init(7, 2, folds=4), stream.init(7, 2)
    for rows, rule in ((folds, select.kfold(5)), (none, select.kfold(4)), (folds, select.kfold(labels=[0, 1]))):
        with pytest.raises(ValueError, match=r"pass stream\.init\(\.\.\., folds=k\)"):
            stream.choose(rows, LAMS, rule=rule)
    with pytest.raises(ValueError, match="use rss, dof or gcv"):
        stream.choose(none, LAMS, rule=select.loo)
    with pytest.raises(ValueError, match="folds is 1"):
        stream.init(7, 2, folds=1)
    with pytest.raises(ValueError, match="penalty has shape"):
        stream.path(none, LAMS, penalty=jnp.ones(6))
    with pytest.raises(ValueError, match="per_target=True"):
        stream.choose(none, jnp.ones((3, 2)))


FINISHED = jax.jit(lambda rows: jax.vmap(stream.finish(rows).coef)(LAMS))
MERGED = jax.jit(stream.merge)


def tree(parts, choices, merge):
    """One of them by merging any two at a time."""
    parts = list(parts)
    for choice in choices:
        if len(parts) == 1:
            break
        a = parts.pop(choice % len(parts))
        b = parts.pop(choice // 7 % len(parts))
        parts.append(merge(a, b))
    while len(parts) > 1:
        parts.append(merge(parts.pop(), parts.pop()))
    return parts[0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.integers(0, 4), min_size=n, max_size=n),
    order=st.permutations(range(n)),
    choices=st.lists(st.integers(0, 48), min_size=4, max_size=4),
    gram=st.booleans(),
    on_host=st.booleans(),
)
def test_any_batches_in_any_order_by_any_tree(labels, order, choices, gram, on_host):
    """To 1e-12 of all rows at once: condition 4, and an offset of three deviations."""
    labels, order = np.array(labels), np.array(order)
    shards = []
    for label in range(5):
        rows = stream.init(3, 2, gram=gram, on_host=on_host)
        for part in (order[:20], order[20:]):
            # On the host batches of any size; compiled ones of one size, in which most rows weigh nothing.
            mine = part[labels[part] == label]
            if on_host:
                rows = stream.update(rows, *(np.asarray(x)[mine] for x in (X, Y, WEIGHTS)))
            else:
                rows = UPDATE(rows, X[order], Y[order], jnp.where(jnp.isin(order, mine), WEIGHTS[order], 0.0))
        shards.append(rows)
    rows = tree(shards, choices, stream.merge if on_host else MERGED)
    assert int(rows.rows) == np.count_nonzero(WEIGHTS)
    wanted = jxr.ridge_path(X, Y, LAMS, weights=WEIGHTS)
    np.testing.assert_allclose(FINISHED(rows)[:, :3], wanted.coef, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(FINISHED(rows)[:, 3], wanted.intercept, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gram", [True, False])
def test_sums_on_the_host_equal_compiled_ones(gram):
    """Folds, weights and merging."""
    F, y, weights = (np.asarray(x) for x in (phi(1.0)(X), Y, WEIGHTS))
    ours, theirs = (stream.init(7, 2, folds=4, gram=gram, on_host=on_host) for on_host in (True, False))
    for part in (slice(0, 1), slice(1, 26), slice(26, n)):
        ours, theirs = (
            stream.update(ours, F[part], y[part], weights[part]),
            UPDATE(theirs, F[part], y[part], weights[part]),
        )
    assert isinstance(ours.summed, np.ndarray)
    for rows, others in ((ours, theirs), (stream.merge(ours, ours), MERGED(theirs, theirs))):
        np.testing.assert_array_equal(rows.rows, others.rows)
        np.testing.assert_array_equal(rows.seen, others.seen)
        squares = [x.summed if gram else np.swapaxes(x.summed, 1, 2) @ x.summed for x in (rows, others)]
        np.testing.assert_allclose(*squares, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(rows.largest, others.largest, rtol=1e-12)


@pytest.mark.parametrize("wanted", [None, False])
def test_sums_on_the_host_keep_their_digits_where_x64_is_off(wanted):
    """Float32 rows, condition 1e4, a thousand deviations from zero: 10 cond eps would be 1e-2, folds or none."""
    rng = np.random.default_rng(0)
    n, d = 6000, 5
    U, V = (np.linalg.qr(rng.standard_normal((m, d)))[0] for m in (n, d))
    F = (np.sqrt(n) * (U * np.logspace(0, -4, d)) @ V.T + 1e3).astype(np.float32)
    y = ((F - 1e3) @ np.ones(d) + rng.standard_normal(n)).astype(np.float32)
    centred, target = (x.astype(float) - x.astype(float).mean(axis=0) for x in (F, y))
    exact = np.linalg.lstsq(np.r_[centred, 1e-3 * np.eye(d)], np.r_[target, np.zeros(d)])[0]
    for x64, folds, bound in ((True, 0, 1e-7), (False, 0, 1e-5), (False, 3, 1e-3)):
        rows = stream.init(d, dtype="float32", gram=wanted, folds=folds, on_host=True)
        for part in np.array_split(np.arange(n), 7):
            rows = stream.update(rows, F[part], y[part])
        with jax.enable_x64(x64):
            fit = stream.path(rows, [1e-6])[0]
            assert fit.result == jxr.RESULTS.successful
            assert np.linalg.norm(np.asarray(fit.coef, float) - exact) <= bound * np.linalg.norm(exact)


def test_what_is_not_finite_has_a_code():
    F = np.array(X)
    F[3, 1] = np.inf
    for gram in (True, False):
        rows = stream.update(stream.init(3, gram=gram, on_host=True), F, np.asarray(Y[:, 0]))
        assert stream.path(rows, [1.0])[0].result == jxr.RESULTS.nonfinite_input
        rows = stream.update(stream.init(3, gram=gram, on_host=True), X, Y[:, 0], -WEIGHTS)
        assert stream.path(rows, [1.0])[0].result != jxr.RESULTS.successful
