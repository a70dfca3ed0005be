"""How the cost of an update scales with chain steps, modalities, batch size and image size."""

from functools import cache
from typing import Any

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, exponent, table, typical
from experiments.benchmarks.workload import Shape

AXES: dict[str, tuple[int, ...]] = {
    "num_steps": (5, 10, 20, 40),
    "num_modalities": (1, 2, 3, 5),
    "batch_size": (16, 32, 64, 128),
    "image_size": (16, 28, 40),
}
QUICK_AXES: dict[str, tuple[int, ...]] = {
    "num_steps": (2, 8),
    "num_modalities": (2, 3),
    "batch_size": (8, 32),
}
# The design promises loops over steps and over modalities, and nothing that grows faster.
LIMITS = {"num_steps": 1.05, "num_modalities": 1.1}
NAMES = {
    "num_steps": "steps of both chains",
    "num_modalities": "modalities",
    "batch_size": "batch",
    "image_size": "image size",
}


def measure(options: Options) -> Part:
    """Seconds along each axis with the others fixed, and the fitted exponents."""
    shape = workload.SMALL if options.quick else workload.PAPER
    figures: dict[str, Any] = {}
    rows = []
    for axis, sizes in (QUICK_AXES if options.quick else AXES).items():
        times = [_seconds(shape._replace(**{axis: size}), options) for size in sizes]
        fitted, limit = exponent(sizes, times), LIMITS.get(axis)
        figures[axis] = {
            **{"sizes": sizes, "seconds": times},
            **{"exponent": fitted, "limit": limit},
        }
        measured = ", ".join(f"{size}: {time:.3g}" for size, time in zip(sizes, times, strict=True))
        # Small updates are mostly overhead: they test that this part runs, not how cost scales.
        kept = "small sizes" if options.quick else ("kept" if fitted <= (limit or 0) else "MISSED")
        bar = "" if limit is None else f"≤ {limit}: {kept}"
        rows.append([NAMES[axis], measured, f"{fitted:.2f}", bar])
    return Part(figures, table(rows, ["", "seconds an update", "exponent", "limit"]))


@cache
def _seconds(shape: Shape, options: Options) -> float:
    """Seconds of one update; the shape in which the axes cross is measured only once."""
    work = workload.build("paper_b", shape, quick=options.quick)
    return typical(workload.stepper(work), options.repeats)
