"""Several rules on one factored problem, side by side."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.factored import Factored
from jaxridge.core.report import Record, table
from jaxridge.core.results import RESULTS
from jaxridge.core.types import Array, Float
from jaxridge.select.choice import Choice
from jaxridge.select.search import search, with_code

__all__ = ["Comparison", "as_rules", "comparison"]


class Comparison(Record):
    """What several rules say of one problem, side by side; ``print`` it for a table.

    ``names`` of the rules and ``choices`` by name; ``lam`` (r[, t]) of each one's model, in that order, and so ``rss``,
    ``norm``, ``dof`` and whatever else the models have.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    choices: dict[str, Choice]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("names", "choices"):
            raise AttributeError(name)
        if not hasattr(self.choices[self.names[0]].fit, name):
            return super().__getattr__(name)
        return jnp.stack([getattr(self.choices[rule].fit, name) for rule in self.names])

    def __getitem__(self, rule: str) -> Choice:
        """The choice of one rule."""
        return self.choices[rule]

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
            said.insert(0, f"The rules disagree by {decades:.1f} decades of lam: look at each model before use.")
        return "\n".join(said)

    def summary(self) -> str:
        """A line for each rule: λ, its score with its standard error, the figures of the model, and the outcome."""
        first = self.choices[self.names[0]].fit
        if first.rss.ndim:
            raise ValueError("a table of several targets is not printed; print those of one at a time.")
        figures = [name for name in ("dof", "rss", "norm") if getattr(first, name, None) is not None]
        rows = [self._row(name, figures) for name in self.names]
        text = table(("rule", "lam", "score", "std err", *figures, "outcome"), rows)
        return "\n".join([text, *filter(None, [self.message()])])

    def _row(self, name: str, figures: list[str]) -> tuple[Any, ...]:
        choice = self.choices[name]
        outcome = str(RESULTS[choice.fit.result]).partition(".")[0] + (", edge" if choice.at_edge else "")
        of_model = (getattr(choice.fit, figure) for figure in figures)
        spread = "-" if choice.spread is None else choice.spread_found
        return name, choice.fit.lam, choice.score_found, spread, *of_model, outcome

    def __str__(self) -> str:
        return self.summary()


def as_rules(rules: Any) -> dict[str, Any]:
    """``rules`` if they are a dict of names and rules, or a ``ValueError``."""
    if not isinstance(rules, dict):
        raise ValueError(f"rules is {rules!r}; pass a dict of names and rules, such as {{'gcv': select.gcv}}.")
    if not rules:
        raise ValueError("rules is empty; pass a dict such as {'gcv': select.gcv}.")
    return dict(rules)


def comparison(
    factored: Factored, lams: Float[Array, "k *t"], rules: dict[str, Any], memory: int = plan.MEMORY
) -> dict[str, Choice]:
    """The `Choice` of each rule, refined where another λ costs little, with models from one program for all."""
    found = {name: search(rule, factored, lams, refined=factored.direct, memory=memory) for name, rule in rules.items()}
    fits = factored.fits(jnp.stack([each.lam for each in found.values()]))
    return {name: Choice(*each, with_code(each, fits.taken(i))) for i, (name, each) in enumerate(found.items())}
