"""Batches as rows: XLA:CPU vectorises over the last axis, which in an image has few entries."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax

from mmebm_jax.cpu.by_backend import on_cpu


def rows(values: jax.Array) -> jax.Array:
    """Reshape `[B, ...]` to `[B, N]`."""
    return values.reshape(len(values), prod(values.shape[1:]))


def packed_scan(
    body: Callable[[Any, Any], tuple[Any, Any]], start: Any, inputs: Any, unroll: int | bool = 1
) -> tuple[Any, Any]:
    """`jax.lax.scan` whose carry, a pytree of `[B, ...]`, is laid out as rows between steps.

    On a CPU, looping over an image's few channels would take several times as long.

    Args:
      body: (carry, input) → (carry, output), on batches in their original shapes.
      start: the first carry.
      inputs: a pytree with a leading axis of steps.
      unroll: as in `jax.lax.scan`.
    """

    def unpacked(packed: Any) -> Any:
        return jax.tree.map(lambda values, like: values.reshape(like.shape), packed, start)

    def step(packed: Any, value: Any) -> tuple[Any, Any]:
        carry, output = body(unpacked(packed), value)
        return jax.tree.map(rows, carry), output

    final, outputs = jax.lax.scan(step, jax.tree.map(rows, start), inputs, unroll=unroll)
    return unpacked(final), outputs


scan = on_cpu(packed_scan, jax.lax.scan)
"""`jax.lax.scan` over a carry of batches `[B, ...]`."""
