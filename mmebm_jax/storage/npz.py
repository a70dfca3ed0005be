"""Safe reading of `.npz` files from untrusted sources.

Nothing in them is executed, and nothing is allocated before its size has been checked.
"""

import math
import zipfile
from collections.abc import Callable
from typing import IO

import numpy as np
from etils import epath

from mmebm_jax.storage.validation import brief, plain, shown

MOST_BYTES = 2 * 2**30  # of the file, and of all its arrays once unpacked
MOST_ARRAYS = 10_000
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

Accept = Callable[[str, tuple[int, ...], np.dtype], None]
"""(name, shape, dtype) of an array about to be read; raises `ValueError` to reject it."""


def read_npz(path: epath.Path, accept: Accept | None = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, by name.

    Args:
      path: path of the file.
      accept: called for every array before its values are read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an `.npz` of plain arrays, is damaged, has a name twice or takes more
        than `MOST_BYTES`; or `accept` rejects an array.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not an .npz file.")
    if path.stat().length > MOST_BYTES:
        raise ValueError(f"the file is larger than {MOST_BYTES >> 30} GiB.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _read(archive, accept)
    except _Refused as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for damaged files.
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(
            f"the file cannot be read as an .npz of plain arrays ({reason})."
        ) from error


class _Refused(Exception):
    """A file that could be parsed is not acceptable; the message says why."""


def _read(archive: zipfile.ZipFile, accept: Accept | None) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if not members:
        raise _Refused("it holds no named arrays.")
    if len(members) > MOST_ARRAYS:
        raise _Refused(f"it holds {len(members)} files, more than {MOST_ARRAYS}.")
    # zipfile never returns more of a member than its declared size.
    if sum(member.file_size for member in members) > MOST_BYTES:
        raise _Refused(f"its arrays take more than {MOST_BYTES >> 30} GiB.")
    arrays: dict[str, np.ndarray] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or member.compress_type not in _COMPRESSIONS:
            raise _Refused(f"its member {plain(member.filename)!r} is no plain array.")
        if name in arrays:
            raise _Refused(f"it holds {plain(name)!r} twice.")
        with archive.open(member) as stream:
            arrays[name] = _array(name, member.file_size, stream, accept)
    return arrays


def _array(name: str, size: int, stream: IO[bytes], accept: Accept | None) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise _Refused(f"its array {plain(name)!r} is of the format {version}, not 1.0 or 2.0.")
    shape, fortran_order, dtype = _HEADER_READERS[version](stream)
    if dtype.kind not in "biufU" or dtype.subdtype is not None or not dtype.itemsize:
        raise _Refused(f"its array {plain(name)!r} has dtype {shown(dtype)}: give plain numbers.")
    num_bytes = dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or num_bytes + stream.tell() != size:
        raise _Refused(
            f"its array {plain(name)!r} claims shape {shown(shape)}, but the file holds "
            f"{size} bytes of it."
        )
    if accept is not None:
        try:
            accept(name, shape, dtype)
        except ValueError as error:
            raise _Refused(str(error)) from error
    content = stream.read(num_bytes)
    stream.read(1)  # zipfile compares the checksum when it reaches the end.
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
    return values.astype(dtype.newbyteorder("="), copy=False)
