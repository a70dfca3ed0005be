"""Data parallelism: one mesh axis over all devices, batches split along it, the rest replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def data_mesh(devices: list[Any] | None = None) -> Mesh:
    """A one-axis mesh over `devices`, by default all of every process."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a pytree that every process holds on all devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh))
    # Only a program of all processes together places arrays on devices of others.
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def local(tree: Any) -> Any:
    """This process's copy of a replicated pytree, for work that it does alone."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree
    )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Make global arrays of this process's slice of a batch, `[B / processes, ...]` each."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuse a global batch, or its revised share, that the devices do not divide.

    Raises:
      ValueError: with both numbers.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {mesh.size} devices: change it to a "
            f"multiple of {mesh.size}."
        )
