"""Checks that a data set holds what its fields say: once at the start, and while it is read."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmebm_jax.data.source import (
    ArraySource,
    DataSplits,
    Field,
    Source,
    complete,
    gather_at,
    observed_of,
    turns,
)
from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.storage.validation import plain, shown

# Every subset of the modalities has a weight and, with some aggregators, a component.
MOST_MODALITIES = 12
MOST_VALUES = 2**24  # of one example of a modality
# Names used next to those of modalities, in batches or for layers of a network.
RESERVED = ("label", "observed", "subset_logit", "joint_0", "joint_1", "energy")
ENDINGS = ("_private", "_mean", "_scale", "_auxiliary")
CHUNK = 4096
NUM_PROBED = 256  # examples of a source on disk that are checked at the start


def check_fields(fields: Mapping[str, Field]) -> None:
    """Check that networks can be built for these modalities.

    Raises:
      ValueError: the message names the modality and what is allowed.
    """
    if not 1 <= len(fields) <= MOST_MODALITIES:
        raise ValueError(f"there are {len(fields)} modalities: give 1 to {MOST_MODALITIES}.")
    for name, (kind, shape) in fields.items():
        where = f"modality {plain(name)!r}"
        if not name.isidentifier() or name in RESERVED or name.endswith(ENDINGS):
            raise ValueError(
                f"{where}: a name must be a word of letters, digits and _, none of "
                f"{', '.join(RESERVED)}, and not end with {', '.join(ENDINGS)}."
            )
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{where} has kind {shown(kind)}: choose one of {', '.join(KINDS)}.")
        rank = KINDS[kind].rank
        sizes_are_whole = all(type(size) is int and size >= 1 for size in shape)
        if len(shape) != rank or not sizes_are_whole or math.prod(shape) > MOST_VALUES:
            raise ValueError(
                f"{where} has shape {shown(tuple(shape))}: {kind} needs {rank} whole numbers from "
                f"1 on ({', '.join(KINDS[kind].dimensions)}), at most {MOST_VALUES} values in all."
            )
        if problem := KINDS[kind].problem_of_shape(tuple(shape)):
            raise ValueError(f"{where} has shape {tuple(shape)}: {problem}.")


def checked(splits: DataSplits) -> DataSplits:
    """The same data set, checked: completely if in memory, else a sample now and later each batch.

    Raises:
      ValueError: the message names the split and the modality, and what is allowed.
    """
    check_fields(splits.fields)
    if not isinstance(splits.num_classes, int) or splits.num_classes < 0:
        raise ValueError(f"num_classes is {shown(splits.num_classes)}: give 0 for none, or more.")
    if not len(complete(splits.test)) and len(splits.test):
        raise ValueError(
            "no example of the test split has every modality, as pictures and evaluation need: "
            "leave out the modality that is missing, or add complete examples."
        )
    return splits._replace(
        train=_checked(splits.train, splits, "train"), test=_checked(splits.test, splits, "test")
    )


def _checked(source: Source, splits: DataSplits, split: str) -> Source:
    if not len(source):
        raise ValueError(f"the {split} split holds no example: give at least one.")
    careful = CheckedSource(source, splits, split)
    if isinstance(source, ArraySource):
        # In chunks, since reading makes a copy.
        for start in range(0, len(source), CHUNK):
            careful.gather(np.arange(start, min(start + CHUNK, len(source))))
        return source
    careful.gather(np.unique(np.linspace(0, len(source) - 1, NUM_PROBED).astype(int)))
    return careful


class CheckedSource:
    """A source that checks every batch against the fields of its data set.

    Args:
      source: the examples.
      splits: the data set, which gives the fields and the number of classes.
      split: name of the split in error messages.
    """

    def __init__(self, source: Source, splits: DataSplits, split: str):
        self._source, self._split = source, split
        self._fields, self._num_classes = splits.fields, splits.num_classes
        self.turns = turns(source)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`.

        Raises:
          ValueError: the message names the split, the example, the modality and the fix.
        """
        return self._checked(self._source.gather(indices), indices)

    def gather_at(self, indices: np.ndarray, passes: np.ndarray) -> dict[str, np.ndarray]:
        """See `source.gather_at`; raises as `gather`."""
        return self._checked(gather_at(self._source, indices, passes), indices)

    @property
    def observed(self) -> np.ndarray | None:
        """See `source.observed_of`."""
        return observed_of(self._source)

    def _checked(self, batch: dict[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:
        for name, field in self._fields.items():
            self._check(batch, name, field, indices)
        if self._num_classes:
            self._check_numbers(batch, "label", (), self._num_classes, indices)
        return batch

    def _check(
        self, batch: Mapping[str, Any], name: str, field: Field, indices: np.ndarray
    ) -> None:
        kind, shape = KINDS[field.kind], tuple(field.shape)
        values = self._array(batch, name, kind.raw_shape(shape), kind.raw_dtype, indices)
        self._refuse_where(*kind.problems(values, shape), name, indices)

    def _check_numbers(
        self,
        batch: Mapping[str, Any],
        name: str,
        shape: tuple[int, ...],
        size: int,
        indices: np.ndarray,
    ) -> None:
        values = self._array(batch, name, shape, np.int32, indices)
        wrong = (values < 0) | (values >= size)
        self._refuse_where(wrong, f"leaves 0..{size - 1}", name, indices)

    def _array(
        self,
        batch: Mapping[str, Any],
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        indices: np.ndarray,
    ) -> np.ndarray:
        if name not in batch:
            raise ValueError(f"the {self._split} split holds {sorted(batch)}: add {name!r}.")
        values, wanted = batch[name], (len(indices), *shape)
        if not isinstance(values, np.ndarray) or values.dtype != dtype or values.shape != wanted:
            dtype_name = getattr(values, "dtype", type(values).__name__)
            rows = ", ".join(map(str, ("N", *shape)))
            raise ValueError(
                f"the {self._split} split's {name!r} is {dtype_name} of shape "
                f"{list(np.shape(values))}: give {np.dtype(dtype).name} [{rows}]."
            )
        return values

    def _refuse_where(self, bad: np.ndarray, problem: str, name: str, indices: np.ndarray) -> None:
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        if len(rows):
            raise ValueError(
                f"example {indices[rows[0]]} of the {self._split} split: {name!r} {problem}: "
                "correct it or leave the example out."
            )
