"""What each of the CPU's own versions earns: an update with all of them against one without it."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, interleaved, ratios, seconds, table
from mmebm_jax import cpu
from mmebm_jax.cpu import convolution, dense, noise, packing
from mmebm_jax.method import model


def _plain_rows(inputs: jax.Array, kernel: jax.Array, pads: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), pads, dimension_numbers=convolution.DIMENSIONS
    )


Patch = tuple[Any, str, Any]
# Version → its file, and what stands in for it.
VERSIONS: dict[str, tuple[Any, list[Patch]]] = {
    "convolution": (
        convolution,
        [(cpu, "conv_general_dilated", jax.lax.conv_general_dilated)],
    ),
    "convolution by kernel rows": (convolution._by_rows, [(convolution, "_by_rows", _plain_rows)]),
    "compiler options": (convolution.known_options, [(cpu, "compiler_options", dict)]),
    "dense": (dense, [(cpu, "dot_general", jax.lax.dot_general)]),
    "noise": (noise, [(cpu, "normal", jax.random.normal)]),
    "packing": (packing, [(cpu, "scan", jax.lax.scan)]),
    "scale beside the joint kernel": (model.Model.normalised, [(model, "JOINT_LAYER", "")]),
}


def measure(options: Options) -> Part:
    """One update of paper B without each version in turn."""
    if jax.default_backend() != "cpu":
        line = "The versions of mmebm_jax/cpu stand in on a CPU alone."
        return Part({"skipped": line}, line)
    shape = workload.SMALL if options.quick else workload.PAPER
    work = workload.build("paper_b", shape, quick=options.quick)
    with_all = workload.stepper(work)
    with_all()
    figures: dict[str, Any] = {}
    rows = []
    for name, (source, patches) in VERSIONS.items():
        without = _without(work, patches)
        seconds(with_all)  # compiling left other work behind
        seconds(without)
        times = interleaved({"with": with_all, "without": without}, options.pairs)
        ratio = ratios(times["without"], times["with"])
        lines = len(inspect.getsource(source).splitlines())
        figures[name] = {"lines": lines, "without_over_with": ratio}
        rows.append([name, lines, str(ratio), f"{100 * (ratio.median - 1):.1f} %"])
    shown = [
        {
            "method": name,
            "lines": row["lines"],
            "ratio": str(row["without_over_with"]),
            "percent": 100 * (row["without_over_with"].median - 1),
        }
        for name, row in figures.items()
    ]
    headers = ["version", "lines", "without / with: min / median / max", "earns"]
    return Part(figures, table(rows, headers), shown)


def _without(work: workload.Workload, patches: list[Patch]) -> Callable[[], Any]:
    """A call that makes one update after another, compiled without a version."""
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
