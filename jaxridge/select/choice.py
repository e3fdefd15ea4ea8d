"""What a grid of λ gives, and what a rule takes of it: one `Path` and one `Choice` for every family of problems."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_lam
from jaxridge.core.factored import Factored
from jaxridge.core.report import Record, brief, table
from jaxridge.core.results import messages
from jaxridge.core.types import Array, Bool, Float, Int, Lam
from jaxridge.core.verbs import verb

__all__ = ["Choice", "Path", "ends"]


def _predict_options(*, memory: int | None = None) -> None:
    """What `predict` of a kernel model takes besides points."""


class Path(Record):
    """A model for every λ of a grid, from one factorisation.

    ``lams`` (k,) or (k, t); ``fits`` the models, with the grid as their leading axis, whose fields are those of the
    path too: ``path.coef`` (k, d[, t]), ``path.rss`` (k[, t]), ``path.result``. ``path[i]`` is the model at the i-th λ,
    ``path[a:b]`` a path, ``path.at(lam)`` the model at any other λ. ``factored`` is what they were read from.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.ridge_path(jnp.eye(2), jnp.array([3.0, 4.0]), [0.0, 1.0, 3.0], intercept=False)
    >>> print(path[1].coef, path[1:].lams, path[1:].predict(jnp.ones((1, 2)))[:, 0])
    [1.5 2. ] [1. 3.] [3.5  1.75]
    """

    lams: Float[Array, "k *t"]
    fits: Any
    factored: Any

    def __repr__(self) -> str:
        low, high = ends(self.lams)
        fields = ((field.name, getattr(self.fits, field.name)) for field in dataclasses.fields(self.fits))
        kept = {name: value for name, value in fields if name not in ("lam", *self.fits.shared) and value is not None}
        shown = ", ".join(f"{name}={brief(value)}" for name, value in kept.items())
        return f"Path of {len(self)} {type(self.fits).__name__}, lams from {brief(low)} to {brief(high)}: {shown}"

    def summary(self) -> str:
        """The same line as at a prompt; ``path[i].summary()`` is that of one model."""
        return repr(self)

    def __len__(self) -> int:
        return self.lams.shape[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("lams", "fits", "factored"):
            raise AttributeError(name)
        if not hasattr(self.fits, name):
            try:
                return super().__getattr__(name)
            except AttributeError as error:  # fields of the models are those of the path too
                raise AttributeError(str(error).replace("write fits.", "write ")) from None
        return getattr(self.fits, name)

    def __getitem__(self, index: Any) -> Any:
        """The model at one λ; the path of a slice, or of an array of indices."""
        if isinstance(index, str | float):
            raise ValueError(
                f"path[{index!r}] is no place in the grid; write path[2] for the third λ, path.at(lam) for any."
            )
        lams, fits = self.lams[index], self.fits.taken(index)
        return fits if lams.ndim < self.lams.ndim else Path(lams, fits, self.factored)

    def at(self, lam: Any) -> Any:
        """The model at any λ, without another factorisation."""
        if self.factored is None:
            raise ValueError("at needs the factor of a dense solver; make lam a part of lams instead.")
        problem = self.factored.problem
        fit = _fit_at(self.factored, as_lam(lam, problem.y, problem.single))
        return fit.with_names(getattr(self.fits, "names", None))

    def with_names(self, names: tuple[str, ...] | None) -> "Path":
        """The same with names of columns."""
        return Path(self.lams, self.fits.with_names(names), self.factored)

    @verb(_predict_options)
    def predict(self, X: Any, **options: Any) -> Float[Array, "k n *t"]:
        """Predictions at every λ: (k, n) or (k, n, t)."""
        fits, names = self.fits, getattr(self.fits, "names", None)
        return jax.vmap(lambda fit: fit.predict(X, **options), in_axes=(fits.axes().with_names(names),))(fits)


@eqx.filter_jit
def _fit_at(factored: Factored, lam: Lam) -> Any:
    return factored.fit(lam)


class Choice(Record):
    """The λ that a rule takes from a grid, and why.

    ``lam`` () or, per target, (t,); ``lams`` (k,) and ``scores`` (k[, t]), lower is better, NaN where a λ was not
    solved; ``spread`` the standard error of each score where the rule has one; ``index`` the grid point taken;
    ``at_edge`` whether that is an end of the grid towards which the score falls, so that a better λ may lie outside;
    ``beside_unresolved`` whether the next smaller λ was not solved, so that a better one may lie there; ``fit`` the
    model at ``lam``; ``path`` that of the grid, where its models were formed; ``assessment`` an
    `select.Assessment`, if ``assess=True`` asked for it.
    """

    lam: Array
    lams: Array
    scores: Float[Array, "k *t"]
    spread: Float[Array, "k *t"] | None
    index: Int[Array, "*t"]
    at_edge: Bool[Array, "*t"]
    beside_unresolved: Bool[Array, "*t"]
    fit: Any
    path: Path | None = None
    assessment: Any = None

    def __repr__(self) -> str:
        low, high = ends(self.lams)
        spread = "" if self.spread is None else f" ± {brief(self.spread_found)}"
        return (
            f"Choice(lam={brief(self.lam)} of {len(self.lams)} from {brief(low)} to {brief(high)}, "
            f"score={brief(self.score_found)}{spread}, at_edge={brief(self.at_edge)}, fit={self.fit!r})"
        )

    def with_names(self, names: tuple[str, ...] | None) -> "Choice":
        """The same with names of columns."""
        return dataclasses.replace(self, fit=self.fit.with_names(names))

    def _taken(self, scores: Float[Array, "k *t"]) -> Float[Array, "*t"]:
        """Those of the grid point that was taken."""
        return jnp.take_along_axis(scores, jnp.broadcast_to(self.index, scores.shape[1:])[None], axis=0)[0]

    @property
    def score_found(self) -> Float[Array, "*t"]:
        """The score of the grid point that was taken."""
        return self._taken(self.scores)

    @property
    def spread_found(self) -> Float[Array, "*t"]:
        """The standard error of that score, NaN for a rule without one."""
        return self._taken(jnp.full_like(self.scores, jnp.nan) if self.spread is None else self.spread)

    @verb(_predict_options)
    def predict(self, X: Any, **options: Any) -> Array:
        """Predictions of the model that was chosen."""
        return self.fit.predict(X, **options)

    @verb()
    def score(self, X: Any, y: Any, *, weights: Any = None) -> Float[Array, "*t"]:
        """R² of that model, as `Fit.score`."""
        return self.fit.score(X, y, weights=weights)

    def summary(self) -> str:
        """The scores about the chosen λ, what is to be known of the choice, and the model, as text."""
        if self.lam.ndim or self.scores.ndim > 1:
            raise ValueError("summary prints one choice; choose for one column of y.")
        index, taken = int(self.index), not bool(jnp.isnan(self.lam))
        near = range(max(0, index - 2), min(len(self.lams), index + 3))
        spread = dict.fromkeys(near) if self.spread is None else self.spread
        rows = [("->" if k == index and taken else "", self.lams[k], self.scores[k], spread[k]) for k in near]
        said = "" if self.assessment is None else self.assessment.summary()
        parts = [table(("", "lam", "score", "std err"), rows), self.message(), said, self.fit.summary()]
        return "\n\n".join(filter(None, parts))

    def message(self) -> str:
        """What a reader should know about this choice; empty if there is nothing to say."""
        said = messages(self.fit.result)
        if said:
            return " ".join(said)
        invalid = int(jnp.sum(~(self.lams >= 0)))
        if invalid:
            said.append(f"{invalid} of {self.lams.size} lams are negative or NaN and have no score: use lams >= 0.")
        if bool(jnp.any(self.at_edge)):
            low, high = (float(end) for end in ends(self.lams.ravel()))
            said.append(
                f"The chosen lam lies at an edge of the grid [{low:.3g}, {high:.3g}], so a better one may lie "
                "outside: widen lams."
            )
        if bool(jnp.any(self.beside_unresolved)):
            said.append("The next smaller lam was not solved, so a better one may lie there: raise budget or tol.")
        return " ".join(said)


def ends(lams: Float[Array, "k *t"]) -> tuple[Array, Array]:
    """The least and the largest valid λ of a grid."""
    low = jnp.min(jnp.where(lams >= 0, lams, jnp.inf), axis=0)
    return low, jnp.max(jnp.where(lams >= 0, lams, -jnp.inf), axis=0)
