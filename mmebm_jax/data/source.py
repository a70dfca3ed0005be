"""The interface of data sets to the rest of the library: random access to whole batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmebm_jax.storage.validation import brief
from mmebm_jax.typing import OBSERVED, Alphabet

FIRST_VERSION = "1.0.0"


class Field(NamedTuple):
    """The kind and shape of one modality.

    ``kind`` is "image", stored as uint8 ``[H, W, C]`` with ``shape`` (H, W, C); "text", stored as
    int32 tokens ``[L]`` in 0..V-1 with ``shape`` (L, V): length, vocabulary size; "vector", stored
    as float32 ``[D]`` in about [-1, 1] with ``shape`` (D,); or "category", stored as int32 in
    0..V-1 with ``shape`` (V,).
    """

    kind: str
    shape: tuple[int, ...]


class Source(Protocol):
    """A finite, ordered set of examples that are read by index."""

    def __len__(self) -> int:
        """The number of examples N."""
        ...

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the examples at ``indices`` (integers ``[B]`` in 0..N-1), in that order.

        Returns:
            One array per modality, uint8 ``[B, H, W, C]``, int32 ``[B, L]`` or float32 ``[B, D]``;
            "label", int32 ``[B]``, if the data have classes; and from an incomplete source
            "observed", bool ``[B, M]`` in the order of the modalities.
        """
        ...


class ArraySource:
    """Examples in memory: one array per modality, and optionally "label", all with N rows.

    Raises:
        ValueError: there are no arrays, or they differ in length.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        if not arrays:
            raise ValueError("there are no arrays: give one a modality")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays differ in length: {lengths}; give each the same rows")
        self._arrays = dict(arrays)

    def __len__(self) -> int:
        """The number of examples."""
        return len(next(iter(self._arrays.values())))

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
        """See `Source.gather`.

        Raises:
            ValueError: an example is damaged; the message has its index.
        """
        # Sequence does not declare __getitems__, the batched read that TFDS sources have.
        try:
            return self._stack(np.asarray(indices).tolist())
        except Exception:  # Record readers raise many kinds, and none names the example.
            for index in np.asarray(indices).tolist():
                try:
                    self._stack([index])
                except Exception as error:
                    reason = brief(str(error) or type(error).__name__)
                    raise ValueError(
                        f"example {index} cannot be read ({reason}): delete the prepared data set, "
                        "and it is made anew."
                    ) from error
            raise

    def _stack(self, indices: list[int]) -> dict[str, np.ndarray]:
        examples = self._records.__getitems__(indices)  # type: ignore[attr-defined]
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        # Scalars are read as Python numbers, whatever type they were written with.
        whole = [n for n, v in batch.items() if v.dtype == np.int64 or n == "label"]
        return batch | {name: batch[name].astype(np.int32) for name in whole}


class IncompleteSource:
    """A source with missing modalities, whose values it never returns.

    Args:
        source: the examples.
        names: the modalities, in order.
        observed: bool ``[N, M]``, which modalities each example has.

    Raises:
        ValueError: ``observed`` has the wrong shape, or an example has no observed modality.
    """

    def __init__(self, source: Source, names: Sequence[str], observed: np.ndarray):
        observed = np.asarray(observed, bool)
        if observed.shape != (len(source), len(names)):
            raise ValueError(
                f"observed has shape {list(observed.shape)}: give [{len(source)}, {len(names)}], "
                "one row per example and one column per modality"
            )
        empty = np.flatnonzero(~observed.any(axis=1))
        if len(empty):
            raise ValueError(
                f"example {empty[0]} has no observed modality ({len(empty)} such in all): drop it"
            )
        self._source, self._names, self.observed = source, tuple(names), observed
        self.turns = turns(source)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`; missing values are zeros."""
        return self._hide(self._source.gather(indices), indices)

    def gather_at(self, indices: np.ndarray, passes: np.ndarray) -> dict[str, np.ndarray]:
        """See the function `gather_at`."""
        return self._hide(gather_at(self._source, indices, passes), indices)

    def _hide(self, batch: dict[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:
        observed = self.observed[np.asarray(indices)]
        for column, name in enumerate(self._names):
            seen = observed[:, column].reshape(-1, *[1] * (batch[name].ndim - 1))
            batch[name] = np.where(seen, batch[name], 0).astype(batch[name].dtype)
        return batch | {OBSERVED: observed}


def with_missing(source: Source, names: Sequence[str], ratio: float, seed: int) -> IncompleteSource:
    """Hide each modality of each example with probability ``ratio``, but never all of an example.

    The choice depends only on the seed, so an example lacks the same modalities in every epoch.
    Modalities that the source itself lacks stay missing.

    Args:
        source: the examples.
        names: the modalities, in order.
        ratio: probability of hiding, in [0, 1).
        seed: seed of the choice.
    """
    generator = np.random.default_rng([seed, len(names)])
    observed = generator.random((len(source), len(names))) >= ratio
    kept = generator.integers(len(names), size=len(source))
    if (known := observed_of(source)) is not None:
        observed &= known
        kept = np.where(known, generator.random(known.shape), -1).argmax(axis=1)
    empty = ~observed.any(axis=1)
    observed[empty, kept[empty]] = True
    return IncompleteSource(source, names, observed)


def observed_of(source: Source) -> np.ndarray | None:
    """Which modalities each example has, bool ``[N, M]``; None if nothing is missing."""
    return getattr(source, "observed", None)


def turns(source: Source) -> bool:
    """Whether passes over a source differ; see `gather_at`."""
    return bool(getattr(source, "turns", False))


def gather_at(source: Source, indices: np.ndarray, passes: np.ndarray) -> dict[str, np.ndarray]:
    """Reads examples as they appear in pass number ``passes`` (integers ``[B]`` from 0 on).

    If an example has alternatives, such as several captions, successive passes cycle through them.
    Sources without a method of this name are the same in every pass.
    """
    gather = getattr(source, "gather_at", None)
    return source.gather(indices) if gather is None else gather(indices, passes)


class Subset:
    """Some examples of a source, in the order of ``indices``, integers ``[K]``.

    Args:
        source: the examples.
        indices: the chosen examples.
    """

    def __init__(self, source: Source, indices: np.ndarray):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._indices)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`; "observed" is absent if every example is complete."""
        batch = self._source.gather(self._indices[np.asarray(indices)])
        if OBSERVED in batch and batch[OBSERVED].all():
            del batch[OBSERVED]
        return batch


def complete(source: Source) -> Source:
    """The examples of a source that have every modality, which evaluation needs."""
    observed = observed_of(source)
    if observed is None:
        return source
    return Subset(source, np.flatnonzero(observed.all(axis=1)))


class DataSplits(NamedTuple):
    """A data set: its two splits and what they hold.

    ``fields`` names the modalities in order. ``num_classes`` is 0 if the data have no classes, and
    examples then need no "label". ``alphabet[i]`` is the character or, in a tuple, the word of
    token i; "" if no modality is text. ``version`` changes when the same options give different
    examples.
    """

    train: Source
    test: Source
    fields: dict[str, Field]
    num_classes: int
    alphabet: Alphabet
    version: str = FIRST_VERSION
