"""IDX files, MNIST's format."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

MOST_BYTES = 2**26  # MNIST's largest file has 45 MiB


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes, MNIST's format, in its stored shape.

    Raises:
        ValueError: it is not such a file.
    """
    return parsed(unpacked(path), path)


def unpacked(path: Path) -> bytes:
    """The unpacked content of a gzip file.

    Raises:
        ValueError: it is damaged, or larger than MNIST's files.
    """
    try:
        with gzip.open(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise ValueError(f"{path} is not a whole gzip file: download it again") from None
    if len(raw) > MOST_BYTES:
        raise ValueError(f"{path} unpacks to more than MNIST's files: download it again")
    return raw


def parsed(raw: bytes, path: Path) -> np.ndarray:
    """The array in the bytes of an IDX file; ``path`` is only for error messages.

    Raises:
        ValueError: they are not an IDX file of bytes.
    """
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes: download it again")
    begin = 4 + 4 * raw[3] if len(raw) > 3 else 4
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, begin, 4)]
    if len(raw) < begin or len(raw) - begin != math.prod(shape):
        raise ValueError(f"{path} is cut short: download it again")
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)
