"""How close the update comes to the machine's limit: its FLOP rate, against a matrix product's.

FLOPs are taken from XLA's cost analysis of the traced program.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import workload
from experiments.benchmarks.measure import Options, Part, seconds, table, typical
from experiments.benchmarks.workload import Revision, Workload

MATRIX_SIZE = 2048


def counted(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs that XLA's cost analysis counts in a function."""
    return of_program(jax.jit(function).lower(*arguments))


def of_program(lowered: jax.stages.Lowered) -> float:
    """FLOPs that XLA's cost analysis counts in a program, before it is compiled."""
    analysis: Any = lowered.cost_analysis()
    return float(analysis.get("flops", 0.0))


def of_update(work: Workload) -> float:
    """FLOPs of one update.

    The analysis counts the body of a loop once, however often it runs, so for each chain of n steps
    the other n − 1 are added here. (The update's only other loop with products, the squarings of
    spectral normalisation, is under a hundredth of the total and left out.)
    """
    total = of_program(work.lowered)
    return total + of_repetitions(workload.revisions(work).values())


def of_repetitions(revisions: Iterable[Revision]) -> float:
    """FLOPs of all chain steps except the first step of each chain."""
    key = jax.random.key(0)
    return sum((r.chain.num_steps - 1) * counted(r.step, r.arrays, key, r.start) for r in revisions)


def matrix_product_rate(repeats: int, size: int = MATRIX_SIZE) -> float:
    """FLOPs per second of a float32 product of two square matrices, the best of several calls."""
    matrix = jnp.ones([size, size])
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    return 2.0 * size**3 / min(seconds(lambda: product(matrix, matrix)) for _ in range(repeats))


def measure(options: Options) -> Part:
    """Measure the update and both chains."""
    shape = workload.SMALL if options.quick else workload.PAPER
    work = workload.build("paper_b", shape, quick=options.quick)
    key = jax.random.key(2)
    limit = matrix_product_rate(5 * options.repeats, 512 if options.quick else MATRIX_SIZE)
    calls: dict[str, tuple[float, Any]] = {}
    for name, chain in workload.revisions(work).items():
        arguments, steps = (chain.arrays, key, chain.start), chain.chain.num_steps
        run = workload.jitted(partial(chain.run, 1))
        calls[f"{name} chain, {steps} steps"] = (
            steps * counted(chain.step, *arguments),
            partial(run, *arguments),
        )
    calls["update"] = (of_update(work), workload.stepper(work))
    figures: dict[str, Any] = {"matrix_product_gflops_per_second": limit / 1e9}
    rows = []
    for name, (flops, call) in calls.items():
        time = typical(call, options.repeats)
        figures[name] = {"gflops": flops / 1e9, "seconds": time, "fraction": flops / time / limit}
        rows.append([name, flops / 1e9, time, flops / time / 1e9, f"{flops / time / limit:.0%}"])
    headers = ["", "GFLOP", "seconds", "GFLOP a second", "of a matrix product's rate"]
    return Part(
        figures,
        f"A float32 product of matrices runs at {limit / 1e9:.0f} GFLOP a second.\n\n"
        + table(rows, headers),
    )
