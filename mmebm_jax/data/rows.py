"""Rows: what a reader of somebody's files yields, before anything is turned into arrays."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LABEL = "label"


class PictureFile(NamedTuple):
    """A picture that is still a file."""

    path: Path


Value = PictureFile | np.ndarray | tuple[str, ...] | tuple[float, ...] | int | str
"""A picture as a file or uint8 `[H, W]` or `[H, W, C]`; alternative texts; a vector; a category, an
int from 0 on. Of the label alone also its class's name."""


class Row(NamedTuple):
    """One example; what it lacks is not among its values."""

    place: str  # where it stands, for a line about it
    values: dict[str, Any]  # modality → `Value`


class Tables(NamedTuple):
    """What a reader yields."""

    train: list[Row]
    test: list[Row]


class Damage:
    """What cannot be read: refused at once, or left out and listed.

    Args:
      skip: whether it is left out.
    """

    def __init__(self, skip: bool):
        self.skip, self.lines = skip, []  # type: ignore[var-annotated]

    def add(self, line: str) -> None:
        """Take note of an example that is left out.

        Args:
          line: which, and what is wrong with it, without a full stop.

        Raises:
          ValueError: nothing is to be left out.
        """
        if not self.skip:
            raise ValueError(
                f"{line}: mend it, or set config.data.skip_damaged to True, by which every such "
                "example is left out and counted."
            )
        self.lines.append(line)


class Reading(NamedTuple):
    """What a reader is asked for."""

    path: Path  # the folder
    damage: Damage
    label: str = LABEL  # column of the class, "" for none
    categories: tuple[str, ...] = ()  # columns of integers that are categories
    columns: tuple[str, ...] = ()  # modalities to take, () for all
    split_column: str = "split"
    splits: tuple[str, str] = ("train", "test")  # what the two splits are called


def need(path: Path, source: str) -> Path:
    """The path, if it is there.

    Args:
      path: of a file or a folder.
      source: where to get it.

    Raises:
      FileNotFoundError: one line with both.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: get {source}.")
    return path
