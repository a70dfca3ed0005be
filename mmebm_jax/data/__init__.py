"""Data sets by name, and the pipeline that turns them into batches.

A data set is a module of `mmebm_jax/data/sets/` with the name of `config.data.name`. It defines the
record `Options`, all of whose fields have defaults, and `load(options, *, prepare)`.
"""

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from mmebm_jax.data import sets
from mmebm_jax.data.pipeline import batches, index_batches, iterate, whole
from mmebm_jax.data.source import ArraySource, DataSplits, Field, RecordSource, Source, complete
from mmebm_jax.storage.validation import OneOf, Record, parse

__all__ = [
    "DATA_SETS",
    "ArraySource",
    "DataSplits",
    "Field",
    "Named",
    "RecordSource",
    "Source",
    "batches",
    "complete",
    "from_arrays",
    "index_batches",
    "iterate",
    "load_data",
    "section",
    "whole",
]

if TYPE_CHECKING:
    from mmebm_jax.data.arrays import from_arrays

# From the file names, without importing them: TensorFlow Datasets takes seconds to import.
DATA_SETS = tuple(sorted(module.name for module in pkgutil.iter_modules(sets.__path__)))


_NAME = Annotated[str, OneOf(DATA_SETS)]


class Named(Record):
    """The fields that the section `data` of a configuration has for every data set."""

    name: _NAME


@functools.cache
def section(name: str) -> type[Record]:
    """The record of `config.data` for the data set ``name``: the name and its options.

    Raises:
        ValueError: ``name`` is unknown.
    """
    field = pydantic.Field(name, description="Name of the data set.")
    return pydantic.create_model(
        f"{name}_data", __base__=_module(name).Options, name=(_NAME, field)
    )


def load_data(name: str, *, prepare: bool = True, **options: Any) -> DataSplits:
    """Loads the data set ``name``, one of `DATA_SETS`.

    Args:
        name: name of the data set.
        prepare: whether to build the parts of it that are missing on disk.
        options: the fields of its `Options`; see there for their meaning.

    Raises:
        ValueError: ``name`` or an option is unknown, of the wrong type or out of range.
        FileNotFoundError: files that the data set is built from are missing.
    """
    module = _module(name)
    return module.load(parse(module.Options, options, "config.data"), prepare=prepare)


def __getattr__(name: str) -> Any:
    # Imported on demand: it needs packages that a trained model does not need.
    if name == "from_arrays":
        return importlib.import_module(f"{__name__}.arrays").from_arrays
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _module(name: str) -> ModuleType:
    parse(Named, {"name": name}, "config.data")
    return importlib.import_module(f"{sets.__name__}.{name}")
