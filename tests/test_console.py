"""The console command's arguments; `test_package.py` runs it from a wheel."""

import sys

import pytest

from mmebm_jax import console
from tests.test_structure import ROOT


def test_a_mode_and_flags_become_those_of_main(tmp_path):
    given = ["train", "--config=configs/none.py:x", f"--workdir={tmp_path}"]
    assert console.arguments(given, tmp_path) == ["--mode=train", *given[1:]]


@pytest.mark.parametrize("name", ["configs/mine.py", "mine.py"])
def test_a_config_of_the_library_is_found_from_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "site"
    (place / "configs").mkdir(parents=True)
    (place / "configs" / "mine.py").touch()
    found = console.arguments(["train", f"--config={name}:smoke"], place)[1]
    assert found == f"--config={place / 'configs' / 'mine.py'}:smoke"
    # The user's own file takes precedence.
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert console.arguments(["train", f"--config={name}"], place)[1] == f"--config={name}"


def test_the_checkout_is_found():
    assert console.bundle() == ROOT


@pytest.mark.parametrize("given", [[], ["dream"], ["--workdir=x"]])
def test_no_mode_is_one_line(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mmebm", *given])
    with pytest.raises(SystemExit) as caught:
        console.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "usage: mmebm {train,evaluate" in error


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mmebm", "--help"])
    console.main()
    assert "mmebm sample" in capsys.readouterr().out
