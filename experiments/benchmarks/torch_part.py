"""Our update against PyTorch's, eager and compiled, interleaved in one process."""

import os
from functools import partial
from typing import Any

import jax
import torch

from experiments.benchmarks import torch_check, workload
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

# What the design promises, by device: PyTorch's seconds over ours, median over pairs.
BARS = {
    "cpu": {"eager": 1.3, "torch.compile": 1.0},
    "cuda": {"eager": 3.0, "torch.compile": 1.5},
}
RESIDUAL_BARS = {"cpu": {"eager": 1.2}, "cuda": {"eager": 1.2}}


def measure(options: Options, networks: str = "small") -> Part:
    """Check that both compute the same results, then time them.

    With quick, or with networks other than `small`, torch.compile is left out.
    """
    bars_of = BARS if networks == "small" else RESIDUAL_BARS
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    quick = options.quick
    shape = workload.SMALL if quick else workload.PAPER
    checked = torch_check.assert_equal(
        workload.build("paper_b", shape._replace(batch_size=8), quick=quick, networks=networks)
    )
    work = workload.build("paper_b", shape, quick=quick, networks=networks)
    device = torch_check.device()
    bars = bars_of[device]
    # As XLA multiplies float32 by default: in TF32 on a GPU, exactly on a CPU.
    torch.set_float32_matmul_precision("highest" if device == "cpu" else "high")
    raw = images_first(work.raw).to(device)
    compile_seconds = seconds(lambda: work.update and None)
    ours = workload.stepper(work)
    updates = {"eager": torch_check.torch_update(work, compiled=False)}
    if not quick and "torch.compile" in bars:
        updates["torch.compile"] = torch_check.torch_update(work, compiled=True)
    calls: dict[str, Call] = {"ours": ours}
    calls |= {name: partial(torch_check.awaited, update, raw) for name, update in updates.items()}
    first = {"ours": compile_seconds} | {name: seconds(calls[name]) for name in updates}
    for call in calls.values():
        seconds(call)  # finish what the first call left: Adam's states, recompilation
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "largest_difference": max(checked.values()),
        "differences": checked,
        "compile_or_first_call_seconds": first,
    }
    rows = []
    for name in updates:
        pair = interleaved({"ours": calls["ours"], name: calls[name]}, options.pairs)
        ratio = ratios(pair[name], pair["ours"])
        figures[name] = {
            "seconds": spread(pair[name]),
            "our_seconds": spread(pair["ours"]),
            "over_ours": ratio,
        }
        bar = bars[name]
        kept = "kept" if ratio.median >= bar else "MISSED"
        rows.append(
            [
                *(f"PyTorch, {name}", spread(pair["ours"]).median, spread(pair[name]).median),
                *(str(ratio), f"≥ {bar}: {'small sizes' if quick else kept}", first[name]),
            ]
        )
    shown = [
        {
            "method": f"PyTorch, {name}",
            "ours": figures[name]["our_seconds"].median,
            "other": figures[name]["seconds"].median,
            "ratio": str(figures[name]["over_ours"]),
            "promised": f"≥ {bars[name]}",
        }
        for name in updates
    ]
    headers = ["", "ours, s", "PyTorch, s", "PyTorch / ours: min / median / max", "bar"]
    worst = max(checked, key=checked.__getitem__)
    return Part(
        figures,
        f"Checked before timing: {len(checked)} pieces (networks, chains at temperature 0, losses, "
        f"gradients) agree to {checked[worst]:.0e} relative ({worst}). "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; JAX {jax.__version__}. "
        f"Ours was compiled ahead in {first['ours']:.1f} s; that one program takes every step, and "
        "would refuse a state of other shapes or types: nothing is compiled again.\n\n"
        + table(rows, [*headers, "first call, s"]),
        shown,
    )
