"""Reads a tensor from a PyTorch ``.pt`` file without PyTorch and without running its pickle.

The zip format (PyTorch 1.6 and later): ``*/data.pkl`` describes the tensor, ``*/data/<key>``
holds its bytes. Source: https://pytorch.org/docs/stable/notes/serialization.html
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from mmebm_jax.storage.validation import brief

_MOST_BYTES = 4 * 2**30  # of a tensor; PolyMNIST's as 32-bit floats have 0.5
_MOST_DESCRIPTION = 2**20
_STORAGES = {
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
}


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any
) -> np.ndarray:
    """A view of ``storage``, refused if it would reach outside it."""
    if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor with a negative or ragged shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise pickle.UnpicklingError("a tensor that reaches outside its storage")
    # A stride of 0 would make of few bytes an array of any size.
    if math.prod(size) > len(storage):
        raise pickle.UnpicklingError("a tensor larger than its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors and nothing else, so a hostile file can name no code to run."""

    def __init__(self, archive: zipfile.ZipFile, description: str):
        if archive.getinfo(description).file_size > _MOST_DESCRIPTION:
            raise pickle.UnpicklingError("a description of absurd size")
        super().__init__(archive.open(description))
        self._archive = archive
        self._prefix = description.removesuffix("data.pkl")
        order_file = self._prefix + "byteorder"
        big = order_file in archive.namelist() and archive.read(order_file) == b"big"
        self._order = ">" if big else "<"

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return self._order + _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, *_ = pid
        member = self._archive.getinfo(f"{self._prefix}data/{key}")
        if member.file_size > _MOST_BYTES:
            raise pickle.UnpicklingError(f"a tensor of more than {_MOST_BYTES >> 30} GiB")
        return np.frombuffer(self._archive.read(member), dtype)


def read_tensor(path: Path) -> np.ndarray:
    """Reads the one tensor saved in ``path`` as a read-only array of its shape and type.

    Raises:
        ValueError: the file is not a PyTorch zip file, or holds anything but one plain tensor.
    """
    mend = "save it again with torch.save(tensor, path) as one plain CPU tensor"
    try:
        with zipfile.ZipFile(path) as archive:
            descriptions = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
            if len(descriptions) != 1:
                raise pickle.UnpicklingError("no PyTorch tensor")
            tensor = _TensorUnpickler(archive, descriptions[0]).load()
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is not a PyTorch zip file: {mend}") from None
    # A damaged pickle can raise nearly anything; all of it means the same to the reader.
    except Exception as error:
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(f"{path} is refused, it holds {reason}: {mend}") from None
    if not isinstance(tensor, np.ndarray):
        raise ValueError(f"{path} holds a {type(tensor).__name__}, not one tensor: {mend}")
    return tensor
