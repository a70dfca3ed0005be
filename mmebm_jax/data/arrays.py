"""Data sets of arrays in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmebm_jax.data.checks import checked
from mmebm_jax.data.encoding import Form
from mmebm_jax.data.layouts.folder import rows_of_arrays
from mmebm_jax.data.rows import Damage, Tables
from mmebm_jax.data.source import DataSplits
from mmebm_jax.data.stored import in_memory
from mmebm_jax.storage.validation import shown


def from_arrays(
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    *,
    categories: Sequence[str] = (),
    length: int = 32,
    smallest_count: int = 1,
    vocabulary_size: int = 8192,
    scale_vectors: bool = True,
) -> DataSplits:
    """Make a data set from arrays, one per modality, all with N rows within a split.

    uint8 `[N, H, W]` or `[N, H, W, C]` are pictures, which keep their size; strings are text, and
    lists of strings are alternatives, through which successive passes over the data cycle; numbers
    `[N]` or `[N, D]` are vectors; integers named in ``categories`` are categories. "label", `[N]`
    integers or names, is optional. An empty string, None among texts, or a vector of only NaN marks
    a missing modality.

    Args:
      train: arrays of the training split, by modality.
      test: arrays of the test split, with the same modalities.
      categories: names of modalities whose integers, from 0 on, are categories.
      length: words per text, including its end; longer texts are cut.
      smallest_count: how often a word must occur in the training texts.
      vocabulary_size: maximal number of words.
      scale_vectors: whether each number of a vector is scaled to [-1, 1] by its training range.

    Raises:
      ValueError: the message names the array, and what is wrong.
    """
    form = Form(0, 3, length, smallest_count, vocabulary_size, scale_vectors)
    rows = []
    for name, arrays in (("train", train), ("test", test)):
        lengths = {key: len(array) for key, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays of {name} differ in length, {shown(lengths)}: give N rows.")
        rows.append(list(rows_of_arrays(arrays, name, tuple(categories))))
    return checked(in_memory(Tables(*rows), form, Damage(skip=False)))
