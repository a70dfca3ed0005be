"""What training adds to the cost of an update: the guard's checks and the input pipeline."""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, interleaved, ratios, spread, table
from experiments.benchmarks.workload import Workload
from mmebm_jax.data import ArraySource
from mmebm_jax.runs import builders, sharding
from mmebm_jax.training import feed
from mmebm_jax.training.log import Log

NUM_STEPS = 5  # training steps in one timed call, for the input
# The guard should cost less than a machine's noise, so time many single steps: their median is
# steadier.
GUARD_ROUNDS = 8  # per requested pair
NUM_EXAMPLES = 2000
# Metrics that only the guard reads; the compiler removes unused ones.
WATCHED = ("gradient_norm/", "parameter_norm/")
MOST_OF_GUARD, MOST_OF_INPUT = 1.02, 1.05


def measure(options: Options) -> Part:
    """Time steps with and without the guard, and each input pipeline against a fixed batch."""
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
        guarded, plain = (_trainer(work, log, guarded=guarded) for guarded in (True, False))
        reads = {
            "a fixed batch": fixed,
            "host reads ahead": fed(device_resident=False),
            "device-resident data": fed(device_resident=True),
        }
        guards = {
            "with the guard": lambda: guarded(fixed, 1),
            "without the guard": lambda: plain(fixed, 1),
        }
        inputs = {name: partial(guarded, read, NUM_STEPS) for name, read in reads.items()}
        for call in (guards | inputs).values():
            call()
        guard_times = interleaved(guards, GUARD_ROUNDS * options.pairs)
        input_times = interleaved(inputs, options.pairs)
        log.close()
    base, host, resident = input_times.values()
    compared = {
        "guard / no guard": (ratios(*guard_times.values()), MOST_OF_GUARD),
        "host reads ahead / a fixed batch": (ratios(host, base), MOST_OF_INPUT),
        "device-resident data / a fixed batch": (ratios(resident, base), MOST_OF_INPUT),
    }
    times = guard_times | {n: [t / NUM_STEPS for t in values] for n, values in input_times.items()}
    rows = []
    for name, (ratio, most) in compared.items():
        kept = "kept" if ratio.median <= most else "MISSED"
        rows.append([name, str(ratio), f"≤ {most}: {'small sizes' if options.quick else kept}"])
    figures = {name: spread(values) for name, values in times.items()}
    figures |= {name: ratio for name, (ratio, _) in compared.items()}
    return Part(
        figures,
        "Training in turn, with a row written after every call: a step with or without the "
        "guard, which takes and checks every network's norms "
        f"({GUARD_ROUNDS * options.pairs} pairs), then {NUM_STEPS} guarded steps on each input.\n\n"
        + table(
            [[name, values.median] for name, values in figures.items() if name in times],
            ["", "seconds per step"],
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


def _trainer(work: Workload, log: Log, *, guarded: bool) -> Callable[[Callable[[], Any], int], Any]:
    """A function (read, number of steps) that trains like the training loop."""
    update = work.function

    def step(*arguments: Any) -> Any:
        state, metrics = update(*arguments)
        if not guarded:
            metrics = {k: v for k, v in metrics.items() if not k.startswith(WATCHED)}
        return state, metrics

    compiled = builders.jitted(step)
    state, key, numbers = jax.tree.map(jax.numpy.array, work.state), jax.random.key(1), count(1)

    def train(read: Callable[[], Any], num_steps: int) -> Any:
        nonlocal state
        for _ in range(num_steps):
            state, metrics = compiled(state, read(), key)
            log.add(next(numbers), metrics)
        log.flush(work.shape.batch_size)
        return state

    return train
