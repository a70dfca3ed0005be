"""The diffusion refiner's command, on a run of a few steps."""

import json

import jax
import numpy as np
import pytest

from experiments import refiner
from mmebm_jax import training
from mmebm_jax.training.refiner import (
    FILE,
    FOLDER,
    RefinerSettings,
    load_refiner,
    save_refiner,
    train_refiner,
)
from tests.commands import assert_one_line, run_here, save_run, small_config

SETTINGS = RefinerSettings(num_steps=2, batch_size=8, width=4, multipliers=(1,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refiner") / "run"
    run = training.prepare(small_config(), folder)
    training.train(run)
    return run


@pytest.mark.slow
def test_what_is_saved_is_what_was_trained(run):
    sampler, _ = training.restore_sampler(run)
    trained = train_refiner(jax.random.key(0), run, sampler, SETTINGS)
    assert set(trained.params) == {m.name for m in run.model.modalities}
    save_refiner(run.workdir, trained, SETTINGS)
    restored, settings = load_refiner(run.workdir)
    assert restored.network == trained.network
    assert settings._replace(multipliers=tuple(settings.multipliers)) == SETTINGS
    jax.tree.map(np.testing.assert_array_equal, restored.params, trained.params)
    (run.workdir / FOLDER / FILE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"refiner\.npz is damaged"):
        load_refiner(run.workdir)


@pytest.mark.slow
def test_the_comparison_refines_the_same_samples_in_every_way(run):
    sampler, _ = training.restore_sampler(run)
    save_refiner(run.workdir, train_refiner(jax.random.key(0), run, sampler, SETTINGS), SETTINGS)
    rows = refiner.compare(run.workdir, (1, 2))
    kept = json.loads((run.workdir / FOLDER / refiner.FILE).read_text())
    assert [row["method"] for row in kept["rows"]] == [
        "generator",
        "data energy",
        "diffusion, 1 steps",
        "diffusion, 2 steps",
    ]
    assert all(row["milliseconds_a_sample"] > 0 for row in rows)


def test_without_a_run_or_a_checkpoint_it_says_so(tmp_path, capsys):
    status, stderr = run_here(capsys, f"--workdir={tmp_path}", program=refiner)
    assert status == 2
    assert_one_line(stderr, tmp_path)
    save_run(tmp_path, small_config(), steps=())
    status, stderr = run_here(capsys, f"--workdir={tmp_path}", program=refiner)
    assert status == 2
    assert_one_line(stderr, "no checkpoint", "train there first")


def test_a_comparison_without_a_refiner_names_the_command(tmp_path, capsys):
    save_run(tmp_path, small_config())
    status, stderr = run_here(capsys, "--compare", f"--workdir={tmp_path}", program=refiner)
    assert status == 2
    assert_one_line(stderr, "refiner.npz", "python -m experiments.refiner")


@pytest.mark.parametrize("steps", ["0", "1001", "x", ""])
def test_steps_of_the_sampler_are_checked(tmp_path, capsys, steps):
    arguments = ("--compare", f"--sampler_steps={steps}", f"--workdir={tmp_path}")
    status, stderr = run_here(capsys, *arguments, program=refiner)
    assert status == 2
    assert_one_line(stderr, "--sampler_steps", "from 1 to 1000")
