"""The one protocol: a `Problem`, a `Solver` that factors it once, and the `Factored` that answers at every λ.

A rule, a path or a verb asks a `Factored` for its exits and never what kind it is. What a kind has not is a
``ValueError`` that names what to use instead.
"""

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.measures import r2
from jaxridge.core.numbers import matmul, safe_sqrt
from jaxridge.core.report import Record
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.core.verbs import verb

__all__ = ["Factored", "Measurements", "Model", "Problem", "Solver", "Terms", "as_solver"]


class Terms(NamedTuple):
    """The static side of a problem; families may have more of it."""

    intercept: bool = False  # whether a constant is one of the unpenalised directions
    single: bool = False  # y came as one vector, and answers go back as one


class Problem(eqx.Module):
    """The live side: targets and weights, through whose arrays derivatives flow."""

    y: eqx.AbstractVar[Float[Array, "n t"]]
    weights: eqx.AbstractVar[Float[Array, " n"] | None]
    terms: eqx.AbstractVar[Any]

    @property
    @abstractmethod
    def free(self) -> Any:
        """q, the number of unpenalised directions."""

    @property
    def intercept(self) -> bool:
        """Whether a constant is one of them."""
        return self.terms.intercept

    @property
    def single(self) -> bool:
        """Whether y came as one vector."""
        return self.terms.single

    def rows(self) -> Float[Array, ""] | int:
        """The number of measurements: rows of positive weight."""
        return self.y.shape[0] if self.weights is None else jnp.sum(self.weights > 0, dtype=self.y.dtype)

    def weigh(self, r: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """ωr."""
        return r if self.weights is None else self.weights[:, None] * r

    def mean(self, r: Float[Array, "n c"]) -> Float[Array, " c"]:
        """Σωr / Σω."""
        return jnp.mean(r, axis=0) if self.weights is None else matmul(self.weights, r) / jnp.sum(self.weights)

    def centre(self, r: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """r less its weighted mean, if there is an intercept."""
        return r - self.mean(r)[None, :] if self.intercept else r

    def squeeze(self, x: Any) -> Any:
        """``x`` without the axis of targets where y had none."""
        return jax.tree.map(lambda leaf: leaf[..., 0], x) if self.terms.single else x


class Measurements(Problem):
    """Targets and weights alone, for problems that are known by their factors."""

    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    terms: Terms = eqx.field(static=True)
    q: Any

    @property
    def free(self) -> Any:
        return self.q


class Model(Record):
    """A fitted model. In a path its fields have an axis of λ in front, all but the ``shared`` ones."""

    shared: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def axes(cls, axis: int = 0) -> Any:
        """Where the axis of λ lies in each field, for ``vmap``."""
        return cls(**{field.name: None if field.name in cls.shared else axis for field in _arrays(cls)})

    def with_names(self, names: tuple[str, ...] | None) -> Any:
        """The same with names of columns, where a model has columns."""
        return dataclasses.replace(self, names=names) if names and hasattr(self, "names") else self  # pyright: ignore[reportCallIssue]

    @verb()
    def score(self, X: Any, y: Any, *, weights: Any = None) -> Float[Array, "*t"]:
        """R² of the predictions for X, one for each target; `core.measures` has other measures."""
        predict = getattr(self, "predict", None)
        if predict is None:
            raise ValueError(f"{type(self).__name__} predicts nothing, so it has no score.")
        return r2(y, predict(X), weights=weights)

    def taken(self, index: Any) -> Any:
        """Some of the λs of a path."""
        fields = {field.name: getattr(self, field.name) for field in _arrays(type(self))}
        pick = lambda x: jax.tree.map(lambda leaf: leaf[index], x)  # noqa: E731
        return dataclasses.replace(self, **{name: x if name in self.shared else pick(x) for name, x in fields.items()})


def _arrays(cls: type) -> list[Any]:
    """The fields of a record that are no part of its structure."""
    return [field for field in dataclasses.fields(cls) if not field.metadata.get("static", False)]


def damped(lam: Lam, squared_norm: Float[Array, " t"]) -> Float[Array, " t"]:
    """λ‖w‖², which vanishes as λ grows without bound."""
    return jnp.where(squared_norm == 0, 0.0, lam) * squared_norm


# What exits are called where a rule asks for one that a kind has not.
EXITS = {
    "dof": "a number of degrees of freedom",
    "residual_dof": "a number of degrees of freedom",
    "logdet": "evidence",
    "loo_residual": "leave-one-out",
    "one_minus_leverage": "leave-one-out",
}


class Factored(eqx.Module):
    """A problem after its one factorisation. Exits take one λ, or one for each target, ``(t,)``; ``vmap`` the grid.

    A kind has ``coef``, ``penalty_of`` and ``result``, and of the other exits those that it can.
    """

    problem: eqx.AbstractVar[Problem]

    model: ClassVar[type["Model"]]  # what `fit` gives
    direct: ClassVar[bool] = True  # whether another λ costs little

    @property
    @abstractmethod
    def missing(self) -> str:
        """Why an exit is missing here and what to use instead, as a sentence that begins with its name."""

    def unavailable(self, what: str) -> ValueError:
        """The error for an exit that this kind has not."""
        return ValueError(f"{EXITS.get(what, what)} {self.missing}.")

    @abstractmethod
    def coef(self, lam: Lam) -> Float[Array, "a t"]:
        """The coefficients."""

    @abstractmethod
    def penalty_of(self, w: Float[Array, "a t"]) -> Float[Array, " t"]:
        """What λ multiplies, a quadratic form of coefficients."""

    @abstractmethod
    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""

    @abstractmethod
    def fit(self, lam: Lam) -> Any:
        """The model at λ, as the verbs give it."""

    @abstractmethod
    def span(self) -> tuple[Array, Array]:
        """log₁₀ of the λ below which nothing is filtered, and of that above which everything is; constant."""

    @abstractmethod
    def default_grid(self) -> Float[Array, " k"]:
        """The λs to try where none are given; constant under differentiation."""

    def fits(self, lams: Float[Array, "k *t"]) -> Any:
        """The models at every λ of a grid."""
        return jax.vmap(self.fit, out_axes=self.model.axes())(lams)

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        """y minus the fit."""
        raise self.unavailable("residual")

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """Weighted residual sum of squares."""
        return jnp.sum(self.problem.weigh(jnp.square(self.residual(lam))), axis=0)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """The square of the norm that λ penalises."""
        return self.penalty_of(self.coef(lam))

    def misfit(self, lam: Lam) -> Float[Array, " t"]:
        """rss + λ‖w‖², the least that the objective can be."""
        return self.rss(lam) + damped(lam, self.squared_norm(lam))

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        """The norm that λ penalises, with derivative 0 where it is 0."""
        return safe_sqrt(self.squared_norm(lam))

    def dof(self, lam: Lam) -> Lam:
        """Effective degrees of freedom, the trace of the hat matrix; unpenalised directions count one each."""
        raise self.unavailable("dof")

    def dof_or_nan(self, lam: Lam) -> Lam:
        """`dof` for a verb that returns it beside other things: where it has no derivative that is NaN, no error."""
        return self.dof(lam)

    def residual_dof(self, lam: Lam) -> Lam:
        """n − dof."""
        return self.problem.rows() - self.dof(lam)

    def logdet(self, lam: Lam) -> Lam:
        """The log-determinant of the evidence."""
        raise self.unavailable("logdet")

    def loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """yᵢ minus the prediction of the fit without row i."""
        raise self.unavailable("loo_residual")

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − hᵢ at each λ."""
        raise self.unavailable("one_minus_leverage")

    def predict_at(self, name: str, X: Any, lams: Float[Array, "k *t"]) -> Float[Array, "k v t"]:
        """Predictions for new rows or points at every λ; ``name`` is what errors call them."""
        raise self.unavailable("a prediction at new rows")

    def fold(self, partition: Any) -> Any:
        """Every fold of a `select.Partition` factored, with ``losses(factored, lam, loss, frozen) -> (f, t)``."""
        raise self.unavailable("kfold")

    def resolved(self, lam: Lam) -> Bool[Array, " t"]:
        """Whether λ was solved so far that a rule may score it."""
        return jnp.ones(self.problem.y.shape[1:], bool)

    def beyond_range(self) -> Bool[Array, ""]:
        """Whether every λ that tells directions apart leaves the range of the dtype, so that none can be looked for."""
        low, high = self.span()
        info = jnp.finfo(low.dtype)
        return (high < jnp.log10(info.tiny)) | (low > jnp.log10(info.max))

    def exact(self) -> "Factored":
        """The same with derivatives of every order, whatever they cost."""
        return self

    def by_product(self) -> "Factored":
        """The same for numbers that stand beside others: a derivative that it refuses is NaN there, and no error."""
        return self

    def without_rows(self) -> Any:
        """What a path keeps of it for other λ; None if nothing of use is small enough."""
        return self


class Solver(eqx.Module):
    """What makes a `Factored` of a problem. Every verb's ``solver`` is one."""

    takes: ClassVar[type[Problem]] = Problem  # the kind of problem
    matrix_free: ClassVar[bool] = False  # whether it goes without the matrix of the problem

    @abstractmethod
    def factor(self, problem: Any, lams: Float[Array, "k *t"] | None = None) -> Any:
        """Factor once, for all λ.

        With ``lams`` the models at these are what is wanted: a solver may work towards them, or take a cheaper way.
        """

    def __call__(self, problem: Any) -> Any:
        """The same in a compiled program of its own."""
        return _factor(self, problem)


@eqx.filter_jit
def _factor(solver: Solver, problem: Any) -> Factored:
    return solver.factor(problem)


def as_solver(solver: Any, problem: type[Problem], instead: str) -> Solver:
    """``solver`` if it is one for that kind of problem, or a ``ValueError`` that says what to pass instead."""
    if isinstance(solver, type) and issubclass(solver, Solver):
        raise ValueError(f"solver is the class {solver.__name__}; pass an instance of it, {solver.__name__}(...).")
    if not isinstance(solver, Solver) or not issubclass(problem, solver.takes):
        raise ValueError(f"solver is {solver!r}; pass {instead}.")
    return solver
