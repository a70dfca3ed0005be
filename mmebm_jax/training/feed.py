"""Feeding of batches to the devices: prefetched on the host, then sharded over the mesh."""

import itertools
from collections import deque
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from mmebm_jax import data
from mmebm_jax.data.source import Source, turns
from mmebm_jax.runs import sharding

PREFETCH = 2
# Largest share of the device's memory for a resident data set; training needs the rest.
MOST_RESIDENT = 0.5
MEGABYTE = 2**20

Batch = dict[str, jax.Array]


def batches(
    source: Source,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    device_resident: bool,
) -> Iterator[Batch]:
    """Global batches from `start_step` on, sharded over the mesh.

    Batches are the same in both modes: either the host prefetches them, or the whole source lies on
    every device and only indices are transferred.

    Raises:
      ValueError: the source does not fit on a device, or its epochs differ.
    """
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    if device_resident:
        resident = _resident(source, mesh)
        numbers = data.index_batches(len(source), batch_size, seed, **share)
        for indices in data.iterate(numbers, start_step):
            yield _gather(resident, shard_batch({"at": indices}, mesh)["at"], mesh=mesh)
        return
    read = data.iterate(data.batches(source, batch_size, seed, **share), start_step)
    ahead = deque(shard_batch(batch, mesh) for batch in itertools.islice(read, PREFETCH))
    for batch in read:
        yield ahead.popleft()
        ahead.append(shard_batch(batch, mesh))


def shard_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> Batch:
    """Make global arrays from this process's slice of a batch, `[B / processes, ...]` each."""
    placement = sharding.split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(placement, values)
        for name, values in batch.items()
    }


@partial(jax.jit, static_argnames="mesh")
def _gather(resident: Batch, indices: jax.Array, *, mesh: jax.sharding.Mesh) -> Batch:
    split = sharding.split_batch(mesh)
    return {
        name: jax.lax.with_sharding_constraint(values[indices], split)
        for name, values in resident.items()
    }


def _resident(source: Source, mesh: jax.sharding.Mesh) -> Batch:
    if turns(source):
        raise ValueError(
            "config.input.device_resident: of alternative texts the host chooses one a pass: set "
            "it to False."
        )
    one = data.whole(source, 1)
    size = len(source) * sum(values.nbytes for values in one.values())
    for device in mesh.local_devices:
        # CPU backends report no memory limit.
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is not None and size > MOST_RESIDENT * limit:
            raise ValueError(
                f"config.input.device_resident: the training set takes {size / MEGABYTE:.0f} MB, "
                f"more than {MOST_RESIDENT:.0%} of the {limit / MEGABYTE:.0f} MB of {device}: set "
                "it to False."
            )
    return sharding.replicate(data.whole(source), mesh)
