"""Arguments as the verbs take them, or a ``ValueError`` that names the argument and says what to pass instead."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge.core.types import Array


def as_floats(name: str, x: Any, ndim: tuple[int, ...]) -> Array:
    """``x`` as a real floating array, or a ``ValueError`` that says what to pass instead."""
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(f"{name} is masked; drop its masked rows, or fill them, for example {name}.filled(0.0).")
    if isinstance(x, jax.Array | np.ndarray):
        array = x
    elif hasattr(x, "todense") or hasattr(x, "toarray"):
        raise ValueError(f"{name} is sparse ({type(x).__name__}); pass a dense array, for example {name}.todense().")
    elif hasattr(x, "columns") and hasattr(x, "to_numpy"):
        array = _of_frame(name, x)
    elif hasattr(x, "to_numpy") and hasattr(x, "dtype"):
        array = _of_column(name, x)
    else:
        try:
            array = np.asarray(x)
        except ValueError:
            raise ValueError(f"{name} has rows of unequal length; every row needs a number for every column.") from None
    if array.dtype.kind == "O" and array.ndim == 0:
        raise ValueError(f"{name} holds values that are not numbers ({type(x).__name__}); pass an array of them.")
    if array.dtype.kind == "O" and all(
        isinstance(value, float | int | np.number | np.bool_) for value in np.ravel(array)
    ):
        array = array.astype(float)
    dtype = array.dtype
    if dtype.kind in "OSUMm":
        raise ValueError(f"{name} holds values that are not numbers (dtype {dtype}); encode or drop them first.")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} is complex ({dtype}); pass real arrays: with complex unknowns [[Re, -Im], [Im, Re]] for a matrix "
            "and [Re, Im] for a vector, with real ones [Re; Im] for both."
        )
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise ValueError(f"{name} is {dtype}, too coarse to factorise; convert it with {name}.astype('float32').")
    if array.ndim not in ndim:
        wanted = " or ".join(f"{k}-D" for k in ndim)
        hint = _hint(name, array.ndim)
        raise ValueError(f"{name} must be {wanted}, got shape {array.shape}{hint}.")
    if isinstance(array, np.ndarray) and name in ("X", "y"):
        _keeps_columns(name, array)
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(array, jnp.result_type(float))
    if dtype.itemsize > 8:
        array, dtype = array.astype(np.float64), np.dtype(np.float64)
    # Without a dtype of its own: float64 from NumPy is float32 where x64 is off, and that needs no warning.
    return jnp.asarray(array if dtype.isnative else array.astype(dtype.newbyteorder("=")))


def of_known_shape(name: str, array: Array) -> Array:
    """The array, or a ``ValueError`` where a dimension of it is a symbol of `jax.export`: blocks of rows follow n."""
    if all(isinstance(size, int) for size in array.shape):
        return array
    raise ValueError(
        f"{name} has the symbolic shape {array.shape}; a fit is exported for sizes in numbers: fill shorter tables "
        "up with rows of weight 0. Predictions take a symbolic number of rows."
    )


def _hint(name: str, ndim: int) -> str:
    """What to write for an array that lacks an axis."""
    if name == "X" and ndim == 1:
        return "; use X[:, None] for one feature, X[None, :] for one row"
    if name == "lams" and ndim == 0:
        return "; pass a list, or call the verb that takes one lam"
    return "; pass an operator or a matrix, such as operators.difference(shape)" if name == "L" else ""


def as_flag(name: str, value: Any) -> bool:
    """True or False, where they are known when a program is compiled."""
    if isinstance(value, Tracer):
        raise ValueError(
            f"{name} is traced; keep it out of jit: functools.partial(verb, {name}=True), or static_argnames."
        )
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; pass True or False.")
    return bool(value)


def names_of(X: Any) -> tuple[str, ...] | None:
    """The names of the columns of a data frame, None of anything else."""
    columns = getattr(X, "columns", None)
    return None if columns is None or callable(columns) else tuple(str(column) for column in columns)


def _of_frame(name: str, frame: Any) -> np.ndarray:
    """The columns of a data frame, of pandas or polars, as numbers: booleans, nullable and Arrow-backed ones too."""
    columns = [_of_column(f"column {column!r} of {name}", frame[column]) for column in frame.columns]
    return np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0))


def _of_column(name: str, column: Any) -> np.ndarray:
    """A column of numbers, NaN where one is missing."""
    array = column.to_numpy()
    if array.dtype.kind == "O":
        missing = column.isna() if hasattr(column, "isna") else column.is_null()
        array = np.array([np.nan if gone else value for value, gone in zip(column, missing, strict=True)])
    if array.dtype.kind not in "bifu":
        raise ValueError(
            f"{name} holds values that are not numbers ({column.dtype}); encode or drop it first, for example with "
            "pandas.get_dummies."
        )
    return array


def _keeps_columns(name: str, array: np.ndarray) -> None:
    """``ValueError`` where the default float of JAX cannot tell the entries of a column apart that the array can.

    A step of the dtype at the largest entry may be a hundredth of the standard deviation.
    """
    coarse = np.dtype(jnp.result_type(float))
    if array.dtype.itemsize <= coarse.itemsize or array.ndim == 0 or array.size < 2:
        return
    columns = array.reshape(array.shape[0], -1)
    low, high = columns.min(axis=0).astype(float), columns.max(axis=0).astype(float)
    step = np.finfo(coarse).eps * np.maximum(np.abs(low), np.abs(high))
    for j in np.flatnonzero((step > 1e-4 * (high - low)) & np.isfinite(step) & (high > low)):
        column = columns[:, j].astype(float)
        sd = float(np.std(column - column[0]))
        # What float64 itself cannot tell apart is a constant.
        if step[j] > 0.01 * sd > np.finfo(float).eps * step[j] / np.finfo(coarse).eps:
            which = f"column {j} of {name}" if array.ndim > 1 else name
            raise ValueError(
                f"{which} has standard deviation {sd:.3g} about {column.mean():.6g}, and {coarse} has steps of "
                f"{step[j]:.3g} there: take an offset off first, as in {name} - {name}.mean(axis=0), or enable x64."
            )


def as_function(name: str, value: Any, instead: str) -> Any:
    """``value`` if it is something to call, or a ``ValueError`` that says what to pass instead."""
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"{name} is {value!r}; pass {instead}.")
    return value


def as_key(key: Any, *, optional: bool = False) -> Any:
    """``key`` if it can be one of ``jax.random``, or None where that is a choice too; else a ``ValueError``."""
    if not (isinstance(key, jax.Array | np.ndarray) or (optional and key is None)):
        raise ValueError(f"key is {key!r}; pass one of jax.random, such as jax.random.key(0).")
    return key


def as_points(name: str, points: Any) -> Any:
    """A set of points: an array (n, d) of floats, or a pytree of arrays with a leading axis of n."""
    if isinstance(points, dict | tuple | eqx.Module):
        leaves = jax.tree.map(jnp.asarray, points)
        if not jax.tree.leaves(leaves) or any(leaf.ndim == 0 for leaf in jax.tree.leaves(leaves)):
            raise ValueError(f"{name} needs arrays with an axis of points in front.")
        return leaves
    if np.ndim(points) == 1:
        raise ValueError(
            f"{name} must be 2-D, (n, d), got shape {np.shape(points)}; use {name}[:, None] for one feature, "
            f"{name}[None, :] for one point."
        )
    return as_floats(name, points, (2,))


def as_lam(lam: Any, y: Array, single: bool, name: str = "lam") -> Array:
    """A scalar, or one number for each target, in the dtype of the data."""
    lam = as_floats(name, lam, (0, 1)).astype(y.dtype)
    if lam.ndim == 1 and (single or lam.shape != y.shape[1:]):
        paths = "for a grid use ridge_path, kernel_ridge_path or tikhonov_path"
        hint = paths if name == "lam" else "one number for each target"
        raise ValueError(f"{name} has shape {lam.shape}; a scalar is needed, or (t,) for t targets; {hint}.")
    return lam


def as_lams(lams: Any, y: Array) -> Array | None:
    """A grid (k,), or (k, t)."""
    if lams is None:
        return None
    lams = as_floats("lams", lams, (1, 2)).astype(y.dtype)
    if lams.shape[0] == 0:
        raise ValueError("lams is empty; pass at least one lambda, or None for a grid from the data.")
    if lams.ndim == 2 and lams.shape[1] != y.shape[1]:
        raise ValueError(f"lams has shape {lams.shape}; a grid per target needs (k, {y.shape[1]}), a common one (k,).")
    return lams
