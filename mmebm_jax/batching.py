"""Generic operations on batches, independent of what a batch holds.

A batch that is sharded over devices is not moved between them.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp


def every_nth(tree: Any, stride: int, axis: int = 0) -> Any:
    """Every `stride`-th example of a pytree whose leaves hold examples along `axis`."""
    before = (slice(None),) * axis
    return jax.tree.map(lambda leaf: leaf[(*before, slice(None, None, stride))], tree)


def to_rank(values: jax.Array, rank: int) -> jax.Array:
    """The array with leading axes of length 1 added until its rank is at least `rank`."""
    return jnp.expand_dims(values, tuple(range(rank - values.ndim)))


def flatly(function: Callable[[Any], Any], tree: Any, leading: tuple[int, ...]) -> Any:
    """Applies a function of a batch to arrays with the leading axes `[..., B]`.

    Examples come first in the flat batch, so that a batch sharded over devices is not moved.
    """
    others, size = leading[:-1], leading[-1]
    count = prod(others)

    def flatten(values: jax.Array) -> jax.Array:
        return jnp.moveaxis(values, len(others), 0).reshape(size * count, values.shape[-1])

    def unflatten(values: jax.Array) -> jax.Array:
        parts = values.reshape(size, *others, *values.shape[1:])
        return jnp.moveaxis(parts, 0, len(others))

    return jax.tree.map(unflatten, function(jax.tree.map(flatten, tree)))


def interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    """Two batches `[B, ...]` as one `[2 B, ...]`, alternating; see `deinterleave`."""
    # Stacked as rows, since a short last axis is slow to copy on a CPU and the reshape is free.
    rows = [values.reshape(len(values), prod(values.shape[1:])) for values in (first, second)]
    return jnp.stack(rows, axis=1).reshape(-1, *first.shape[1:])


def deinterleave(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of `interleave` for one value per example, `[2 B]` → two `[B]`."""
    first, second = values.reshape(-1, 2).T
    return first, second


def in_parts(tree: Any, count: int, sharding: jax.sharding.NamedSharding | None) -> Any:
    """Leaves `[B, ...]` as `[count, B / count, ...]`; each part takes equally from each device."""

    def divide(values: jax.Array) -> jax.Array:
        parts = values.reshape(-1, count, *values.shape[1:]).swapaxes(0, 1)
        if sharding is None:
            return parts
        spec = jax.sharding.PartitionSpec(None, *sharding.spec)
        return jax.lax.with_sharding_constraint(
            parts, jax.sharding.NamedSharding(sharding.mesh, spec)
        )

    return jax.tree.map(divide, tree)


def mean_over(function: Callable[..., Any], keys: jax.Array, parts: Any) -> Any:
    """The mean of function(key, part) over parts, using the memory of one part."""

    def add(total: Any, inputs: tuple[jax.Array, Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*inputs)), None

    first = jax.tree.map(lambda values: values[0], (keys, parts))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *first)
    )
    total, _ = jax.lax.scan(add, zeros, (keys, parts))
    return jax.tree.map(lambda leaf: leaf / len(keys), total)


def placed(tree: Any, sharding: jax.sharding.Sharding | None) -> Any:
    """The pytree with its examples sharded over devices; None leaves it unchanged."""
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


def root_mean_square(new: Any, old: Any) -> jax.Array:
    """Root mean square of the difference between two pytrees, over all elements of all leaves."""
    squares = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), new, old)
    count = sum(leaf.size for leaf in jax.tree.leaves(new))
    return jnp.sqrt(sum(jax.tree.leaves(squares)) / count)
