"""Where a CPU is given another convolution, dense layer, noise or scan: the same numbers, faster.

This file is the one place that chooses. Each name below is the operation that the rest of the
library calls; on a CPU it is this folder's version, on every other backend the standard one. The
choice is made when a program is traced. `docs/speed.md` has the speed-up of each.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

from mmebm_jax.cpu import convolution, dense, noise, packing


def _choose(on_cpu: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(elsewhere)
    def chosen(*arguments: Any, **options: Any) -> Any:
        operation = on_cpu if jax.default_backend() == "cpu" else elsewhere
        return operation(*arguments, **options)

    return chosen


conv_general_dilated = _choose(convolution.scan_safe_convolution, jax.lax.conv_general_dilated)
"""For `flax.linen.Conv`: gradients that stay fast inside a loop."""

dot_general = _choose(dense.wide_dot_general, jax.lax.dot_general)
"""For a wide `flax.linen.Dense`: a gradient that leaves the kernel as it lies."""

normal = _choose(noise.normal, jax.random.normal)
"""`jax.random.normal(key, shape, dtype)`, the same numbers to the last bit."""

scan = _choose(packing.scan, jax.lax.scan)
"""`jax.lax.scan` over a carry of batches `[B, ...]`, carried as rows `[B, N]`."""


def compiler_options() -> dict[str, str | bool]:
    """The options to give `jax.jit` for a program with many convolutions."""
    return convolution.compiler_options() if jax.default_backend() == "cpu" else {}
