"""A run carried in small files is restored exactly, or one line says why not."""

import json
import shutil

import pytest

from experiments import packs
from tests.commands import digest

SIZE = 1000


@pytest.fixture
def run(tmp_path):
    """A run folder as seen from outside, including files that are not packed."""
    folder = tmp_path / "run"
    for name, content in {
        "config.json": b"{}",
        "metrics.jsonl": b'{"step": 1}\n',
        "classifiers/seed1/classifiers.npz": bytes(1234),
        "checkpoints/4/state/d/array": b"older",
        "checkpoints/8/state/d/array": bytes(range(256)) * 20,
        "checkpoints/8/_CHECKPOINT_METADATA": b"meta",
        "checkpoints/12.orbax-checkpoint-tmp/state": b"half",
        "images/samples.png": b"picture",
        ".lock": b"",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def carried(folder):
    return {
        name: content
        for name, content in digest(folder).items()
        if content is not None
        and not name.startswith(("images", ".lock", "checkpoints/4", "checkpoints/12"))
    }


def files(folder):
    return {name: content for name, content in digest(folder).items() if content is not None}


def test_what_comes_out_is_what_went_in_in_small_files(run, tmp_path):
    index = packs.write(run, tmp_path / "store", {"done": False}, SIZE)
    assert index.step == 8
    sizes = [path.stat().st_size for path in (tmp_path / "store" / "8").glob("*.part")]
    assert len(sizes) > 3
    assert max(sizes) == SIZE
    found = packs.read(tmp_path / "store", tmp_path / "again")
    assert found == index
    assert found.facts == {"done": False}
    assert files(tmp_path / "again") == carried(run)


def test_a_newer_pack_takes_the_place_of_older_ones(run, tmp_path):
    store = tmp_path / "store"
    packs.write(run, store, {}, SIZE)
    shutil.copytree(run / "checkpoints" / "8", run / "checkpoints" / "16")
    assert packs.write(run, store, {}, SIZE).step == 16
    assert [path.name for path in store.iterdir()] == ["16"]
    # The same step again, with other facts.
    packs.write(run, store, {"evaluated": True}, 2 * SIZE)
    assert packs.newest_index(store).facts == {"evaluated": True}
    assert packs.damage(store / "16") == ""
    assert files(tmp_path / "store" / "16").keys() >= {"000.part", "index.json"}


def test_of_a_damaged_pack_the_one_before_is_taken_else_one_line(run, tmp_path):
    store = tmp_path / "store"
    packs.write(run, store, {}, SIZE)
    shutil.copytree(store / "8", store / "20")  # a pack that a lost machine left half-written
    (store / "20" / "index.json").unlink()
    assert packs.read(store, tmp_path / "again").step == 8
    part = store / "8" / "001.part"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(
        ValueError, match=r"every pack is damaged .*index.json is missing.*001"
    ) as e:
        packs.read(store, tmp_path / "third")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "third").exists()
    bad = {"step": -1, "facts": {}, "parts": []}
    for content, problem in ((json.dumps(bad), "index.step"), ("[", "line 1"), ("[]", "no JSON")):
        (store / "8" / "index.json").write_text(content)
        assert problem in packs.damage(store / "8")
    assert packs.newest_index(store) is None


def test_nothing_to_pack_and_nothing_to_read(tmp_path):
    (tmp_path / "run").mkdir()
    assert packs.write(tmp_path / "run", tmp_path / "store", {}) is None
    assert packs.read(tmp_path / "store", tmp_path / "again") is None
    assert packs.newest_index(tmp_path / "store") is None
