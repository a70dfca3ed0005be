"""Gathering evaluations into a file of results."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import gather, render, results
from tests.commands import assert_one_line, run_here, save_run, small_config

MADE = {"version": "abc", "machine": "1 core of some", "date": "2026-01-02"}


@pytest.fixture
def runs(tmp_path):
    """Two runs whose steps took 1 and 3 minutes, with a record in between that is not a row."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        save_run(folder, small_config(seed=seed, batch_size=8))
        rates = [(30, 8.0), (60, 8.0)] if seed == 0 else [(30, 4.0), (60, 2.0)]
        lines = [{"step": step, "examples_per_second": rate} for step, rate in rates]
        lines.insert(1, {"event": "diagnostics", "step": 30})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        write(folder, joint_coherence={"generator": 0.5 + seed / 10})
    return folders


def write(folder, made=None, **metrics):
    (folder / "evaluation.json").write_text(json.dumps({"made": made or MADE, **metrics}))


def test_minutes_are_those_of_the_steps(runs):
    found = [gather.training_minutes(folder, 8) for folder in runs]
    assert found == pytest.approx([1.0, 3.0])


def test_an_export_that_was_measured_took_no_minutes(runs):
    (runs[0] / "metrics.jsonl").unlink()
    row = gather.row(f"shipped={runs[0]}")
    assert "minutes" not in row
    assert row["method"] == "shipped"
    assert row["joint_coherence"] == {"generator": 0.5}


def test_a_table_of_runs_says_who_measured_them(runs, tmp_path):
    path = tmp_path / "some.json"
    flags.FLAGS(["main"])
    with flagsaver.flagsaver(
        (gather._RUNS, [f"a={runs[0]}", str(runs[1])]),
        (gather._RESULTS, str(path)),
        (gather._NOTE, "Trained elsewhere."),
    ):
        gather.main()
    found = results.read(path)
    assert {name: found[name] for name in MADE} == MADE
    assert [(r["method"], r["seed"], r["minutes"]) for r in found["rows"]] == [
        ("a", 0, 1.0),
        ("two", 1, 3.0),
    ]
    assert render.caption(found).endswith("on 1 core of some. Trained elsewhere.")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"step": 1}', "does not say what made it"),
        ("[1]", "is damaged (it holds no JSON object)"),
        ('{"step": 1,', "is damaged"),
    ],
)
def test_an_evaluation_that_cannot_be_read_is_named(runs, tmp_path, capsys, content, named):
    (runs[0] / "evaluation.json").write_text(content)
    arguments = f"--runs={runs[0]}", f"--results={tmp_path / 'some.json'}"
    _, line = run_here(capsys, *arguments, program=gather)
    assert_one_line(line, f"{runs[0] / 'evaluation.json'} ", named, "--mode=evaluate")


def test_runs_that_differ_or_lack_an_evaluation_end_with_a_line(runs, tmp_path, capsys):
    arguments = f"--runs={runs[0]},{runs[1]}", f"--results={tmp_path / 'some.json'}"
    write(runs[1], made=MADE | {"version": "def"})
    status, line = run_here(capsys, *arguments, program=gather)
    assert status == 2
    assert "evaluated differently" in line
    (runs[1] / "evaluation.json").unlink()
    status, line = run_here(capsys, *arguments, program=gather)
    assert status == 2
    assert "--mode=evaluate" in line
    assert not (tmp_path / "some.json").exists()
