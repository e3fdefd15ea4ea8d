"""Records that answer at a prompt: the numbers that matter, in one line."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.results import RESULTS, messages
from jaxridge.core.words import ATTRIBUTES

__all__ = ["Record", "brief", "held", "table"]

SHOWN = 6  # numbers of an array that are printed; of a longer one shape and range are


class Record(eqx.Module):
    """A record whose ``repr`` shows numbers: ``Fit(coef=[1.5, 2.0], intercept=0, lam=1, ...)``."""

    def __repr__(self) -> str:
        fields = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self) if field.repr]
        shown = ", ".join(f"{name}={brief(value)}" for name, value in fields if value is not None)
        return f"{type(self).__name__}({shown})"

    def __getattr__(self, name: str) -> Any:
        """Of a name that is not there: what to write instead, where that is known."""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{_cure(self, name)}")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """Refused, where NumPy would take a record for one object."""
        fields = ", ".join(field.name for field in dataclasses.fields(self) if field.repr)
        raise TypeError(f"{type(self).__name__} is a record and no array; write one of its fields: {fields}.")

    def message(self) -> str:
        """What the codes of its result say, each once; empty where all is well."""
        result = getattr(self, "result", None)
        return "" if result is None else " ".join(messages(result))

    def summary(self) -> str:
        """The fields, a line for each, and what their codes say, as text."""
        fields = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self) if field.repr]
        width = max(len(name) for name, _ in fields)
        lines = [f"{name:{width}}  {brief(value)}" for name, value in fields if value is not None]
        return "\n".join(
            [*lines, *(message for name, value in fields if name == "result" for message in messages(value))]
        )


def held(record: Record, name: str) -> Any:
    """A field that files leave out; ``ValueError`` where it is gone."""
    value = getattr(record, name)
    if value is None:
        raise ValueError(f"{type(record).__name__} was loaded from a file, without its factor; make it anew.")
    return value


def _cure(record: Record, name: str) -> str:
    """What has this name in a record, or in one of its fields; in words of other libraries too."""
    if name.startswith("_"):
        return ""
    own = [field.name for field in dataclasses.fields(record)]
    known = own + [word for word in dir(type(record)) if not word.startswith("_")]
    for of in own:
        part = record.__dict__.get(of)
        known += [f"{of}.{field.name}" for field in dataclasses.fields(part)] if isinstance(part, Record) else []
    plain = name.rstrip("_")
    word = ATTRIBUTES.get(plain, plain)
    found = [each for each in known if each.rpartition(".")[2] in (plain, word)]
    if found:
        return f": write {found[0]}."
    sentence = ATTRIBUTES.get(word, word)
    if not sentence.isidentifier():
        return f": write {sentence}."
    methods = [
        method
        for method, value in vars(type(record)).items()
        if not method.startswith("_") and method not in own and not isinstance(value, tuple)
    ]
    return f"; it has {', '.join(own + methods)}."


def brief(value: Any) -> str:
    """A value in a few words: a number, a short list, the shape and range of an array, the codes of results.

    >>> import jax.numpy as jnp
    >>> from jaxridge.core.report import brief
    >>> print(brief(jnp.array(0.5)), brief(jnp.arange(3.0)), brief(jnp.zeros((2, 9))))
    0.5 [0, 1, 2] (2, 9) in [0, 0]
    """
    if isinstance(value, type(RESULTS.successful)):
        return _codes(value)
    if isinstance(value, jax.Array | np.ndarray | float | int) and not isinstance(value, bool):
        return _numbers(value)
    if isinstance(value, Record):
        return repr(value)
    if "__str__" in vars(type(value)):
        return str(value)
    if isinstance(value, eqx.Module):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(brief(field) for field in fields if field is not None)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {brief(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(brief(each) for each in value) + "]"
    return repr(value)


def _numbers(value: Any) -> str:
    if isinstance(value, Tracer) or jax.dtypes.issubdtype(jnp.result_type(value), jax.dtypes.extended):
        return str(jax.typeof(value))
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{array.item():.4g}" if array.dtype != bool else str(array.item())
    if array.ndim == 1 and array.size <= SHOWN:
        return "[" + ", ".join(_numbers(each) for each in array) + "]"
    if array.dtype == bool:
        return f"{array.shape}, {int(array.sum())} true"
    known = array[~np.isnan(array)]
    span = f" in [{known.min():.4g}, {known.max():.4g}]" if known.size else ""
    missing = f", {array.size - known.size} NaN" if known.size < array.size else ""
    return f"{array.shape}{span}{missing}"


def _codes(item: Any) -> str:
    """The names of codes, with how many there are of each."""
    index = item._value
    if isinstance(index, Tracer):
        return str(jax.typeof(index))
    names = {value._value.item(): name for name, value in RESULTS._name_to_item.items()}
    found, counts = np.unique(np.asarray(index), return_counts=True)
    if np.ndim(index) == 0:
        return names[int(found[0])]
    return ", ".join(f"{count} {names[code]}" for code, count in zip(found.tolist(), counts.tolist(), strict=True))


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Lines of columns: names to the left, numbers to the right, in six digits; words as they are.

    >>> from jaxridge.core.report import table
    >>> print(table(("", "coef"), [("slope", 1.5), ("start", -0.25)]))
            coef
    slope    1.5
    start  -0.25
    """
    shown = lambda value: value if isinstance(value, str) else "-" if value is None else f"{float(value):.6g}"  # noqa: E731
    cells = [head, *(tuple(map(shown, row)) for row in rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(head))]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    lines = ("  ".join(row).rstrip() for row in padded)
    return "\n".join(line for line in lines if line)
