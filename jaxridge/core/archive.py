"""Records in a file and back: one npz of arrays and a description of the record in JSON, no pickle, no training data.

What a file describes is made of this package's own records, so that loading one runs no code but theirs. A path
leaves its factor out, which holds the rows that it was made from; only kernel models keep points, which carry their
coefficients.
"""

import dataclasses
import importlib
import json
import os
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.results import RESULTS

PyTreeDef = type(jax.tree.structure(0))
EnumerationItem = type(RESULTS.successful)

__all__ = ["load", "save"]

FORMAT = 1
ROOTS = ("jaxridge", "jax.numpy", "jax.scipy")
LEFT_OUT = ("factored",)  # fields that hold training data


def save(path: str | os.PathLike[str], record: Any) -> None:
    """Write a record, such as a `Fit`, a `Path` or a `Choice`, to an npz file.

    The file appears whole or not at all. Raises ValueError for what is traced, and for functions and classes that are
    not of this package.

    >>> import tempfile, jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.ridge(jnp.eye(2), jnp.array([1.0, 3.0]), 1.0, intercept=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jxr.save(f"{folder}/fit.npz", fit)
    ...     print(jxr.load(f"{folder}/fit.npz").coef)
    [0.5 1.5]
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path is a {type(path).__name__}; write save(path, record), the file's name first.")
    arrays: dict[str, np.ndarray] = {}
    description = json.dumps({"format": FORMAT, "record": _described(record, arrays, "record")})
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            np.savez(file, allow_pickle=False, description=np.array(description), **arrays)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def load(path: str | os.PathLike[str]) -> Any:
    """The record of a file that `save` wrote. Its arrays have the dtype they had, float64 where x64 is on.

    Raises ValueError for another kind of file, and for one of a later version.
    """
    no_record = f"{path} is no record; pass a file that jaxridge.save wrote."
    try:
        opened = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(no_record) from None
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError(no_record)
    with opened as file:
        if "description" not in file.files:
            raise ValueError(no_record)
        description = json.loads(str(file["description"]))
        if description["format"] != FORMAT:
            raise ValueError(f"{path} has format {description['format']}, and this version reads {FORMAT}: upgrade it.")
        return _restored(description["record"], file)


def register() -> None:
    """Let `jax.export` store programs that take or give this package's records, all that are defined by now."""
    for of in {EnumerationItem, *_descendants(eqx.Module)}:
        home, name = of.__module__, of.__qualname__
        if of is EnumerationItem or (_ours(home) and "<" not in name):
            jax.export.register_pytree_node_serialization(
                of,
                serialized_name=f"{home}:{name}",
                serialize_auxdata=_static_described,
                deserialize_auxdata=lambda text: _restored(json.loads(text), {}),
                from_children=partial(_assembled, of),
            )
    for of in tuple.__subclasses__():
        if hasattr(of, "_fields") and _ours(of.__module__) and "<" not in of.__qualname__:
            jax.export.register_namedtuple_serialization(of, serialized_name=f"{of.__module__}:{of.__qualname__}")


def _descendants(of: type) -> set[type]:
    below = of.__subclasses__()
    return set(below).union(*map(_descendants, below))


def _static_described(aux: Any) -> bytes:
    """The static fields, which come behind what wraps a function."""
    arrays: dict[str, np.ndarray] = {}
    described = _described(list(aux[1:]), arrays, "the record")
    if arrays:
        raise ValueError("the record has arrays in static fields, which no program can name; return the rest.")
    return json.dumps(described).encode()


def _assembled(of: Any, aux_data: list[Any], children: Any) -> Any:
    fields = dataclasses.fields(of)
    fixed = [field.name for field in fields if field.metadata.get("static", False)]
    live = [field.name for field in fields if field.name not in fixed]
    return _made(of, dict(zip(fixed, aux_data, strict=True)) | dict(zip(live, children, strict=True)))


def _made(of: Any, fields: dict[str, Any]) -> Any:
    record = object.__new__(of)
    for name, each in fields.items():
        object.__setattr__(record, name, each)
    return record


def _described(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """``value`` as JSON, its arrays put aside by number."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, EnumerationItem):
        return {"result": _described(value._value, arrays, where)}
    if isinstance(value, PyTreeDef):
        return {"tree": _described(value.unflatten([0] * value.num_leaves), arrays, where)}
    if isinstance(value, Tracer):
        raise ValueError(f"{where} is traced; save outside of jit, vmap and grad.")
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{where} is a random key, which no record needs; leave it out.")
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": [[key, _described(each, arrays, f"{where}[{key!r}]")] for key, each in value.items()]}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_described(each, arrays, f"{where}[{i}]") for i, each in enumerate(value)]}
    named = value if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")) else type(value)
    home, name = named.__module__, named.__qualname__
    if not _ours(home) or "<" in name:
        raise ValueError(
            f"{where} is {home}.{name}, which is not of jaxridge, so that no file can name it; save the rest."
        )
    if named is value:
        return {"name": f"{home}:{name}"}
    of: Any = type(value)
    names = getattr(of, "_fields", None) or [field.name for field in dataclasses.fields(of)]
    fields = {each: None if each in LEFT_OUT else getattr(value, each) for each in names}
    described = {each: _described(part, arrays, f"{where}.{each}") for each, part in fields.items()}
    return {"class": f"{home}:{name}", "fields": described}


def _restored(value: Any, file: Any) -> Any:
    """What `_described` made, back."""
    if not isinstance(value, dict):
        return value
    [kind] = value.keys() - {"fields"}
    if kind == "array":
        return jnp.asarray(file[value["array"]])
    if kind == "tree":
        return jax.tree.structure(_restored(value["tree"], file))
    if kind == "result":
        return eqx.tree_at(lambda item: item._value, RESULTS.successful, _restored(value["result"], file))
    if kind == "dict":
        return {key: _restored(each, file) for key, each in value["dict"]}
    if kind in ("list", "tuple"):
        parts = [_restored(each, file) for each in value[kind]]
        return parts if kind == "list" else tuple(parts)
    found = _named(value[kind])
    if kind == "name":
        return found
    fields = {name: _restored(each, file) for name, each in value["fields"].items()}
    if hasattr(found, "_fields"):
        return found(**fields)
    return _made(found, fields)


def _named(name: str) -> Any:
    """A class or function of the package by its name."""
    home, _, inside = name.partition(":")
    found: Any = importlib.import_module(home) if _ours(home) else None
    for part in inside.split("."):
        found = getattr(found, part, None)
    # What a module of ours has imported from elsewhere is not ours either.
    if not _ours(getattr(found, "__module__", None) or ""):
        raise ValueError(f"the file names {name!r}, which is not of jaxridge; it was not written by jaxridge.save.")
    return found


def _ours(module: str) -> bool:
    """Whether files may name what a module defines."""
    return any(module == root or module.startswith(f"{root}.") for root in ROOTS)
