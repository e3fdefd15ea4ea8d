"""One of two processes that gather a folder, for test_processes.py: index, port, folder, output, who is killed."""

import os
import signal
import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxridge as jxr
from jaxridge import distributed


def main(index, port, folder, out, killed):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index, heartbeat_timeout_seconds=10)
    source = distributed.table(folder, "y").part(index, 2)
    checkpoint = f"{out}.{index}"
    rows = distributed.gather(source, checkpoint=checkpoint).rows
    # Both are there before one is lost.
    distributed.merged(rows)
    if index == killed:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        total = distributed.merged(rows, checkpoint=checkpoint)
    except distributed.Unreadable as error:
        print(error, flush=True)
        os._exit(3)
    distributed.save(f"{out}.all.{index}", total)
    # And rows of a mesh that spans both.
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    data = np.load(f"{folder}.npz")
    half = slice(index * len(data["y"]) // 2, (index + 1) * len(data["y"]) // 2)
    on = NamedSharding(mesh, PartitionSpec("rows"))
    args = (jax.make_array_from_process_local_data(on, data[name][half]) for name in ("X", "y"))
    coef = jxr.ridge_path(*args, [1.0]).coef
    np.save(f"{out}.coef.{index}.npy", np.asarray(coef.addressable_data(0)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
