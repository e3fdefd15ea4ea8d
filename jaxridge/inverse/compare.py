"""Several rules on one inverse problem, side by side."""

from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core.checks import as_lams
from jaxridge.core.factored import Solver
from jaxridge.core.results import RESULTS
from jaxridge.core.types import Array
from jaxridge.core.verbs import verb
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.problem import Options, problem_of
from jaxridge.inverse.tikhonov import choice_of, path_of
from jaxridge.select.choice import Choice

__all__ = ["Comparison", "compare"]


class Comparison(eqx.Module):
    """What several rules say of one problem, side by side; ``print`` it for a table.

    ``names`` of the rules; ``lam``, ``norm``, ``rss`` (r[, t]) of each one's solution, in that order; ``choices`` by
    name.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    choices: dict[str, Choice]

    def _stacked(self, pick: Callable[[Choice], Array]) -> Array:
        return jnp.stack([pick(self.choices[name]) for name in self.names])

    @property
    def lam(self) -> Array:
        return self._stacked(lambda choice: choice.fit.lam)

    @property
    def rss(self) -> Array:
        return self._stacked(lambda choice: choice.fit.rss)

    @property
    def norm(self) -> Array:
        return self._stacked(lambda choice: choice.fit.norm)

    @property
    def spread(self) -> Array:
        """Decades between the smallest and the largest λ that is neither 0 nor infinite."""
        known = (self.lam > 0) & jnp.isfinite(self.lam)
        logs = jnp.log10(jnp.where(known, self.lam, 1.0))
        high = jnp.max(jnp.where(known, logs, -jnp.inf), axis=0)
        return jnp.maximum(high - jnp.min(jnp.where(known, logs, jnp.inf), axis=0), 0.0)

    def message(self) -> str:
        """A warning if the rules disagree by more than a decade, or one has something to say."""
        said = [f"{name}: {self.choices[name].message()}" for name in self.names if self.choices[name].message()]
        decades = float(jnp.max(self.spread))
        if decades > 1:
            said.insert(0, f"The rules disagree by {decades:.1f} decades of lam: look at each solution before use.")
        return "\n".join(said)

    def __str__(self) -> str:
        width = max(len(name) for name in self.names)
        lines = [f"{'rule':{width}}  {'lam':>10}  {'||Ax-b||^2':>10}  {'||Lx||':>10}  outcome"]
        for name in self.names:
            fit = self.choices[name].fit
            if fit.rss.ndim:
                raise ValueError("a table of several right-hand sides is not printed; print those of one at a time.")
            outcome = str(RESULTS[fit.result]).partition(".")[0]
            lines.append(f"{name:{width}}  {fit.lam:10.4g}  {fit.rss:10.4g}  {fit.norm:10.4g}  {outcome}")
        return "\n".join([*lines, *filter(None, [self.message()])])


@verb(problem_of)
def compare(A: Any, b: Any, rules: dict[str, Any], lams: Any = None, **terms: Unpack[Options]) -> Comparison:
    """Several rules on one path, from one factorisation: where they agree, and where they do not.

    Args: as for `tikhonov_cv`, with ``rules`` a dict from names to rules.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, select
    >>> A, b = jnp.diag(jnp.array([1.0, 0.1, 0.01])), jnp.array([1.0, 0.1, 0.02])
    >>> rules = {"discrepancy": select.discrepancy(1e-4), "UPRE": select.predictive_risk(1e-4)}
    >>> print(f"{inverse.compare(A, b, rules).spread:.1f}")
    1.2
    """
    if not rules:
        raise ValueError("rules is empty; pass a dict such as {'gcv': select.gcv}.")
    if not isinstance(rules, dict):
        raise ValueError(f"rules is {rules!r}; pass a dict of names and rules, such as {{'gcv': select.gcv}}.")
    problem, solver = problem_of(A, b, **terms)
    choices = _compare(problem, as_lams(lams, problem.y), dict(rules), solver)
    return Comparison(tuple(rules), {name: choices[name] for name in rules})


@eqx.filter_jit
def _compare(problem: TikhonovProblem, lams: Array | None, rules: dict[str, Any], solver: Solver) -> dict[str, Choice]:
    path = path_of(problem, lams, solver)
    search = lambda rule: select.search(rule, path.factored, path.lams, refined=True)  # noqa: E731
    found = {name: search(rule) for name, rule in rules.items()}
    # One program for all of their solutions.
    fits = path.factored.fits(jnp.stack([each.lam for each in found.values()]))
    return {
        name: choice_of(path, rules[name], found[name], fits.taken(i), lams is None) for i, name in enumerate(rules)
    }
