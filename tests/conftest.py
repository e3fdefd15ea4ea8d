"""Strictness for every test, and settings under which they compile quickly."""

import gc
import os
from pathlib import Path

# Workers run side by side: threads of BLAS that wait for one another by spinning slow each other down tenfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Most of the time goes to compiling programs that run once: neither MLIR's emitters nor LLVM's optimisation pay here.
# The census, which holds every number to its bound, and `make bench` leave both on.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false",
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
