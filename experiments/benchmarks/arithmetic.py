"""Effect of bfloat16 inside the networks on the losses and on the time of an update."""

from typing import Any

import jax

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, interleaved, ratios, table

NUM_UPDATES = 10
KINDS = ("float32", "bfloat16")


def measure(options: Options) -> Part:
    """Time interleaved updates from one state and the same keys, and compare their losses."""
    shape = workload.SMALL if options.quick else workload.PAPER
    losses: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}

    def recorded(kind: str) -> Any:
        work = workload.build("paper_b", shape, quick=options.quick, arithmetic=kind)
        step = workload.stepper(work)

        def call() -> dict[str, jax.Array]:
            metrics = step()
            losses[kind].append(jax.device_get(metrics))
            return metrics

        call()
        return call

    times = interleaved({kind: recorded(kind) for kind in KINDS}, NUM_UPDATES - 1)
    exact, rounded = losses.values()
    differences = {
        name: [
            abs(float(b[name]) - float(a[name])) / abs(float(a[name]))
            for a, b in zip(exact, rounded, strict=True)
        ]
        for name in exact[0]
        if name.startswith("loss/")
    }
    ratio = ratios(times["bfloat16"], times["float32"])
    figures: dict[str, Any] = {
        "differences": differences,
        "seconds": times,
        "bfloat16_over_float32": ratio,
    }
    rows = [[n.removeprefix("loss/"), v[0], max(v)] for n, v in differences.items()]
    return Part(
        figures,
        f"{NUM_UPDATES} updates from one state with the same keys: relative difference of every "
        "loss to its value in float32. An update takes "
        f"{ratio} times as long (min / median / max).\n\n"
        + table(rows, ["loss", "first update", f"largest of {NUM_UPDATES}"]),
    )
