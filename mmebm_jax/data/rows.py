"""Rows: what a reader of a data set's files yields, before examples are turned into arrays."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LABEL = "label"


class PictureFile(NamedTuple):
    """A picture that has not been read from its file yet."""

    path: Path


Value = PictureFile | np.ndarray | tuple[str, ...] | tuple[float, ...] | int | str
"""A picture as a file or uint8 `[H, W]` or `[H, W, C]`; alternative texts; a vector; a category, an
int from 0 on. A label may also be the name of its class."""


class Row(NamedTuple):
    """One example; missing modalities are absent from its values."""

    place: str  # file and line, for error messages
    values: dict[str, Any]  # modality → `Value`


class Tables(NamedTuple):
    """The rows of both splits, as a reader returns them."""

    train: list[Row]
    test: list[Row]


class Damage:
    """Handling of examples that cannot be read: an error at once, or left out and listed.

    Args:
      skip: whether they are left out.
    """

    def __init__(self, skip: bool):
        self.skip, self.lines = skip, []  # type: ignore[var-annotated]

    def add(self, line: str) -> None:
        """Record an example that cannot be read.

        Args:
          line: which example, and what is wrong with it, without a full stop.

        Raises:
          ValueError: such examples are not to be left out.
        """
        if not self.skip:
            raise ValueError(
                f"{line}: mend it, or set config.data.skip_damaged to True, by which every such "
                "example is left out and counted."
            )
        self.lines.append(line)


class Reading(NamedTuple):
    """The arguments of a reader."""

    path: Path  # the folder
    damage: Damage
    label: str = LABEL  # column of the class, "" for none
    categories: tuple[str, ...] = ()  # columns of integers that are categories
    columns: tuple[str, ...] = ()  # modalities to read, () for all
    split_column: str = "split"
    splits: tuple[str, str] = ("train", "test")  # names of the two splits


def need(path: Path, source: str) -> Path:
    """The path, after checking that it exists.

    Args:
      path: path of a file or a folder.
      source: where to get it.

    Raises:
      FileNotFoundError: it does not exist; the message says where to get it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: get {source}.")
    return path
