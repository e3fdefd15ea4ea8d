"""Records at a prompt: what they print, what they score, and the columns of data frames that they know by name."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import kernels, select
from jaxridge.core import measures

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [4.0, 2.0], [7.0, 3.0]])
y = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
RBF = kernels.RBF(1.0)

SHOWN = [
    (
        lambda: jxr.ridge(X, y, 1.0),
        "Fit(coef=[1.019, 0.2178], intercept=0.8667, lam=1, dof=2.891, rss=",
    ),
    (lambda: jxr.ridge_path(X, y, [0.0, 1.0]), "Path of 2 Fit, lams from 0 to 1: coef=(2, 2) in ["),
    (lambda: jxr.ridge_cv(X, y, [0.1, 1.0]), "Choice(lam=0.1 of 2 from 0.1 to 1, score="),
    (lambda: jxr.ridge(X, y, -1.0), "result=invalid_lam)"),
    (lambda: jxr.ridge(X, np.stack([y, y], axis=1), 1.0), "result=2 successful)"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=RBF), "KernelFit(kernel=RBF(1), points=(5, 2) in [0, 7], dual_coef=["),
    (
        lambda: jxr.kernel_ridge(X, y, 1.0, kernel=2.0 * (RBF + kernels.Linear()) * RBF.on(jnp.tanh)),
        "KernelFit(kernel=2 * (RBF(1) + Linear(1)) * RBF(1).on(tanh), points",
    ),
    (lambda: jxr.tikhonov(X, y, 1.0), "TikhonovFit(x=["),
    (
        lambda: jxr.least_squares(lambda x, _: x["a"] - 2.0, {"a": jnp.zeros(1)}),
        "Solution(value={'a': [2]}, cost=0,",
    ),
    (lambda: jxr.trust_region_subproblem(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0), "Subproblem(step=[-0.6, -0.8], "),
    (lambda: jxr.kernel_posterior(X, y, 1.0, kernel=RBF, noise=1.0), "Posterior("),
    (lambda: jxr.svm(X, np.sign(y - 3.0), 1.0), "Machine(loss=Hinge"),
]


@pytest.mark.parametrize(("record", "said"), SHOWN, ids=[said[:20] for _, said in SHOWN])
def test_a_record_shows_its_numbers(record, said):
    shown = repr(record())
    assert said in shown
    assert "\n" not in shown


GIVEN = {
    "a fit with names": lambda X, y: jxr.ridge(X, y, 1.0),
    "a path": lambda X, y: jxr.ridge_path(X, y),
    "a choice": lambda X, y: jxr.ridge_cv(X, y, rule=select.kfold(2)),
    "a kernel": lambda X, y: jxr.kernel_ridge_path(X, y, [0.1, 1.0], kernel=RBF + 2.0 * kernels.Linear()),
    "a posterior": lambda X, y: jxr.ridge_posterior(X, y, 1.0),
    "a map": lambda X, y: jxr.tikhonov_cv(X, y),
    "a solution": lambda X, y: jxr.least_squares(
        lambda x, args: args[0] @ x["b"] - args[1], {"b": jnp.ones(2)}, (X, y)
    ),
}


@pytest.mark.parametrize("verb", GIVEN.values(), ids=GIVEN)
def test_programs_that_give_records_are_stored(verb):
    """Exported, serialised, read and called: the record that the verb gives, with its methods."""
    pytest.importorskip("flatbuffers")
    points, program = jnp.asarray(X), jax.jit(verb)
    again = jax.export.deserialize(jax.export.export(program)(points, jnp.asarray(y)).serialize())
    got, want = again.call(points, jnp.asarray(y)), program(points, jnp.asarray(y))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)
    assert repr(got) == repr(want)
    assert got.summary() == want.summary()


def test_a_symbolic_number_of_rows_is_for_predictions():
    (n,) = jax.export.symbolic_shape("n")
    rows, column = jax.ShapeDtypeStruct((n, 2), jnp.float64), jax.ShapeDtypeStruct((n,), jnp.float64)
    for fit in (jxr.ridge(X, y, 1.0), jxr.kernel_ridge(X, y, 1.0, kernel=kernels.Linear())):
        predict = jax.export.export(jax.jit(lambda X, fit=fit: fit.predict(X)))(rows)
        np.testing.assert_allclose(predict.call(jnp.asarray(X[:3])), fit.predict(X[:3]))
    for verb in (jxr.ridge, partial(jxr.kernel_ridge, kernel=RBF), jxr.tikhonov):
        with pytest.raises(ValueError, match="symbolic shape"):
            jax.export.export(jax.jit(lambda X, y, verb=verb: verb(X, y, 1.0)))(rows, column)


def test_programs_that_take_records_are_stored():
    pytest.importorskip("flatbuffers")
    _, table = frame()
    fit = jxr.ridge(table, y[:4], 1.0)
    predict = jax.jit(lambda fit, X: fit.predict(X))
    again = jax.export.deserialize(jax.export.export(predict)(fit, jnp.ones((2, 3))).serialize())
    np.testing.assert_allclose(again.call(fit, jnp.ones((2, 3))), fit.predict(jnp.ones((2, 3))))
    path = jxr.kernel_ridge_path(X, y, [1.0], kernel=kernels.Pairwise(lambda x, z: x @ z))
    with pytest.raises(ValueError, match="not of jaxridge"):
        jax.export.export(jax.jit(lambda path: path[0]))(path).serialize()


def test_summaries_are_tables():
    _, table = frame()
    choice = jxr.ridge_cv(table, y[:4], [0.1, 1.0, 10.0])
    lines = choice.summary().splitlines()
    assert sum(line.startswith("->") for line in lines) == 1
    coefficients = {
        line.split()[0]: float(line.split()[1]) for line in lines if line.split()[:1] in [["age"], ["rooms"]]
    }
    np.testing.assert_allclose(list(coefficients.values()), [choice.fit.coef[0], choice.fit.coef[2]], rtol=1e-5)
    assert "lam is negative" in jxr.ridge(X, y, -1.0).summary()
    assert "coef" in jxr.ridge_path(X, y, [1.0])[0].summary()
    assert "max_steps was reached" in jxr.least_squares(lambda x, _: x**2 - 2.0, jnp.ones(1), max_steps=1).summary()
    with pytest.raises(ValueError, match="prints one fit"):
        jxr.ridge(X, np.stack([y, y], axis=1), 1.0).summary()


def test_a_traced_record_shows_shapes():
    seen = []
    jax.jit(lambda X: seen.append(repr(jxr.ridge_cv(X, y, [1.0]))) or 0.0)(X)
    assert "coef=float64[2]" in seen[0]


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, weights = rng.standard_normal((30, 2)), rng.uniform(0.0, 1.0, 30)
    guess = truth + 0.3 * rng.standard_normal((30, 2)) + 0.1
    pairs = [
        (measures.r2, metrics.r2_score),
        (measures.mse, metrics.mean_squared_error),
        (measures.explained_variance, metrics.explained_variance_score),
    ]
    for ours, theirs in pairs:
        expected = theirs(truth, guess, sample_weight=weights, multioutput="raw_values")
        np.testing.assert_allclose(ours(truth, guess, weights=weights), expected, rtol=1e-12)
    fit = jxr.ridge(X, y, 1.0)
    np.testing.assert_allclose(fit.score(X, y), metrics.r2_score(y, fit.predict(X)), rtol=1e-12)
    assert jnp.isnan(fit.score(X, np.ones(5)))
    with pytest.raises(ValueError, match="pass targets of the same rows"):
        fit.score(X, y[:3])


def test_a_choice_predicts_and_scores():
    choice = jxr.ridge_cv(X, y, [0.1, 1.0])
    assert jnp.array_equal(choice.predict(X), choice.fit.predict(X))
    assert choice.score(X, y) == choice.fit.score(X, y)


def frame():
    pandas = pytest.importorskip("pandas")
    columns = {"age": [1.0, 2.0, 4.0, 3.0], "owner": [True, False, True, True]}
    table = pandas.DataFrame(columns)
    table["rooms"] = pandas.array([1, 2, 2, 5], dtype="Int64")
    return pandas, table


def test_columns_of_a_frame_are_numbers_of_every_kind():
    pandas, table = frame()
    plain = np.array([[1.0, 1, 1], [2, 0, 2], [4, 1, 2], [3, 1, 5]])
    fit = jxr.ridge(table, y[:4], 1.0)
    assert jnp.array_equal(fit.coef, jxr.ridge(plain, y[:4], 1.0).coef)
    counts = pandas.Series([1, 2, 4, 5], dtype="Int64")
    assert jnp.array_equal(jxr.ridge(table, counts, 1.0).coef, jxr.ridge(plain, [1.0, 2.0, 4.0, 5.0], 1.0).coef)
    pytest.importorskip("pyarrow")
    arrow = table.convert_dtypes(dtype_backend="pyarrow")
    assert jnp.array_equal(jxr.ridge(arrow, y[:4], 1.0).coef, fit.coef)
    table["town"] = ["a", "b", "a", "c"]
    with pytest.raises(ValueError, match="column 'town' of X holds values that are not numbers"):
        jxr.ridge(table, y[:4], 1.0)
    table["town"] = pandas.array([1, None, 2, 2], dtype="Int64")
    assert jxr.ridge(table, y[:4], 1.0).result == jxr.RESULTS.nonfinite_input


def test_a_model_knows_its_columns_by_name():
    _, table = frame()
    turned = table[["rooms", "age", "owner"]]
    targets, labels, kernel = y[:4], np.sign(y[:4] - np.median(y[:4])), {"kernel": jxr.kernels.RBF(20.0)}
    models = [jxr.ridge(table, targets, 1.0), jxr.ridge_cv(table, targets, [1.0]), jxr.ridge_ball(table, targets, 0.5)]
    models += [jxr.lasso(table, targets, 1.0), jxr.lasso_path(table, targets, [0.1, 1.0])]
    models += [jxr.lasso_ball(table, targets, 0.5), jxr.ridge_positive(table, targets, 1.0)]
    models += [jxr.svm(table, labels, 1.0), jxr.svm(table, labels, 1.0, **kernel)]
    models += [jxr.kernel_ridge(table, targets, 1.0, **kernel)]
    models += [jxr.kernel_ridge_path(table, targets, [0.5, 1.0], **kernel)]
    path = jxr.ridge_path(table, targets, [0.5, 1.0])
    for model in [*models, path, path[1], path[:1], path.at(3.0)]:
        assert jnp.array_equal(model.predict(turned), model.predict(table))
        assert jnp.array_equal(model.predict(np.asarray(table, float)), model.predict(table))
        with pytest.raises(ValueError, match="X has no column 'age'"):
            model.predict(table[["rooms", "owner"]])
    posterior = jxr.kernel_posterior(table, targets, 1.0, **kernel)
    assert jnp.array_equal(posterior.variance(turned), posterior.variance(np.asarray(table, float)))
    rows = np.tile(np.asarray(table, float), (3, 1))
    found = jxr.ridge_inference(type(table)(rows, columns=table.columns), np.tile(y[:4], 3), 1.0)
    for ours, theirs in zip(found.prediction(turned), found.prediction(np.asarray(table, float)), strict=True):
        assert jnp.array_equal(ours, theirs)


A, b = np.tril(np.ones((6, 6))), np.arange(6.0)


def decay(x, _):
    return x[0] * jnp.exp(-x[1] * X[:, 0]) - y


RULES = {"loo": select.loo, "gcv": select.gcv}
SAVED = [
    lambda: jxr.ridge(X, y, 1.0),
    lambda: jxr.ridge_path(X, y, [0.5, 1.0]),
    lambda: jxr.ridge_cv(X, np.stack([y, -y], axis=1), [0.1, 1.0], per_target=True),
    lambda: jxr.ridge_inference(X, y, 1.0),
    lambda: jxr.ridge_posterior(X, y, 1.0),
    lambda: jxr.ridge_risk(X, np.ones(2), noise=1.0),
    lambda: jxr.ridge_compare(X, y, RULES, [0.1, 1.0]),
    lambda: jxr.kernel_ridge(X, y, 1.0, kernel=2.0 * RBF + kernels.Linear()),
    lambda: jxr.kernel_ridge_cv(X, y, [0.1, 1.0], kernel=RBF),
    lambda: jxr.kernel_posterior(X, y, 1.0, kernel=RBF, noise=1.0),
    lambda: jxr.kernel_ridge_inference(X, y, 1.0, kernel=RBF),
    lambda: jxr.svm(X, np.sign(y - 3.0), 1.0),
    lambda: jxr.lasso(X, y, 1.0),
    lambda: jxr.tikhonov_cv(X, y, [0.1, 1.0]),
    lambda: jxr.inverse.picard(A, b),
    lambda: jxr.tsvd(A, b, [1, 3]),
    lambda: jxr.least_squares(lambda x, _: x["a"] * X[:, 0] - y, {"a": jnp.zeros(1)[0]}),
    lambda: jxr.optimize.uncertainty(decay, jxr.least_squares(decay, jnp.array([1.0, -0.3]))),
    lambda: jxr.optimize.linearised(decay, jxr.least_squares(decay, jnp.array([1.0, -0.3]))),
    lambda: jxr.trust_region_subproblem(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0),
    lambda: jxr.optimize.tune(lambda x, _: jxr.ridge_score(X, y, jnp.exp(x)), jnp.zeros(())),
]


@pytest.mark.parametrize("record", SAVED, ids=lambda make: make.__code__.co_names[1])
def test_records_come_back_from_a_file(tmp_path, record):
    record = record()
    jxr.save(tmp_path / "record.npz", record)
    loaded = jxr.load(tmp_path / "record.npz")
    assert type(loaded) is type(record)
    assert repr(loaded) == repr(record)
    if isinstance(record, jxr.Fit | jxr.Path | jxr.KernelFit):
        assert jnp.array_equal(loaded.predict(X), record.predict(X))
    assert [each.name for each in tmp_path.iterdir()] == ["record.npz"]
    for of_rows in {"variance", "deviation", "covariance"} & set(dir(type(record))):
        if hasattr(record, "factored"):
            with pytest.raises(ValueError, match="was loaded from a file, without its factor"):
                getattr(loaded, of_rows)(*[X] * (len(inspect.signature(getattr(loaded, of_rows)).parameters)))


def test_a_file_holds_no_training_data(tmp_path):
    """A path of 10 λ on 5000 rows: coefficients only."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5000, 3))
    path = jxr.ridge_path(rows, rows @ [1.0, 2.0, 3.0], np.logspace(-3, 3, 10))
    jxr.save(tmp_path / "path.npz", path)
    assert (tmp_path / "path.npz").stat().st_size < 8000
    with pytest.raises(ValueError, match="make lam a part of lams"):
        jxr.load(tmp_path / "path.npz").at(0.3)


def test_what_cannot_be_saved_or_loaded_says_so(tmp_path):
    solution = jxr.least_squares(lambda x, _: x - 1.0, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"record\[1\] is .*, which is not of jaxridge"):
        jxr.save(tmp_path / "record.npz", [solution, lambda x: x])
    with pytest.raises(ValueError, match="is traced; save outside of jit"):
        jax.jit(lambda x: jxr.save(tmp_path / "record.npz", x))(1.0)
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="pass a file that"):
        jxr.load(tmp_path / "other.npz")
    for name in ("os:system", "jaxridge.core.archive:os.system", "jaxridge_of_others:Fit"):
        forged = f'{{"format": 1, "record": {{"class": "{name}", "fields": {{}}}}}}'
        np.savez(tmp_path / "forged.npz", description=np.array(forged))
        with pytest.raises(ValueError, match="it was not written by"):
            jxr.load(tmp_path / "forged.npz")
