"""Every public verb under every transform: a table whose cells are right, refused by name, or failed.

    python tests/transforms.py [WING ...] [--again]

A row is a verb with its arrays, a column a transform. Derivatives are compared with differences of fourth order of the
values, or of the first derivatives, and transforms with loops. What was judged is kept in .cache/transforms, a file for
each wing, so that a run goes on where the last one ended; ``--again`` judges everything anew, and so does a change of
the package. Status 1 if a cell failed.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import conftest  # noqa: F401  (the strictness and the settings of the tests)

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp
import numpy as np
from transform_rows import ROWS

CACHE = Path(__file__).parents[1] / ".cache" / "transforms"
STEP = 2e-3
WORKERS = 2  # rows at a time, each in its process
SECOND = ("fwd rev", "rev rev", "scan fwd rev", "scan rev rev")
CHEAP = ("jit", "dtype", "compiles once", "callback", "export")


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)]


def close(got, want, rtol):
    """Whether numbers agree, relative to the largest of them; NaN where NaN is. All NaN is said as a refusal is."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if np.size(a) and np.all(np.isnan(a)) and not np.any(np.isnan(b)):
            raise ValueError("NaN for numbers")
        size = float(np.max(np.abs(np.nan_to_num(np.asarray(b, float), posinf=0.0, neginf=0.0)), initial=0.0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(size, 1e-3))


@cache
def compiled():
    """Names of what has been compiled from now on; JAX 0.8 has no way to stop listening."""
    found = []
    listen = lambda name, *_, **__: found.append(name) if "backend_compile" in name else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


class Judge:
    """The cells of one row; programs that several cells ask for are compiled once."""

    def __init__(self, row):
        self.row = row
        self.args = {name: jnp.asarray(x) for name, x in row.args.items()}
        self.moving = tuple(name for name in self.args if name not in row.still)
        rng = np.random.default_rng(4)
        self.along = {name: jnp.asarray(0.2 * rng.standard_normal(self.args[name].shape)) for name in self.moving}

    def columns(self):
        """Names of the cells of this row."""
        row, lam = self.row, self.row.lam
        yield from CHEAP
        yield from ("vmap lam",) if lam else ()
        yield "vmap problems"
        yield from (f"d {name}" for name in sorted(self.moving, key=lambda name: name != lam))
        if self.moving:
            yield from SECOND
            yield from ("vmap of grad", "scan", "cond and checkpoint")
            yield from ("bad member",) if row.bad else ()
        yield from (f"sharded {axis}" for axis in ("rows", "lam", "problems") if axis != "lam" or lam)

    # Programs.

    def scalar(self, args):
        """A generic number made of all that the verb returns."""
        return sum(
            jnp.sum(jnp.cos(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) + x))
            for x in floats(self.row.fn(**args))
        )

    def split(self, moved):
        return self.scalar(self.args | moved)

    @cached_property
    def outputs(self):
        return jax.jit(lambda args: floats(self.row.fn(**args)))

    @cached_property
    def gradient(self):
        return jax.jit(jax.value_and_grad(self.split))

    @cached_property
    def forward(self):
        return jax.jit(lambda moved, along: jax.jvp(self.split, (moved,), (along,)))

    @cached_property
    def mixed(self):
        """The gradient, and its change along a direction, forward over reverse."""
        return jax.jit(lambda moved, along: jax.jvp(jax.grad(self.split), (moved,), (along,)))

    def moved(self, h=0.0, along=None):
        along = self.along if along is None else along
        return {name: self.args[name] + h * along[name] for name in self.moving}

    def difference(self, fn, along=None):
        """(f(−2h) − 8f(−h) + 8f(h) − f(2h))/12h."""
        at = [fn(self.moved(STEP * k, along)) for k in (-2.0, -1.0, 1.0, 2.0)]
        return jax.tree.map(lambda a, b, c, d: (a - 8 * b + 8 * c - d) / (12 * STEP), *at)

    def stack(self, count=2):
        """Problems that differ a little in all that moves."""
        return jax.tree.map(lambda *x: jnp.stack(x), *(self.moved(0.05 * k) for k in range(count)))

    # Cells.

    def judge(self, column):
        kind, _, name = column.partition(" ")
        if kind == "d":
            return self.derivative(name)
        if kind == "sharded":
            return self.sharded(name)
        return getattr(self, column.replace(" ", "_"))()

    def jit(self):
        close(self.outputs(self.args), floats(self.row.fn(**self.args)), 1e-9)

    def dtype(self):
        single = {name: x.astype(jnp.float32) if x.dtype == jnp.float64 else x for name, x in self.args.items()}
        kinds = {x.dtype for x in jax.tree.leaves(self.row.fn(**single)) if jnp.issubdtype(x.dtype, jnp.floating)}
        assert kinds <= {jnp.dtype(jnp.float32)}, f"float32 became {kinds}"

    def compiles_once(self):
        """Other numbers, as Python has them, are no other program."""

        def call(scale):
            changed = {k: float(scale * x) if x.ndim == 0 else np.asarray(scale * x) for k, x in self.args.items()}
            jax.block_until_ready(self.row.fn(**changed))

        call(1.0)
        before = len(compiled())
        call(1.25), call(0.8)
        found = compiled()[before:]
        assert not found, f"{len(found)} more programs for other numbers"

    def callback(self):
        text = jax.jit(jax.value_and_grad(self.split) if self.moving else self.split).lower(self.moved()).as_text()
        assert "callback" not in text, "a callback"

    def export(self):
        program = jax.jit(jax.value_and_grad(self.split) if self.moving else self.split)
        for platform in ("cpu", "cuda", "tpu"):
            exported = jax.export.export(program, platforms=(platform,))(self.moved())
            exported.serialize() if importlib.util.find_spec("flatbuffers") else None

    def at(self, **changed):
        return self.outputs(self.args | changed)

    def vmap_lam(self):
        lam = self.args[self.row.lam]
        lams = jnp.stack([0.5 * lam, lam, 1.7 * lam])
        got = jax.jit(jax.vmap(lambda lam: floats(self.row.fn(**self.args | {self.row.lam: lam}))))(lams)
        close(
            got, jax.tree.map(lambda *x: jnp.stack(x), *(self.at(**{self.row.lam: lam}) for lam in lams)), self.row.same
        )

    def vmap_problems(self):
        batch = self.stack() if self.moving else jax.tree.map(lambda x: jnp.stack([x, x]), self.args)
        got = jax.jit(jax.vmap(lambda moved: floats(self.row.fn(**self.args | moved))))(batch)
        loop = [self.at(**jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(2)]
        close(got, jax.tree.map(lambda *x: jnp.stack(x), *loop), self.row.same)

    def derivative(self, name):
        along = {other: x if other == name else 0.0 * x for other, x in self.along.items()}
        want = self.difference(lambda moved: self.gradient(moved)[0], along)
        backward = self.gradient(self.moved())[1][name]
        assert backward.shape == self.args[name].shape
        close(jnp.vdot(backward, along[name]), want, self.row.rtol)
        if self.row.forward:
            close(self.forward(self.moved(), along)[1], want, self.row.rtol)
        size = float(jnp.max(jnp.abs(backward)))
        assert size > 0.0 or name in self.row.flat, "the gradient is 0 throughout"

    def fwd_rev(self):
        want = self.difference(lambda moved: self.gradient(moved)[1])
        close(self.mixed(self.moved(), self.along)[1], want, self.row.rtol)

    def twice(self, fn):
        """Reverse over reverse."""

        def slope(moved):
            gradient = jax.grad(fn)(moved)
            return sum(jnp.vdot(gradient[name], self.along[name]) for name in self.moving)

        return jax.jit(jax.grad(slope))

    def rev_rev(self):
        want = self.difference(lambda moved: self.gradient(moved)[1])
        close(self.twice(self.split)(self.moved()), want, self.row.rtol)

    def in_scan(self, moved):
        """Σ over two problems, in a scan over what is added to the arguments."""

        def body(total, h):
            return total + self.split({name: x + h * self.along[name] for name, x in moved.items()}), None

        return jax.lax.scan(body, jnp.zeros(()), jnp.array([0.0, 0.05]))[0]

    def in_loop(self, fn):
        return jax.tree.map(lambda a, b: a + b, fn(self.moved()), fn(self.moved(0.05)))

    @cached_property
    def scanned(self):
        return jax.jit(lambda moved, along: jax.jvp(jax.grad(self.in_scan), (moved,), (along,)))(
            self.moved(), self.along
        )

    def scan(self):
        # A second derivative that is refused says nothing about the first.
        got = jax.jit(jax.grad(self.in_scan))(self.moved()) if self.row.refused else self.scanned[0]
        close(got, self.in_loop(lambda moved: self.gradient(moved)[1]), self.row.same)

    def scan_fwd_rev(self):
        close(self.scanned[1], self.in_loop(lambda moved: self.mixed(moved, self.along)[1]), self.row.same)

    def scan_rev_rev(self):
        want = self.in_loop(lambda moved: self.mixed(moved, self.along)[1])
        close(self.twice(self.in_scan)(self.moved()), want, self.row.same)

    def cond_and_checkpoint(self):
        fn = jax.checkpoint(self.split)
        either = lambda moved, on: jax.lax.cond(on > 0, fn, lambda moved: 0.0, moved)  # noqa: E731
        got = jax.jit(jax.grad(either))(self.moved(), jnp.array(1.0))
        close(got, self.gradient(self.moved())[1], self.row.same)

    @cached_property
    def batched(self):
        return jax.jit(jax.vmap(jax.value_and_grad(self.split)))

    def vmap_of_grad(self):
        batch = self.stack()
        loop = [self.gradient(jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(2)]
        close(self.batched(batch), jax.tree.map(lambda *x: jnp.stack(x), *loop), self.row.same)

    def bad_member(self):
        """One of two problems holds NaN: the other is what it was, to the bit, and the gradient of the bad one NaN."""
        batch, name = self.stack(), self.row.bad
        spoilt = batch | {name: batch[name].at[(1, *(0,) * (batch[name].ndim - 1))].set(jnp.nan)}
        (value, gradient), (_, clean) = self.batched(spoilt), self.batched(batch)
        for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(clean), strict=True):
            np.testing.assert_array_equal(got[0], want[0])
        assert jnp.isnan(value[1]), "a number for a problem with NaN"
        zero = [x for x in self.moving if not jnp.any(jnp.isnan(gradient[x][1])) and jnp.any(clean[x][1] != 0)]
        assert not zero, f"a gradient without NaN in {zero} for a problem with NaN"

    def sharded(self, axis):
        mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
        if axis == "rows":
            of = {name: jax.device_put(self.args[name], split) for name in self.row.rows}
            close(self.at(**of), self.at(), self.row.same)
            return
        if axis == "lam":
            lam = self.args[self.row.lam]
            batch = {self.row.lam: jnp.stack([lam * (1.0 + 0.1 * k) for k in range(8)])}
        else:
            batch = self.stack(8) if self.moving else jax.tree.map(lambda x: jnp.stack([x] * 8), self.args)
        many = jax.jit(jax.vmap(lambda moved: floats(self.row.fn(**self.args | moved))))
        loop = [self.at(**jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(8)]
        close(many(jax.device_put(batch, split)), jax.tree.map(lambda *x: jnp.stack(x), *loop), self.row.same)


def verdict(judge, column):
    """``ok``, ``refused: …`` where the row says so, else what went wrong."""
    refusal = next((text for columns, text in judge.row.refused.items() if column in columns.split(", ")), None)
    try:
        judge.judge(column)
    except ValueError as error:
        message = str(error).strip()
        if refusal and re.search(refusal, message):
            return "refused: " + message.splitlines()[0]
        return f"failed: ValueError: {message[:200]}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return "failed: should be refused" if refusal else "ok"


def version():
    """Changes with the package and with the table."""
    root = Path(__file__).parents[1]
    files = sorted([*(root / "jaxridge").rglob("*.py"), Path(__file__), Path(__file__).with_name("transform_rows.py")])
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def judged(wing, name, cells):
    """The cells of a row, those that are known as they are; run in a process of its own."""
    start, judge = time.perf_counter(), Judge(ROWS[wing][name])
    found = {}
    for column in judge.columns():
        cell = f"{name} | {column}"
        found[cell] = cells.get(cell) or verdict(judge, column)
    jax.clear_caches()
    return found, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--again", action="store_true", help="judge everything anew")
    parser.add_argument("--keep", action="store_true", help="what was right under an older package still counts")
    parser.add_argument("--only", default="", help="names of rows, a regular expression")
    parser.add_argument("wings", nargs="*")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    counts, now, known = Counter(), version(), {}
    for wing in options.wings or ROWS:
        path = CACHE / f"{wing}.json"
        stored = json.loads(path.read_text()) if path.exists() and not options.again else {}
        fresh = stored.get("version") == now or options.keep
        cells = stored.get("cells", {}) if fresh else {}
        known[wing] = {cell: found for cell, found in cells.items() if not found.startswith("failed")}
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = {
            pool.submit(judged, wing, name, known[wing]): (wing, name)
            for wing in known
            for name in ROWS[wing]
            if re.search(options.only, name)
        }
        for done in as_completed(asked):
            wing, name = asked[done]
            found, seconds = done.result()
            known[wing] |= found
            text = json.dumps({"version": now, "cells": known[wing]}, indent=0)
            (CACHE / f"{wing}.json").write_text(text)
            counts.update(said.partition(":")[0] for said in found.values())
            for cell, said in found.items():
                if said.startswith("failed"):
                    print(f"{wing}: {cell}: {said}", flush=True)
            print(f"{wing}: {name}: {seconds:.0f} s", flush=True)
    total = sum(counts.values())
    print(f"cells {total}, ok {counts['ok']}, refused {counts['refused']}, failed {counts['failed']}")
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
