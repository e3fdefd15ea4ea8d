"""What the command line computes: a table with its roles given out, and what every rule makes of it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from jaxridge import select
from jaxridge.linear.design import Design, column_sd, make_design
from jaxridge.linear.spectrum import Spectrum, from_design
from jaxridge.select.choice import Choice
from jaxridge.select.choice import Path as RidgePath

LOO = "leave-one-out"


class Rule(StrEnum):
    """How λ is chosen."""

    loo = "loo"
    gcv = "gcv"
    kfold = "kfold"


class Precision(StrEnum):
    """The dtype of the computation."""

    float32 = "float32"
    float64 = "float64"


class Roles(NamedTuple):
    """A table with its roles given out."""

    X: np.ndarray
    y: np.ndarray  # (n, t)
    weights: np.ndarray | None
    features: list[str]
    targets: list[str]
    booleans: list[str]
    source: str


class Facts(NamedTuple):
    """What a report says of the data, wherever the rows are."""

    source: str
    features: list[str]
    targets: list[str]
    rows: int
    dtype: str
    weighted: bool
    total: float  # Σω
    variance: np.ndarray  # of each target, (t,)
    sd: np.ndarray  # of each feature, (d,)


def facts_of(problem: Roles, design: Design) -> Facts:
    """Those of a table in memory."""
    mean = np.average(problem.y, axis=0, weights=problem.weights)
    variance = np.average(np.square(problem.y - mean), axis=0, weights=problem.weights)
    total = len(problem.y) if problem.weights is None else problem.weights.sum()
    return Facts(
        problem.source,
        problem.features,
        problem.targets,
        len(problem.X),
        str(problem.X.dtype),
        problem.weights is not None,
        total,
        variance,
        column_sd(design),
    )


class Sweep(NamedTuple):
    """Every model of a grid, and the λ that each rule takes, by its name; one rule is followed."""

    path: RidgePath
    choices: dict[str, Choice]
    rule: str

    @property
    def chosen(self) -> Choice:
        """The choice of the rule that is followed."""
        return self.choices[self.rule]


@eqx.filter_jit
def factorise(X: Any, y: Any, weights: Any, **terms: bool) -> tuple[Spectrum, Any]:
    """The one factorisation, and the grid of λ that it resolves."""
    spectrum = from_design(make_design(X, y, weights=weights, **terms))
    return spectrum, spectrum.default_grid()


@eqx.filter_jit
def evaluate(spectrum: Spectrum, lams: Any, rules: Sequence[Any], per_target: bool) -> tuple[RidgePath, list[Choice]]:
    """What table, picture and file need: the model at every λ, and what each rule makes of them."""
    fits = spectrum.fits(lams)

    def choice(rule: Any) -> Choice:
        found = select.search(rule, spectrum, lams, per_target=per_target)
        return Choice(*found, spectrum.fit(found.lam) if per_target else fits.taken(found.index))

    return RidgePath(lams, fits, spectrum.without_rows()), [choice(rule) for rule in rules]
