"""Every public verb under jit, vmap, grad, jvp and their compositions.

Derivatives are compared with automatic differentiation of a dense solve of the normal equations, which is
another program altogether and has exact derivatives of every order on the well-conditioned problems used here.
"""

import importlib
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import check_derivatives
from transform_rows import ROWS
from transforms import Judge, verdict

import jaxridge as jxr
from jaxridge import features, inverse, optimize, select, stream, training
from jaxridge.core import implicit
from jaxridge.linear.design import make_design
from jaxridge.linear.spectrum import from_design, from_gram

RNG = np.random.default_rng(20)
LAMS = jnp.logspace(-2, 2, 100)


def orthonormal(n, d):
    return np.linalg.qr(RNG.standard_normal((n, d)))[0]


def problem(n, d, t=2):
    X, y = RNG.standard_normal((n, d)) + 1.0, RNG.standard_normal((n, t))
    return tuple(map(jnp.asarray, (X, y, np.exp(0.3 * RNG.standard_normal(n)), np.exp(0.3 * RNG.standard_normal(d)))))


PROBLEMS = {
    "tall": problem(9, 3),
    "wide": problem(4, 7),
    "square": problem(5, 4),
    "repeated": (jnp.asarray(2.0 * orthonormal(9, 3)), *problem(9, 3)[1:]),
    "zero": (problem(9, 3)[0].at[:, 1].set(0.0), *problem(9, 3)[1:]),
}


def dense(X, y, weights, penalty, lam):
    """Every exit of a spectrum, from the normal equations with the intercept as a column."""
    A = jnp.concatenate([X, jnp.ones((X.shape[0], 1))], axis=1)
    P = jnp.diag(jnp.append(penalty, 0.0))
    C = jnp.linalg.inv(A.T @ (weights[:, None] * A) + lam * P)
    w = C @ (A.T @ (weights[:, None] * y))
    h = weights * jnp.sum((A @ C) * A, axis=1)
    r = y - A @ w
    centred = jnp.sqrt(weights)[:, None] * X
    root = jnp.sqrt(weights)[:, None] / jnp.sqrt(jnp.sum(weights))
    centred = centred - root @ (root.T @ centred)
    kernel = (centred / penalty[None, :]) @ centred.T
    logdet = jnp.linalg.slogdet(jnp.eye(X.shape[0]) + kernel / lam)[1]
    return {
        "coef": w,
        "residual": r,
        "rss": jnp.sum(weights[:, None] * r**2, axis=0),
        "dof": jnp.sum(h),
        "residual_dof": X.shape[0] - jnp.sum(h),
        "one_minus_leverage": (1 - h)[:, None],
        "loo_residual": r / (1 - h)[:, None],
        "logdet": logdet,
    }


def ours(factorise, exact, X, y, weights, penalty, lam, names=None):
    spectrum = factorise(make_design(X, y, weights=weights, penalty=penalty))
    spectrum = spectrum.exact() if exact else spectrum
    return {name: getattr(spectrum, name)(lam) for name in names}


SMOOTH = ("coef", "residual", "rss")
ONCE = ("dof", "residual_dof", "one_minus_leverage", "loo_residual", "logdet")
EXACT = ("dof", "residual_dof", "one_minus_leverage", "loo_residual")


def scalar(exits):
    """A generic nonlinear function of all exits."""
    return sum(
        jnp.sum(jnp.cos(jnp.arange(value.size, dtype=value.dtype).reshape(value.shape) + value))
        for value in exits.values()
    )


@cache
def mine(names, factorise=from_design, exact=False):
    return lambda *args: scalar(ours(factorise, exact, *args, names=names))


@cache
def theirs(names):
    def by_normal_equations(*args):
        exits = dense(*args)
        return scalar({name: exits[name] for name in names})

    return by_normal_equations


@cache
def compiled(transform, f):
    """Once for all problems of a shape."""
    return jax.jit(partial(transform, f))


def agree(transform, f, g, args, rtol=1e-8):
    got, expected = compiled(transform, f)(*args), compiled(transform, g)(*args)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1.0, float(jnp.max(jnp.abs(b)))))


EVERY = (0, 1, 2, 3, 4)


def gradients(f, *args):
    return jax.value_and_grad(f, EVERY)(*args)


@pytest.mark.parametrize(
    ("name", "factorise"),
    [*((name, from_design) for name in PROBLEMS if name != "square"), ("square", from_gram), ("wide", from_gram)],
)
def test_values_and_gradients_of_every_exit(name, factorise):
    """First derivatives in X, y, weights, penalty and λ of everything that leaves a spectrum."""
    args = (*PROBLEMS[name], jnp.asarray(0.7))
    agree(gradients, mine(SMOOTH + ONCE, factorise), theirs(SMOOTH + ONCE), args)


def direction(start, args):
    return tuple(jnp.asarray(np.sin(start + np.arange(a.size)).reshape(a.shape)) for a in args)


def forward_over_reverse(f, args, along):
    return jax.jvp(jax.grad(f, EVERY), args, along)[1]


def reverse_over_reverse(f, args, along):
    def directional(*args):
        return sum(jnp.vdot(g, v) for g, v in zip(jax.grad(f, EVERY)(*args), along, strict=True))

    return jax.grad(directional, EVERY)(*args)


def both_products(*args):
    return forward_over_reverse(*args), reverse_over_reverse(*args)


@pytest.mark.parametrize("name", ["tall", pytest.param("wide", marks=pytest.mark.whole), "repeated"])
def test_hessian_vector_products_of_coefficients(name):
    """Second order in everything at once, forward over reverse and reverse over reverse."""
    args = (*PROBLEMS[name], jnp.asarray(0.7))
    along = direction(1.0, args)
    expected = compiled(forward_over_reverse, theirs(SMOOTH))(args, along)
    for got in compiled(both_products, mine(SMOOTH))(args, along):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("name", ["tall", pytest.param("wide", marks=pytest.mark.whole)])
def test_third_derivative_of_the_coefficients(name):
    X, y, weights, penalty = PROBLEMS[name]
    V = jnp.cos(jnp.arange(X.size, dtype=X.dtype)).reshape(X.shape)

    def third(f, lam):
        line = lambda s: f(X + s * V, y, weights, penalty, lam + s)  # noqa: E731
        return jax.jvp(jax.grad(jax.grad(line)), (0.0,), (1.0,))[1]

    agree(third, mine(SMOOTH), theirs(SMOOTH), (jnp.asarray(0.7),), rtol=1e-7)


@jax.jit
def loss_of_a_fit(X, y, lam, penalty):
    fit = jxr.ridge(X, y, lam, penalty=penalty)
    return jnp.sum(jnp.sin(fit.coef)) + jnp.sum(jnp.cos(fit.intercept)) + jnp.sum(fit.rss)


@pytest.mark.parametrize("name", ["repeated", "zero"])
def test_differences_of_coefficients_to_second_order(name):
    """Against finite differences, forward and reverse, in X, y and λ."""
    X, y, _, penalty = PROBLEMS[name]
    loss = lambda X, y, lam: loss_of_a_fit(X, y, lam, penalty)  # noqa: E731
    check_derivatives(loss, (X, y, jnp.asarray(0.7)), rtol=1e-7)


def second(f, X, y, weights, penalty, lam):
    return jax.hessian(lambda y, lam: f(X, y, weights, penalty, lam), (0, 1))(y, lam)


def slope(f, X, y, weights, penalty, lam):
    return jax.grad(lambda lam: f(X, y, weights, penalty, lam))(lam)


def mixed(f, X, y, weights, penalty, lam):
    return jax.grad(partial(slope, f), (0, 2, 3))(X, y, weights, penalty, lam)


def curved(f, X, y, weights, penalty, lam):
    """The gradients of ∂/∂λ and of ∂²/∂λ² from one trace."""
    once_and_twice = lambda *args: jax.value_and_grad(partial(slope, f, *args))(lam)  # noqa: E731
    _, pull = jax.vjp(lambda X, weights, penalty: once_and_twice(X, y, weights, penalty), X, weights, penalty)
    return jax.vmap(pull)((jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))


def second_and_curved(*args):
    return second(*args), curved(*args)


def second_and_mixed(*args):
    return second(*args), mixed(*args)


@pytest.mark.parametrize(
    ("name", "order"), [("tall", second_and_curved), pytest.param("wide", second_and_mixed, marks=pytest.mark.whole)]
)
def test_second_order_in_lam_and_y_and_mixed_once_in_X(name, order):
    """dof, leverages, leave-one-out and logdet: every order in λ and y, mixed with the first in X."""
    args = (*PROBLEMS[name], jnp.asarray(0.7))
    agree(order, mine(ONCE), theirs(ONCE), args, rtol=1e-7)


@pytest.mark.parametrize("name", ["tall", pytest.param("wide", marks=pytest.mark.whole)])
def test_exact_spectrum_has_second_derivatives_in_everything(name):
    args = (*PROBLEMS[name], jnp.asarray(0.7))
    agree(forward_over_reverse, mine(EXACT, exact=True), theirs(EXACT), (args, direction(2.0, args)), rtol=1e-7)


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("twice", [lambda f: jax.jacfwd(jax.grad(f)), lambda f: jax.jacrev(jax.grad(f))])
def test_a_second_derivative_in_X_is_refused_not_wrong(name, twice):
    X, y, weights, penalty = PROBLEMS["tall"]
    with pytest.raises(ValueError, match=r"select\.exact"):
        jax.eval_shape(twice(lambda X: mine((name,))(X, y, weights, penalty, jnp.asarray(0.7))), X)


def test_dof_beside_coefficients_is_nan_in_second_order_and_does_not_disturb_them():
    X, y, _, _ = PROBLEMS["tall"]
    dof = jax.jit(jax.hessian(lambda X: jxr.ridge(X, y, 1.0).dof))
    assert jnp.all(jnp.isnan(dof(X)))
    coef = jax.jit(jax.hessian(lambda X: jnp.sum(jxr.ridge(X, y, 1.0).coef ** 2)))
    assert jnp.all(jnp.isfinite(coef(X)))


def in_points_and_weights(f, *args):
    return jax.grad(f, (0, 2))(*args)


def test_gradient_in_a_weight_of_zero():
    """Excluded rows have a derivative too: that of letting them in a little."""
    X, y, weights, penalty = PROBLEMS["tall"]
    args = (X, y, weights.at[2].set(0.0), penalty, jnp.asarray(0.7))
    for names in (SMOOTH, ("dof", "one_minus_leverage")):
        agree(in_points_and_weights, mine(names), theirs(names), args)


def test_gradients_at_lam_zero():
    """Full rank: the carrier holds at λ = 0, for tall problems and for minimum-norm solutions of wide ones."""
    X, y, _, _ = PROBLEMS["tall"]
    got = jax.jit(jax.grad(lambda X: jnp.sum(jnp.sin(jxr.ridge(X, y, 0.0).coef))))(X)
    A = lambda X: X - jnp.mean(X, axis=0, keepdims=True)  # noqa: E731
    want = jax.jit(jax.grad(lambda X: jnp.sum(jnp.sin(jnp.linalg.solve(A(X).T @ A(X), A(X).T @ y)))))(X)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)
    X, y, _, _ = PROBLEMS["wide"]
    got = jax.jit(jax.grad(lambda X: jnp.sum(jnp.sin(jxr.ridge(X, y, 0.0, intercept=False).coef))))(X)
    want = jax.jit(jax.grad(lambda X: jnp.sum(jnp.sin(X.T @ jnp.linalg.solve(X @ X.T, y)))))(X)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


def mean_validation_loss(X, y, Xv, yv, lams):
    def one(lam):
        return jnp.mean((jxr.ridge(X, y, lam).predict(Xv) - yv) ** 2)

    return jnp.mean(jax.vmap(one)(lams))


def one_loss(X, y, Xv, yv, lam):
    return mean_validation_loss(X, y, Xv, yv, lam[None])


PROGRAMS = {
    "value": mean_validation_loss,
    "gradient in X": jax.grad(mean_validation_loss),
    "vmap of the gradient in lam": jax.vmap(jax.grad(one_loss, 4), (None, None, None, None, 0)),
    "jvp": lambda *args: jax.jvp(mean_validation_loss, args, args),
    "vmap of the second derivative": jax.vmap(jax.grad(jax.grad(one_loss, 4), 4), (None, None, None, None, 0)),
    "hessian-vector product": lambda X, *rest: jax.jvp(jax.grad(mean_validation_loss), (X, *rest), (X, *rest)),
    "path": lambda X, y, Xv, yv, lams: jxr.ridge_path(X, y, lams).predict(Xv),
    "leave-one-out": lambda X, y, Xv, yv, lams: jxr.ridge_cv(X, y, lams).scores,
    "gradient of leave-one-out": jax.grad(lambda X, y, Xv, yv, lams: jnp.sum(jxr.ridge_cv(X, y, lams).scores)),
}


def inputs(shape):
    X, y, _, _ = PROBLEMS[shape]
    return X, y[:, 0], X[:3] + 1.0, y[:3, 0], LAMS


@pytest.mark.parametrize(
    ("shape", "program"),
    [*(("tall", program) for program in PROGRAMS), *(("wide", p) for p in ("value", "gradient in X", "leave-one-out"))],
)
def test_one_factorisation_in_the_compiled_program_and_no_callback(shape, program):
    text = jax.jit(PROGRAMS[program]).lower(*inputs(shape)).compile().as_text()
    targets = re.findall(r'custom_call_target="([^"]*)"', text)
    assert sum("geqrf" in target for target in targets) == 1, targets
    assert sum("gesdd" in target for target in targets) == 1, targets
    assert not any(kind in target for target in targets for kind in ("callback", "getrf", "potrf", "syevd")), targets


@pytest.mark.parametrize("platforms", [("cpu",), ("tpu",)])
@pytest.mark.parametrize("program", ["value", "gradient in X"])
def test_export(platforms, program):
    exported = jax.export.export(jax.jit(PROGRAMS[program]), platforms=platforms)(*inputs("tall"))
    assert "callback" not in exported.mlir_module()
    if platforms == ("cpu",):
        np.testing.assert_allclose(exported.call(*inputs("tall")), PROGRAMS[program](*inputs("tall")), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_a_bad_member_of_a_batch_leaves_the_others_alone(bad, shape):
    """Values, codes and gradients, bit for bit, of a vmapped batch with one member that cannot be solved."""
    X, y, _, _ = PROBLEMS[shape]
    good = jnp.stack([X, X + 0.5, X * 2.0])
    spoilt = good.at[1, 0, 0].set(bad)

    def loss(X):
        fit = jxr.ridge(X, y, 0.3)
        return jnp.sum(fit.coef**2), fit.result

    batch = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))
    (value, result), gradient = batch(spoilt)
    (value_good, _), gradient_good = batch(good)
    for i in (0, 2):
        np.testing.assert_array_equal(value[i], value_good[i])
        np.testing.assert_array_equal(gradient[i], gradient_good[i])
    assert jnp.isnan(value[1])
    assert jnp.all(jnp.isnan(gradient[1]))
    codes = result == jxr.RESULTS.nonfinite_input
    np.testing.assert_array_equal(codes, [[False, False], [True, True], [False, False]])


def test_a_bad_lam_of_a_grid_leaves_the_others_alone():
    X, y, _, _ = PROBLEMS["tall"]
    lams = jnp.array([0.1, -1.0, np.nan, 2.0])
    lanes = jax.jit(jax.vmap(jax.value_and_grad(lambda lam: jnp.sum(jxr.ridge(X, y, lam).coef))))
    value, gradient = lanes(lams)
    np.testing.assert_array_equal(jnp.isnan(value), [False, True, True, False])
    np.testing.assert_array_equal(jnp.isnan(gradient), [False, True, True, False])
    clean = lanes(lams.at[1:3].set(1.0))
    np.testing.assert_array_equal(value[jnp.array([0, 3])], clean[0][jnp.array([0, 3])])
    result = jxr.ridge_path(X, y, lams).result
    np.testing.assert_array_equal((result == jxr.RESULTS.invalid_lam)[:, 0], [False, True, True, False])


def test_one_bad_target_leaves_the_others_alone():
    X, y, _, _ = PROBLEMS["tall"]
    fit, clean = jxr.ridge(X, y.at[0, 1].set(np.nan), 1.0), jxr.ridge(X, y, 1.0)
    np.testing.assert_array_equal(fit.coef[:, 0], clean.coef[:, 0])
    assert jnp.all(jnp.isnan(fit.coef[:, 1]))
    np.testing.assert_array_equal(fit.result == jxr.RESULTS.nonfinite_input, [False, True])


VERBS = {
    "ridge": lambda X, y, lam: jxr.ridge(X, y, lam),
    "ridge_path": lambda X, y, lam: jxr.ridge_path(X, y, lam * jnp.array([0.5, 1.0])).coef,
    "ridge_cv": lambda X, y, lam: jxr.ridge_cv(X, y, lam * jnp.array([0.5, 1.0, 2.0]), refine=True).fit,
    "kfold": lambda X, y, lam: jxr.ridge_cv(X, y, lam * jnp.array([0.5, 1.0]), rule=select.kfold(3)).scores,
    "ridge_ball": lambda X, y, lam: jxr.ridge_ball(X, y, 0.3 * lam),
    "ridge_fraction": lambda X, y, lam: jxr.ridge_fraction(X, y, lam / (1.0 + lam)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_jit_of_vmap_is_a_loop_of_eager_calls(verb):
    X, y, _, _ = PROBLEMS["tall"]
    batch = jnp.stack([X, X * 1.5 + 0.2])
    f = VERBS[verb]
    single = [f(x, y[:, 0], 0.7) for x in batch]
    together = jax.jit(jax.vmap(f, (0, None, None)))(batch, y[:, 0], 0.7)
    for i, one in enumerate(single):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10, atol=1e-12)


def test_vmap_over_lam_equals_the_path_and_shares_the_factor():
    X, y, _, _ = PROBLEMS["tall"]
    fits = jax.vmap(lambda lam: jxr.ridge(X, y, lam))(LAMS)
    np.testing.assert_allclose(fits.coef, jxr.ridge_path(X, y, LAMS).coef, rtol=1e-12)


def test_one_compilation_per_shape_whatever_the_lams():
    X, y, _, _ = PROBLEMS["tall"]
    jxr.ridge(X, y, 1.0), jxr.ridge_path(X, y, LAMS)
    ridge_module = importlib.import_module("jaxridge.linear.ridge")
    before = ridge_module._ridge._cache_size(), ridge_module._ridge_path._cache_size()
    for lam in (0.0, 3, 1e-8, np.float64(2.0), jnp.asarray(5.0), -1.0):
        jxr.ridge(X, y, lam)
        jxr.ridge_path(X, y, LAMS * float(lam))
    assert (ridge_module._ridge._cache_size(), ridge_module._ridge_path._cache_size()) == before


def central(f, x, direction, h=1e-5):
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


@pytest.mark.parametrize("rule", [select.loo, select.kfold(3)], ids=["loo", "kfold"])
def test_the_selected_lam_is_differentiable(rule):
    """d λ*/d(X, y) of the refined choice against central differences of the whole procedure."""
    rng = np.random.default_rng(1)
    X = jnp.asarray(rng.standard_normal((12, 3)))
    y = X @ jnp.array([1.0, -1.0, 0.5]) + jnp.asarray(1.5 * rng.standard_normal(12))
    lams = jnp.logspace(-2, 3, 11)

    def chosen(X, y):
        return jnp.log(jxr.ridge_cv(X, y, lams, rule=rule, refine=True).lam)

    both = jax.jit(jax.value_and_grad(chosen, (0, 1)))
    gX, gy = both(X, y)[1]
    for seed in (0, 1):
        V, v = (jnp.asarray(np.random.default_rng(seed).standard_normal(a.shape)) for a in (X, y))
        np.testing.assert_allclose(jnp.vdot(gX, V), central(lambda X: both(X, y)[0], X, V), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(jnp.vdot(gy, v), central(lambda y: both(X, y)[0], y, v), rtol=1e-5, atol=1e-8)


def test_second_derivative_of_the_selected_lam_in_y():
    """λ* twice in y needs the third derivatives of the rule; treating any of them as constant shows here."""
    rng = np.random.default_rng(1)
    X = jnp.asarray(rng.standard_normal((12, 3)))
    y = X @ jnp.array([1.0, -1.0, 0.5]) + jnp.asarray(1.5 * rng.standard_normal(12))
    v = jnp.asarray(rng.standard_normal(12))

    def slope(y):
        choose = lambda y: jnp.log(jxr.ridge_cv(X, y, jnp.logspace(-2, 3, 11), refine=True).lam)  # noqa: E731
        return jax.jvp(choose, (y,), (v,))[1]

    once_and_twice = jax.jit(lambda y: jax.jvp(slope, (y,), (v,)))
    np.testing.assert_allclose(once_and_twice(y)[1], central(lambda y: once_and_twice(y)[0], y, v), rtol=1e-5)


@pytest.mark.parametrize("verb", [jxr.ridge_ball, jxr.ridge_fraction])
def test_constrained_forms_are_differentiable_in_data_and_radius(verb):
    X, y, _, _ = PROBLEMS["tall"]
    check_derivatives(lambda X, y, size: verb(X, y, size).coef, (X, y, jnp.asarray(0.4)), order=1, rtol=1e-8)
    assert float(verb(X, y, 0.4).lam[0]) > 1e-3


def test_kfold_gradient_is_that_of_refits():
    tests = np.array_split(np.arange(9), 3)
    trains = [np.setdiff1d(np.arange(9), test) for test in tests]

    def refits(X, y, weights, penalty, lam):
        def one(train, test):
            w = dense(X[train], y[train], weights[train], penalty, lam)["coef"]
            e = y[test] - X[test] @ w[:-1] - w[-1:]
            return jnp.sum(weights[test][:, None] * e**2, axis=0) / jnp.sum(weights[test]) / 3

        return jnp.sum(jax.vmap(one)(jnp.stack(trains), jnp.stack(tests)))

    def closed(X, y, weights, penalty, lam):
        choice = jxr.ridge_cv(X, y, lam[None], rule=select.kfold(3), weights=weights, penalty=penalty)
        return jnp.sum(choice.scores)

    agree(gradients, closed, refits, (*PROBLEMS["tall"], jnp.asarray(0.7)))


def test_float32_stays_float32():
    X, y, _, _ = (a.astype(jnp.float32) for a in PROBLEMS["tall"])
    choice = jxr.ridge_cv(X, y, jnp.logspace(-2, 2, 5, dtype=jnp.float32), rule=select.kfold(3))
    assert {leaf.dtype for leaf in jax.tree.leaves(choice) if jnp.issubdtype(leaf.dtype, jnp.floating)} == {X.dtype}
    gradient = jax.jit(jax.grad(lambda X: jnp.sum(jxr.ridge_cv(X, y, jnp.ones(1, jnp.float32)).scores)))(X)
    assert gradient.dtype == jnp.float32


def test_every_public_verb_has_a_row_in_the_table_of_transforms():
    """A function of arrays that is public, or a row that names it; the others choose, check or make no numbers."""
    public = {
        name
        for space in (jxr, inverse, stream, features, optimize, training)
        for name in space.__all__
        if callable(getattr(space, name)) and not isinstance(getattr(space, name), type)
    }
    rows = {row.verb.rpartition(".")[2] for wing in ROWS.values() for row in wing.values()}
    parts = {"init", "update", "merge", "collect"}  # of a stream, in the rows of what ends one
    drawn = {"uniform", "leverage"}  # centres of features
    # Files, and what refuses every derivative (linear/test_inference, linear/test_banded, optimize/test_tune).
    others = {"load", "save", "ridge_inference", "ridge_banded_cv", "kernel_ridge_banded_cv", "tune"}
    others |= {"kernel_ridge_inference"}  # kernel_methods/test_kernel_inference
    solvers = {"cholesky", "products", "qr", "dogleg", "steihaug", "exact", "gauss_newton", "full_hessian"}
    assert public - rows - parts - drawn - others - solvers == set()


CHEAP = [
    ("linear", "ridge tall from_design"),
    ("kernel_methods", "kernel_ridge default"),
    ("inverse", "tikhonov diagonal"),
    ("optimize", "trust_region_subproblem"),
    ("training", "fixed_point after the rate"),
]


@pytest.mark.parametrize(("wing", "name"), CHEAP)
def test_cheap_columns_of_the_table(wing, name):
    """Of all rows and columns: `make transforms`."""
    judge = Judge(ROWS[wing][name])
    found = {column: verdict(judge, column) for column in ("jit", "dtype", "compiles once", "callback")}
    assert {column: cell for column, cell in found.items() if cell != "ok"} == {}


def chain():
    """x⁴y from three functions whose values are frozen, each derivative stated through the next one."""
    still = jax.lax.stop_gradient
    square = implicit.derived(lambda a: still(a) ** 2, lambda a: a * a)
    cube = implicit.derived(lambda a: still(a) ** 3, lambda a: a * square(a))
    of = implicit.derived(lambda d: still(d["a"]) ** 4 * still(d["y"]), lambda d: d["a"] * cube(d["a"]) * d["y"])
    # As the root of z = x⁴y too, whose equation asks for it once more.
    return lambda a, y: 0.5 * (of({"a": a, "y": y}) + implicit.root(lambda z: z - of({"a": a, "y": y}), a**4 * y))


S = jnp.array([1.0, 2.0, 0.5])
LOOPS = {
    "scan over inputs": lambda F, x: jax.lax.scan(lambda c, s: (c + F(s * x, jnp.cos(x)), None), 0.0 * x, S)[0],
    "scan of a carry": lambda F, x: jax.lax.scan(lambda c, s: (jnp.sin(F(s * c, x)), None), x, S)[0],
    "map": lambda F, x: jnp.sum(jax.lax.map(lambda s: F(s * x, x), S)),
    "map of vmap": lambda F, x: jnp.sum(jax.lax.map(lambda s: jnp.sum(jax.vmap(F, (0, None))(s * x * S, x)), S)),
    "vmap of scan": lambda F, x: jnp.sum(
        jax.vmap(lambda z: jax.lax.scan(lambda c, s: (jnp.sin(F(s * c, x)), None), z, S)[0])(x * S)
    ),
    "jit": lambda F, x: jax.lax.scan(lambda c, s: (c + jax.jit(F)(s * x, c), None), x, S)[0],
    "checkpoint": lambda F, x: jax.lax.scan(jax.checkpoint(lambda c, s: (c + F(s * x, c), None)), x, S)[0],
    "cond": lambda F, x: jax.lax.scan(
        lambda c, s: (jax.lax.cond(s > 0.7, lambda c: F(s * x, c), lambda c: 2 * c, c), None), x, S
    )[0],
    "scan of scan": lambda F, x: jax.lax.scan(
        lambda c, s: (jax.lax.scan(lambda d, t: (jnp.sin(F(t * d, x)), None), c, S)[0] * s, None), x, S
    )[0],
    "fori": lambda F, x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(F(c, x)), x),
    "no loop": lambda F, x: F(x, x),
}
MODES = {"r": jax.grad, "f": lambda h: lambda x: jax.jvp(h, (x,), (1.0,))[1]}


ORDERS = ("r", "f", "fr", "rr", "rf", "ff", "frr", "rrr", "rfr")


@pytest.mark.parametrize("shape", LOOPS)
def test_rules_are_kept_in_loops_of_a_user(shape, request):
    """To third order in every mode; the plain function is x⁴y."""
    whole, few = request.config.getoption("--whole"), {"scan of a carry": ("rr", "frr"), "cond": ("fr", "rr")}
    if not whole and shape not in few:
        pytest.skip("one of those that `make transforms` tries")
    F = chain()
    for order in ORDERS if whole else few[shape]:
        got, want = partial(LOOPS[shape], F), partial(LOOPS[shape], lambda a, y: a**4 * y)
        for mode in reversed(order):
            got, want = MODES[mode](got), MODES[mode](want)
        np.testing.assert_allclose(jax.jit(got)(0.83), jax.jit(want)(0.83), rtol=1e-9)
