"""What does a whole path with GCV cost for rows that stream from Parquet, beside engines that give one λ?

    python bench/streaming.py            1e6 × 50 float32: CPU seconds of one thread and peak memory, each in a process
    python bench/streaming.py --large    20 GiB in files, once: rows per second and peak memory

A peer that is not installed is left out. Peak memory is that of the whole process, interpreter and imports included.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
D, ROWS, LAM = 50, 10**6, 1.0
SIZES = (125_000, 250_000, 500_000, 1_000_000)


def write(path, rows, seed=0):
    """One file of normal features and a target, in row groups as pyarrow writes them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, D), dtype=np.float32)
    y = X @ np.linspace(1, -1, D, dtype=np.float32) + rng.standard_normal(rows, dtype=np.float32)
    parquet.write_table(pa.table([*X.T.copy(), y], names=[*(f"x{j}" for j in range(D)), "y"]), path)


def scan(path):
    """Decoding alone."""
    import pyarrow.parquet as parquet

    def run():
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**18) as file:
            for _ in file.iter_batches(2**14, use_threads=False):
                pass

    return run


def ours(path, gram=None):
    import jax

    jax.config.update("jax_enable_x64", True)
    from jaxridge import distributed, stream

    def run():
        rows = distributed.gather(distributed.table(path, "y"), gram=gram).rows
        found, n = stream.path(rows), int(rows.rows)
        return n * found.rss / (n - found.dof) ** 2

    return run


def sums(path):
    from jaxridge import distributed

    return lambda: distributed.gather(distributed.table(path, "y"))


def polars_ds(path):
    import polars as pl
    import polars_ds

    columns = [f"x{j}" for j in range(D)]
    fit = lambda: polars_ds.lin_reg(*columns, target="y", l2_reg=LAM, add_bias=True)  # noqa: E731
    return lambda: pl.scan_parquet(path).select(fit()).collect()


def duckdb(path):
    """Sums of products, which is what a query can do of a ridge problem."""
    import duckdb

    names = [*(f"x{j}" for j in range(D)), "y"]
    products = ", ".join(f"sum({a}::DOUBLE * {b})" for i, a in enumerate(names) for b in names[i:])
    connection = duckdb.connect(config={"threads": 1})
    return lambda: connection.execute(f"select {products} from '{path}'").fetchall()


def dask(path):
    """Gram matrices of row groups, in float64."""
    import dask
    import numpy as np
    import pyarrow.parquet as parquet

    def part(i):
        X = np.stack([c.to_numpy() for c in parquet.ParquetFile(path).read_row_group(i, use_threads=False).columns])
        X = np.concatenate([X.astype(float), np.ones((1, X.shape[1]))])
        return X @ X.T

    def run():
        groups = parquet.ParquetFile(path).num_row_groups
        parts = [dask.delayed(part)(i) for i in range(groups)]
        return dask.delayed(sum)(parts).compute(scheduler="synchronous")

    return run


def sgd(path):
    import pyarrow.parquet as parquet
    from sklearn.linear_model import SGDRegressor

    def run():
        model = SGDRegressor(alpha=LAM / ROWS)
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**18) as file:
            for batch in file.iter_batches(2**14, use_threads=False):
                table = batch.to_pandas().to_numpy()
                model.partial_fit(table[:, :D], table[:, D])

    return run


RUNS = {
    "scan alone": scan,
    "jaxridge, sums": sums,
    "jaxridge, path and GCV": ours,
    "jaxridge, triangle": lambda path: ours(path, gram=False),
    "polars-ds, one λ": polars_ds,
    "DuckDB, sums of products": duckdb,
    "Dask, Gram matrix": dask,
    "SGDRegressor, one pass": sgd,
}


def measured(name, path):
    """CPU seconds of the first call and of the second, and the peak memory after the first, as JSON."""
    once = name.endswith(", once")
    name = name.removesuffix(", once")
    run, seconds, peak = RUNS[name](path), [], None
    for _ in range(1 if once else 2):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([*seconds, peak]))


def in_a_process(name, path):
    """The same in a process of its own with one thread, or None."""
    environment = os.environ | dict.fromkeys(THREADS, "1")
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    command = [sys.executable, __file__, "--run", name, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def products():
    """Sums of host batches against NumPy's XᵀX, side by side."""
    import numpy as np

    from jaxridge.distributed.blas import by_cholesky
    from jaxridge.linear import host

    rng = np.random.default_rng(0)
    print(f"{'columns':>8}  {'Gram':>6}  {'triangle':>8}   of NumPy's X.T @ X, float64 batches in one thread")
    for p in (51, 201, 801):
        X = rng.standard_normal((2**22 // p, p - 2))
        y, XT = X[:, 0].copy(), np.asfortranarray(X)
        kinds = [host.init(p - 2, gram=gram) for gram in (True, False)]
        kinds = [host.update(rows, X, y, None, by_cholesky) for rows in kinds]
        calls = [lambda: X.T @ X, *(lambda rows=rows: host.update(rows, XT, y, None, by_cholesky) for rows in kinds)]
        times = [[] for _ in calls]
        for _ in range(7):
            for call, seconds in zip(calls, times, strict=True):
                start = time.process_time()
                call()
                seconds.append(time.process_time() - start)
        numpy, gram, triangle = (float(np.median(x)) for x in times)
        print(f"{p:8d}  {numpy / gram:6.2f}  {numpy / triangle:8.2f}")


def main(folder):
    print(f"{ROWS} × {D} float32 rows of Parquet, one thread")
    files = {rows: folder / f"{rows}.parquet" for rows in SIZES}
    for rows, path in files.items():
        # In a process of its own: what this one has held counts as memory of its children.
        subprocess.run([sys.executable, __file__, "--write", str(path), str(rows)], check=True)
    print(f"{'':26}  {'rows/CPU s':>10}  {'first call':>10}  {'MiB':>5}")
    for name in RUNS:
        found = in_a_process(name, files[ROWS])
        if found is None:
            print(f"{name:26}  not installed, or it failed")
            continue
        first, again, peak = found
        print(f"{name:26}  {ROWS / again:10.2e}  {ROWS / first:10.2e}  {peak:5d}")
    costs = [in_a_process("jaxridge, sums", path)[1] for path in files.values()]
    print("CPU μs a row at", ", ".join(f"{n}: {1e6 * cost / n:.2f}" for n, cost in zip(SIZES, costs, strict=True)))
    products()


def large(folder, size):
    """As many bytes in files of 1e6 rows, in one pass, and what is left of the disk said first."""
    print(f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB free")
    first = folder / "part-000.parquet"
    subprocess.run([sys.executable, __file__, "--write", str(first), str(ROWS)], check=True)
    count = -(-size // first.stat().st_size)
    for i in range(1, count):
        shutil.copyfile(first, folder / f"part-{i:03d}.parquet")
    print(f"{count} files, {count * first.stat().st_size / 2**30:.1f} GiB, {count * ROWS:.1e} rows")
    found = in_a_process("jaxridge, path and GCV, once", folder)
    first, peak = found
    print(f"{count * ROWS / first:.2e} rows per CPU second with all compiling, {peak} MiB at the peak")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", nargs=2)
    parser.add_argument("--write", nargs=2)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--size", type=int, default=20 * 2**30)
    options = parser.parse_args()
    if options.run:
        measured(*options.run)
    elif options.write:
        write(options.write[0], int(options.write[1]))
    else:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as made:
            large(Path(made), options.size) if options.large else main(Path(made))
