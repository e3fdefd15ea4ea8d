"""Rows that no memory holds: readers of files and arrays, one pass over them, checkpoints, engines of many hosts."""

from jaxridge.distributed.checkpoint import load, save
from jaxridge.distributed.gather import Gathered, gather, leave_one_out
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
    "leave_one_out",
    "load",
    "npz",
    "save",
    "table",
]
