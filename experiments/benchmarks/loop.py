"""What training adds to an update: the guard's watch and the input."""

import tempfile
from collections.abc import Callable
from itertools import count
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import feed
from experiments.benchmarks import workload
from experiments.benchmarks.measure import (
    Call,
    Options,
    Part,
    interleaved,
    ratios,
    spread,
    table,
)
from experiments.benchmarks.workload import Workload
from experiments.log import Log
from mmebm_jax import builders, sharding
from mmebm_jax.data import ArraySource

NUM_STEPS = 5  # of training, in one timed call
NUM_EXAMPLES = 2000
# What only the guard asks for; the compiler leaves out what nobody reads.
WATCHED = ("gradient_norm/", "update_norm/", "parameter_norm/")
MOST_OF_GUARD, MOST_OF_INPUT = 1.02, 1.05


def measure(options: Options) -> Part:
    """Steps with and without the guard, and with each way to feed them against a fixed batch."""
    shape = workload.SMALL if options.quick else workload.PAPER
    work = workload.build("paper_b", shape, quick=options.quick)
    mesh = sharding.data_mesh()
    source = _examples(work)

    def fed(**options: Any) -> Callable[[], dict[str, jax.Array]]:
        batches = feed.batches(
            source, mesh, batch_size=shape.batch_size, seed=0, start_step=0, **options
        )
        return lambda: next(batches)

    first = fed(device_resident=False)()

    def fixed() -> dict[str, jax.Array]:
        return first

    with tempfile.TemporaryDirectory() as folder:
        log = Log(epath.Path(folder), 0)
        calls = {
            "guarded, fixed batch": _steps(work, fixed, log, guarded=True),
            "without guard, fixed batch": _steps(work, fixed, log, guarded=False),
            "guarded, host reads ahead": _steps(
                work, fed(device_resident=False), log, guarded=True
            ),
            "guarded, device-resident": _steps(work, fed(device_resident=True), log, guarded=True),
        }
        for call in calls.values():
            call()
        times = interleaved(calls, options.pairs)
        log.close()
    base, plain, host, resident = times.values()
    compared = {
        "guard / no guard": (ratios(base, plain), MOST_OF_GUARD),
        "host reads ahead / fixed batch": (ratios(host, base), MOST_OF_INPUT),
        "device-resident / fixed batch": (ratios(resident, base), MOST_OF_INPUT),
    }
    rows = []
    for name, (ratio, most) in compared.items():
        kept = "kept" if ratio.median <= most else "MISSED"
        rows.append([name, str(ratio), f"≤ {most}: {'small sizes' if options.quick else kept}"])
    figures = {name: spread([x / NUM_STEPS for x in values]) for name, values in times.items()}
    figures |= {name: ratio for name, (ratio, _) in compared.items()}
    return Part(
        figures,
        f"Steps of training in turn, {NUM_STEPS} at a time; each writes a row, and the guarded "
        "ones take and check every network's norms.\n\n"
        + table(
            [[name, values.median] for name, values in figures.items() if name in times],
            ["", "seconds a step"],
        )
        + "\n\n"
        + table(rows, ["", "min / median / max", "bar"]),
    )


def _examples(work: Workload) -> ArraySource:
    rng = np.random.default_rng(0)
    arrays = {
        m.name: rng.integers(0, 256, (NUM_EXAMPLES, *m.shape), np.uint8)
        for m in work.model.modalities
    }
    return ArraySource(arrays | {"label": np.zeros(NUM_EXAMPLES, np.int32)})


def _steps(work: Workload, read: Callable[[], Any], log: Log, *, guarded: bool) -> Call:
    """A call that trains for `NUM_STEPS`, as the training loop does."""
    update = work.function

    def step(*arguments: Any) -> Any:
        state, metrics = update(*arguments)
        if not guarded:
            metrics = {k: v for k, v in metrics.items() if not k.startswith(WATCHED)}
        return state, metrics

    compiled = builders.jitted(step)
    state, key, numbers = jax.tree.map(jax.numpy.array, work.state), jax.random.key(1), count(1)

    def call() -> Any:
        nonlocal state
        for _ in range(NUM_STEPS):
            state, metrics = compiled(state, read(), work.position, key)
            log.add(next(numbers), metrics)
        log.flush(work.shape.batch_size)
        return state

    return call
