"""The same pass under Dask: a task for each part of a table, whose sums come back as NumPy arrays and are merged."""

from functools import reduce
from typing import Any

from jaxridge.distributed.gather import Gathered, gather
from jaxridge.distributed.tables import Table
from jaxridge.linear import host

__all__ = ["gather_with_dask"]


def gather_with_dask(source: Table, *, parts: int | None = None, **terms: Any) -> Gathered:
    """Every row of a table by the scheduler that is active (a ``dask.distributed.Client``, or Dask's own threads).

    Args:
        parts: tasks, each of every so many-th file; None is one for each file. A task whose worker is lost is done
            again by Dask. Workers had best run one BLAS thread each: ``OPENBLAS_NUM_THREADS=1``.
        terms: those of `gather`, without ``checkpoint`` and ``progress``.

    Equals `gather` of the parts, merged in their order, to the bit.
    """
    try:
        import dask
    except ModuleNotFoundError:
        raise ImportError('gather_with_dask needs dask: pip install "jaxridge[distributed]".') from None
    count = len(source.files) if parts is None else parts
    tasks = [dask.delayed(_part)(source.part(index, count), terms) for index in range(count)]
    done: Any = dask.compute(*tasks)
    notes = tuple(note for one in done for note in one.notes)
    return Gathered(reduce(host.merge, (one.rows for one in done)), notes)


def _part(source: Table, terms: dict[str, Any]) -> Gathered:
    return gather(source, **terms)
