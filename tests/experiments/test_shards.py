"""Three processes divide a grid; one is killed, and another takes over its run."""

import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from experiments import shards
from tests.test_structure import ROOT

# Each run counts to five in a file, just as training goes from checkpoint to checkpoint.
WORKER = """
import sys, time
from etils import epath
from experiments import shards

place, root, hangs = sys.argv[1], epath.Path(sys.argv[2]), sys.argv[3] == "hangs"
folders = [root / name for name in "abcdefg"]
for folder in shards.claims(folders, shards.parse(place), lambda f: (f / "done").exists()):
    steps = folder / "steps"
    with steps.open("a") as file:
        while (count := len(steps.read_text().split())) < 5:
            file.write(f"{place}\\n")
            file.flush()
            time.sleep(60 if hangs else 0.01)
    (folder / "done").touch()
"""


def start(place, root, hangs=""):
    return subprocess.Popen([sys.executable, "-c", WORKER, place, root, hangs], cwd=ROOT)


def test_a_grid_survives_the_death_of_a_machine(tmp_path):
    dying = start("1/3", tmp_path, "hangs")
    while not (tmp_path / "a" / "steps").exists():
        assert dying.poll() is None
        time.sleep(0.02)
    others = [start(f"{place}/3", tmp_path) for place in (2, 3)]
    assert [process.wait(timeout=300) for process in others] == [0, 0]
    # The run it held was left alone while it lived; the others did everything else, its share too.
    assert {path.parent.name for path in tmp_path.glob("*/done")} == set("bcdefg")
    for name in "bcdefg":
        steps = (tmp_path / name / "steps").read_text().split()
        assert len(steps) == 5, name
        assert len(set(steps)) == 1, name  # only one process worked on each run
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert start("2/3", tmp_path).wait(timeout=300) == 0
    assert (tmp_path / "a" / "steps").read_text().split() == ["1/3", *4 * ["2/3"]]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/2/3", "-1/2", "a/b", "1/99999"])
def test_a_bad_shard_is_one_line(text):
    with pytest.raises(ValueError, match=r"give i/n with 1 <= i <= n") as caught:
        shards.parse(text)
    assert "\n" not in str(caught.value)


def test_a_shards_own_runs_come_first(tmp_path):
    folders = [epath.Path(tmp_path) / name for name in "abcde"]
    order = list(shards.claims(folders, shards.parse("2/3"), lambda folder: folder.name == "e"))
    assert [folder.name for folder in order] == ["b", "a", "c", "d"]
    with pytest.raises(ValueError, match="no locking"):
        next(shards.claims([epath.Path("gs://bucket/a")], shards.parse("1/1"), lambda _: False))
