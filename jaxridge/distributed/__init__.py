"""Rows that no memory holds: readers of files and arrays, one pass over them, checkpoints, engines of many hosts."""

from jaxridge.distributed.checkpoint import load, save
from jaxridge.distributed.dask import gather_with_dask
from jaxridge.distributed.gather import Gathered, gather, leave_one_out
from jaxridge.distributed.processes import merged
from jaxridge.distributed.sources import Batch, Source, Unreadable, arrays, batches, npz
from jaxridge.distributed.tables import Table, table

__all__ = [
    "Batch",
    "Gathered",
    "Source",
    "Table",
    "Unreadable",
    "arrays",
    "batches",
    "gather",
    "gather_with_dask",
    "leave_one_out",
    "load",
    "merged",
    "npz",
    "save",
    "table",
]
