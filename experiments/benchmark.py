"""Benchmark speed and scaling: our update against PyTorch's, and where its cost lies.

    python -m experiments.benchmark --workdir=runs/benchmark
    python -m experiments.benchmark --workdir=runs/benchmark --quick --parts=chains,scaling

Writes `benchmark.json`, `benchmark.md` and `complexity.png`. Without --quick, everything runs at
PolyMNIST's shapes (5 × 28×28×3, batch 64, chains of 10 steps) and takes twenty to thirty minutes on
two CPU cores. PyTorch is installed by `pip install -e '.[bench]'`. Compilation is timed separately;
every timing is of a single call.
"""

import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from experiments import command_line, results
from experiments.benchmarks import (
    arithmetic,
    chains,
    complexity,
    cpu_part,
    flops,
    loop,
    memory,
    modalities,
    network_sizes,
    scaling,
)
from experiments.benchmarks.measure import Options, Part
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.places import place

# Parts of the same shape come first, so that they share one compiled update.
PARTS = {
    "torch": "Against PyTorch",
    "torch_resnet": "Residual networks against PyTorch",
    "torch_settled": "The settled method against PyTorch",
    "cpu": "The CPU's own versions",
    "chains": "Chains and networks",
    "modalities": "Looped and stacked modalities",
    "flops": "FLOPs against the limit",
    "memory": "Memory of one update",
    "arithmetic": "bfloat16 in the networks",
    "scaling": "Growth",
    "loop": "The guard and the input",
    "complexity": "Complexity of the methods",
    "networks": "Sizes of the networks",
}

_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Which parts: {', '.join(PARTS)}.")
_QUICK = flags.DEFINE_bool("quick", False, "Small networks and batches: all parts in minutes.")
_PAIRS = flags.DEFINE_integer("pairs", 5, "Interleaved pairs of calls of what is compared.", 1)
_RESULTS = flags.DEFINE_string(
    "results", None, "Folder of speed_PART.json, from which docs/speed.md is rendered."
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Calls of what is timed alone.", 1)

logger = logging.getLogger("mmebm_jax.benchmark")


def without_torch() -> Part:
    """The result reported when PyTorch is not installed."""
    line = "PyTorch is not installed: pip install -e '.[bench]' to compare with it."
    logger.info(line)
    return Part({"skipped": line}, line)


def against_torch(part: str, *arguments: Any) -> Part:
    """Run a comparison from `experiments.benchmarks`, importing it only if PyTorch is installed."""
    if importlib.util.find_spec("torch") is None:
        return without_torch()
    found: Part = importlib.import_module(f"experiments.benchmarks.{part}").measure(*arguments)
    return found


def main() -> None:
    """Measure the chosen parts and write the results."""
    unknown = set(_PARTS.value) - set(PARTS)
    if unknown or not _PARTS.value:
        raise ValueError(f"--parts={','.join(_PARTS.value)}: choose from {', '.join(PARTS)}.")
    workdir = place(command_line.WORKDIR.value or "runs/benchmark")
    workdir.mkdir(parents=True, exist_ok=True)
    options = Options(_PAIRS.value, _REPEATS.value, _QUICK.value)
    measures: dict[str, Callable[[], Part]] = {
        "torch": lambda: against_torch("torch_part", options),
        "torch_resnet": lambda: against_torch("torch_part", options, "resnet"),
        "torch_settled": lambda: against_torch("settled_part", options),
        "cpu": lambda: cpu_part.measure(options),
        "chains": lambda: chains.measure(options),
        "modalities": lambda: modalities.measure(options),
        "flops": lambda: flops.measure(options),
        "memory": lambda: memory.measure(options),
        "arithmetic": lambda: arithmetic.measure(options),
        "scaling": lambda: scaling.measure(options),
        "loop": lambda: loop.measure(options),
        "complexity": lambda: complexity.measure(options, workdir),
        "networks": lambda: network_sizes.measure(options),
    }
    device = f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} CPU cores"
    figures: dict[str, object] = {"device": device, "options": options._asdict()}
    sections = [
        f"# Benchmark\n\nDevice: {device}.{' Quick: small sizes.' if options.quick else ''}"
    ]
    for name in PARTS:
        if name not in _PARTS.value:
            continue
        begin = time.monotonic()
        part = measures[name]()
        logger.info("%s: %.0f s.", name, time.monotonic() - begin)
        figures[name] = part.figures
        if _RESULTS.value and part.rows:
            command = f"python -m experiments.benchmark --parts={name} --pairs={options.pairs}"
            path = place(_RESULTS.value) / f"speed_{name}.json"
            results.write(path, command, part.rows)
        sections.append(f"## {PARTS[name]}\n\n{part.markdown}")
        logger.info("%s\n", sections[-1])
        # Written after every part, so that an interrupted run keeps what it has measured.
        write_whole(workdir / "benchmark.json", json.dumps(figures, indent=2) + "\n")
        write_whole(workdir / "benchmark.md", "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    command_line.run(main)
