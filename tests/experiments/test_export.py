"""A single command exports a run and writes the cost of low-bit storage to the card."""

import json

import pytest
from etils import epath

import mmebm_jax
from experiments import evaluate, export, page
from experiments.measures import samples
from mmebm_jax.runs import builders, cards, checkpoint
from tests.commands import assert_one_line, run_here, save_run, small_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_card_has_both_rows_and_the_numbers_are_the_samplers_own(tmp_path, capsys):
    run, folder = epath.Path(tmp_path) / "run", epath.Path(tmp_path) / "digits"
    sizes = {"data__num_train": 80, "data__num_test": 80, "evaluation__classifier_steps": 2}
    save_run(run, small_config(**sizes))
    (run / "evaluation.json").write_text(json.dumps({"step": 0, "num_samples": 9}))
    mmebm_jax.export(run, folder, dtype="float32")

    results = export.compare(run, folder, 80)

    trained, stored = results.values()
    assert list(results) == ["as trained, float32", "as stored, float32"]
    assert trained["frechet"]["floor"] > 0
    # The same keys and judges give the same numbers.
    for section in ("joint_coherence", "cross_coherence", "frechet", "diversity"):
        assert trained[section] == stored[section]


def test_an_export_is_measured_by_the_settings_it_was_trained_with(tmp_path):
    """But on the data and by the protocol of the given configuration, like the run itself."""
    folder = epath.Path(tmp_path)
    sizes = {"data__num_train": 80, "data__num_test": 80, "evaluation__classifier_steps": 2}
    save_run(folder / "run", small_config(**sizes, prior__private_temperature=0.5))
    mmebm_jax.export(folder / "run", folder / "digits", dtype="float32")
    weights = str(folder / "digits")

    other = small_config(**sizes, evaluation__num_samples=70, model__width=3)
    config = evaluate.as_exported(other, weights, folder / "shipped")
    assert config.prior.private_temperature == 0.5
    assert config.model.width == 2
    assert config.evaluation.num_samples == 70
    assert config.data == other.data

    checkpoint.write_config(folder / "shipped", config, builders.build_data(config))
    judges = folder / "run" / "classifiers"
    numbers = []
    for workdir, options in ((folder / "run", {}), (folder / "shipped", {"weights": weights})):
        run, sampler, step, _ = evaluate.restored(workdir, 70, **options)
        measured = evaluate.evaluate(
            run, sampler, step, evaluate.Classifiers(run, judges), only=[samples.joint_samples]
        )
        numbers.append((step, measured["joint_coherence"], measured["frechet"]))
    assert numbers[0] == numbers[1]


def test_missing_flags_are_one_line(tmp_path, capsys):
    status, error = run_here(capsys, f"--workdir={tmp_path}", program=export)
    assert status == 2
    assert_one_line(error, "--workdir", "--folder")


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--num_samples=1", "--num_samples=1: give at least 2"),
        ("--licence=a b", "licence is a b: give an SPDX identifier"),
        ("--folder=/proc/export", "/proc cannot be written to: name another folder with --folder"),
    ],
)
def test_what_cannot_be_exported_and_measured_leaves_nothing(tmp_path, capsys, flag, named):
    save_run(tmp_path / "run", small_config())
    arguments = [f"--workdir={tmp_path / 'run'}", f"--folder={tmp_path / 'new'}", flag]
    status, error = run_here(capsys, *arguments, program=export)
    assert status == 2
    assert_one_line(error, named)
    assert not (tmp_path / "new").exists()


OLD = "tests/runs/old_exports/format1"


@pytest.mark.parametrize(
    ("program", "arguments", "named"),
    [
        (export, ["--workdir=runs/x", "--folder=hf://a/b"], "hf://a/b is read only"),
        (export, ["--workdir=hf://a/b", "--folder=new"], "hf://a/b is read only"),
        (export, ["--workdir=runs/x", "--folder=https://a.org/b"], "a.org/b cannot be opened"),
        (page, [f"--workdir={OLD}"], "format1 is an export, not a run"),
        (page, ["--workdir=hf://a/b"], "hf://a/b is read only"),
    ],
)
def test_what_is_no_folder_of_a_run_or_to_write_to_is_one_line(capsys, program, arguments, named):
    status, error = run_here(capsys, *arguments, program=program)
    assert status == 2
    assert_one_line(error, named)


def test_the_rows_stand_before_the_data():
    result = {
        "num_samples": 80,
        "joint_coherence": {"energy": 0.5},
        "frechet": {"energy": 3.0, "generator": 4.0, "floor": 1.0},
    }
    other = result | {"joint_coherence": {"energy": 0.25}}
    card = cards.with_comparison("# A\n\n## Data\n\nb\n", {"trained": result, "stored": other})
    assert (
        "| weights | joint coherence | Fréchet distance | FD floor | FD before refinement |" in card
    )
    assert "| trained | 0.500 | 3.0 | 1.0 | 4.0 |\n| stored | 0.250 | 3.0 | 1.0 | 4.0 |" in card
    assert card.index("| stored |") < card.index("80 starts") < card.index("## Data")
    assert card.endswith("\n\n## Data\n\nb\n")
