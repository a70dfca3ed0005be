import pytest
from etils import epath

from mmebm_jax.storage.files import write_whole


@pytest.mark.parametrize(("content", "read"), [("ä\n", "ä\n".encode()), (b"\x00\r\n", b"\x00\r\n")])
def test_a_file_is_replaced_by_its_whole_content(tmp_path, content, read):
    path = tmp_path / "file"
    path.write_bytes(b"before, and longer")
    write_whole(epath.Path(path), content)
    assert path.read_bytes() == read
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_what_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, step):
    path = epath.Path(tmp_path) / "file"
    path.write_bytes(b"before")

    def fail(aside, content):
        with open(aside, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(type(path), step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"after")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
