"""Readers for the layouts of data sets; each is a module with `read` and `annotations`.

`annotations(path, version)` lists the files that describe the examples, and
`read(reading, version)` returns their rows; the version is the trailing digits of a layout's name,
such as a year. For a missing or wrong file the error names it and where to get it.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmebm_jax.data.rows import Reading, Tables

LAYOUTS = ("folder", "cub", "coco2014", "coco2017", "celeba", "clevr", "mnist_svhn")


class Layout(NamedTuple):
    """The functions of a layout's module."""

    annotations: Callable[[Path], Sequence[Path]]
    read: Callable[[Reading], Tables]


def layout(name: str) -> Layout:
    """The layout with a name in `LAYOUTS`."""
    module_name = name.rstrip("0123456789")
    module, version = importlib.import_module(f"{__name__}.{module_name}"), name[len(module_name) :]
    return Layout(
        partial(module.annotations, version=version), partial(module.read, version=version)
    )
