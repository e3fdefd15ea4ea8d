"""Sums of rows in a file, and how far the pass has come: written beside it, made durable, and then put in its place."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxridge.distributed.sources import Unreadable
from jaxridge.linear.accumulator import Rows

__all__ = ["load", "save"]

KIND = "jaxridge sums of rows, format 1"
ARRAYS = ("shift", "summed", "largest", "rows", "seen")
STATIC = ("intercept", "targets", "gram", "folds", "single")


def save(path: Any, rows: Rows, **progress: Any) -> None:
    """Sums on the host as an NPZ file, and what else JSON holds; a reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    static = {name: getattr(rows, name) for name in STATIC}
    note = json.dumps({"kind": KIND, "static": static, "progress": progress})
    arrays = {name: np.asarray(getattr(rows, name)) for name in ARRAYS}
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, note=np.array(note), **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.resolve().parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Any) -> tuple[Rows, dict[str, Any]]:
    """The sums that `save` wrote, bit for bit, and what was saved beside them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            note = json.loads(str(file["note"]))
            arrays = [file[name] for name in ARRAYS]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise Unreadable(f"{path} is no checkpoint of rows ({error}); remove it, or name another.") from None
    if note.get("kind") != KIND:
        raise Unreadable(f"{path} is no checkpoint of rows; remove it, or name another.")
    return Rows(*arrays, *(note["static"][name] for name in STATIC)), note["progress"]
