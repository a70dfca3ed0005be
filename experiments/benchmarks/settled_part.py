"""Our updates of `private_full` against eager PyTorch's, interleaved in one process."""

import os
from functools import partial
from typing import Any

import jax
import torch

from experiments.benchmarks import settled_check, torch_check, workload
from experiments.benchmarks.measure import (
    Call,
    Options,
    Part,
    interleaved,
    ratios,
    seconds,
    spread,
    table,
)
from experiments.benchmarks.torch_networks import images_first

BAR = 1.3  # PyTorch's seconds over ours, median over pairs
PHASES = {"bound": "the bound", "energy": "the data energy, the rest frozen"}


def measure(options: Options) -> Part:
    """Check that both compute the same results, then time them."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shape = workload.SMALL if options.quick else workload.PAPER
    figures: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    small = settled_check.workloads(shape._replace(batch_size=8), quick=options.quick)
    figures["differences"] = {name: settled_check.differences(work) for name, work in small.items()}
    for found in figures["differences"].values():
        torch_check.refuse_differences(found)
    torch.set_float32_matmul_precision("highest" if torch_check.device() == "cpu" else "high")
    rows = []
    for name, work in settled_check.workloads(shape, quick=options.quick).items():
        update = settled_check.torch_update(work)
        step = update.bound_step if name == "bound" else update.energy_step
        raw = images_first(work.raw).to(torch_check.device())
        calls: dict[str, Call] = {
            "ours": workload.stepper(work),
            "eager": partial(torch_check.awaited, step, raw),
        }
        for call in [*calls.values()] * 2:
            seconds(call)  # compilation, allocation of Adam's states
        pair = interleaved(calls, options.pairs)
        ratio = ratios(pair["eager"], pair["ours"])
        figures[name] = {"ours": spread(pair["ours"]), "eager": spread(pair["eager"])}
        rows.append(
            {
                "method": PHASES[name],
                "ours": spread(pair["ours"]).median,
                "other": spread(pair["eager"]).median,
                "ratio": str(ratio),
                "promised": f"≥ {BAR}",
            }
        )
    headers = ["update of", "ours, s", "PyTorch eager, s", "PyTorch / ours", "bar"]
    shown = table([list(row.values()) for row in rows], headers)
    return Part(figures, f"PyTorch {torch.__version__}; JAX {jax.__version__}.\n\n{shown}", rows)
