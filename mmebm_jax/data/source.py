"""What every data set looks like to the rest of the library: random access to whole batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmebm_jax.storage.validation import brief
from mmebm_jax.typing import OBSERVED

FIRST_VERSION = "1.0.0"


class Field(NamedTuple):
    """What one modality holds.

    ``kind`` is "image", stored as uint8 ``[H, W, C]`` with ``shape`` (H, W, C); "sequence",
    stored as int32 tokens ``[L]`` in 0..V-1 with ``shape`` (L, V): length, vocabulary size; or
    "vector", stored as float32 ``[D]`` in about [-1, 1] with ``shape`` (D,).
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
            One array a modality, uint8 ``[B, H, W, C]``, int32 ``[B, L]`` or float32 ``[B, D]``,
            and "label", int32 ``[B]``; from an incomplete source also "observed", bool
            ``[B, M]`` in the order of the modalities.
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
        """See `Source.gather`.

        Raises:
            ValueError: an example is damaged; one line with its index.
        """
        # Sequence does not declare __getitems__, the batched read that TFDS sources have.
        try:
            return self._stack(np.asarray(indices).tolist())
        except Exception:  # Record readers raise many kinds, and none tells which example it was.
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
        return batch | {"label": batch["label"].astype(np.int32)}


class IncompleteSource:
    """A source some of whose modalities are missing, which never shows what is.

    Args:
        source: complete examples.
        names: the modalities, in order.
        observed: bool ``[N, M]``, what each example has.

    Raises:
        ValueError: another shape, or an example without any observed modality.
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
        self._source, self._names, self._observed = source, tuple(names), observed

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`; missing values are zeros."""
        batch, observed = self._source.gather(indices), self._observed[np.asarray(indices)]
        for column, name in enumerate(self._names):
            seen = observed[:, column].reshape(-1, *[1] * (batch[name].ndim - 1))
            batch[name] = np.where(seen, batch[name], 0).astype(batch[name].dtype)
        return batch | {OBSERVED: observed}


def with_missing(source: Source, names: Sequence[str], ratio: float, seed: int) -> IncompleteSource:
    """Hide each modality of each example with probability ``ratio``, but never all of an example.

    What is hidden depends on the seed alone, so an example lacks the same in every epoch.

    Args:
        source: complete examples.
        names: the modalities, in order.
        ratio: in [0, 1).
        seed: of the choice.
    """
    generator = np.random.default_rng([seed, len(names)])
    observed = generator.random((len(source), len(names))) >= ratio
    kept = generator.integers(len(names), size=len(source))
    empty = ~observed.any(axis=1)
    observed[empty, kept[empty]] = True
    return IncompleteSource(source, names, observed)


class DataSplits(NamedTuple):
    """A data set: its two splits and what they hold.

    ``fields`` names the modalities in order. ``alphabet[i]`` is the character of token i;
    "" when no modality is text. ``version`` changes when the same options make other examples.
    """

    train: Source
    test: Source
    fields: dict[str, Field]
    num_classes: int
    alphabet: str
    version: str = FIRST_VERSION
