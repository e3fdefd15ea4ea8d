"""Strictness for every test, and settings under which they compile quickly."""

import gc
import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

# Workers run side by side: threads of BLAS that wait for one another by spinning slow each other down tenfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Most of the time goes to compiling programs that run once: neither MLIR's emitters nor LLVM's optimisation pay here.
# The census, which holds every number to its bound, and `make bench` leave both on.
# A flag that XLA does not know ends the process without a word, and jaxlib 0.12 knows the last of these no more.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)),
)
# Where each operation came from is told to XLA otherwise, which takes a fifth of the time of all that is compiled here.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# `make test` makes this folder when it has passed: in a first run there is nothing to be found in it, while keys and
# writing cost a tenth of the time. Later runs find there what has not changed.
CACHE = Path(__file__).parents[1] / ".cache" / "jax"
if CACHE.is_dir():
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Tracing makes containers by the million that stay in caches; looking through them took a quarter of its time.
gc.freeze()
gc.set_threshold(100_000, 20, 20)


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="all rows of tables of which the tests judge a sample")


def pytest_configure(config):
    config.addinivalue_line("markers", "whole: judged with --whole only")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--whole"):
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(pytest.mark.skip(reason="judged with --whole"))


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module():
    """Compiled programs pile up to gigabytes, and another module has little use for them."""
    yield
    jax.clear_caches()
    gc.collect()


def pytest_terminal_summary(terminalreporter):
    """Seconds in each folder, all workers together."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds["/".join(Path(report.fspath).parts[:2])] += report.duration
    terminalreporter.write_sep("-", "seconds by folder")
    for folder, total in seconds.most_common():
        terminalreporter.write_line(f"{total:8.1f}  {folder}")
