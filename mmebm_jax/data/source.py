"""What every data set looks like to the rest of the library: random access to whole batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Field(NamedTuple):
    """What one modality holds.

    ``kind`` is "image", stored as uint8 ``[H, W, C]`` with ``shape`` (H, W, C), or "sequence",
    stored as int32 tokens ``[L]`` in 0..V-1 with ``shape`` (L, V): length, vocabulary size.
    """

    kind: str
    shape: tuple[int, ...]


class Source(Protocol):
    """A finite, ordered set of examples read by index."""

    def __len__(self) -> int:
        """The number of examples N."""
        ...

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the examples at ``indices`` (integers ``[B]`` in 0..N-1), in that order.

        Returns:
            One array a modality, uint8 ``[B, H, W, C]`` or int32 ``[B, L]``, and "label",
            int32 ``[B]``.
        """
        ...


class ArraySource:
    """Examples held in memory, one array a modality and "label", all with N rows.

    Raises:
        ValueError: "label" is absent, or the arrays differ in length.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        if "label" not in arrays:
            raise ValueError(f"arrays hold {sorted(arrays)}: add 'label', int32 [N]")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays differ in length: {lengths}; give each the same rows")
        self._arrays = dict(arrays)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._arrays["label"])

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`."""
        return {name: array[indices] for name, array in self._arrays.items()}


class RecordSource:
    """Examples on disk: wraps what a TFDS builder's ``as_data_source(split)`` returns."""

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        self._records = records

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._records)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`."""
        # Sequence does not declare __getitems__, the batched read that TFDS sources have.
        examples = self._records.__getitems__(np.asarray(indices).tolist())  # type: ignore[attr-defined]
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        return batch | {"label": batch["label"].astype(np.int32)}


class DataSplits(NamedTuple):
    """A data set: its two splits and what they hold.

    ``fields`` names the modalities in order. ``alphabet[i]`` is the character of token i;
    "" when no modality is text.
    """

    train: Source
    test: Source
    fields: dict[str, Field]
    num_classes: int
    alphabet: str
