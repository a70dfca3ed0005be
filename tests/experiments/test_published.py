"""Slices of machine time: the full self-check, and input that is refused."""

import json
import subprocess
import sys
import time

import pytest

from experiments import packs, published
from experiments.command_line import read_config
from experiments.published import PRESETS, Slice
from tests.commands import assert_one_line, run_here
from tests.test_structure import ROOT

PRESET = "configs/polydigits.py:smoke"


@pytest.mark.slow
def test_the_self_check():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.published", "--self_check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "has the weights of one that was not" in done.stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_are_for_an_accelerator(preset):
    assert read_config(preset).guard.device == "accelerator"
    assert published.name_of(preset).startswith("polymnist_")


@pytest.fixture
def store(tmp_path):
    """A store with a run at step 8 of 20."""
    run = tmp_path / "run"
    meta = run / "checkpoints" / "8" / "meta" / "metadata"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"progress": {"elapsed_seconds": 90.0, "finished": False}}))
    (run / "config.json").write_text(json.dumps({"num_steps": 20}))
    packs.write(run, tmp_path / "store" / published.name_of(PRESET), published._facts(run), 50_000)
    return tmp_path / "store"


def test_the_status_tells_how_far_runs_are_and_what_is_damaged(store, tmp_path, capsys):
    text, problems = published.status([PRESET, "configs/toy.py"], store, 50_000)
    assert "8 of 20" in text
    assert "1.5" in text
    assert "not begun" in text
    assert not problems
    assert "more than 0 MB" in published.status([PRESET], store, 100)[1][0]
    part = store / published.name_of(PRESET) / "8" / "000.part"
    part.write_bytes(part.read_bytes() + b"x")
    assert published.status([PRESET], store, 50_000)[1] == [
        f"{PRESET}: pack 8: 000.part has another checksum"
    ]
    arguments = (f"--store={store}", f"--presets={PRESET}", "--status")
    status, error = run_here(capsys, *arguments, program=published)
    assert status == 2
    assert_one_line(error, "000.part has another checksum")


def test_what_the_command_refuses_is_told_in_its_line(tmp_path):
    """For example, a preset for an accelerator on these CPUs."""
    machine, end = tmp_path / "machine", time.monotonic() + 600
    work = Slice(tmp_path / "store", machine, machine, ["num_steps=0"], end)
    work.scratch.mkdir()
    with pytest.raises(ValueError, match=r"polydigits.py:smoke: .*num_steps is 0") as caught:
        published.advance(PRESET, work)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_without_a_store_one_line(capsys):
    status, error = run_here(capsys, program=published)
    assert status == 2
    assert_one_line(error, "--store is missing")
