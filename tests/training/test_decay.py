"""What optimisers with weight decay converge to, by running optax's own beside the statement."""

from itertools import pairwise, product
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lines import check_derivatives

import jaxridge as jxr
from jaxridge.training import (
    AdamL2,
    AdamW,
    CautiousDecay,
    CoupledDecay,
    DecoupledDecay,
    IndependentDecay,
    Optimiser,
    PreconditionedDecay,
    fixed_point,
    group_decay,
    lam_of,
    lam_of_stopping,
    stopping_filter,
    train,
)

N, D = 64, 5
WD = 0.3


def table(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, D)) * np.array([3, 1, 1, 0.5, 0.3])
    y = X @ np.array([1, -2, 0.5, 1.5, -1]) + 0.5 * rng.standard_normal(N)
    B = rng.standard_normal((D, D))
    return X, y, B @ B.T / D + 0.5 * np.eye(D)


X, y, M = table()
H, c = X.T @ X / N, X.T @ y / N


@pytest.fixture(autouse=True)
def _as_optax_promotes():
    """Adam's and schedules' own arithmetic mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def judged(request, name, sample):
    """Leaves rows of a long table to `make training`."""
    if name not in sample and not request.config.getoption("--whole"):
        pytest.skip("run by `make training`")


def tikhonov(penalty):
    """(H + P)⁻¹c, by NumPy."""
    return np.linalg.solve(H + np.diag(penalty) if np.ndim(penalty) < 2 else H + penalty, c)


def off(found, wanted):
    return np.linalg.norm(np.asarray(found) - wanted) / np.linalg.norm(wanted)


def in_box(bound):
    """Least squares with |w| ≤ bound, by projected gradients in NumPy."""
    w = np.zeros(D)
    for _ in range(20_000):
        w = np.clip(w - 0.1 * (H @ w - c), -bound, bound)
    return w


class Row(NamedTuple):
    """An optimiser in full batches, and the weights that it ends at; the same with single rows, and its penalties."""

    full: Optimiser
    end: np.ndarray
    steps: tuple[int, ...]  # one number where the end is reached, three where it is a limit
    noisy: Optimiser
    penalty: np.ndarray | None  # None: what `fixed_point` predicts, an approximation
    left_out: float = 0.0  # by the statement, of the weights


SAME, BETA = np.full(D, WD), np.full(D, 0.1 * WD)
halving = optax.exponential_decay(0.05, 3_000, 0.5)
cosine = optax.cosine_decay_schedule(0.05, 3_000, 0.1)
# Rates .05·2^(−7, −14, −20). Of a free weight AdamW's gradient dies like exp(−(1 − (wd w)²)(1 − β₂)t/2), slowly near
# the bound: β₂ = .99, and no free weight beyond .75 of it. It stops where |g| is about eps, which is eps over a
# curvature in w: 1e-12 instead of optax's 1e-8.
FALLING = (21_000, 42_000, 60_000)
# Cautious decay follows its rate as slowly as the least curvature: η = 16/t, down to 1.6e-6.
slow = lambda step: 0.2 / (1 + step / 80)  # noqa: E731
TABLE = {
    "L2": Row(CoupledDecay(0.05, WD), tikhonov(SAME), (5_000,), CoupledDecay(0.002, WD), SAME),
    "L2, momentum": Row(CoupledDecay(0.02, WD, 0.9), tikhonov(SAME), (5_000,), CoupledDecay(2e-4, WD, 0.9), SAME),
    "decoupled": Row(DecoupledDecay(0.05, WD), tikhonov(SAME), (5_000,), DecoupledDecay(0.002, WD), SAME),
    "decoupled, schedule": Row(
        DecoupledDecay(cosine, WD), tikhonov(SAME), (5_000,), DecoupledDecay(lambda t: 0.1 * cosine(t), WD), SAME
    ),
    "decoupled, momentum": Row(
        DecoupledDecay(0.02, WD, 0.9), tikhonov(BETA), (5_000,), DecoupledDecay(2e-4, WD, 0.9), BETA
    ),
    "after the rate": Row(
        IndependentDecay(0.05, 0.05 * WD), tikhonov(SAME), (5_000,), IndependentDecay(0.002, 0.002 * WD), SAME
    ),
    "after the rate, momentum": Row(
        IndependentDecay(0.02, 0.02 * WD, 0.9), tikhonov(BETA), (5_000,), IndependentDecay(2e-4, 2e-4 * WD, 0.9), BETA
    ),
    "preconditioned": Row(
        PreconditionedDecay(0.02, WD, M),
        tikhonov(WD * np.linalg.inv(M)),
        (5_000,),
        PreconditionedDecay(0.001, WD, M),
        SAME,
    ),
    "Adam, L2": Row(AdamL2(halving, WD), tikhonov(SAME), FALLING, AdamL2(1e-3, WD), SAME, 0.001),
    "AdamW": Row(AdamW(halving, WD, eps=1e-12), tikhonov(0 * SAME), FALLING, AdamW(1e-3, 0.1), None, 0.001),
    "AdamW, more decay": Row(
        AdamW(optax.exponential_decay(0.05, 12_000, 0.5), 0.7, b2=0.99, eps=1e-12),
        in_box(1 / 0.7),
        (84_000, 168_000, 240_000),
        AdamW(1e-3, WD),
        None,
        0.004,
    ),
    "cautious": Row(
        CautiousDecay(slow, 0.05),
        tikhonov(0 * SAME),
        (10_000, 300_000, 10_000_000),
        CautiousDecay(0.002, WD),
        None,
        0.012,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_full_batches(name, request):
    """1e-10 where a statement is exact: condition of H + P and 1/(1 − β) times eps. Limits: 1e-7 at the last rate."""
    judged(request, name, ("L2, momentum", "decoupled, momentum", "preconditioned", "AdamW"))
    row = TABLE[name]
    limit = fixed_point(row.full, X, y)
    assert bool(limit.result == jxr.RESULTS.successful)
    assert off(limit.coef, row.end) < (1e-9 if "AdamW" in name else 1e-12)
    errors = [off(train(row.full, X, y, steps).last, row.end) for steps in row.steps]
    print(f"{name}: {', '.join(f'{error:.1e}' for error in errors)}")
    assert errors[-1] <= (1e-10 if len(errors) == 1 else 1e-7)
    assert all(after < max(before, 1e-14) for before, after in pairwise(errors))


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if "AdamW" not in name])
def test_lam_of_through_verbs(name):
    row = TABLE[name]
    lam = lam_of(row.full, 1 / (2 * N))
    if name == "preconditioned":
        same = jxr.tikhonov(X, y, lam, L=np.linalg.inv(np.linalg.cholesky(M))).x
    else:
        same = jxr.ridge(X, y, lam, intercept=False).coef
    assert off(same, row.end) < 1e-12


@pytest.mark.parametrize("name", TABLE)
def test_under_the_noise_of_single_rows(name, request):
    """Within what the statement leaves out and 3 standard errors, which are at most 0.5 %."""
    judged(request, name, ("AdamW", "cautious"))
    row = TABLE[name]
    keys = jax.random.split(jax.random.key(3), 16)
    runs = jax.vmap(lambda key: train(row.noisy, X, y, 60_000, burn=30_000, batch=1, key=key))(keys)
    mean, error = np.mean(runs.mean, axis=0), np.std(runs.mean, axis=0, ddof=1) / np.sqrt(len(keys))
    error = np.linalg.norm(error) / np.linalg.norm(mean)
    limit = fixed_point(row.noisy, X, y, batch=1)
    print(f"{name}: {off(limit.coef, mean):.4f} off, standard error {error:.4f}, a {limit.lam.round(2) / N}")
    assert error < 0.005
    assert bool(limit.result == jxr.RESULTS.successful)
    assert off(limit.coef, mean) < row.left_out + 3 * error
    if row.penalty is not None:
        np.testing.assert_allclose(limit.lam / N, row.penalty, rtol=1e-12)
        return
    # Neither a ridge of the same number nor least squares.
    assert min(off(tikhonov(np.full(D, wd)), mean) for wd in (row.noisy.weight_decay, 0.0)) > 0.06
    if "AdamW" in name:
        sizes = row.noisy.weight_decay * np.sqrt(np.mean(runs.mean_square, axis=0))
        np.testing.assert_allclose(limit.lam / N, sizes, rtol=0.05)


@pytest.mark.whole
@pytest.mark.parametrize(("batch", "left_out"), [(4, 0.007), (16, 0.0015)])
def test_cautious_decay_in_batches(batch, left_out):
    """Gradients of more rows are nearer to normal."""
    keys = jax.random.split(jax.random.key(4), 32)
    run = lambda key: train(CautiousDecay(0.002, WD), X, y, 20_000, burn=8_000, batch=batch, key=key)  # noqa: E731
    mean = np.mean(jax.vmap(run)(keys).mean, axis=0)
    found = off(fixed_point(CautiousDecay(0.002, WD), X, y, batch=batch).coef, mean)
    print(f"batch {batch}: {found:.4f}")
    assert found < left_out


def test_momentum_before_decay_is_another_ridge():
    """At the λ that is written down, decay after momentum is far off: 1/(1 − β) = 10 times too large."""
    assert off(tikhonov(np.full(D, WD)), np.asarray(fixed_point(DecoupledDecay(0.02, WD, 0.9), X, y).coef)) > 0.3


def test_cautious_decay_is_least_squares():
    """Exactly so with orthogonal columns, at any rate; else as near as measured, where ridge at wd is 20 % away."""
    Q = np.linalg.qr(X)[0] * np.sqrt(N)
    for rate in (0.1, 0.01, 0.001):
        assert off(train(CautiousDecay(rate, WD), Q, y, int(30 / rate)).last, Q.T @ y / N) < 1e-12
    free = tikhonov(np.zeros(D))
    assert off(fixed_point(CautiousDecay(0.01, WD), X, y).coef, free) < 1e-12
    assert off(train(CautiousDecay(0.01, WD), X, y, 60_000).last, free) < 5e-4
    assert off(tikhonov(np.full(D, WD)), free) > 0.2


@pytest.mark.whole
@pytest.mark.parametrize("wd", [WD, 0.01 * WD, 1e-4 * WD])
def test_cautious_decay_stays_within_the_decay_of_one_step(wd):
    """Within η wd of least squares at every rate, where ridge at wd is further away by 1/η; 1e-7 at the smallest."""
    free, ridge = tikhonov(np.zeros(D)), tikhonov(np.full(D, wd))
    errors = [off(train(CautiousDecay(rate, wd), X, y, int(800 / rate)).last, free) for rate in (0.04, 0.02, 0.005)]
    print(wd, [f"{error:.1e}" for error in errors])
    for rate, error in zip((0.04, 0.02, 0.005), errors, strict=True):
        assert error <= rate * wd
        assert error < 4.0 * rate * off(ridge, free)
    assert wd > 1e-4 * WD or errors[2] <= 1e-7


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        (lambda p: optax.l2_loss(p, y).mean(), 1 / (2 * N)),
        (lambda p: optax.squared_error(p, y).mean(), 1 / N),
        (lambda p: optax.l2_loss(p, y).sum(), 0.5),
        (lambda p: optax.squared_error(p, y).sum(), 1.0),
    ],
)
def test_conversions(loss, scale):
    """g + a w = 0 of each loss at the ridge solution of the λ that is given."""
    w = jxr.ridge(X, y, lam_of(CoupledDecay(0.1, WD), scale), intercept=False).coef
    g = jax.grad(lambda w: loss(X @ w))(w)
    np.testing.assert_allclose(g, -WD * w, rtol=1e-10)


def test_a_linear_layer_is_ridge():
    """An equinox layer whose bias does not decay, trained by optax, against `ridge` with an intercept."""
    layer = eqx.nn.Linear(D, 1, key=jax.random.key(0))
    decay = eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (WD, 0.0))
    step = optax.chain(group_decay(decay), optax.sgd(0.02, 0.9))

    def one(carry, _):
        layer, state = carry

        def loss(layer):
            return optax.l2_loss(jax.vmap(layer)(X)[:, 0], y + 3.0).mean()

        change, state = step.update(jax.grad(loss)(layer), state, layer)
        return (optax.apply_updates(layer, change), state), None

    (layer, _), _ = jax.jit(lambda layer: jax.lax.scan(one, (layer, step.init(layer)), length=3_000))(layer)
    fit = jxr.ridge(X, y + 3.0, N * WD)
    np.testing.assert_allclose(layer.weight[0], fit.coef, rtol=1e-8)
    np.testing.assert_allclose(layer.bias[0], fit.intercept, rtol=1e-8)


def test_group_decay_is_optax_by_groups():
    w = {"a": jnp.arange(3.0), "b": {"c": jnp.ones(2), "d": jnp.ones(1)}}
    g = jax.tree.map(lambda x: 2 * x, w)
    ours, _ = group_decay({"a": 0.1, "b": 0.5}).update(g, None, w)
    first = optax.add_decayed_weights(0.1, mask={"a": True, "b": False})
    second = optax.add_decayed_weights(0.5, mask={"a": False, "b": True})
    theirs = g
    for one in (first, second):
        theirs, _ = one.update(theirs, one.init(w), w)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_hypergradients_of_unrolled_steps_are_those_of_ridge():
    """Of a validation loss in the logarithms of two decays, through 1500 steps, against ridge with penalties."""
    validation = table(1)[:2]

    def unrolled(log_decays):
        decays = {"first": jnp.exp(log_decays[0]), "rest": jnp.exp(log_decays[1])}
        step = optax.chain(group_decay(decays), optax.sgd(0.02, 0.9))
        w = {"first": jnp.zeros(2), "rest": jnp.zeros(D - 2)}

        def joined(w):
            return jnp.concatenate([w["first"], w["rest"]])

        def one(carry, _):
            w, state = carry
            g = jax.grad(lambda w: optax.l2_loss(X @ joined(w), y).mean())(w)
            change, state = step.update(g, state, w)
            return (optax.apply_updates(w, change), state), None

        (w, _), _ = jax.lax.scan(one, (w, step.init(w)), length=1500)
        return optax.l2_loss(validation[0] @ joined(w), validation[1]).mean()

    def closed(log_decays):
        penalty = N * jnp.repeat(jnp.exp(log_decays), np.array([2, D - 2]), total_repeat_length=D)
        w = jxr.ridge(X, y, 1.0, penalty=penalty, intercept=False).coef
        return optax.l2_loss(validation[0] @ w, validation[1]).mean()

    at = jnp.array([-1.0, -2.0])
    (a, da), (b, db) = (jax.jit(jax.value_and_grad(f))(at) for f in (unrolled, closed))
    np.testing.assert_allclose(a, b, rtol=1e-10)
    np.testing.assert_allclose(da, db, rtol=1e-9)


def test_early_stopping_is_a_filter():
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    for steps in (1, 7, 137):
        f = np.asarray(stopping_filter(s, 0.05, steps, 1 / (2 * N)))
        stopped = train(CoupledDecay(0.05, 0.0), X, y, steps).last
        assert off(stopped, Vt.T @ (f / s * (U.T @ y))) < 1e-12
    # Weak directions keep what Tikhonov keeps, to first order; in between it is at most .2037 away.
    s = np.geomspace(1e-6, 30.0, 2000)
    f = np.asarray(stopping_filter(s, 1e-5, 10_000, 0.5))
    tikhonov_filter = s**2 / (s**2 + lam_of_stopping(1e-5, 10_000, 0.5))
    np.testing.assert_allclose(f[0], tikhonov_filter[0], rtol=1e-9)
    gap = f - tikhonov_filter
    assert 0.2036 < gap.max() < 0.20375
    assert gap.min() > -1e-12
    assert np.isclose(s[np.argmax(gap)] ** 2 * 0.1, 2.51, rtol=0.01)
    assert np.isnan(stopping_filter(3.0, 0.5, 3, 0.5))


def test_derivatives():
    """Of coefficients, in everything that can be differentiated; the root under noise is well conditioned."""
    args = (X[:20], y[:20], jnp.array(0.2), jnp.array(0.05))
    ends = {
        "ridge": lambda X, y, wd, rate: fixed_point(IndependentDecay(rate, wd * 0.05), X, y).coef,
        "AdamW": lambda X, y, wd, rate: fixed_point(AdamW(rate, wd), X, y, batch=1).coef,
        "box": lambda X, y, wd, rate: fixed_point(AdamW(rate, 4 * wd), X, y).coef,
    }
    for end in ends.values():
        check_derivatives(end, args, rtol=1e-6, order=1)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_and_dtypes(unit, dtype):
    """In other units of y the weights are others; λ of ridge is the same. AdamW's bound is in units of w."""
    A, b = X.astype(dtype), (unit * y).astype(dtype)
    eps = np.finfo(dtype).eps
    limit = fixed_point(CoupledDecay(0.05, WD), A, b)
    assert limit.coef.dtype == dtype
    assert off(limit.coef / unit, tikhonov(np.full(D, WD))) < 1e3 * eps
    noisy = fixed_point(AdamW(0.05, 0.1 / unit), A, b, batch=1)
    assert off(noisy.coef / unit, fixed_point(AdamW(0.05, 0.1), X, y, batch=1).coef) < 1e4 * eps
    assert off(fixed_point(AdamW(0.05, 1.0 / unit), A, b).coef / unit, in_box(1.0)) < 1e5 * eps


def test_past_stability_is_a_code():
    top = np.linalg.eigvalsh(H)[-1]
    edges = {
        "coupled": (lambda rate: CoupledDecay(rate, WD), 2 / (top + WD)),
        "momentum": (lambda rate: CoupledDecay(rate, WD, 0.9), 2 * 1.9 / (top + WD)),
        "decoupled": (lambda rate: DecoupledDecay(rate, WD, 0.9), 2 * 1.9 / (top + 1.9 * WD)),
        "after the rate": (lambda rate: IndependentDecay(rate, 0.1, 0.9), (2 * 1.9 - 1.9 * 0.1) / top),
    }
    for make, edge in edges.values():
        below, above = (fixed_point(make(edge * near), X, y) for near in (0.99, 1.01))
        assert bool(below.result == jxr.RESULTS.successful)
        assert bool(above.result == jxr.RESULTS.unstable_rate)
        assert np.all(np.isnan(above.coef))
        grown = [np.abs(train(make(edge * near), X, y, 3_000).last).max() for near in (0.99, 1.01)]
        assert grown[0] < 10
        assert not grown[1] < 1e3
    many = jax.vmap(lambda rate: fixed_point(CoupledDecay(rate, WD), X, y).coef)(jnp.array([0.05, 5.0, 0.1]))
    assert np.isnan(many).any(axis=1).tolist() == [False, True, False]


def test_bad_input():
    cases = [
        (lambda: lam_of(optax.adam(0.1), 1.0), "CoupledDecay, DecoupledDecay"),
        (lambda: lam_of(AdamW(0.1, 0.1), 1.0), "no ridge"),
        (lambda: fixed_point(optax.sgd(0.1), X, y), "nothing is known"),
        (lambda: fixed_point(IndependentDecay(halving, 0.1), X, y), "schedule"),
        (lambda: fixed_point(PreconditionedDecay(0.1, 0.1, np.eye(2)), X, y), "M has shape"),
        (lambda: fixed_point(AdamW(0.1, 0.1), X, y, batch=0), "batch is 0"),
        (lambda: fixed_point(AdamW(0.1, 0.1), X, y[:3]), "X has shape"),
        (lambda: train(CoupledDecay(0.1, 0.1), X, y, 0), "steps is 0"),
        (lambda: train(CoupledDecay(0.1, 0.1), X, y, 5, burn=5), "burn is 5"),
        (lambda: train(CoupledDecay(0.1, 0.1), X, y, 5, batch=1), "key is None"),
        (lambda: train("adam", X, y, 5), "optimizer is 'adam'"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    for optimizer, batch in product((CoupledDecay, CautiousDecay, AdamW), (None, 1)):
        limit = fixed_point(optimizer(0.05, -1.0), X, y, batch=batch)
        assert bool(limit.result == jxr.RESULTS.invalid_lam)
        assert np.all(np.isnan(limit.coef))
    limit = fixed_point(CoupledDecay(0.05, 0.1), np.where(X > 2, np.nan, X), y)
    assert bool(limit.result == jxr.RESULTS.nonfinite_input)
