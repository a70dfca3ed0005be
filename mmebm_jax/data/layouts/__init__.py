"""Readers of the layouts that data sets come in; each is a file with `read` and `annotations`.

`annotations(path)` lists the files that say what the examples are, and `read(reading)` gives their
rows. A missing or wrong file ends with one line that names it and where to get it.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmebm_jax.data.rows import Reading, Tables

LAYOUTS = ("folder",)


class Layout(NamedTuple):
    """What a layout's file holds."""

    annotations: Callable[[Path], Sequence[Path]]
    read: Callable[[Reading], Tables]


def layout(name: str) -> Layout:
    """The layout of a name in `LAYOUTS`."""
    module = importlib.import_module(f"{__name__}.{name}")
    return Layout(module.annotations, module.read)
