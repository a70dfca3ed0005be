"""Readers of the layouts that data sets come in; each is a file with `read` and `annotations`.

`annotations(path, version)` lists the files that say what the examples are, and
`read(reading, version)` gives their rows; the version is a layout's last digits, as a year. A
missing or wrong file ends with one line that names it and where to get it.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmebm_jax.data.rows import Reading, Tables

LAYOUTS = ("folder", "cub", "coco2014", "coco2017", "celeba", "clevr", "mnist_svhn")


class Layout(NamedTuple):
    """What a layout's file holds."""

    annotations: Callable[[Path], Sequence[Path]]
    read: Callable[[Reading], Tables]


def layout(name: str) -> Layout:
    """The layout of a name in `LAYOUTS`."""
    module_name = name.rstrip("0123456789")
    module, version = importlib.import_module(f"{__name__}.{module_name}"), name[len(module_name) :]
    return Layout(
        partial(module.annotations, version=version), partial(module.read, version=version)
    )
