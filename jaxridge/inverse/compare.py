"""Several rules on one inverse problem, side by side."""

from typing import Any, Unpack

import equinox as eqx

from jaxridge.core.checks import as_lams
from jaxridge.core.factored import Solver
from jaxridge.core.types import Array
from jaxridge.core.verbs import verb
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.problem import Options, problem_of
from jaxridge.inverse.tikhonov import outcome_of, path_of
from jaxridge.select.choice import Choice
from jaxridge.select.compare import Comparison, as_rules, comparison

__all__ = ["Comparison", "compare"]


@verb(problem_of)
def compare(A: Any, b: Any, rules: dict[str, Any], lams: Any = None, **terms: Unpack[Options]) -> Comparison:
    """Several rules on one path, from one factorisation: where they agree, and where they do not.

    Args: as for `tikhonov_cv`, with ``rules`` a dict from names to rules.

    >>> import jax.numpy as jnp
    >>> from jaxridge import select
    >>> from jaxridge.inverse.compare import compare
    >>> A, b = jnp.diag(jnp.array([1.0, 0.1, 0.01])), jnp.array([1.0, 0.1, 0.02])
    >>> rules = {"discrepancy": select.discrepancy(1e-4), "UPRE": select.predictive_risk(1e-4)}
    >>> print(f"{compare(A, b, rules).spread:.1f}")
    1.2
    """
    rules = as_rules(rules)
    problem, solver = problem_of(A, b, **terms)
    choices = _compare(problem, as_lams(lams, problem.y), rules, solver)
    return Comparison(tuple(rules), {name: choices[name] for name in rules})


@eqx.filter_jit
def _compare(problem: TikhonovProblem, lams: Array | None, rules: dict[str, Any], solver: Solver) -> dict[str, Choice]:
    path = path_of(problem, lams, solver)
    found = comparison(path.factored, path.lams, rules)
    return {name: outcome_of(path, rules[name], choice, lams is None) for name, choice in found.items()}
