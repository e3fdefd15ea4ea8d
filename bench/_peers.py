"""Timing side by side: medians of wall time, in one run, with the hardware and the versions."""

import importlib.metadata
import os
import platform
import time

import jax
import numpy as np


def median(f, repeats: int = 5) -> float:
    """Median wall time of f() in seconds, after one call that compiles and warms up."""
    jax.block_until_ready(f())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def once(f) -> float:
    """Wall time of one call, for peers that are too slow to repeat."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def compile_seconds(f, *args) -> float:
    """Time to trace and compile a function for these arguments, nothing run."""
    start = time.perf_counter()
    jax.jit(f).lower(*args).compile()
    return time.perf_counter() - start


def interleaved(functions: dict, repeats: int = 5) -> dict[str, float]:
    """Medians of several functions that take turns, so that a noisy moment falls on all of them."""
    for f in functions.values():
        jax.block_until_ready(f())
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, f in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(f())
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def header(*packages: str) -> str:
    """The machine, the device and the versions that a figure belongs to."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy", *packages))
    return f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}; {versions}"
