"""The census: nasty inputs in worker processes, with a watchdog on each.

The test judges every fifth of them, some of every data set. ``make census`` judges all, and prints the figures, those
of other methods beside them.
"""

import multiprocessing
import os
import time
import unittest.mock
from collections import Counter
from multiprocessing.connection import wait

import census
import pytest

WORKERS = 2
SHARE = 5  # the test judges one in so many
LIMIT = 20.0  # seconds for one input
WARM_UP = 120.0  # and for the first of a group, which compiles


def shares(dtype, methods, share):
    """Tasks for each worker: whole groups, so that each is compiled once, the largest first."""
    groups = {}
    for index, data in enumerate(census.datasets(dtype)):
        lams = range(index % share if len(data.lams) >= share else 0, len(data.lams), share)
        tasks = [(index, k, m) for k in lams for m in methods if census.applies(m, data)]
        groups.setdefault(data.group, []).extend(tasks)
    bins = [[] for _ in range(WORKERS)]
    for tasks in sorted(groups.values(), key=len, reverse=True):
        min(bins, key=len).extend(tasks)
    return bins


class Worker:
    """One process, its remaining tasks, and the time by which it must say something."""

    def __init__(self, dtype, tasks):
        context = multiprocessing.get_context("spawn")
        self.dtype, self.tasks, self.current = dtype, list(tasks), None
        self.connection, child = context.Pipe(duplex=False)
        self.process = context.Process(target=census.work, args=(child, dtype, self.tasks), daemon=True)
        # Programs as users run them: with the optimisation that conftest.py turns off.
        with unittest.mock.patch.dict(os.environ, XLA_FLAGS="--xla_cpu_parallel_codegen_split_count=1"):
            self.process.start()
        child.close()
        self.warm = set()
        self.deadline = time.monotonic() + WARM_UP

    def announce(self, task):
        self.current = task
        group = (census.datasets(self.dtype)[task[0]].group, task[2])
        self.deadline = time.monotonic() + (LIMIT if group in self.warm else WARM_UP)
        self.warm.add(group)

    def finish(self):
        self.tasks.remove(self.current)
        self.current = None

    def replaced(self):
        """A new worker for what is left, without the task that went wrong."""
        self.process.kill()
        self.process.join()
        self.tasks.remove(self.current)
        return Worker(self.dtype, self.tasks) if self.tasks else None


def run(dtype, methods=("jaxridge",), share=1):
    """{(data set, λ, method): verdict} of everything, or of one λ in so many of each data set."""
    verdicts, workers = {}, [Worker(dtype, tasks) for tasks in shares(dtype, methods, share)]
    while workers:
        wait([worker.connection for worker in workers], timeout=1.0)
        following = []
        for worker in workers:
            lost = None
            try:
                while worker and worker.connection.poll():
                    message = worker.connection.recv()
                    if isinstance(message, tuple):
                        worker.announce(message)
                    else:
                        verdicts[worker.current] = message
                        worker.finish()
            except EOFError:
                lost = "the process died"
            if lost is None and time.monotonic() > worker.deadline:
                lost = f"no answer after {LIMIT:.0f} s"
            if lost is None:
                following.append(worker)
            elif worker.current is not None:
                verdicts[worker.current] = census.Verdict("hang", lost)
                following += [other for other in [worker.replaced()] if other]
            elif worker.tasks:
                raise RuntimeError(f"a worker ended before its tasks: {worker.process.exitcode}")
            else:
                worker.process.join()
        workers = following
    return verdicts


def figures(dtype, verdicts):
    """The sentences to quote."""
    lines = []
    for method in sorted({method for _, _, method in verdicts}):
        count = Counter(verdict.kind for (_, _, m), verdict in verdicts.items() if m == method)
        lines.append(
            f"{dtype} {method}: {count.total()} inputs tried, {count['wrong']} silently wrong, {count['hang']} hangs, "
            f"{count['solved']} solved, {count['flagged']} flagged, {count['needless']} flagged though well conditioned"
        )
    return "\n".join(lines)


def failures(dtype, verdicts):
    """What jaxridge did not solve or flag, one line each."""
    return [
        f"{verdict.kind}: {census.datasets(dtype)[index].name}, lam {census.datasets(dtype)[index].lams[k]}: "
        f"{verdict.detail}"
        for (index, k, method), verdict in sorted(verdicts.items())
        if method == "jaxridge" and verdict.kind not in ("solved", "flagged")
    ]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_is_silently_wrong(dtype):
    """At least 200 inputs: each solved to its condition or flagged, no hang, none flagged without need."""
    verdicts = run(dtype, share=SHARE)
    print(figures(dtype, verdicts))
    assert len({(index, k) for index, k, _ in verdicts}) >= 200
    assert {index for index, _, _ in verdicts} == set(range(len(census.datasets(dtype))))
    assert failures(dtype, verdicts) == []


if __name__ == "__main__":
    for dtype in ("float64", "float32"):
        start, verdicts = time.monotonic(), run(dtype, census.METHODS)
        print(figures(dtype, verdicts), f"({time.monotonic() - start:.0f} s)", *failures(dtype, verdicts), sep="\n")
