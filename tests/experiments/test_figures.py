"""Figures: sentences and pictures from rows made by hand, and the commands on tiny runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath
from PIL import Image

from configs.polydigits import SMOKE
from experiments import command_line, results
from experiments.figures import (
    __main__ as program,
)
from experiments.figures import (
    chain_steps,
    energy_loss,
    figure,
    generator_loss,
    quality_coherence,
    registry,
    runs,
    sensitivity,
    trajectories,
)
from experiments.figures.runs import Settings
from mmebm_jax import method
from tests.commands import SHRINK, assert_one_line

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "figures"
TINY = SMOKE | SHRINK | {"evaluation.num_samples": 20, "prior.num_fit_examples": 20}
GRID = {name: value for name, value in TINY.items() if name not in sensitivity.FACTORS}


def tiny(folder):
    return Settings(epath.Path(folder), changes=TINY)


def tiny_grid(folder):
    return Settings(epath.Path(folder), changes=GRID)


def run_figures(capsys, *arguments):
    """Run the command in this process: exit status and stderr."""
    capsys.readouterr()
    status = 0
    with flagsaver.flagsaver():
        try:
            names = program.parse(["figures", *map(str, arguments)])[1:]
            command_line.guarded(lambda: program.main(names))
        except SystemExit as error:
            status = error.code
        finally:
            flags.FLAGS.unparse_flags()
    return status, capsys.readouterr().err


def drawn(picture, tmp_path):
    """The file size of a picture, which must be small and not blank."""
    from mmebm_jax.training import plotting

    path = epath.Path(tmp_path / "picture.png")
    plotting.write_figure(path, picture)
    with Image.open(path) as picture:
        assert len(np.unique(np.asarray(picture))) > 2
    return path.stat().length


def energy_row(method, seed, loss, deviation, explosions=0):
    return {
        "method": method,
        "seed": seed,
        "num_steps": 100,
        "chain_steps": 10,
        "lowest_loss": -2.5,
        "loss": loss,
        "deviation": deviation,
        "explosions": explosions,
        "curve": {"step": [1, 2], "loss/energy": [0.0, loss], "data_displacement": [0.1, 0.2]},
    }


def energy_rows(apart_deviation):
    return [
        energy_row(energy_loss.SHARED, 0, -1.0, 0.1),
        energy_row(energy_loss.SHARED, 1, -1.2, 0.1),
        energy_row(energy_loss.APART, 0, -2.0, apart_deviation),
        energy_row("from noise, 10 steps", 0, -2.4, 0.1, explosions=2),
    ]


def test_the_energys_sentence_has_its_numbers(tmp_path):
    rows = energy_rows(0.3)
    text = energy_loss.sentence(rows)
    assert text.startswith("100 steps, 2 seeds")
    assert "-1.10 ± 0.14 under the shared generator" in text
    assert "less steady under independent generators is seen here" in text
    assert "lag further behind is seen here" in text
    assert "2 runs exploded" in text
    assert "generators is not seen here" in energy_loss.sentence(energy_rows(0.05))
    assert "noise" not in energy_loss.sentence(rows[:2])  # for a preview
    assert drawn(energy_loss.draw(rows), tmp_path) > 1000


def generator_rows(without):
    def row(method, value):
        part = {"mean": value, "deviation": 2.0}
        losses = dict.fromkeys(generator_loss.LOSSES, part)
        curve = {"step": [1, 2]} | {name: [value + 1, value] for name in generator_loss.LOSSES}
        return {"method": method, "seed": 0, "num_steps": 50, "curve": curve} | losses

    return [row(generator_loss.JOINT, 100.0), row(generator_loss.INDEPENDENT, without)]


@pytest.mark.parametrize(
    ("without", "verdict"),
    [(110.0, "holds here (+10.0"), (101.0, "does not show here"), (90.0, "is reversed here")],
)
def test_joint_inference_is_judged_by_a_runs_own_deviation(without, verdict, tmp_path):
    rows = generator_rows(without)
    assert verdict in generator_loss.sentence(rows)
    assert drawn(generator_loss.draw(rows), tmp_path) > 1000


def test_pictures_of_chains_are_kept_as_they_are(tmp_path):
    steps = [{"m0": np.full([4, 3, 3, 3], value)} for value in (-1.0, 0.0, 1.0)]
    told = trajectories._told(steps, [3.0, 2.0, 1.0])
    assert told["displacement"] == pytest.approx([0.0, 1.0, 2.0])
    shown = trajectories._picture(told["pictures"][0])
    assert shown.shape == (3, 9, 3)
    assert [shown[0, 3 * n, 0] for n in range(3)] == [0, 128, 255]
    rows = [{"method": "full", "seed": 0, "num_steps": 9, "num_chains": 4, "chain": "data", **told}]
    assert "from 3.00 to 1.00 in 2 steps" in trajectories.sentence(rows)
    assert "lower their energies holds" in trajectories.sentence(rows)
    posterior = {"chain": "posterior", "error": [0.5, 0.4], "data": told["pictures"]}
    both = [*rows, rows[0] | posterior]
    assert "0.500 to 0.400" in trajectories.sentence(both)
    assert drawn(trajectories.draw(both), tmp_path) > 1000


def quality_row(method, joint, distance):
    return {
        "method": method,
        "seed": 0,
        "num_steps": 10,
        "joint_coherence": {"generator": joint},
        "frechet": {"generator": distance, "floor": 5.0},
        "diversity": {"conditional": 0.25},
    }


@pytest.mark.parametrize(
    ("joint", "distance", "verdict"),
    [
        (0.6, 50.0, "paper A's claim holds here;"),
        (0.6, 500.0, "holds here in coherence alone"),
        (0.1, 50.0, "holds here in distance alone"),
        (0.1, 500.0, "does not hold here"),
    ],
)
def test_a_claim_holds_where_both_distance_and_coherence_do(joint, distance, verdict, tmp_path):
    rows = [quality_row("mmvae_plus", 0.5, 100.0), quality_row("paper_a", joint, distance)]
    rows.append(quality_row("mmvae_plus + mixture", 0.9, 90.0))
    text = quality_coherence.sentence(rows)
    assert verdict in text
    assert "paper B" not in text  # its runs are missing
    assert "mmvae_plus + mixture 0.90 at a distance of 90, conditional diversity 0.25" in text
    assert drawn(quality_coherence.draw(rows), tmp_path) > 1000


def chain_rows():
    return [
        {
            "method": "full",
            "seed": 0,
            "num_steps": 10,
            "trained_steps": 10,
            "floor": 4.0,
            "chain": chain,
            "steps": steps,
            "coherence": 0.5,
            "frechet": 100.0 - steps,
            "diversity": None if chain == "joint" else steps / 100,
            "seconds": steps / 10,
        }
        for chain in (chain_steps.JOINT, chain_steps.DATA, chain_steps.POSTERIOR)
        for steps in chain_steps.COUNTS
    ]


def test_step_counts_are_told_with_all_their_company(tmp_path):
    text = chain_steps.sentence(chain_rows())
    assert "0.50 / 0.50 / 0.50 / 0.50 at a distance of 100 / 90 / 70 / 40, floor 4" in text
    assert "a diversity of 0.00 / 0.10 / 0.30 / 0.60" in text
    assert "less beyond, does not hold here" in text  # it gains more beyond
    assert "by -20 from 10 to 30 and by -30 from 30 to 60" in text
    assert drawn(chain_steps.draw(chain_rows()), tmp_path) > 1000


def grid_rows():
    rows = []
    for label, _ in sensitivity.columns():
        for size in sensitivity.STEP_SIZES:
            row = {"method": label, "column": label, "seed": 0, "num_steps": 10, "step_size": size}
            if size == 11.2:
                row["exploded"] = "energy_gap is nan"
            else:
                after = 250.0 if size == 2.8 else 80.0
                row |= {
                    "generator": {"frechet": 100.0, "joint_coherence": 0.5},
                    "energy": {"frechet": after, "joint_coherence": 0.6},
                }
            rows.append(row)
    return rows


def test_the_grid_has_thirty_runs_and_says_which_diverged(tmp_path):
    rows = grid_rows()
    assert len(rows) >= 30
    text = sensitivity.sentence(rows)
    assert "18 diverged (9 at step size 2.8, 9 at step size 11.2; 9 of them stopped" in text
    assert "to 0.80 of that at the defaults" in text
    assert drawn(sensitivity.draw(rows), tmp_path) > 1000
    assert "diverged" in sensitivity.sentence([row for row in rows if row["step_size"] > 1])


@pytest.mark.parametrize(
    ("distance", "agreement", "expected"),
    [(190.0, 0.3, False), (210.0, 0.5, True), (90.0, 0.2, True)],
)
def test_a_chain_diverges_by_distance_or_by_coherence(distance, agreement, expected):
    before = {"frechet": 100.0, "joint_coherence": 0.5}
    after = {"frechet": distance, "joint_coherence": agreement}
    assert sensitivity.has_diverged({"generator": before, "energy": after}) == expected


def test_every_cell_of_the_grid_is_another_run(tmp_path):
    trials = sensitivity.trials(Settings(epath.Path(tmp_path), seeds=(0, 1), num_steps=100))
    configs = {one.config.to_json_best_effort() for one in trials}
    folders = {str(one.folder) for one in trials}
    assert len(configs) == len(folders) == len(trials) == 2 * 36


def test_the_methods_of_a_comparison_are_checked(tmp_path):
    with pytest.raises(ValueError, match="--methods=nonsense: choose from full"):
        quality_coherence.trials(Settings(epath.Path(tmp_path), methods=("nonsense",)))


def test_a_curve_is_of_the_rows_that_have_its_names(tmp_path):
    lines = [{"step": n, "a": float(n)} | ({"b": 1.0} if n > 2 else {}) for n in range(1, 5)]
    lines.insert(2, {"event": "diagnostics", "step": 2, "a": 99.0, "b": 99.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    found = runs.curve(epath.Path(tmp_path), ("a", "b"))
    assert found == {"step": [3, 4], "a": [3.0, 4.0], "b": [1.0, 1.0]}
    assert runs.last_quarter([1.0, 2.0, 3.0, 4.0, 5.0]) == [5.0]


def test_what_another_revision_made_is_refused(tmp_path):
    folder = epath.Path(tmp_path)
    runs.write_record(folder, {"step": 1, "seconds": 1.0})
    assert runs.read_record(folder)["step"] == 1
    record = json.loads((folder / runs.RECORD).read_text())
    record["method_revision"] = method.REVISION - 1
    (folder / runs.RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="choose another --workdir"):
        runs.read_record(folder)


def test_what_was_measured_is_not_measured_again(tmp_path):
    settings, calls = tiny(tmp_path), []
    one = runs.trial(settings, "some", 3, {}, method="shown as")._replace(facts={"size": 2})

    def measure(one, settings):
        calls.append(one.seed)
        return [{"value": 1.5}]

    one.folder.mkdir(parents=True)
    for _ in range(2):
        rows = runs.kept(one, "figure", settings, measure)
        assert rows == [{"method": "shown as", "seed": 3, "size": 2, "value": 1.5}]
    assert calls == [3]
    one.config.evaluation.num_samples += 1
    with pytest.raises(ValueError, match="was measured with evaluation"):
        runs.kept(one, "figure", settings, measure)


def test_a_preview_is_of_the_finished_runs_alone(tmp_path):
    settings = tiny(tmp_path)
    trials = chain_steps.trials(settings._replace(seeds=(0, 1)))
    trials[1].folder.mkdir(parents=True)
    runs.kept_path(trials[1], "chain_steps").write_text("")
    partial = figure.finished("chain_steps", registry.FIGURES["chain_steps"])
    assert [one.seed for one in partial.trials(settings._replace(seeds=(0, 1)))] == [1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generator_loss", "trajectories", "chain_steps"])
@pytest.mark.filterwarnings("ignore:.*biased upwards")
def test_a_figure_of_tiny_runs_is_made_once(name, tmp_path, monkeypatch):
    one, settings = registry.FIGURES[name], tiny(tmp_path / "runs")
    rows = figure.rows_of(name, one, settings)
    figure.write(name, one, epath.Path(tmp_path), "some command", rows)
    read = results.read(tmp_path / f"{name}.json")
    assert one.sentence(read["rows"])
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.size[0] > 100
    monkeypatch.setattr(runs.training, "train", None)  # training again would call it
    assert figure.rows_of(name, one, settings) == read["rows"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*biased upwards")
def test_cells_of_a_grid_share_their_programs_and_differ(tmp_path):
    settings = tiny_grid(tmp_path)._replace(
        changes=GRID | {"energy.start_step": 2, "prior.start_step": 2}
    )
    trials = sensitivity.trials(settings)[:2]
    shared = sensitivity.SharedUpdates()
    rows = [sensitivity.measure(one, settings, shared)[0] for one in trials]
    assert len({terms for _, terms in shared._compiled}) == len(shared._compiled) == 2
    assert rows[0]["generator"] == rows[0]["generator"]
    found = [json.loads((one.folder / "config.json").read_text()) for one in trials]
    assert [c["energy"]["chain"]["step_size"] for c in found] == list(sensitivity.STEP_SIZES[:2])
    moved = [runs.curve(one.folder, ("data_displacement",)) for one in trials]
    ratio = moved[1]["data_displacement"][0] / moved[0]["data_displacement"][0]
    assert ratio > 4  # for 4 times the step size: noise grows linearly, drift quadratically


def test_a_run_that_exploded_is_a_row_of_its_own(tmp_path, monkeypatch):
    def explode(*_):
        raise FloatingPointError("energy_gap is nan at step 7")

    monkeypatch.setattr(sensitivity, "trained", explode)
    settings = tiny_grid(tmp_path)
    row = sensitivity.measure(sensitivity.trials(settings)[0], settings, None)[0]
    assert row["exploded"] == "energy_gap is nan at step 7"
    assert sensitivity.has_diverged(row)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "name a figure first: energy_loss"),
        (["nonsense"], "there is no figure nonsense"),
        (["chain_steps", "--steps=0"], "--steps=0"),
        (["chain_steps", "--minutes=-1"], "--minutes=-1"),
        (["chain_steps", "--seeds=a"], "--seeds=a"),
        (["chain_steps", "--seeds=1,1"], "--seeds=1,1 names a number twice"),
        (["chain_steps", "--shard=a"], "--shard=a: give i/n"),
        (["chain_steps", "--shard=3/2"], "--shard=3/2: give i/n"),
        (["chain_steps", "--results=README.md"], "README.md is a file"),
        (["chain_steps", "--jobs=4096"], "--jobs=4096"),
        (["chain_steps", "--set=nonsense"], "--set=nonsense"),
        (["chain_steps", "--smoke", "--set=model.depth=3"], "model.depth"),
        (["chain_steps", "--smoke", "--set=model.hidden=wide"], "model.hidden"),
        (["quality_coherence", "--smoke", "--methods=gan"], "--methods=gan"),
        (["sensitivity", "--smoke", "--set=model.prior_hidden=3"], "--set=model.prior_hidden"),
        (["energy_loss", "--smoke", "--set=energy.chain.num_steps=3"], "varies it"),
        (["chain_steps", "--smoke", "--partial"], "no run of chain_steps"),
        (["energy_loss", "--partial"], "no run of energy_loss"),
    ],
)
def test_bad_flags_end_with_one_line(arguments, named, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("speed was measured")

    monkeypatch.setattr(runs.budget, "prepare_for", refuse)
    folder = tmp_path / "runs"
    status, errors = run_figures(capsys, *arguments, f"--workdir={folder}")
    assert status == command_line.USAGE_ERROR
    assert_one_line(errors, named)
    assert not list(folder.rglob("*.json"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"rows": [', "is damaged"),
        (
            json.dumps(dict.fromkeys(results.REQUIRED, "") | {"rows": [{"method": "a"}]}),
            "has rows of other columns (KeyError",
        ),
    ],
)
def test_a_file_that_cannot_be_drawn_is_named(content, named, tmp_path, capsys):
    path = tmp_path / "energy_loss.json"
    path.write_text(content)
    status, errors = run_figures(capsys, "energy_loss", "--redraw", f"--results={tmp_path}")
    assert status == command_line.USAGE_ERROR
    assert_one_line(errors, f"{path} ", named)


@pytest.mark.parametrize("name", registry.FIGURES)
def test_the_pictures_of_the_page_are_there_with_their_numbers(name):
    found = results.read(FOLDER / f"{name}.json")
    assert registry.FIGURES[name].sentence(found["rows"])
    assert (FOLDER / f"{name}.png").stat().st_size < 300_000
    page = (FOLDER.parents[1] / "figures.md").read_text()
    assert f"<!-- figure: docs/results/figures/{name}.json -->" in page
