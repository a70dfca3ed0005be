"""Estimates how long a run meant for an accelerator would take on CPUs, before compilation."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from mmebm_jax.runs import builders
from mmebm_jax.training import schedule
from mmebm_jax.training.compiled_update import abstract_arguments, compiled_update
from mmebm_jax.training.run import Run

ACCELERATOR = "accelerator"
MATRIX_SIZE = 1024  # of the matrix product that measures a CPU's speed


def check_device(run: Run) -> None:
    """Check that a run that `guard.device` reserves for an accelerator does not train on CPUs.

    Raises:
      ValueError: it would; the message says how long at least, and how to train on CPUs anyway.
    """
    if run.config.guard.device != ACCELERATOR:
        return
    if any(device.platform != "cpu" for device in run.mesh.devices.flat):
        return
    total, rate = operations(run), matrix_product_rate()
    raise ValueError(
        f"this run is meant for a GPU or TPU: its {run.config.num_steps} updates take "
        f"{total:.1e} floating-point operations, at least {duration(total / rate)} on this CPU, "
        f"whose matrix products run at {rate / 1e9:.0f} GFLOP a second. Start it on an "
        "accelerator, lower config.num_steps, or set --config.guard.device=any."
    )


def operations(run: Run) -> float:
    """Floating-point operations in the matrix products and convolutions of a run's updates."""
    optimisers = builders.build_optimisers(run.config)
    arguments = abstract_arguments(run, optimisers)
    total = 0.0
    for phase in schedule.phases(run.config):
        update = compiled_update(run, optimisers, phase.terms)
        traced = update.trace(*arguments).jaxpr.jaxpr
        total += (phase.stop - phase.start) * of_program(traced)
    return total


def of_program(jaxpr: Any) -> float:
    """As `operations`, for a traced program; `while` counts one iteration, `cond` its costliest."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [of_program(program) for program in _programs(parameters)]
        if name == "dot_general":
            total += _of_product(equation)
        elif name == "conv_general_dilated":
            total += _of_convolution(equation)
        elif name == "scan":
            total += parameters["length"] * sum(inner)
        else:
            total += max(inner, default=0.0) if name == "cond" else sum(inner)
    return total


def matrix_product_rate() -> float:
    """Operations per second in a float32 product of two matrices, the best of three."""
    matrix = jnp.ones([MATRIX_SIZE, MATRIX_SIZE])
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    best = math.inf
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        best = min(best, time.perf_counter() - begin)
    return 2.0 * MATRIX_SIZE**3 / best


def duration(seconds: float) -> str:
    """A duration as text, in a suitable unit."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _programs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _of_product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    each = math.prod(shape[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * each


def _of_convolution(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]  # axis of the kernel
    each = math.prod(kernel) / kernel[outputs]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * each
