"""Training batches from a source: shuffled, repeated, split over processes, resumable.

Batches are numbered by training step, and each is a pure function of (seed, step). Resuming
therefore needs only the step, whatever the number of processes.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mmebm_jax.data.source import Source, gather_at

if TYPE_CHECKING:  # A sampler needs no Grain.
    import grain


def index_batches(
    num_examples: int,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.MapDataset":
    """The endless sequence of index batches; element i is the batch of step i.

    Every epoch visits each example once, in a different order; a batch may span two epochs.

    Args:
        num_examples: number of examples in the source.
        batch_size: examples in the global batch, over all processes.
        seed: seed of the shuffle, 0 to 2**32 - 1.
        process_index: this process, which gets its contiguous slice of each global batch.
        process_count: how many processes share a batch.

    Returns:
        A dataset whose elements are integers ``[batch_size / process_count]``.

    Raises:
        ValueError: ``batch_size`` exceeds the source or does not divide over the processes, or
            ``process_index`` is not one of them.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch_size is {batch_size} but the source has {num_examples} examples: "
            f"set it to 1..{num_examples}"
        )
    if batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} does not divide over {process_count} processes: "
            f"set it to a multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}: set it to 0..{process_count - 1}")
    import grain

    local = batch_size // process_count
    start = process_index * local
    return (
        grain.MapDataset.range(num_examples)
        .shuffle(seed=seed)
        .repeat()
        # An endless sequence has no remainder to drop; rounding its length up would overflow.
        .batch(batch_size, drop_remainder=True, batch_fn=np.asarray)
        .map(lambda indices: indices[start : start + local])
    )


def batches(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.MapDataset":
    """The endless sequence of training batches, `Source.gather` dicts; see `index_batches`."""
    # Batching indices instead of examples means that the data are read by one gather per batch.
    count = len(source)
    start = process_index * (batch_size // process_count)

    def read(step: int, indices: np.ndarray) -> dict[str, np.ndarray]:
        places = step * batch_size + start + np.arange(len(indices))
        return gather_at(source, indices, places // count)

    return index_batches(
        count, batch_size, seed, process_index=process_index, process_count=process_count
    ).map_with_index(read)


def iterate(dataset: "grain.MapDataset", start_step: int = 0, prefetch: int = 2) -> Iterator[Any]:
    """Iterates over ``dataset`` from step ``start_step`` on.

    Args:
        dataset: from `batches` or `index_batches`.
        start_step: the first batch's step.
        prefetch: how many batches a background thread reads ahead; 0 reads each on demand.
    """
    import grain

    threads = 1 if prefetch else 0
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(dataset[start_step:].to_iter_dataset(options))


def whole(source: Source, limit: int | None = None) -> dict[str, np.ndarray]:
    """The first ``limit`` examples (all if None, or if there are fewer) in stored order."""
    count = len(source) if limit is None else min(limit, len(source))
    return source.gather(np.arange(count))
