"""Data sets by name, and the pipeline that turns them into batches."""

from typing import Any

from mmebm_jax.data.options import OPTIONS
from mmebm_jax.data.pipeline import batches, index_batches, iterate, whole
from mmebm_jax.data.sets.polydigits import polydigits
from mmebm_jax.data.sets.ring import ring
from mmebm_jax.data.source import ArraySource, DataSplits, Field, RecordSource, Source
from mmebm_jax.storage.validation import check, choice

__all__ = [
    "ArraySource",
    "DataSplits",
    "Field",
    "RecordSource",
    "Source",
    "batches",
    "index_batches",
    "iterate",
    "load_data",
    "whole",
]


def load_data(name: str, *, prepare: bool = True, **options: Any) -> DataSplits:
    """Loads the data set ``name``: "polydigits", "polymnist" or "ring".

    Args:
        name: which data set.
        prepare: whether to build what is missing of it on disk.
        options: passed on to the function of that name; see it for their meaning.

    Raises:
        ValueError: ``name`` or an option is unknown, of a wrong type or out of range.
        FileNotFoundError: files that the data set is built from are missing.
    """
    check({"name": name}, {"name": choice(*OPTIONS)}, "config.data")
    check(options, OPTIONS[name], "config.data")
    if name == "polydigits":
        return polydigits(**options)
    if name == "ring":
        return ring(**options)
    # TensorFlow Datasets takes seconds to import, so only those who use it wait.
    from mmebm_jax.data.sets.polymnist import polymnist

    return polymnist(**options, prepare=prepare)
