"""What each CPU-specific version gains: an update with all of them against one without it.

Two updates are timed: paper B's, which is mostly chains, and `private_full`'s bound, without any.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
import optax

from experiments.benchmarks import workload
from experiments.benchmarks.measure import (
    Options,
    Part,
    Spread,
    interleaved,
    ratios,
    seconds,
    table,
)
from mmebm_jax import cpu
from mmebm_jax.cpu import convolution, dense, noise, norm, packing
from mmebm_jax.method import model


def _plain_rows(inputs: jax.Array, kernel: jax.Array, pads: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), pads, dimension_numbers=convolution.DIMENSIONS
    )


Patch = tuple[Any, str, Any]
# Version → its source, and the patches that replace it.
VERSIONS: dict[str, tuple[Any, list[Patch]]] = {
    "convolution": (
        convolution,
        [(cpu, "conv_general_dilated", jax.lax.conv_general_dilated)],
    ),
    "convolution by kernel rows": (convolution._by_rows, [(convolution, "_by_rows", _plain_rows)]),
    "compiler options": (convolution.known_options, [(cpu, "compiler_options", dict)]),
    "dense": (dense, [(cpu, "dot_general", jax.lax.dot_general)]),
    "noise": (noise, [(cpu, "normal", jax.random.normal)]),
    "norm": (norm, [(cpu, "gradient_norm", optax.tree.norm)]),
    "packing": (packing, [(cpu, "scan", jax.lax.scan)]),
    "scale beside the joint kernel": (model.Model.normalised, [(model, "JOINT_LAYER", "")]),
}


def measure(options: Options) -> Part:
    """Time one update of each kind with each version left out in turn."""
    if jax.default_backend() != "cpu":
        line = "The versions of mmebm_jax/cpu stand in on a CPU alone."
        return Part({"skipped": line}, line)
    shape = workload.SMALL if options.quick else workload.PAPER
    updates: dict[str, Callable[..., workload.Workload]] = {
        "paper_b": partial(workload.build, "paper_b"),
        "bound": workload.bound_alone,
    }
    figures: dict[str, Any] = {}
    for update, build in updates.items():
        found = _measured(build(shape, quick=options.quick), options.pairs)
        for name, ratio in found.items():
            lines = len(inspect.getsource(VERSIONS[name][0]).splitlines())
            figures.setdefault(name, {"lines": lines})[update] = ratio
    shown = [
        {
            "method": name,
            "lines": row["lines"],
            "ratio": str(row["paper_b"]),
            "percent": _percent(row["paper_b"]),
            "percent_bound": _percent(row["bound"]),
        }
        for name, row in figures.items()
    ]
    rows = [
        [
            name,
            row["lines"],
            *(f"{row[update]}; {_percent(row[update]):.1f} %" for update in updates),
        ]
        for name, row in figures.items()
    ]
    headers = ["version", "lines", "paper B: without / with; earns", "the bound: the same"]
    return Part(figures, table(rows, headers), shown)


def _measured(work: workload.Workload, pairs: int) -> dict[str, Spread]:
    """Name of a version → time of an update without it, relative to one with all versions."""
    with_all, found = workload.stepper(work), {}
    with_all()
    for name, (_, patches) in VERSIONS.items():
        without = _without(work, patches)
        seconds(with_all)  # compilation leaves other work behind
        seconds(without)
        times = interleaved({"with": with_all, "without": without}, pairs)
        found[name] = ratios(times["without"], times["with"])
    return found


def _percent(ratio: Spread) -> float:
    return 100 * (ratio.median - 1)


def _without(work: workload.Workload, patches: list[Patch]) -> Callable[[], Any]:
    """A function that runs one update after another, compiled without a version."""
    with _patched(patches):
        arguments = work.state, work.raw, jax.random.key(0)
        program = workload.jitted_update(work).lower(*arguments).compile()
    state, key = jax.tree.map(jax.numpy.array, work.state), jax.random.key(1)

    def step(compiled: Any) -> Any:
        nonlocal state
        state, metrics = compiled(state, work.raw, key)
        return metrics

    return partial(step, program)


@contextmanager
def _patched(patches: list[Patch]) -> Iterator[None]:
    with ExitStack() as stack:
        for place, name, other in patches:
            stack.enter_context(mock.patch.object(place, name, other))
        yield
