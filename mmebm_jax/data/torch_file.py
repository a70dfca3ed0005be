"""Reads tensors from PyTorch files without PyTorch and without running their pickles.

Two formats: the zip file of PyTorch 1.6 and later, where ``*/data.pkl`` describes the tensors and
``*/data/<key>`` holds their bytes, and the earlier format, five pickles (a magic number, a version,
the machine, the description, the keys) followed by the bytes of every storage.
Source: https://pytorch.org/docs/stable/notes/serialization.html and PyTorch's serialization.py. The
tar files from before 0.1.10 are not supported.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from mmebm_jax.storage.validation import brief

_MOST_BYTES = 4 * 2**30  # of all tensors; PolyMNIST's as 32-bit floats have 0.5
_MOST_DESCRIPTION = 2**20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
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


class _Storage(NamedTuple):
    """A storage, as the description states it."""

    key: str
    dtype: str


class _Tensor(NamedTuple):
    """A tensor, as the description states it; not trusted until `_view` has checked it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


def _describe(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


def _describe_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler for tensors only, so that a hostile file cannot name code to run."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, str] = {}  # key → dtype, as stated in the description

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _describe,
            ("torch._utils", "_rebuild_parameter"): _describe_parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or dtype not in _STORAGES.values() or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage of unknown kind")
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("a storage that is a view of another")
        if self.storages.setdefault(key, dtype) != dtype:
            raise pickle.UnpicklingError("a storage of two types")
        return _Storage(key, dtype)


def read_tensor(path: Path) -> np.ndarray:
    """Reads the one tensor saved in ``path`` as a read-only array of its shape and type.

    Raises:
        ValueError: the file is not a PyTorch file, or holds anything but one plain tensor.
    """
    mend = "save it again with torch.save(tensor, path) as one plain CPU tensor"
    tensor = _read(path, mend)
    if not isinstance(tensor, np.ndarray):
        raise ValueError(f"{path} holds a {type(tensor).__name__}, not one tensor: {mend}")
    return tensor


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads a network's tensors by name, as ``torch.save(network.state_dict(), path)`` wrote them.

    Returns:
        Name → read-only array of its shape and type.

    Raises:
        ValueError: the file is not a PyTorch file, or holds anything but tensors by name.
    """
    mend = "save it again with torch.save(network.state_dict(), path)"
    state = _read(path, mend)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in state.items()
    ):
        raise ValueError(f"{path} holds a {type(state).__name__}, not tensors by name: {mend}")
    return dict(state)


def _read(path: Path, mend: str) -> Any:
    """The tensor, or the dict with its tensors, that a file of either format holds."""
    try:
        with open(path, "rb") as file:
            description, storages = (_read_zip if _is_zip(file) else _read_legacy)(file)
            if isinstance(description, dict):
                return {name: _view(value, storages) for name, value in description.items()}
            return _view(description, storages)
    except OSError:
        raise
    except _NoTorchFile:
        raise ValueError(f"{path} is not a PyTorch zip file, nor an older one: {mend}") from None
    # A damaged pickle can raise nearly anything, and all of it means the same to the user.
    except Exception as error:
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(f"{path} is refused, it holds {reason}: {mend}") from None


class _NoTorchFile(Exception):
    """A file in neither format."""


def _is_zip(file: IO[bytes]) -> bool:
    start = file.read(4)
    file.seek(0)
    return start == b"PK\x03\x04"


def _read_zip(file: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise _NoTorchFile from None
    with archive:
        descriptions = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
        if len(descriptions) != 1:
            raise pickle.UnpicklingError("no PyTorch tensor")
        if archive.getinfo(descriptions[0]).file_size > _MOST_DESCRIPTION:
            raise pickle.UnpicklingError("a description of absurd size")
        unpickler = _TensorUnpickler(archive.open(descriptions[0]))
        description = unpickler.load()
        prefix = descriptions[0].removesuffix("data.pkl")
        order_file = prefix + "byteorder"
        big = order_file in archive.namelist() and archive.read(order_file) == b"big"
        members = {key: archive.getinfo(f"{prefix}data/{key}") for key in unpickler.storages}
        _check_size(sum(member.file_size for member in members.values()))
        return description, {
            key: np.frombuffer(archive.read(members[key]), f"{'>' if big else '<'}{dtype}")
            for key, dtype in unpickler.storages.items()
        }


def _read_legacy(file: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
    header = io.BytesIO(file.read(_MOST_DESCRIPTION))
    try:
        opening = [_TensorUnpickler(header).load() for _ in range(2)]
    except Exception:
        raise _NoTorchFile from None
    if opening != [_LEGACY_MAGIC, _LEGACY_VERSION]:
        raise _NoTorchFile
    machine = _TensorUnpickler(header).load()
    order = "<" if machine.get("little_endian", True) else ">"
    unpickler = _TensorUnpickler(header)
    description = unpickler.load()
    keys = _TensorUnpickler(header).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise pickle.UnpicklingError("other storages than it describes")
    end = file.seek(0, io.SEEK_END)
    _check_size(end)
    file.seek(header.tell())
    storages = {}
    for key in keys:
        dtype = np.dtype(f"{order}{unpickler.storages[key]}")
        count = int.from_bytes(file.read(8), "little" if order == "<" else "big", signed=True)
        if not 0 <= count * dtype.itemsize <= end - file.tell():
            raise pickle.UnpicklingError("a storage that is cut off")
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return description, storages


def _check_size(num_bytes: int) -> None:
    if num_bytes > _MOST_BYTES:
        raise pickle.UnpicklingError(f"tensors of more than {_MOST_BYTES >> 30} GiB")


def _view(tensor: Any, storages: Mapping[str, np.ndarray]) -> Any:
    """A view of a tensor's storage; raises an error if it would reach outside it."""
    if not isinstance(tensor, _Tensor):
        return tensor
    offset, size, stride = tensor.offset, tensor.size, tensor.stride
    storage = storages[tensor.storage.key]
    if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor with a negative or ragged shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise pickle.UnpicklingError("a tensor that reaches outside its storage")
    # A stride of 0 would turn a few bytes into an array of any size.
    if math.prod(size) > len(storage):
        raise pickle.UnpicklingError("a tensor larger than its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
