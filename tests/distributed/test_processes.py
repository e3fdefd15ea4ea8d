"""Two processes of jax.distributed on one machine: their sums are those of one, and a lost one ends the other."""

import os
import socket
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import jaxridge as jxr
from jaxridge import distributed
from jaxridge.linear import host

LIMIT = 60.0  # seconds until a job without one of its processes has ended; its heartbeat is 10


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3)).astype(np.float32) + 10
    y = X @ np.ones(3, np.float32) + rng.standard_normal(400).astype(np.float32)
    (tmp_path / "rows").mkdir()
    for number, part in enumerate(np.split(np.arange(400), 4)):
        table = pa.table([*X[part].T.copy(), y[part]], names=["a", "b", "c", "y"])
        parquet.write_table(table, tmp_path / "rows" / f"{number}.parquet")
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    return tmp_path / "rows"


def started(folder, out, killed=-1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("of_two.py")
    flags = {"OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": ""}
    command = [sys.executable, script]
    arguments = [[str(x) for x in (index, port, folder, out, killed)] for index in range(2)]
    return [
        subprocess.Popen([*command, *more], env=os.environ | flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for more in arguments
    ]


def test_two_processes_are_one(folder, tmp_path):
    for process in started(folder, tmp_path / "out"):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
    source = distributed.table(folder, "y")
    wanted = host.merge(*(distributed.gather(source.part(i, 2)).rows for i in range(2)))
    data = np.load(tmp_path / "rows.npz")
    coef = jxr.ridge_path(data["X"].astype(float), data["y"].astype(float), [1.0]).coef
    for index in range(2):
        found, _ = distributed.load(tmp_path / f"out.all.{index}")
        assert found.summed.tobytes() == wanted.summed.tobytes()
        # Float32 rows ten deviations from zero, of condition near 1.
        np.testing.assert_allclose(np.load(tmp_path / f"out.coef.{index}.npy"), coef, rtol=1e-5)


def test_a_lost_process_ends_the_job_and_names_the_checkpoint(folder, tmp_path):
    start = time.monotonic()
    survivor, lost = started(folder, tmp_path / "out", killed=1)
    said, errors = survivor.communicate(timeout=LIMIT + 30)
    assert time.monotonic() - start < LIMIT
    lost.communicate()
    assert lost.returncode == -9
    assert survivor.returncode == 3, errors[-2000:]
    assert "One of 2 processes was lost" in said.decode()
    assert f"goes on from the checkpoint {tmp_path / 'out.0'}" in said.decode()
    for process in started(folder, tmp_path / "out"):
        process.communicate(timeout=120)
        assert process.returncode == 0


KILLS = """
import os, signal, sys
from pathlib import Path
from dask.distributed import Client, LocalCluster
from jaxridge import distributed
import jaxridge.distributed.dask as module

def part(source, terms, once=Path(sys.argv[2])):
    if "0.parquet" in str(source.files[0]) and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return distributed.gather(source, **terms)

if __name__ == "__main__":
    module._part = part
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        found = distributed.gather_with_dask(distributed.table(sys.argv[1], "y"), folds=2)
    distributed.save(sys.argv[3], found.rows)
"""


def test_dask_with_a_killed_worker_gives_the_same(folder, tmp_path):
    (tmp_path / "kills.py").write_text(KILLS)
    command = [sys.executable, tmp_path / "kills.py", folder, tmp_path / "once", tmp_path / "sums"]
    done = subprocess.run([*command], env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "once").exists()
    source = distributed.table(folder, "y")
    wanted = [distributed.gather(source.part(index, 4), folds=2).rows for index in range(4)]
    found, _ = distributed.load(tmp_path / "sums")
    assert found.summed.tobytes() == reduce(host.merge, wanted).summed.tobytes()
    threads = distributed.gather_with_dask(source, folds=2).rows
    assert threads.summed.tobytes() == found.summed.tobytes()
