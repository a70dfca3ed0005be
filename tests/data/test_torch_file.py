"""Files written by PyTorch; hostile zip files are tested in `test_polymnist`."""

import io
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from mmebm_jax.data.torch_file import read_state_dict, read_tensor

MAGIC = 0x1950A86A20F9469CFC6C


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request):
    """torch.save in both file formats."""
    torch = pytest.importorskip("torch")
    return lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=request.param)


def test_a_state_dict_of_either_format(save, tmp_path):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    save(network.state_dict(), tmp_path / "x.pth")
    state = read_state_dict(tmp_path / "x.pth")
    expected = network.state_dict()
    assert list(state) == list(expected)
    assert state["1.num_batches_tracked"].dtype == np.int64
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value.numpy())


def test_views_of_one_storage_and_parameters(save, tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    values = {"whole": whole, "part": whole[1:3, ::2].T, "p": torch.nn.Parameter(torch.ones(3))}
    save(values, tmp_path / "x.pt")
    state = read_state_dict(tmp_path / "x.pt")
    np.testing.assert_array_equal(state["part"], whole[1:3, ::2].T.numpy())
    np.testing.assert_array_equal(state["p"], np.ones(3, np.float32))


def test_one_tensor_of_either_format(save, tmp_path):
    torch = pytest.importorskip("torch")
    save(torch.arange(6).reshape(2, 3), tmp_path / "x.pt")
    np.testing.assert_array_equal(read_tensor(tmp_path / "x.pt"), np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="not tensors by name"):
        read_state_dict(tmp_path / "x.pt")
    save({"a": torch.ones(1)}, tmp_path / "y.pt")
    with pytest.raises(ValueError, match="holds a dict, not one tensor"):
        read_tensor(tmp_path / "y.pt")
    save({"a": 3}, tmp_path / "z.pt")
    with pytest.raises(ValueError, match="not tensors by name"):
        read_state_dict(tmp_path / "z.pt")


def test_a_whole_network_is_refused_unrun(save, tmp_path):
    torch = pytest.importorskip("torch")
    save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "x.pt")


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, _Persistent) else None


class _Persistent:
    def __init__(self, *pid):
        self.pid = pid


class _Runs:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return __import__("os").mkdir, (str(self.folder),)


def _legacy(description, *rest):
    file = io.BytesIO()
    for value in (MAGIC, 1001, {"little_endian": True}, description, *rest):
        _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def test_a_legacy_pickle_that_calls_code_is_refused_unrun(tmp_path):
    (tmp_path / "x.pth").write_bytes(_legacy(OrderedDict(a=_Runs(tmp_path / "made"))))
    with pytest.raises(ValueError, match=r"mkdir"):
        read_state_dict(tmp_path / "x.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "pid",
    [("module", "f4", "0", "cpu", 3), ("storage", "O", "0", "cpu", 3), ("storage", "f4", 0, "", 3)],
)
def test_other_persistent_objects_are_refused(tmp_path, pid):
    (tmp_path / "x.pth").write_bytes(_legacy({"a": _Persistent(*pid)}, ["0"]))
    with pytest.raises(ValueError, match="storage of unknown kind"):
        read_state_dict(tmp_path / "x.pth")


def test_a_legacy_file_that_is_cut_off_or_lies_is_refused(tmp_path):
    path, whole = tmp_path / "x.pth", {"a": _Persistent("storage", "f4", "0", "cpu", 3)}
    good = _legacy(whole, ["0"])
    path.write_bytes(good + struct.pack("<q", 3) + bytes(12))
    with pytest.raises(ValueError, match="not tensors by name"):  # only a storage
        read_state_dict(path)
    for count, content in ((3, bytes(11)), (2**40, bytes(12)), (-1, b"")):
        path.write_bytes(good + struct.pack("<q", count) + content)
        with pytest.raises(ValueError, match="cut off"):
            read_state_dict(path)
    path.write_bytes(_legacy(whole, ["1"]) + bytes(20))
    with pytest.raises(ValueError, match="other storages"):
        read_state_dict(path)
    path.write_bytes(good[:40])
    with pytest.raises(ValueError, match="is refused"):
        read_state_dict(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    for content in (b"", b"no torch", pickle.dumps([1, 2]), b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a PyTorch zip file, nor an older one"):
            read_state_dict(path)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "absent.pth")
