"""Several processes over one table: each gathers its files, and their sums are merged in all of them alike."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxridge.distributed.checkpoint import ARRAYS
from jaxridge.distributed.sources import Unreadable
from jaxridge.linear import host
from jaxridge.linear.accumulator import Rows, with_sums

__all__ = ["merged"]


def merged(rows: Rows, *, checkpoint: Any = None) -> Rows:
    """The rows of all processes of ``jax.distributed``, merged in their order: the same bits in each of them.

    Args:
        rows: those of this process, as `gather` gives them: of ``table(...).part(index, count)``, for example.
        checkpoint: its file, to be named if a process is lost.

    Sums travel as bytes, since float64 arrays become float32 where x64 is off. A process that is lost ends the others:
    with an `Unreadable` where the transport sees it at once, or else by JAX's coordination service after
    ``heartbeat_timeout_seconds`` of ``jax.distributed.initialize``; all of them go on from their checkpoints.
    """
    count = jax.process_count()
    if count == 1:
        return rows
    arrays = [np.ascontiguousarray(getattr(rows, name)) for name in ARRAYS]
    packed = np.concatenate([np.frombuffer(x.tobytes(), np.uint8) for x in arrays])
    try:
        every = np.asarray(multihost_utils.process_allgather(packed)).reshape(count, -1)
    except Exception as error:  # of the transport, which has no kind of its own
        where = "its checkpoint" if checkpoint is None else f"the checkpoint {checkpoint}"
        reason = str(error).strip().split("\n")[0]
        raise Unreadable(
            f"One of {count} processes was lost while their sums were merged ({reason}); start all of them again, and "
            f"this one goes on from {where}."
        ) from None
    total = _unpacked(rows, arrays, every[0])
    for data in every[1:]:
        total = host.merge(total, _unpacked(rows, arrays, data))
    return total


def _unpacked(rows: Rows, like: list[np.ndarray], data: np.ndarray) -> Rows:
    ends = np.cumsum([x.nbytes for x in like])[:-1]
    parts = (part.tobytes() for part in np.split(data, ends))
    made = (np.frombuffer(part, x.dtype).reshape(x.shape) for part, x in zip(parts, like, strict=True))
    return with_sums(rows, *made)
