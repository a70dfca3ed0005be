import json
import os
import subprocess

import filelock
import pytest
from absl.testing import flagsaver
from etils import epath

from configs import methods
from configs.polydigits import get_config
from experiments import compare, shards
from tests.commands import assert_one_line, run_here, small_config
from tests.training.test_loop import few_samples


def result(joint, distance, cross):
    return {
        "step": 10,
        "joint_coherence": joint,
        "frechet": distance,
        "cross_coherence": {"mean": cross},
        "coherence_by_inputs": {"1": cross, "2": 0.75},
    }


def test_refined_samples_come_before_the_generators_own():
    one = result({"generator": 0.5, "energy": 0.7}, {"generator": 9.0}, 0.8)
    assert compare.lookup(one, ("joint_coherence", "energy", "generator")) == 0.7
    assert compare.lookup(one, ("frechet", "energy", "generator")) == 9.0
    assert compare.lookup(one, ("cross_coherence", "expert_mean")) is None
    assert compare.lookup(one, ("train_seconds",)) is None


def test_mean_and_deviation_over_seeds(tmp_path):
    runs = [result({"generator": j}, {"generator": 4.0}, 0.5) for j in (0.1, 0.2, 0.6)]
    summary = compare.summarise({"vae": runs, "other": runs[:1]})
    assert summary["vae"]["joint coherence"]["mean"] == pytest.approx(0.3)
    assert summary["vae"]["joint coherence"]["standard_deviation"] == pytest.approx(0.07**0.5)
    assert "seconds" not in summary["vae"]
    table = compare.to_markdown(summary).splitlines()
    assert "0.300 ± 0.265" in table[2]
    assert "±" not in table[3]
    details = compare.to_markdown(summary, compare.DETAILS).splitlines()
    cells = [cell.strip() for cell in details[2].strip("|").split("|")]
    assert cells == ["vae", "0.500 ± 0.000", "0.750 ± 0.000", "–", "–", "–"]
    assert details[3].count("–") == 3  # no subset of three or four inputs, and no rate
    compare.draw(summary, epath.Path(tmp_path))
    assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_a_finished_run_is_read_and_not_trained_again(tmp_path):
    (tmp_path / "mixture_control").mkdir()
    for name, joint in (("", 0.4), ("mixture_control", 0.8)):
        content = json.dumps(result({"generator": joint}, {"generator": 1.0}, 0.9))
        (tmp_path / name / "evaluation.json").write_text(content)
    found = compare.run_one(get_config("mmvae"), epath.Path(tmp_path), epath.Path(tmp_path))
    assert [found[name]["joint_coherence"]["generator"] for name in ("", " + mixture")] == [
        0.4,
        0.8,
    ]


@pytest.mark.usefixtures("parsed_flags")
def test_a_budget_of_steps_keeps_the_schedules_proportions():
    base = get_config("full")
    with flagsaver.flagsaver(budget_steps=600):
        config = compare.with_flags(base, seed=3)
    assert (config.seed, config.num_steps, config.warmup_steps) == (3, 600, 360)
    assert compare.with_flags(base, seed=3).num_steps == base.num_steps == 6000
    assert base.seed == 0


def test_a_finished_run_is_not_read_under_another_budget(tmp_path):
    config = get_config("mmvae")
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    (tmp_path / "budget.json").write_text('{"budget_seconds": 60.0}')
    folder = epath.Path(tmp_path)
    with pytest.raises(ValueError, match="under a budget of 60 s, not of 90 s"):
        compare.run_one(config, folder, folder, 90.0)


@pytest.mark.slow
@few_samples
def test_a_run_under_a_budget_records_what_was_asked_and_used(tmp_path, monkeypatch):
    config = small_config(
        data__num_train=40, evaluation__num_samples=20, evaluation__measures="joint_samples"
    )
    config.update_from_flattened_dict(methods.PLAIN)  # a plain VAE has a control
    config.elbo.learned_prior = False
    monkeypatch.setattr(
        compare.budget, "fitted_schedule", lambda config, *_: compare.scaled(config, 4)
    )
    found = compare.run_one(config, epath.Path(tmp_path / "run"), epath.Path(tmp_path), 30.0)
    assert list(found) == ["", " + mixture"]
    used = [result["train_seconds"] for result in found.values()]
    assert used[1] > used[0] > 0  # the control's fit counts too
    assert [result["budget_seconds"] for result in found.values()] == [30.0, 30.0]
    assert found[""]["step"] == 4
    summary = compare.summarise({name: [result] for name, result in found.items()})
    assert summary[""]["budget"]["mean"] == 30.0
    assert "budget" in compare.to_markdown(summary).splitlines()[0]
    # The part left to do is checked with the schedule that the run already has.
    folder = epath.Path(tmp_path / "run")
    (folder / "evaluation.json").unlink()
    compare.check_grid({folder: config}, epath.Path(tmp_path), 30.0)
    with pytest.raises(ValueError, match=r"holds a run under a budget of 30 s, not of 60 s"):
        compare.check_grid({folder: config}, epath.Path(tmp_path), 60.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--configs is empty"),
        (["--configs=configs/polydigits.py:smoke", "--budget_minutes=0"], "must be more than 0"),
        (["--configs=configs/polydigits.py:smoke", "--budget_steps=-3"], "must be more than 0"),
        (["--configs=configs/polydigits.py:nonsense"], "choose one of full, mmvae"),
        (
            ["--configs=configs/polydigits.py:smoke", "--budget_steps=8", "--budget_minutes=1"],
            "exclude each other",
        ),
        (["--configs=configs/polydigits.py:smoke", "--jobs=4096"], "--jobs=4096"),
        (["--configs=README.md"], "README.md: SyntaxError"),
        (["--configs=configs"], "config file configs is a folder"),
        (["--configs=configs/methods.py"], "configs/methods.py: AttributeError"),
        (["--configs=configs/polydigits.py:smoke", "--seeds="], "--seeds=: give whole numbers"),
        (["--configs=configs/polydigits.py:smoke", "--seeds=a"], "--seeds=a: give whole numbers"),
        (["--configs=configs/polydigits.py:smoke", "--seeds=0,-1"], "--seeds=0,-1: give whole"),
        (["--configs=configs/polydigits.py:smoke", "--seeds=0,0"], "--seeds=0,0 names a number"),
        (
            ["--configs=configs/polydigits.py:mmvae,configs/folder.py:paper_b"],
            "mmvae has config.data.name = 'polydigits' and paper_b 'folder'",
        ),
        (["--configs=configs/folder.py:paper_b"], "config.data.path"),
        (["--configs=configs/polydigits.py:smoke", "--results=configs"], "configs is a folder"),
        (["--configs=configs/polydigits.py:smoke", "--shard=3/2"], "--shard=3/2: give i/n"),
        (["--configs=configs/polydigits.py:smoke", "--shard=1/2", "--jobs=2"], "exclude each"),
    ],
)
def test_bad_flags_end_with_one_line(tmp_path, capsys, arguments, message):
    status, errors = run_here(capsys, *arguments, f"--workdir={tmp_path / 'runs'}", program=compare)
    assert status != 0
    assert_one_line(errors, message)
    assert not (tmp_path / "runs").exists()


def test_what_ends_a_later_run_is_refused_before_the_first(tmp_path, capsys, monkeypatch):
    """A batch larger than the data, an unknown measure, or a folder in use."""

    def refuse(*_):
        raise AssertionError("a run began")

    monkeypatch.setattr(compare, "run_one", refuse)
    lines = ["from configs import polydigits", "def get_config(variant='a'):"]
    lines += ["    config = polydigits.get_config('smoke')"]
    lines += ["    config.batch_size = 400 if variant == 'large' else config.batch_size"]
    lines += ["    config.evaluation.measures = 'beauty' if variant == 'odd' else 'all'"]
    (tmp_path / "own.py").write_text("\n".join([*lines, "    return config"]))
    folder = tmp_path / "runs" / "seed1" / "taken"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(get_config("smoke").to_json_best_effort())
    for variant, message in (
        ("large", "config.batch_size is 400"),
        ("odd", "measures names 'beauty'"),
        ("taken", "holds a run with seed = 0, not 1"),
    ):
        arguments = [f"--configs={tmp_path / 'own.py'}:a,{tmp_path / 'own.py'}:{variant}"]
        arguments += ["--seeds=0,1", f"--workdir={tmp_path / 'runs'}"]
        status, errors = run_here(capsys, *arguments, program=compare)
        assert status != 0
        assert_one_line(errors, message)


@pytest.mark.usefixtures("parsed_flags")
def test_jobs_have_cores_of_their_own(tmp_path, monkeypatch):
    cores, commands = [], []

    def run(command, **options):
        cores.append(os.sched_getaffinity(0))
        commands.append(command)
        return subprocess.CompletedProcess(command, returncode=len(commands) == 6)

    monkeypatch.setattr(compare.subprocess, "run", run)
    before = os.sched_getaffinity(0)
    names = {name: f"configs/polydigits.py:{name}" for name in ("mmvae", "full")}
    jobs = min(2, len(before))
    with flagsaver.flagsaver(budget_minutes=0.5):
        compare.run_jobs(names, [0, 1], epath.Path(tmp_path), jobs)
        asked = {(c[3], c[4]) for c in commands}
        assert asked == {(f"--configs={n}", f"--seeds={s}") for n in names.values() for s in (0, 1)}
        assert all("--notable" in c and "--budget_minutes=0.5" in c for c in commands)
        assert all(len(share) == len(before) // jobs and share <= before for share in cores)
        assert (tmp_path / "seed1" / "full.log").exists()
        with pytest.raises(ValueError, match=r"seed 2 failed: see .*\.log"):
            compare.run_jobs(names, [2], epath.Path(tmp_path), jobs)
    assert os.sched_getaffinity(0) == before


@pytest.mark.usefixtures("parsed_flags")
@pytest.mark.parametrize(("wanted", "installed"), [(True, True), (True, False), (False, True)])
def test_a_comparison_ends_with_its_report(tmp_path, monkeypatch, capsys, wanted, installed):
    found = {"": result({"generator": 0.5}, {"generator": 4.0}, 0.5)}
    monkeypatch.setattr(compare, "run_one", lambda *_: found)
    monkeypatch.setattr(compare.report, "can_write", lambda: installed)
    monkeypatch.setattr(compare.report, "write", lambda workdir: workdir / "report.html")
    configs = ["configs/polydigits.py:smoke"]
    with flagsaver.flagsaver(configs=configs, workdir=str(tmp_path), report=wanted):
        compare.main()
    printed = capsys.readouterr().out
    assert (f"wrote {tmp_path / 'report.html'}" in printed) == (wanted and installed)
    assert ("pip install 'mmebm_jax[report]'" in printed) == (not installed)
    assert (tmp_path / "comparison.md").exists()


@pytest.mark.usefixtures("parsed_flags")
def test_the_shard_that_ends_last_writes_the_table(tmp_path, monkeypatch, capsys):
    """The first of two does its own and the other's runs, except what the other is working on."""
    begun = []

    def run_one(config, folder, *_):
        begun.append(folder.name)
        for path in compare.wanted(config, folder).values():
            path.mkdir(parents=True, exist_ok=True)
            one = result({"generator": 0.5}, {"generator": 4.0}, 0.5)
            (path / "evaluation.json").write_text(json.dumps(one))
        return {"": one}

    monkeypatch.setattr(compare, "run_one", run_one)
    monkeypatch.setattr(compare, "_train_classifiers", lambda *_: None)
    configs = [f"configs/polydigits.py:{name}" for name in ("full", "paper_b", "union")]
    flags = {"configs": configs, "workdir": str(tmp_path), "report": False, "shard": "1/2"}
    (tmp_path / "seed0" / "paper_b").mkdir(parents=True)
    with flagsaver.flagsaver(**flags):
        with filelock.FileLock(tmp_path / "seed0" / "paper_b" / shards.LOCK):
            compare.main()
        assert begun == ["full", "union"]
        assert "1 of 3 runs are under way elsewhere" in capsys.readouterr().out
        assert not (tmp_path / "comparison.md").exists()
        compare.main()
    assert begun == ["full", "union", "paper_b", "full", "paper_b", "union"]  # last 3 for the table
    assert (tmp_path / "comparison.md").exists()
