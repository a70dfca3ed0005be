import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from configs.polydigits import get_config
from mmebm_jax import training
from mmebm_jax.training import budget
from mmebm_jax.training.sampling_time import SamplingTime
from mmebm_jax.training.schedule import phases, scaled
from tests.training.test_loop import make_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def costs_of(config, each, **changes):
    """Costs with these seconds per step for the phases."""
    step = {p.terms: seconds for p, seconds in zip(phases(config), each, strict=True)}
    return budget.Costs(measuring=20, step=step, first_fit=3, last_fit=9, drawing=1)._replace(
        **changes
    )


def test_the_predicted_time_is_the_sum_of_its_parts():
    config = get_config("full")
    costs = costs_of(config, (0.01, 0.02, 0.1))
    parts = 3600 * 0.01 + 1400 * 0.02 + 1000 * 0.1
    assert budget.predicted(config, costs) == pytest.approx(parts + 20 + 3 + 9 + 7 * 1)
    config = get_config("mmvae")
    costs = costs_of(config, (0.01,), first_fit=0, last_fit=0)
    assert budget.predicted(config, costs) == pytest.approx(60 + 20 + 7)


@pytest.mark.parametrize("seconds", [40.0, 60.0, 180.0, 7200.0])
def test_the_longest_schedule_within_the_budget_is_taken(seconds):
    base = get_config("full")
    costs = costs_of(base, (0.01, 0.02, 0.1))
    config = budget.fitted_schedule(base, costs, seconds)
    assert budget.predicted(config, costs) <= seconds
    longer = scaled(base, config.num_steps + 1)
    assert budget.predicted(longer, costs) > seconds
    assert len(phases(config)) == 3


def test_a_budget_that_is_too_short_is_one_line():
    base = get_config("full")
    with pytest.raises(ValueError, match=r"30 s is too short: measuring took 20 s, .* raise"):
        budget.fitted_schedule(base, costs_of(base, (0.01, 0.02, 0.1)), 30.0)


def test_a_budget_takes_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="one process alone"):
        budget.prepare_for(make_config(), epath.Path(tmp_path), 30.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A measured run with a known schedule, since the measured numbers do not matter here."""
    workdir = epath.Path(tmp_path_factory.mktemp("budget")) / "run"
    config = make_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "fitted_schedule", lambda config, *_: scaled(config, 8))
        return budget.prepare_for(config, workdir, 30.0)


def test_the_fit_of_the_sampling_time_is_foretold_from_a_part_of_it(monkeypatch):
    """It takes 5 s, plus 2 s per look for each 500 samples."""
    clock = [0.0]

    def fit(key, sampler, source, *, num_samples, farthest):
        looks = int(10 * farthest)
        clock[0] += 5 + 2 * looks * -(-num_samples * 4 // 500)
        return SamplingTime(1.0, [0.0] * looks, [0.0] * looks)

    run = SimpleNamespace(config=get_config("private_full"), train_source=None)
    sampler = SimpleNamespace(settings=SimpleNamespace(candidates=4), refines=lambda: True)
    monkeypatch.setattr(budget, "make_sampler", lambda *_: sampler)
    monkeypatch.setattr(budget, "fit_sampling_time", fit)
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])
    assert budget._time_sampling_time(run, None) == pytest.approx(5 + 2 * 4 * 20)
    run.config.energy.fit_sampling_time = False
    assert budget._time_sampling_time(run, None) == 0


@pytest.mark.slow
def test_a_measurement_compiles_what_the_run_uses_and_is_kept(measured):
    workdir = measured.run.workdir
    record = json.loads((workdir / "budget.json").read_text())
    assert record["budget_seconds"] == 30
    assert record["num_steps"] == measured.run.config.num_steps == 8
    assert [phase["num_steps"] for phase in record["phases"]] == [2, 6]
    times = [phase["seconds_per_step"] for phase in record["phases"]]
    times += [record[f"{name}_seconds"] for name in ("first_fit", "drawing")]
    assert all(0 < seconds < record["measuring_seconds"] for seconds in times)
    assert record["last_fit_seconds"] > 0  # extrapolated from a part of it
    assert record["facts"]["jax"] == jax.__version__
    assert sorted(path.name for path in workdir.iterdir()) == ["budget.json"]
    assert set(measured.updates) == {phase.terms for phase in phases(measured.run.config)}


@pytest.mark.slow
def test_a_run_under_a_budget_keeps_its_first_schedule_and_equals_one_without(
    measured, tmp_path, monkeypatch
):
    run = measured.run
    state, _ = training.train(run, updates=dict(measured.updates))
    monkeypatch.setattr(budget, "measure", None)
    again = budget.prepare_for(make_config(), run.workdir, 30.0)
    assert again.run.config.num_steps == 8
    assert again.measuring_seconds == measured.measuring_seconds
    with pytest.raises(ValueError, match=r"under a budget of 30 s, not of 60 s"):
        budget.prepare_for(make_config(), run.workdir, 60.0)
    plain, _ = training.train(training.prepare(scaled(make_config(), 8), epath.Path(tmp_path)))
    jax.tree.map(np.testing.assert_array_equal, state, plain)
    with pytest.raises(ValueError, match="holds a run without a budget, not of 30 s"):
        budget.prepare_for(make_config(), epath.Path(tmp_path), 30.0)


def test_a_measurement_serves_a_run_that_was_killed_before_it_began(
    measured, tmp_path, monkeypatch
):
    text = (measured.run.workdir / "budget.json").read_text()
    (tmp_path / "budget.json").write_text(text)
    monkeypatch.setattr(budget, "measure", None)
    monkeypatch.setattr(budget, "fitted_schedule", lambda config, *_: scaled(config, 8))
    found = budget.prepare_for(make_config(), epath.Path(tmp_path), 30.0)
    assert found.measuring_seconds == measured.measuring_seconds
    # A record from another machine is not used.
    record = json.loads(text)
    record["facts"]["cores"] += 1
    (tmp_path / "budget.json").write_text(json.dumps(record))
    with pytest.raises(TypeError):
        budget.prepare_for(make_config(), epath.Path(tmp_path), 30.0)
    (tmp_path / "budget.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: remove it"):
        budget.prepare_for(make_config(), epath.Path(tmp_path), 30.0)
