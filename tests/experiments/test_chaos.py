import json
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath

from experiments import command_line
from experiments.reliability import chaos

pytestmark = pytest.mark.usefixtures("parsed_flags")


def call(workdir, **values):
    with flagsaver.flagsaver(workdir=str(workdir), **values):
        command_line.guarded(chaos.main)


@pytest.mark.slow
def test_a_disturbed_run_ends_as_an_undisturbed_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    workdir = tmp_path / "chaos"
    call(workdir, rounds=1, fault_seed=18, faults=["kill", "terminate", "truncate"])
    (outcome,) = json.loads((workdir / "chaos.json").read_text())
    assert outcome["faults"] == ["terminate", "kill", "truncate"]
    assert outcome["finished"]
    assert outcome["each_step_once"]
    assert outcome["unchanged"]
    assert "1 of 1 rounds passed" in capsys.readouterr().out


def folder_with_checkpoints(tmp_path, *steps):
    for step in steps:
        folder = tmp_path / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).write_bytes(bytes(10))
    return epath.Path(tmp_path)


@pytest.mark.parametrize(("delete", "left"), [(False, 15), (True, 10)])
def test_one_file_of_the_newest_checkpoint_is_damaged(tmp_path, delete, left):
    folder = folder_with_checkpoints(tmp_path, 9, 10)
    chaos.damage(folder, np.random.default_rng(0), delete=delete)
    sizes = {step: sum(p.stat().st_size for p in Path(tmp_path, "checkpoints", step).iterdir())
             for step in ("9", "10")}  # fmt: skip
    assert sizes == {"9": 20, "10": left}


def test_the_only_checkpoint_is_left_alone(tmp_path):
    folder = folder_with_checkpoints(tmp_path, 9)
    chaos.damage(folder, np.random.default_rng(0), delete=True)
    assert len(list((folder / "checkpoints" / "9").iterdir())) == 2


def test_sameness_is_bitwise():
    one = {"a": np.float32([1, 2])}
    assert chaos.same(one, {"a": np.float32([1, 2])})
    assert not chaos.same(one, {"a": np.float32([1, np.nextafter(np.float32(2), np.float32(3))])})
    assert not chaos.same(one, {})


def outcome(**changes):
    sound = chaos.Outcome(0, ["kill"], True, True, True, True, [], [])
    return sound._replace(**changes)


def test_what_a_round_must_show():
    assert outcome().passed
    assert not outcome(finished=False).passed
    assert not outcome(each_step_once=False).passed
    assert not outcome(unchanged=False).passed
    assert not outcome(stops=[chaos.Stop(1.0, usable=False)]).passed
    planted = outcome(faults=["kill", "nan_batch"], unchanged=False)
    assert planted.passed
    assert not planted._replace(finite=False).passed


def test_the_table_counts_exactness_where_nothing_was_planted():
    text = chaos.table([outcome(), outcome(faults=["kill", "explosion"], unchanged=False)])
    (kill,) = [line for line in text.splitlines() if "| kill" in line]
    assert [cell.strip() for cell in kill.split("|")[2:-1]] == ["2", "2", "1 of 1", "2"]
    assert "2 of 2 rounds passed" in text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"faults": ["kill", "fire"]}, "--faults fire"),
        ({"plant": "nan_batch"}, "--plant=nan_batch"),
        ({"plant": "kill:3"}, "--plant=kill:3"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, values, named):
    with pytest.raises(SystemExit) as ended:
        call(tmp_path / "chaos", **values)
    assert ended.value.code == command_line.USAGE_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_an_existing_folder_is_left_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(tmp_path)
    assert str(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
