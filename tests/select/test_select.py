"""The choice of λ: scores, their spread, what is picked and its refinement, against refits that share no code."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxridge as jxr
from jaxridge import RESULTS, select
from jaxridge.core import plan
from jaxridge.linear.design import checked, design_of
from jaxridge.linear.spectrum import from_design
from jaxridge.select.partition import partition

RNG = np.random.default_rng(11)
# Unsorted, with one repeated and zero among them: as many as every other grid here, so that programs are shared.
LAMS = np.array([1.0, 0.01, 0.0, 10.0, 1.0, 300.0])
SORTED = np.logspace(-2, 3, 6)


def problem(n, d):
    X = RNG.standard_normal((n, d)) + np.linspace(-1, 2, d)
    return X, X @ RNG.standard_normal((d, 2)) + 2 * RNG.standard_normal((n, 2))


X, Y = problem(10, 4)
WIDE = problem(6, 9)
GIVEN = {"weights": np.exp(RNG.standard_normal(10)), "penalty": np.exp(RNG.standard_normal(4)), "unpenalized": (2,)}
CASES = {
    "plain": (X, Y, {}),
    "weights, penalty, an unpenalised column": (X, Y, GIVEN),
    "standardize, weights": (X, Y, {"standardize": True, "weights": GIVEN["weights"]}),
    "no intercept": (X, Y, {"intercept": False}),
    "wide": (*WIDE, {}),
}
KEY = jax.random.key(3)
FEW = {"loo": select.loo, "kfold": select.kfold(4)}
HELD = {d: problem(5, d) for d in (4, 9)}


def huber(e, np=jnp):
    return np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5)


def uneven(n):
    """Test sets that overlap, that repeat a row and that leave rows out; a training set with a row twice."""
    rows = np.arange(n)
    return [(rows[:-3], rows[-3:]), (rows[2:], rows[:2]), (np.r_[0, rows[:-2]], rows[[0, -1, -1, -2]])]


def labels(n):
    return np.arange(n) ** 2 % 3 * 7 + np.arange(n) // (n - 2)


def blocks(n):
    return oracles.folds(n, 4)


def mallows(design, spectrum, lam):
    return spectrum.rss(lam) + 3.0 * spectrum.dof(lam)


def by_key(n):
    """The folds of ``kfold(3, key=KEY)``: nothing else tells how it shuffles."""
    tests = [np.asarray(test)[np.asarray(test) < n] for test in partition(n, 3, KEY, None).test]
    return [(np.setdiff1d(np.arange(n), test), test) for test in tests]


def held_out(X, y, lam, options):
    coef, intercept = oracles.ridge(X, y, lam, **options)
    far, target = HELD[X.shape[1]]
    return (target - far @ coef - intercept) ** 2


def mallows_by_hand(X, y, lam, options):
    H, omega = oracles.hat(X, lam, **options), options.get("weights", np.ones(len(y)))
    return omega @ (y - H @ y) ** 2 + 3 * np.trace(H)


def refits(splits, loss=np.square):
    return lambda X, y, lam, o: oracles.fold_losses(X, y, lam, splits(len(y)), loss=loss, **o)


# The rule for (n, d); by hand either the score itself or the losses it is a mean of; whose weights that mean has.
RULES = {
    "loo": (lambda n, d: select.leave_one_out(jnp.abs), lambda *a: np.abs(oracles.loo(*a[:3], **a[3])), "rows"),
    "gcv": (lambda n, d: select.gcv, lambda *a: oracles.gcv(*a[:3], **a[3]), "score"),
    "custom": (lambda n, d: mallows, mallows_by_hand, "score"),
    "blocks": (lambda n, d: select.kfold(4, loss=huber), refits(blocks, lambda e: huber(e, np)), "equal"),
    "labels": (lambda n, d: select.kfold(labels=labels(n)), refits(lambda n: oracles.groups(labels(n))), "equal"),
    "splits": (lambda n, d: select.kfold(splits=uneven(n)), refits(uneven), "equal"),
    "key": (lambda n, d: select.kfold(3, key=KEY), refits(by_key), "equal"),
    "holdout": (lambda n, d: select.holdout(*HELD[d]), held_out, "equal"),
}


def expected(rule, X, y, lam, options):
    """The score, and its standard error or None."""
    _, losses, kind = RULES[rule]
    losses = losses(X, y, lam, options)
    if kind == "score":
        return losses, None
    omega = options.get("weights", np.ones(len(y))) if kind == "rows" else np.ones(len(losses))
    share, c = omega / omega.sum(), len(omega)
    mean = share @ losses
    return mean, np.sqrt(c / (c - 1) * share**2 @ (losses - mean) ** 2)


RICH = "weights, penalty, an unpenalised column"


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        *((rule, RICH) for rule in RULES),
        *((rule, case) for rule in ("loo", "splits") for case in CASES if case != RICH),
    ],
)
def test_scores_and_spreads(rule, case):
    """Conditions are below a hundred and so is the growth in loo, which leaves 1e-10 of each score and more."""
    X, y, options = CASES[case]
    choice = jxr.ridge_cv(X, y, LAMS, rule=RULES[rule][0](*X.shape), **options)
    # GCV of an interpolating fit is 0/0.
    sound = [k for k, lam in enumerate(LAMS) if not (rule == "gcv" and case == "wide" and lam == 0)]
    want = [expected(rule, X, y, LAMS[k], options) for k in sound]
    scores = np.array([score for score, _ in want])
    np.testing.assert_allclose(choice.scores[np.array(sound)], scores, rtol=1e-10)
    if RULES[rule][2] == "score":
        assert choice.spread is None
    else:
        np.testing.assert_allclose(choice.spread, np.array([spread for _, spread in want]), rtol=1e-9)
    best = sound[np.argmin(scores.mean(1))]
    assert LAMS[int(choice.index)] == LAMS[best] == float(choice.lam)
    assert bool(choice.at_edge) == (LAMS[best] == 300.0) == (choice.message() != "")
    np.testing.assert_allclose(choice.fit.coef, oracles.ridge(X, y, LAMS[best], **options)[0], rtol=1e-10, atol=1e-12)


def test_shuffled_folds_partition_the_rows_and_are_reproducible():
    rows = [test for _, test in by_key(10)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(10))
    assert [len(block) for block in rows] == [4, 3, 3]
    assert not np.array_equal(np.concatenate(rows), np.arange(10))
    runs = [jxr.ridge_cv(X, Y, LAMS, rule=select.kfold(3, key=jax.random.key(s))).scores for s in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.max(np.abs(runs[0] - runs[2])) > 1e-3


@pytest.mark.parametrize("rule", [select.loo, select.kfold(2)], ids=["loo", "kfold"])
def test_two_rows(rule):
    """One row held out, one trained on: with an intercept that row's y at every λ, without one a line from 0."""
    x, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([2.0, 5.0])
    np.testing.assert_allclose(jxr.ridge_cv(x, y, [0.5, 2.0], rule=rule).scores, 9.0, rtol=1e-12)
    choice = jxr.ridge_cv(x, y, [0.5, 2.0], rule=rule, intercept=False)
    want = [np.mean(oracles.loo(x, y, lam, intercept=False) ** 2) for lam in (0.5, 2.0)]
    np.testing.assert_allclose(choice.scores, want, rtol=1e-12)


def test_infinite_lam_in_a_grid():
    """Only the mean is left: of the other rows, of the other folds."""
    lams = np.where(LAMS == 300, np.inf, LAMS)
    rest = (Y.sum(0) - Y) / 9
    np.testing.assert_allclose(jxr.ridge_cv(X, Y, lams).scores[5], np.mean((Y - rest) ** 2, axis=0), rtol=1e-12)
    rest = [np.mean((Y[test] - Y[train].mean(0)) ** 2, axis=0) for train, test in blocks(10)]
    choice = jxr.ridge_cv(X, Y, lams, rule=select.kfold(4))
    np.testing.assert_allclose(choice.scores[5], np.mean(rest, axis=0), rtol=1e-12)


# What is picked.


def test_one_standard_error_by_hand():
    """Within 1.0 + 0.5: scores 1.4 at λ = 8 and 1.5 at λ = 4; NaN and what is beyond are left."""
    lams, scores = jnp.array([2.0, 8.0, 4.0, 16.0, np.nan]), jnp.array([1.0, 1.4, 1.5, 1.6, np.nan])
    spread = jnp.array([0.5, 9.0, 9.0, 9.0, np.nan])
    assert int(select.lowest(lams, scores, spread)) == 0
    assert int(select.one_standard_error(lams, scores, spread)) == 1
    assert int(select.one_standard_error(lams, scores, 0 * spread)) == 0


@pytest.mark.parametrize("rule", ["loo", "blocks"])
@pytest.mark.parametrize("per_target", [False, True])
def test_one_standard_error_on_data(rule, per_target):
    choice = jxr.ridge_cv(X, Y, LAMS, rule=RULES[rule][0](10, 4), pick=select.one_standard_error, per_target=per_target)
    score, spread = (np.array(x) for x in zip(*(expected(rule, X, Y, lam, {}) for lam in LAMS), strict=True))
    if not per_target:
        score, spread = score.mean(1, keepdims=True), spread.mean(1, keepdims=True)
    best = score.argmin(0)
    for t, k in enumerate(best):
        good = score[:, t] <= score[k, t] + spread[k, t]
        assert float(np.ravel(choice.lam)[t]) == LAMS[good].max()


def test_one_standard_error_of_one_row_is_the_lowest():
    """One loss has no standard error, which leaves the least score and not whatever comes first."""
    rule = select.holdout(HELD[4][0][:1], HELD[4][1][:1])
    for pick in (select.lowest, select.one_standard_error):
        choice = jxr.ridge_cv(X, Y, SORTED, rule=rule, pick=pick)
        assert int(choice.index) == int(np.argmin(np.mean(choice.scores, axis=1))) > 0


@pytest.mark.parametrize("lams", [LAMS, np.stack([LAMS, LAMS[::-1] / 7], axis=1)], ids=["common", "own"])
@pytest.mark.parametrize("rule", FEW.values(), ids=FEW)
def test_per_target_is_each_target_alone(lams, rule):
    choice = jxr.ridge_cv(X, Y, lams, rule=rule, per_target=True)
    for t in range(2):
        alone = jxr.ridge_cv(X, Y[:, t], lams if lams.ndim == 1 else lams[:, t], rule=rule)
        assert int(choice.index[t]) == int(alone.index)
        assert float(choice.lam[t]) == float(choice.fit.lam[t]) == float(alone.lam)
        assert bool(choice.at_edge[t]) == bool(alone.at_edge)
        np.testing.assert_allclose(choice.scores[:, t], alone.scores, rtol=1e-12)
        for name in ("coef", "intercept", "rss", "dof"):
            got, want = getattr(choice.fit, name)[..., t], getattr(alone.fit, name)
            np.testing.assert_allclose(got, want, rtol=1e-11, err_msg=name)


def with_nan():
    y = Y.copy()
    y[3, 1] = np.nan
    return y


@pytest.mark.parametrize("rule", FEW.values(), ids=FEW)
def test_a_target_with_nan_has_no_say(rule):
    choice, alone = (jxr.ridge_cv(X, y, SORTED, rule=rule) for y in (with_nan(), Y[:, 0]))
    assert float(choice.lam) == float(alone.lam)
    assert np.asarray(choice.fit.result == RESULTS.nonfinite_input).tolist() == [False, True]
    np.testing.assert_allclose(choice.fit.coef[:, 0], alone.fit.coef, rtol=1e-12)
    assert np.all(np.isnan(choice.scores[:, 1]))


@pytest.mark.parametrize("rule", FEW.values(), ids=FEW)
def test_bad_lams_never_win_and_leave_the_others_alone(rule):
    bad = np.array([-1e-3, 0.01, np.nan, 10.0, -5.0, 300.0])
    choice, clean = (jxr.ridge_cv(X, Y, lams, rule=rule) for lams in (bad, np.where(bad >= 0, bad, 1.0)))
    np.testing.assert_array_equal(np.isnan(choice.scores).all(1), ~(bad >= 0))
    np.testing.assert_array_equal(choice.scores[np.array([1, 3, 5])], clean.scores[np.array([1, 3, 5])])
    assert float(choice.lam) == 10.0
    assert not bool(choice.at_edge)


EDGES = {
    "lower": (np.array([50.0, 900.0, 80.0, 200.0, 300.0, 50.0]), 50.0, True),
    "upper": (LAMS / 300.0, 1.0, True),
    "inner": (SORTED, 1.0, False),
    "single": (np.array([1.0]), 1.0, True),
    "lower, beside NaN": (np.array([50.0, 900.0, np.nan, 200.0, 300.0, 50.0]), 50.0, True),
    "lower, beside a negative": (np.array([50.0, 900.0, -1.0, 200.0, 300.0, 50.0]), 50.0, True),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name):
    """The ends of a grid are those of its valid λ."""
    lams, lam, at_edge = EDGES[name]
    choice = jxr.ridge_cv(X, Y, lams)
    assert float(choice.lam) == lam
    assert bool(choice.at_edge) == at_edge
    assert choice.message() == "" if not at_edge else "widen lams" in choice.message()
    ends = lams[lams >= 0]
    assert not at_edge or f"[{ends.min():.3g}, {ends.max():.3g}]" in choice.message()


# The grid from the data.


@partial(jax.jit, static_argnums=1)
def grid_of(data, terms):
    return from_design(design_of(data, terms)).default_grid(9)


@pytest.mark.parametrize("case", ["weights, penalty, an unpenalised column", "no intercept", "wide"])
def test_grid_spans_all_filter_factors(case):
    """0, ∞ and between them even in log λ; each f from above 0.99 to below 0.01, by eigenvalues of the hat matrix."""
    X, y, options = CASES[case]
    whole = np.asarray(grid_of(*checked(X, y, **options)))
    made = whole[1:-1]
    assert whole[[0, -1]].tolist() == [0.0, np.inf]
    np.testing.assert_allclose(np.diff(np.log(made)), np.log(made[6] / made[0]) / 6, rtol=1e-11)
    free = options.get("intercept", True) + len(options.get("unpenalized", ()))
    directions = min(X.shape[0], X.shape[1] + options.get("intercept", True))
    low, high = (np.sort(np.linalg.eigvals(oracles.hat(X, lam, **options)).real)[::-1] for lam in (made[0], made[-1]))
    assert 0.99 < low[directions - 1] < 0.991
    assert 0.009 < high[free] < 0.01
    np.testing.assert_allclose(grid_of(*checked(1e3 * X, y, **options)), 1e6 * whole, rtol=1e-11)


# Refinement.

REFINED = {**FEW, "gcv": select.gcv}
MOVES = [RNG.standard_normal(shape) for shape in ((10, 2), 10, 4)]


def brute_force(rule, X, y, lam, **options):
    """The mean score over the targets."""
    if rule == "kfold":
        return np.mean(oracles.fold_losses(X, y, lam, blocks(len(y)), **options))
    if rule == "gcv":
        return np.mean(oracles.gcv(X, y, lam, **options))
    return np.mean(options["weights"] @ oracles.loo(X, y, lam, **options) ** 2) / options["weights"].sum()


@pytest.mark.parametrize("rule", ["gcv", "kfold"])
def test_refined_lam_is_the_minimum_between_the_neighbours(rule):
    """From three grids with the same minimum, one of them with λ = 0 for a neighbour; an edge stays."""
    best = oracles.best_lam(lambda lam: brute_force(rule, X, Y, lam, **GIVEN), 1e-2, 1e3)
    grids = [SORTED, SORTED[::-1] / 3, np.array([0.0, 0.9 * best, 30 * best, 100 * best, 300 * best, 1e3 * best])]
    for lams in grids:
        choice = jxr.ridge_cv(X, Y, lams, rule=REFINED[rule], refine=True, **GIVEN)
        # A minimum is seen to √eps of its place, times what the score is to its curvature.
        assert float(choice.lam) == pytest.approx(best, rel=1e-6)
        np.testing.assert_allclose(choice.fit.coef, oracles.ridge(X, Y, float(choice.lam), **GIVEN)[0], rtol=1e-10)
    for lams, edge in ((best * np.logspace(-3, -1, 6), best / 10), (best * np.logspace(1, 3, 6), 10 * best)):
        choice = jxr.ridge_cv(X, Y, lams, rule=REFINED[rule], refine=True, **GIVEN)
        assert bool(choice.at_edge)
        assert float(choice.lam) == pytest.approx(edge, rel=1e-12)


@pytest.mark.parametrize("rule", ["loo"])
def test_derivative_of_the_refined_lam(rule):
    """In y, weights and penalty at once: −∂ₓ∂ₛS / ∂ₓ²S of the score by refits, x = log λ, by central differences."""
    v, w, p = MOVES

    def moved(s):
        return Y + s * v, {**GIVEN, "weights": GIVEN["weights"] * jnp.exp(s * w), "penalty": GIVEN["penalty"] + s * p}

    def chosen(s):
        y, options = moved(s)
        return jnp.log(jxr.ridge_cv(X, y, SORTED, rule=REFINED[rule], refine=True, **options).lam)

    x, slope = jax.jit(lambda s: jax.jvp(chosen, (s,), (jnp.ones_like(s),)))(jnp.array(0.0))

    def score(dx, s):
        y, options = moved(s)
        options = {k: np.asarray(o) if k != "unpenalized" else o for k, o in options.items()}
        return brute_force(rule, X, np.asarray(y), float(np.exp(x + dx)), **options)

    h = 1e-3  # second differences: h² is left of smoothness and eps/h² of rounding, 1e-6 and 1e-10
    curvature = (score(h, 0) - 2 * score(0, 0) + score(-h, 0)) / h**2
    mixed = (score(h, h) - score(h, -h) - score(-h, h) + score(-h, -h)) / (4 * h**2)
    assert float(slope) == pytest.approx(-mixed / curvature, rel=1e-4)


@pytest.mark.parametrize("lams", [SORTED, np.stack([SORTED, SORTED / 2], axis=1), [1.0, 10.0]], ids=["k", "kt", "t"])
def test_refine_per_target(lams):
    """Each target's own minimum: with a grid in common, one for each, and one of as many λ as targets."""
    choice = jxr.ridge_cv(X, Y, lams, rule=select.gcv, per_target=True, refine=True)
    for t in range(2):
        alone = jxr.ridge_cv(X, Y[:, t], np.asarray(lams).reshape(len(lams), -1)[:, -t], rule=select.gcv, refine=True)
        assert float(choice.lam[t]) == pytest.approx(float(alone.lam), rel=1e-9)


def test_refine_leaves_a_target_with_nan_out():
    choice, alone = (jxr.ridge_cv(X, y, SORTED, rule=select.gcv, refine=True) for y in (with_nan(), Y[:, 0]))
    assert float(choice.lam) == pytest.approx(float(alone.lam), rel=1e-9)


# Blocks of λ.


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("rule", FEW.values(), ids=FEW)
def test_scores_do_not_depend_on_memory(rule, together):
    lams = np.stack([LAMS, LAMS[::-1] / 7], axis=1)
    some = {"memory": 3 * Y.size * 8 * together + 1}
    whole, parts = (jxr.ridge_cv(X, Y, lams, rule=rule, per_target=True, **memory) for memory in ({}, some))
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-13)
    np.testing.assert_allclose(parts.spread, whole.spread, rtol=1e-12)
    np.testing.assert_array_equal(parts.lam, whole.lam)


def test_a_plan_is_told():
    """3 · 10⁴ rows · 100 targets · 8 bytes is 22.9 MiB."""
    told = [str(plan.chunks(10_000, 100, 6, jnp.dtype("float64"), memory)) for memory in (1, 2**26, 2**30)]
    assert told[0] == "6 lams, 1 at a time in 6 rounds of 22.9 MiB"
    assert told[1] == "6 lams, 2 at a time in 3 rounds of 45.8 MiB"
    assert told[2] == "6 lams at once in 137.3 MiB"


# What is refused, each with the name of the argument and what to write.


def scores_of(rule=None, pick=select.lowest, **kfold):
    return jxr.ridge_cv(X, Y, LAMS, rule=rule or select.kfold(**kfold), pick=pick)


HALF = np.arange(10) < 5
MISUSE = {
    "one fold": (lambda: select.kfold(1), "folds is 1; at least 2"),
    "half a fold": (lambda: select.kfold(2.5), "folds is 2.5"),
    "a key and labels": (lambda: select.kfold(key=KEY, labels=labels(10)), "key and labels"),
    "labels and splits": (lambda: select.kfold(labels=labels(10), splits=uneven(10)), "labels and splits"),
    "more folds than rows": (lambda: scores_of(folds=11), "folds is 11, but X has only 10"),
    "labels of another length": (lambda: scores_of(labels=[0, 1, 2]), "labels has 3 entries.*10 rows"),
    "one label": (lambda: scores_of(labels=[5] * 10), "labels name one group"),
    "a row too far": (lambda: scores_of(splits=[([0, 1, 2], [10])]), "splits: row numbers go from 0 to 10.*0 to 9"),
    "a row from the end": (lambda: scores_of(splits=[([0, 1, 2], [-1])]), "splits: row numbers go from -1"),
    "no split": (lambda: scores_of(splits=[]), "splits"),
    "no training row": (lambda: scores_of(splits=[([], [1])]), "splits: every pair"),
    "masks for splits": (lambda: scores_of(splits=[(HALF, ~HALF)]), "splits"),
    "fractions of rows": (lambda: scores_of(splits=[([0.0, 1.5, 2.0], [3.0])]), "splits"),
    "a vector held out": (lambda: select.holdout(X[0], Y[:1]), "X must be 2-D"),
    "rows held out that differ": (lambda: select.holdout(X[:3], Y[:2]), "holdout: X has 3 rows and y 2"),
    "nothing held out": (lambda: select.holdout(X[:0], Y[:0]), "holdout: X has 0 rows"),
    "other columns held out": (lambda: scores_of(select.holdout(X[:, :3], Y)), "holdout: X has 3 columns.*fitted on 4"),
    "other targets held out": (
        lambda: scores_of(select.holdout(X, Y[:, 0])),
        "y has 1 targets.*the problem 2",
    ),
    "no spread": (lambda: scores_of(mallows, pick=select.one_standard_error), "needs a rule with a spread"),
    "a grid per target for all": (lambda: jxr.ridge_cv(X, Y, np.ones((3, 2))), "lams has a grid for each target.*per_"),
    "a rule by name": (lambda: scores_of("gcv"), r"rule is 'gcv'; pass select\.loo"),
    "a rule without its folds": (lambda: scores_of(select.kfold), r"select\.kfold itself; call it"),
    "a pick by name": (lambda: jxr.ridge_cv(X, Y, LAMS, pick="lowest"), r"pick is 'lowest'; pass select\.lowest"),
    "a seed for a key": (lambda: select.kfold(key=0), r"key is 0; pass .*jax\.random\.key\(0\)"),
    "no memory": (lambda: jxr.ridge_cv(X, Y, LAMS, memory=0), "memory is 0 bytes"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_named(name):
    call, message = MISUSE[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6, 1e-8])
def test_the_default_grid_loses_nothing(noise):
    """A quiet calibration takes λ = 0, or a λ that is as good; noise alone the model without columns, or near it."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((400, 3))
    y = A @ np.array([1.0, 2.0, 3.0]) + noise * rng.standard_normal(400)
    dense = np.r_[0.0, np.logspace(-20, 8, 600), np.inf]
    for target in (y, noise * rng.standard_normal(400)):
        choice, best = jxr.ridge_cv(A, target), jxr.ridge_cv(A, target, dense)
        assert float(choice.scores[choice.index]) <= 1.01 * float(best.scores[best.index])
        assert choice.message() == ""
        assert choice.lams[0] == 0
        assert np.isinf(choice.lams[-1])


def test_the_default_grid_without_full_rank():
    """A repeated column: λ = 0 has many solutions and is no candidate, and the grid reaches as far as it matters."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((400, 3))
    A = np.c_[A, A[:, 0]]
    y = A @ np.ones(4) + 1e-5 * rng.standard_normal(400)
    choice = jxr.ridge_cv(A, y)
    least = np.linalg.lstsq(np.c_[A[:, :3], np.ones(400)], y)[0]
    residual = y - np.c_[A[:, :3], np.ones(400)] @ least
    assert float(choice.scores[choice.index]) <= 1.02 * np.mean(np.square(residual)) / (1 - 4 / 400) ** 2
    assert np.all(np.asarray(choice.lams) > 0)
    assert choice.message() == ""


def test_a_message_says_first_what_went_wrong():
    """Not to widen a grid where the data hold NaN; nor where the score is flat."""
    A = np.random.default_rng(0).standard_normal((20, 3))
    broken = A.copy()
    broken[3, 1] = np.nan
    assert "NaN" in jxr.ridge_cv(broken, A[:, 0], LAMS).message()
    assert "widen" not in jxr.ridge_cv(broken, A[:, 0], LAMS).message()


@pytest.mark.parametrize(
    "rule", [select.predictive_risk(np.nan), select.predictive_risk(-1.0), select.marginal_likelihood(-1.0)]
)
def test_a_rule_without_a_number_chooses_nothing(rule):
    """NaN with a code of its own; it was the least λ, and "solved"."""
    X, y = np.eye(5)[:, :2] + 0.1, np.arange(5.0)
    for verb in (jxr.ridge_cv, jxr.tikhonov_cv):
        choice = verb(X, y, np.array([0.1, 1.0, 10.0]), rule=rule)
        assert jnp.isnan(choice.lam)
        assert choice.fit.result == jxr.RESULTS.no_score


def test_labels_are_no_part_of_the_program():
    X, y = np.random.default_rng(3).standard_normal((12, 2)), np.arange(12.0)
    ridge_module = importlib.import_module("jaxridge.linear.ridge")
    score = lambda labels: jxr.ridge_cv(X, y, [1.0], rule=select.kfold(labels=labels)).scores  # noqa: E731
    one = score([0, 1, 2] * 4)
    before = ridge_module._ridge_cv._cached._cache_size()
    assert not np.allclose(one, score(np.repeat([0, 1, 2], 4)))
    assert ridge_module._ridge_cv._cached._cache_size() == before


def of_blocks(rule, shape, refine):
    """A choice for 7 targets as a function of them and of memory, and memory for 2 of them at a time."""
    rng = np.random.default_rng(0)
    X, Y = (jnp.asarray(rng.standard_normal((shape[0], m))) for m in (shape[1], 7))
    lams = jnp.logspace(-2, 3, 6)
    options = {"per_target": True, "refine": refine, "unpenalized": (1,), "weights": jnp.arange(1.0, shape[0] + 1)}
    choice = lambda Y, memory: jxr.ridge_cv(X, Y, lams, rule=rule, memory=memory, **options)  # noqa: E731
    return choice, Y + X[:, :1] * jnp.arange(7.0)[None, :], 2 * 3 * shape[0] * len(lams) * 8


whole = pytest.mark.whole
BLOCKS = [
    (select.kfold(4), (30, 4), False),
    pytest.param(select.kfold(4), (12, 20), True, marks=whole),
    pytest.param(select.kfold(4), (12, 10), False, marks=whole),
    pytest.param(select.loo, (30, 4), True, marks=whole),
    pytest.param(select.gcv, (12, 20), False, marks=whole),
    pytest.param(select.evidence, (30, 4), False, marks=whole),
]


@pytest.mark.parametrize(("rule", "shape", "refine"), BLOCKS)
def test_blocks_of_targets(rule, shape, refine):
    """Little memory gives the same numbers and codes."""
    choice, Y, few = of_blocks(rule, shape, refine)
    one, other = (choice(Y.at[0, 3].set(jnp.nan), memory) for memory in (few, 2**31))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@whole
@pytest.mark.parametrize(("rule", "shape", "refine"), BLOCKS)
def test_derivatives_of_blocks_of_targets(rule, shape, refine):
    choice, Y, few = of_blocks(rule, shape, refine)
    gradient = jax.grad(lambda Y, memory: jnp.sum(choice(Y, memory).fit.coef[0]))
    np.testing.assert_allclose(gradient(Y, few), gradient(Y, 2**31), rtol=1e-7, atol=1e-10)


UNITS = [(1e-12, 1.0), (1e12, 1.0), (1.0, 1e-12), (1.0, 1e12), (1e-12, 1e12), (1e12, 1e-12)]
BETWEEN = {
    "gcv": lambda size: select.gcv,
    "loo": lambda size: select.loo,
    "evidence": lambda size: select.evidence,
    "noise": lambda size: select.marginal_likelihood(0.25 * size**2),
    "l_curve": lambda size: select.l_curve,
    "quasi_optimality": lambda size: select.quasi_optimality,
    "risk": lambda size: select.predictive_risk(0.25 * size**2),
    "kfold": lambda size: select.kfold(5),
    "bic": lambda size: select.bic,
}


@pytest.mark.parametrize("verb", ["ridge", pytest.param("kernel", marks=whole), pytest.param("tikhonov", marks=whole)])
@pytest.mark.parametrize(
    "rule", [pytest.param(name, marks=() if name in ("loo", "evidence", "l_curve") else whole) for name in BETWEEN]
)
def test_the_optimum_between_grid_points_in_every_unit(rule, verb):
    """In float32, with X and y in units of 1e±12: the optimum itself, where squares of coefficients have no number."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4)) + 3
    y = X @ np.array([1.0, 0.5, 0.2, -0.7]) + 0.5 * rng.standard_normal(60) + 5
    grid = np.logspace(-2, 3, 11)

    def lam(of_X, of_y, dtype):
        given = (of_X * X).astype(dtype), (of_y * y).astype(dtype)
        options = {"rule": BETWEEN[rule](np.asarray(of_y, dtype)), "refine": True}
        if verb == "kernel":
            kernel = jxr.kernels.RBF(np.asarray(2 * of_X, dtype))
            return float(jxr.kernel_ridge_cv(*given, grid.astype(dtype), kernel=kernel, **options).lam)
        choose = jxr.ridge_cv if verb == "ridge" else jxr.tikhonov_cv
        return float(choose(*given, (grid * of_X**2).astype(dtype), **options).lam) / of_X**2

    want = lam(1.0, 1.0, np.float64)
    for of_X, of_y in UNITS:
        # The slope of a score is its own size, and rounds, times the share by which it bends in log λ, here 1e-3.
        assert abs(np.log(lam(of_X, of_y, np.float32) / want)) < 1e4 * np.finfo(np.float32).eps, (of_X, of_y)
