"""Encoded examples as sources, in memory or on disk."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mmebm_jax.data import encoding as encodings
from mmebm_jax.data.encoding import Counts, Encoding, Form
from mmebm_jax.data.rows import Damage, Tables
from mmebm_jax.data.source import ArraySource, DataSplits, IncompleteSource, Source

_SEED = 0  # of the stored order
_SPREAD = 2654435761  # Knuth's multiplier, so that neighbours start at unrelated alternatives


class Alternatives:
    """Encoded examples that show one of their alternative texts: in each pass the next one.

    Args:
      source: texts as uint16 `[A, L]`, with the number of alternatives as "NAME_count".
      most: text → the most alternatives that an example has.
    """

    def __init__(self, source: Source, most: Mapping[str, int]):
        self._source, self._texts = source, tuple(most)
        self.turns = any(count > 1 for count in most.values())

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source.gather`; each example shows its first text."""
        batch = self._source.gather(indices)
        return self._shown(batch, np.zeros(len(np.asarray(indices)), np.int64))

    def gather_at(self, indices: np.ndarray, passes: np.ndarray) -> dict[str, np.ndarray]:
        """See `source.gather_at`; the alternative of the first pass depends on the index."""
        begin = (np.asarray(indices, np.uint64) * np.uint64(_SPREAD) % np.uint64(2**32)) >> 16
        batch = self._source.gather(indices)
        return self._shown(batch, begin.astype(np.int64) + np.asarray(passes, np.int64))

    def _shown(self, batch: dict[str, np.ndarray], turns: np.ndarray) -> dict[str, np.ndarray]:
        for name in self._texts:
            counts = batch.pop(f"{name}_count").astype(np.int64)
            lines = batch[name][np.arange(len(turns)), turns % counts]
            batch[name] = lines.astype(np.int32)
        return batch


class Stored(NamedTuple):
    """One split."""

    source: Source  # encoded
    observed: np.ndarray  # bool[N, M]


def shuffled(tables: Tables) -> Tables:
    """The rows in a fixed random order, since folders are sorted and pictures show the first."""
    generator = np.random.default_rng(_SEED)
    return Tables(*([rows[i] for i in generator.permutation(len(rows))] for rows in tables))


def assembled(encoding: Encoding, splits: Mapping[str, Stored], version: str) -> DataSplits:
    """The data set of two encoded splits, by "train" and "test"."""
    sources: dict[str, Source] = {}
    for name, (source, observed) in splits.items():
        shown = Alternatives(source, encoding.alternatives) if encoding.alternatives else source
        missing = not observed.all()
        sources[name] = (
            IncompleteSource(shown, tuple(encoding.fields), observed) if missing else shown
        )
    return DataSplits(
        sources["train"],
        sources["test"],
        encoding.fields,
        num_classes=len(encoding.classes),
        alphabet=encoding.alphabet,
        version=version,
    )


def in_memory(tables: Tables, form: Form, damage: Damage) -> DataSplits:
    """Rows as a data set in memory, in their given order.

    Raises:
      ValueError: see `encoding.learn` and `Damage`.
    """
    encoding, counts = encodings.learn(tables, form), list[Counts]()
    digest, splits = hashlib.sha256(repr(encoding).encode()), {}
    for name, rows in zip(Tables._fields, tables, strict=True):
        found = list(encodings.encoded(rows, encoding, damage, counts))
        if not found:
            raise ValueError(f"no example of the {name} split can be read.")
        arrays = {n: np.stack([each[n] for each, _ in found]) for n in found[0][0]}
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).tobytes())
        splits[name] = Stored(ArraySource(arrays), np.stack([seen for _, seen in found]))
    return assembled(encoding, splits, digest.hexdigest()[:12])
