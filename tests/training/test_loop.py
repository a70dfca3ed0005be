import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

import mmebm_jax
from configs.methods import NO_PRIOR_ENERGY, NO_REVISION
from configs.polydigits import get_config
from experiments import curve, evaluate, measures, sample
from experiments.reliability import faults
from mmebm_jax import data
from mmebm_jax import training as train
from mmebm_jax.data.source import IncompleteSource
from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method import train_state
from mmebm_jax.runs import builders, checkpoint
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import loop, pictures, prior_fitting
from mmebm_jax.training.log import Log, read_events
from mmebm_jax.training.run import sole_writer
from mmebm_jax.training.sampling_time import shortest

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.slow]
# For evaluations with just enough samples to run every part, which warn that they are biased.
few_samples = pytest.mark.filterwarnings(
    "ignore:.* the Fréchet distance is biased upwards:UserWarning"
)


def make_config():
    """All parts at once: both energies, private latents, and half of the data missing."""
    config = get_config("smoke")
    config.missing_ratio = 0.5
    config.update(num_steps=4, warmup_steps=1, batch_size=4, revision_stride=2, log_every=1)
    # A test interrupts the run at the pictures of step 3.
    config.update(picture_every=3, checkpoint_every=2)
    config.data.update(num_modalities=2, num_train=40, num_test=30)
    config.model.update(num_latents=3, num_private=2, width=2, hidden=8, prior_hidden=8)
    config.model.update(energy_width=2, energy_hidden=8)
    config.model.aggregator = "mixture"
    config.elbo.update(objective="mmvae", learned_prior=True)
    config.prior.update(fit_step=1, start_step=1, num_components=2, num_fit_examples=40)
    config.prior.update(num_candidates=2, fit_steps=3)
    config.energy.update(start_step=1, fit_sampling_time=True)
    for section in (config.posterior, config.prior, config.energy):
        section.chain.num_steps = 2
    config.evaluation.update(num_samples=20, classifier_steps=2, classifier_seeds=2)
    config.evaluation.update(importance_samples=4, likelihood_examples=3, calibration_examples=10)
    return config


class Finished(NamedTuple):
    run: train.Run
    state: train_state.TrainState


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run of four steps."""
    run = train.prepare(make_config(), epath.Path(tmp_path_factory.mktemp("straight")))
    return Finished(run, train.train(run)[0])


@pytest.fixture(scope="module")
def resumed(straight, tmp_path_factory):
    """The same run, interrupted in step 3 and resumed from the checkpoint of step 2."""
    workdir = epath.Path(tmp_path_factory.mktemp("resumed"))

    def interrupt(*args):
        raise KeyboardInterrupt

    def save_now(manager, *args, **options):
        save(manager, *args, **options)
        manager.wait_until_finished()

    save = checkpoint.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "write", interrupt)
        patch.setattr(checkpoint, "save", save_now)
        with pytest.raises(KeyboardInterrupt):
            train.train(train.prepare(make_config(), workdir))
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3]
    run = train.prepare(make_config(), workdir)
    return Finished(run, train.train(run)[0])


def rows(workdir):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "event" not in record]


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def damage(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_every_loss_acts(straight):
    first, *later = rows(straight.run.workdir)
    assert {name for name in first if name.startswith("loss/")} == {"loss/elbo"}
    parts = ("posterior_generator", "posterior_inference", "synthesis_generator")
    parts = ("elbo", "prior", "energy", "synthesis_inference", *parts)
    for row in later:
        assert {name for name in row if name.startswith("loss/")} == {f"loss/{p}" for p in parts}
        assert row["examples_per_second"] > 0
    assert [row["step"] for row in (first, *later)] == [1, 2, 3, 4]
    # The latent energy is fitted once more at the end, for three steps.
    assert {name: int(n) for name, n in straight.state.num_updates.items()} == {
        "inference": 4, "generator": 4, "prior": 3 + 3, "energy": 3,
    }  # fmt: skip
    assert not np.allclose(straight.state.weights.base_prior.mean, standard(2, 3).mean)
    # The sampler uses the last fit, and continued training would too.
    assert_same(straight.state.weights.params["prior"], straight.state.params["prior"])


def test_training_never_sees_what_is_missing(straight):
    batch = data.whole(straight.run.train_source)
    observed = batch["observed"]
    assert 0.5 < observed.mean() < 0.75
    for name, seen in zip(("m0", "m1"), observed.T, strict=True):
        assert not batch[name][~seen].any()
    assert "observed" not in data.whole(straight.run.splits.test, 5)


def test_base_priors_are_fitted_to_latents_of_what_is_observed(straight):
    run, weights, key = straight.run, straight.state.weights, jax.random.key(0)
    complete, names = run.splits.train, tuple(run.splits.fields)

    def latents(source):
        source_run = run._replace(train_source=source)
        return prior_fitting.revised_latents(source_run, weights, key, 20).shared

    everything = latents(complete)
    assert everything.shape == (20, 3)
    shown = latents(IncompleteSource(complete, names, np.ones([40, 2], bool)))
    np.testing.assert_allclose(shown, everything, rtol=1e-4, atol=1e-5)
    half = np.arange(40)[:, None] % 2 == [0, 1]
    hidden = latents(IncompleteSource(complete, names, half))
    assert (abs(hidden - everything) > 1e-4).any(axis=1).all()
    # Missing values are not read, whether they are zeros or not.
    there = data.ArraySource({**data.whole(complete), "observed": half})
    np.testing.assert_array_equal(latents(there), hidden)


def test_fitting_leaves_other_parameters_alone(straight):
    state = prior_fitting.fit_base_prior(straight.run, straight.state, jax.random.key(0))
    for name in ("inference", "generator", "energy"):
        assert_same(state.params[name], straight.state.params[name])
        assert_same(state.weights.params[name], straight.state.weights.params[name])
    changed = jax.tree.map(
        lambda a, b: (a != b).any(), state.params["prior"], straight.state.params["prior"]
    )
    assert all(jax.tree.leaves(changed))
    assert int(state.num_updates["prior"]) == int(straight.state.num_updates["prior"]) + 3
    early = prior_fitting.fit_base_prior(
        straight.run, straight.state, jax.random.key(0), final=False
    )
    assert not np.allclose(early.weights.base_prior.mean, straight.state.weights.base_prior.mean)
    assert_same(early.params, straight.state.params)
    assert_same(early.weights.params, straight.state.weights.params)


def test_a_resumed_run_equals_one_that_never_stopped(straight, resumed):
    assert_same(straight.state, resumed.state)
    left, right = (
        [{n: v for n, v in row.items() if n != "examples_per_second"} for row in rows(r.workdir)]
        for r in (straight.run, resumed.run)
    )
    assert left == right


def test_a_finished_run_is_continued_for_more_steps(straight, tmp_path):
    workdir = epath.Path(shutil.copytree(straight.run.workdir, tmp_path / "run"))
    longer = make_config()
    longer.num_steps = 6
    state, seconds = train.train(train.prepare(longer, workdir))
    assert int(state.step) == 6
    assert int(state.num_updates["energy"]) == 5
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5, 6]
    assert checkpoint.read_config(workdir).num_steps == 6
    assert read_events(workdir, "extension") == [{"event": "extension", "step": 4, "num_steps": 6}]
    # From then on it is a run of six steps: nothing is left to do, and four steps are refused.
    again, same_seconds = train.train(train.prepare(longer, workdir))
    assert_same(again, state)
    assert seconds >= same_seconds > 0
    assert len(read_events(workdir, "extension")) == 1
    with pytest.raises(ValueError, match=r"holds a run with num_steps = 6, not 4"):
        train.prepare(make_config(), workdir)


def test_an_extended_run_is_resumed_as_if_it_had_not_been_stopped(straight, tmp_path, monkeypatch):
    longer = make_config()
    longer.update(num_steps=8, picture_every=7)
    one, other = (
        epath.Path(shutil.copytree(straight.run.workdir, tmp_path / name)) for name in "ab"
    )
    expected, _ = train.train(train.prepare(longer, one))
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train.train(train.prepare(longer, other))
    assert checkpoint.newest_step(other) == 7
    state, _ = train.train(train.prepare(longer, other))
    assert_same(state, expected)


def test_a_run_whose_prior_was_fitted_only_at_its_end_is_not_continued(straight, tmp_path):
    workdir = epath.Path(tmp_path)
    config = make_config()
    config.prior.fit_step = 4
    checkpoint.write_config(workdir, config, straight.run.splits)
    config.num_steps = 6
    with pytest.raises(ValueError, match=r"fitted only at their end .* cannot be continued"):
        train.prepare(config, workdir)


def test_a_run_of_an_earlier_version_is_read(straight, tmp_path):
    """Its config.json and its checkpoints hold fields of the wall-clock schedule."""
    workdir = epath.Path(shutil.copytree(straight.run.workdir, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "4")
    (meta_path,) = (workdir / "checkpoints" / "2" / "meta").glob("metadata")
    meta = json.loads(meta_path.read_text())
    meta["progress"] |= {"fit_position": 1.0, "fit_begin": 2.0, "fit_end": 3.0}
    meta_path.write_text(json.dumps(meta))
    content = json.loads((workdir / "config.json").read_text())
    for seconds in (60.0, 0.0):
        (workdir / "config.json").write_text(json.dumps(content | {"budget_seconds": seconds}))
        assert mmebm_jax.load(workdir).sample(jax.random.key(0), 2)["m0"].shape[0] == 2
        run = train.prepare(make_config(), workdir)
        if seconds:
            with pytest.raises(ValueError, match=r"set budget_seconds to 0 in its config\.json"):
                train.train(run)
    state, _ = train.train(run)
    assert_same(state, straight.state)


def test_a_run_leaves_its_files(straight):
    workdir = straight.run.workdir
    pictures = {path.name for path in (workdir / "images").iterdir()}
    assert {"chains_0000003.png", "samples_0000003.png"} <= pictures
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert any(path.name.startswith("events.") for path in workdir.iterdir())
    saved = json.loads((workdir / "config.json").read_text())
    assert saved == json.loads(make_config().to_json_best_effort())


def test_the_final_state_is_the_saved_one(straight):
    loaded = mmebm_jax.load(straight.run.workdir)
    assert_same(loaded.weights.params, straight.state.weights.params)
    assert_same(loaded.weights.base_prior, straight.state.weights.base_prior)


def test_a_relative_folder_will_do(straight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = checkpoint.open_manager(epath.Path("runs/relative"))
    checkpoint.save(manager, straight.state, {"fitted": True})
    manager.wait_until_finished()
    folder = epath.Path("runs/relative")
    restored = checkpoint.restore_weights(folder, straight.state.weights)
    assert set(restored.trained) == {"inference", "generator", "prior", "energy"}
    assert restored.step == int(straight.state.step)
    assert_same(restored.weights, straight.state.weights)


def test_samples_take_the_time_that_was_fitted(straight, tmp_path):
    workdir = straight.run.workdir
    (fitted,) = read_events(workdir, "sampling_time")
    trained = builders.build_chains(straight.run.config).data
    assert fitted["time"] != pytest.approx(trained.num_steps * trained.step_size**2 / 2)
    assert fitted["time"] == fitted["times"][shortest(fitted["distances"])]
    mmebm_jax.export(workdir, tmp_path / "export")
    samplers = (
        train.restore_sampler(straight.run)[0],
        mmebm_jax.load(workdir),
        mmebm_jax.load(tmp_path / "export"),
    )
    for sampler in samplers:
        chain = sampler.settings.chains.data
        assert chain.num_steps * chain.step_size**2 / 2 == pytest.approx(fitted["time"])
    assert fitted["times"][0] == pytest.approx(trained.step_size**2 / 2)


def test_load_gives_a_working_sampler(straight):
    loaded = mmebm_jax.load(str(straight.run.workdir))
    assert loaded.model == straight.run.model
    (fitted,) = read_events(straight.run.workdir, "sampling_time")
    usual = builders.build_sampler_settings(straight.run.config, sampling_time=fitted["time"])
    assert loaded.settings == usual
    samples = loaded.sample(jax.random.key(0), 2)
    assert {name: values.shape for name, values in samples.items()} == {
        "m0": (2, 16, 16, 3),
        "m1": (2, 16, 16, 3),
    }
    assert loaded.encode(samples).shape == (2, 3)
    assert loaded.energy(samples).shape == (2,)


def test_samples_given_one_modality_differ_by_the_others_private_latent(straight):
    """The loaded model has private latents, and each draw has its own."""
    loaded = mmebm_jax.load(straight.run.workdir)
    given = loaded.as_batch({"m1": data.whole(straight.run.splits.test, 3)["m1"]})
    one, other = (loaded.infer(jax.random.key(seed), given, method="mean") for seed in (0, 1))
    np.testing.assert_array_equal(one.private["m1"], other.private["m1"])
    assert (one.private["m0"] != other.private["m0"]).all()
    assert (loaded.generate(one)["m0"] != loaded.generate(other)["m0"]).any()


def test_sampling_given_one_modality(straight, tmp_path):
    workdir = straight.run.workdir
    given = data.whole(straight.run.splits.test, 5)["m1"]
    np.savez(tmp_path / "given.npz", m1=given)
    sample.sample(workdir, num_samples=3, given=str(tmp_path / "given.npz"))
    with np.load(workdir / "samples.npz") as archive:
        samples = dict(archive)
    assert set(samples) == {"m0", "m1"}
    for values in samples.values():
        assert values.dtype == np.uint8
        assert values.shape == (5, 3, 16, 16, 3)
    for draw in range(3):
        np.testing.assert_array_equal(samples["m1"][:, draw], given)
    assert (samples["m0"][:, 0] != samples["m0"][:, 1]).any()
    assert Path(workdir / "samples.png").stat().st_size > 0
    sample.sample(workdir, given=str(tmp_path / "given.npz"))
    with np.load(workdir / "samples.npz") as archive:
        assert archive["m0"].shape == (5, 16, 16, 3)


@pytest.fixture
def damaged(straight, tmp_path):
    workdir = epath.Path(tmp_path) / "broken"
    shutil.copytree(straight.run.workdir, workdir)
    damage(workdir / "checkpoints" / "4")
    return workdir


def test_training_falls_back_to_the_checkpoint_before_a_damaged_one(straight, damaged):
    restored = checkpoint.restore(checkpoint.open_manager(damaged), straight.state)
    assert restored is not None
    state, meta = restored
    assert int(state.step) == 2
    assert meta["fitted"]
    assert not meta["finished"]
    # The damaged step can be saved again, and the remains of the old one are kept.
    manager = checkpoint.open_manager(damaged)
    checkpoint.save(manager, straight.state, meta)
    manager.wait_until_finished()
    assert manager.latest_step() == 4
    assert list((damaged / "damaged_checkpoints").iterdir())
    assert jax.tree.structure(state) == jax.tree.structure(straight.state)


def test_loading_falls_back_to_the_checkpoint_before_a_damaged_one(straight, damaged):
    weights = mmebm_jax.load(damaged).weights
    state, _ = checkpoint.restore(checkpoint.open_manager(damaged), straight.state)
    assert_same(weights, state.weights)


def test_an_energy_that_has_not_learned_is_not_sampled_from(straight, tmp_path):
    shutil.copytree(straight.run.workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    early = straight.state._replace(
        num_updates=straight.state.num_updates | {"energy": jax.numpy.zeros((), int)}
    )
    manager = checkpoint.open_manager(epath.Path(tmp_path / "run"))
    checkpoint.save(manager, early, {})
    manager.wait_until_finished()
    settings = mmebm_jax.load(tmp_path / "run").settings
    assert settings.prior_energy
    assert not settings.data_energy


def test_only_damaged_checkpoints_are_an_error(straight, damaged, tmp_path):
    shutil.copytree(damaged, tmp_path / "run")
    damage(epath.Path(tmp_path / "run" / "checkpoints" / "2"))
    manager = checkpoint.open_manager(epath.Path(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read"):
        checkpoint.restore(manager, straight.state)


@pytest.fixture(scope="module")
def classifiers(straight):
    return evaluate.Classifiers(straight.run, straight.run.workdir / "classifiers")


@few_samples
def test_evaluation_holds_the_contract(straight, classifiers):
    run, workdir = straight.run, straight.run.workdir
    sampler, step = train.restore_sampler(run)
    evaluate.write(workdir, evaluate.evaluate(run, sampler, step, classifiers))
    result = json.loads((workdir / "evaluation.json").read_text())
    assert {"step", "num_samples", "protocol", "joint_coherence", "cross_coherence"} <= set(result)
    assert {"frechet", "classifier_accuracy"} <= set(result)
    assert (result["step"], result["num_samples"]) == (4, 20)
    floors = {"real_data", "shuffled_pairs", "chance"}
    assert set(result["joint_coherence"]) == {"generator", "base_prior", "energy"} | floors
    assert floors < set(result["cross_coherence"])
    assert result["joint_coherence"]["chance"] == result["cross_coherence"]["chance"] == 0.1
    # With fewer samples than features there is neither a floor nor a conditional distance.
    distances = {"generator", "base_prior", "energy", "cross", "reconstruction"}
    assert set(result["frechet"]) == distances
    assert set(result["diversity"]) == {"conditional", "conditional_pixels", "of_data"}
    assert 0 <= result["cross_coherence"]["drawn"] <= 1
    assert 0 <= result["class_balance"]["entropy"] <= 1
    assert set(result["cross_coherence"]["by_target"]) == {"m0", "m1"}
    by_target = result["cross_coherence"]["drawn_by_target"]
    assert np.mean([by_target[name] for name in ("m0", "m1")]) == pytest.approx(
        result["cross_coherence"]["drawn"]
    )
    assert set(result["classifier_accuracy"]) == {"m0", "m1"}
    cross = [result["cross_coherence"][name] for name in ("mean", "posterior_revised")]
    assert all(0 <= p <= 1 for p in [*result["joint_coherence"].values(), *cross])
    assert all(0 <= d < np.inf for d in result["frechet"].values())
    for stage, each in result["frechet_by_modality"].items():
        assert np.mean(list(each.values())) == pytest.approx(result["frechet"][stage])
    assert evaluate.table(result).count("\n") > 3
    assert result["warnings"] == []
    assert set(result["energies"]) == {"data", "generator", "refined"}
    assert all(e["low"] <= e["mean"] <= e["high"] for e in result["energies"].values())
    measured = {measure.__name__ for measure in measures.MEASURES}
    assert set(result["measure_seconds"]) | set(result["absent"]) == measured
    assert "needs its weights: get https://" in result["absent"]["fid"]
    assert "takes at least 65 samples, and there are 20" in result["absent"]["fidelity"]
    assert "not measured: fid" in evaluate.table(result)


def test_what_is_known_of_latents_stands_beside_its_floor(straight, classifiers):
    sampler, step = train.restore_sampler(straight.run)
    names = ("log_likelihood", "conditional_log_likelihood", "posterior_calibration")
    names += ("linear_probes", "latent_clusters", "coherence_by_judge")
    only = [m for m in measures.MEASURES if m.__name__ in names]
    result = evaluate.evaluate(straight.run, sampler, step, classifiers, only=only)
    judges = result["coherence_by_judge"]
    assert set(judges) == {"seed0", "seed1", "over_seeds"}
    values = [judges[name]["cross"] for name in ("seed0", "seed1")]
    assert judges["over_seeds"]["cross"]["mean"] == pytest.approx(np.mean(values))
    assert judges["over_seeds"]["cross"]["standard_deviation"] == pytest.approx(
        np.std(values, ddof=1)
    )
    # The energy has hardly learned, so log Z is near 0 from both sides.
    normaliser = result["log_normaliser"]
    assert abs(normaliser["lower"]) < 1
    assert normaliser.get("upper", normaliser.get("from_chain")) == pytest.approx(
        normaliser["lower"], abs=0.3
    )
    conditional = result["conditional_log_likelihood"]
    assert set(conditional["by_source"]) == {"m0", "m1"}
    for part in (conditional, *conditional["by_source"].values()):
        assert part["gain"] == pytest.approx(part["mean"] - part["nothing_given"], abs=0.01)
    for split in ("test", "training_data"):
        assert 1 <= result["log_likelihood"][split]["effective_sample_size"] <= 4
    cases = {"expert m0", "expert m1", "aggregate", "revised 2", "revised 10", "prior"}
    assert cases < set(result["calibration"])
    assert all(0 <= result["calibration"][case]["p_value"] <= 1 for case in cases)
    # Draws that ignore the data have uniform latent ranks; only their densities give them away.
    ignorant = result["calibration"]["prior"]
    assert ignorant["density_p_value"] < ignorant["p_value"]
    probes = {"shared", "shared from m0", "shared from m1", "private m0", "private m1", "chance"}
    assert set(result["linear_probes"]) == probes
    assert {"mixture", "shuffled", "classifier"} <= set(result["clustering"])


@few_samples
def test_a_metric_that_the_model_lacks_is_absent(straight, classifiers):
    config = make_config()
    config.energy.learn = config.prior.learn = False
    settings = builders.build_sampler_settings(config)
    sampler = Sampler(straight.run.model, straight.state.weights, settings)
    names = ("joint_samples", "cross_samples", "reconstruction", "energies")
    only = [m for m in measures.MEASURES if m.__name__ in names]
    result = evaluate.evaluate(straight.run, sampler, 4, classifiers, only=only)
    assert "base_prior" not in result["joint_coherence"]
    assert "energies" not in result
    assert set(result["frechet"]) == {"generator", "cross", "reconstruction"}
    assert result["protocol"]["refinement_steps"] == result["protocol"]["prior_steps"] == 0


@few_samples
def test_a_curve_evaluates_each_checkpoint_once(straight, classifiers, tmp_path, monkeypatch):
    def steps_of(folder):
        lines = (folder / "curve.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    folder = epath.Path(shutil.copytree(straight.run.workdir, tmp_path / "run"))
    run, kept = train.prepare(make_config(), folder), folder / "classifiers"
    table = curve.draw(run, kept, 30)
    assert steps_of(folder) == checkpoint.all_steps(folder) == [2, 4]
    assert "cross coherence" in table
    assert len((folder / "curve.png").read_bytes()) > 5000
    row = json.loads((folder / "curve.jsonl").read_text().splitlines()[1])
    assert row["epoch"] == 4 * run.config.batch_size / len(run.splits.train)
    assert row["num_samples"] == 30
    # Existing rows are not evaluated again, and damaged checkpoints are skipped.
    (folder / "curve.jsonl").write_text(json.dumps(row) + "\n")
    damage(folder / "checkpoints" / "2")
    with monkeypatch.context() as patch:
        patch.setattr(curve, "evaluate", None)
        assert curve.draw(run, kept, 30).count("\n") == 2
    assert steps_of(folder) == [4]
    with pytest.raises(ValueError, match="another --num_samples than 40"):
        curve.draw(run, kept, 40)
    with pytest.raises(ValueError, match="2 or more"):
        curve.draw(run, kept, 1)
    (folder / "curve.jsonl").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        curve.draw(run, kept, 30)


def test_a_curve_needs_a_checkpoint(straight, tmp_path):
    folder = epath.Path(shutil.copytree(straight.run.workdir, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        curve.draw(train.prepare(make_config(), folder), folder / "classifiers")


def test_classifiers_are_kept(straight, classifiers):
    again = evaluate.Classifiers(straight.run, straight.run.workdir / "classifiers")
    assert again.accuracies == classifiers.accuracies
    images = {"m0": np.zeros([2, 16, 16, 3], np.float32)}
    np.testing.assert_array_equal(
        again.predict(images)[1]["m0"], classifiers.predict(images)[1]["m0"]
    )


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_as_if_nothing_had_been(
    straight, tmp_path, monkeypatch
):
    workdir = epath.Path(tmp_path)
    write = pictures.write
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as stopped:
            train.train(train.prepare(make_config(), workdir))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert pictures.write is write
    assert checkpoint.newest_step(workdir) == 3
    state, _ = train.train(train.prepare(make_config(), workdir))
    assert_same(state, straight.state)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]


def make_explosive_config():
    """Only the parts that can explode."""
    config = make_config()
    config.update_from_flattened_dict(NO_REVISION | NO_PRIOR_ENERGY)
    config.missing_ratio = 0.0
    config.model.num_private = 0
    config.model.spectral_gain = 0.0  # otherwise the energies would stay bounded
    config.guard.halve_energy_rate = False
    return config


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The same run without an explosion."""
    run = train.prepare(make_explosive_config(), epath.Path(tmp_path_factory.mktemp("calm")))
    return Finished(run, train.train(run)[0])


@pytest.mark.parametrize("network", ["generator", "energy"])
def test_a_run_that_explodes_goes_on_from_its_newest_checkpoint(calm, tmp_path, network):
    workdir = epath.Path(tmp_path)
    # Step 3 makes the energy's second update and the generator's third.
    plant = faults.nan_in_gradient(2) if network == "generator" else faults.explosion(1)
    config = make_explosive_config()
    config.guard.halve_energy_rate = network == "energy"
    with plant:
        state, _ = train.train(train.prepare(config, workdir))
    assert int(state.step) == 4
    (event,) = read_events(workdir, "explosion")
    assert (event["step"], event["resumed_from"]) in [(3, 2), (4, 2)]
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]
    # The retry uses other keys.
    moved = jax.tree.map(lambda a, b: not np.allclose(a, b), state.params, calm.state.params)
    assert any(jax.tree.leaves(moved))
    assert not (workdir / "explosion.json").exists()


def test_a_checkpoint_that_holds_an_explosion_is_set_aside(tmp_path):
    workdir = epath.Path(tmp_path)
    config = make_explosive_config()
    config.num_steps = 6
    # Step 4 makes the energy's third update; its checkpoint is written before the explosion shows.
    with faults.explosion(2):
        state, _ = train.train(train.prepare(config, workdir))
    assert int(state.step) == 6
    events = read_events(workdir, "explosion")
    assert [(event["step"], event["resumed_from"]) for event in events] == [(5, 4), (5, 2)]
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5, 6]
    assert (workdir / "damaged_checkpoints" / "4").exists()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_run_that_keeps_exploding_ends_with_a_report(tmp_path):
    workdir = epath.Path(tmp_path)
    config = make_explosive_config()
    config.guard.update(retries=1, gradient_norm=1e-6)
    with pytest.raises(FloatingPointError, match=r"gradient_norm/.* at step 1.*explosion\.json"):
        train.train(train.prepare(config, workdir))
    assert len(read_events(workdir, "explosion")) == 2
    assert json.loads((workdir / "explosion.json").read_text())["step"] == 1
    assert (workdir / "images" / "explosion.png").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(straight, tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            pictures, "write", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left"))
        )
        with pytest.raises(OSError, match=r"takes no more \(No space left\): free some space"):
            train.train(train.prepare(make_config(), workdir))
    assert checkpoint.newest_step(workdir) == 2
    state, _ = train.train(train.prepare(make_config(), workdir))
    assert_same(state, straight.state)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]


def test_two_runs_do_not_share_a_folder(straight):
    with (
        sole_writer(straight.run.workdir),
        pytest.raises(ValueError, match="another process trains in"),
    ):
        train.train(straight.run)


def test_steps_compile_once_whatever_comes_between(tmp_path, caplog):
    config = make_config()
    config.update(num_steps=50, picture_every=10, checkpoint_every=10)
    run = train.prepare(config, epath.Path(tmp_path))
    starts = {}  # step → number of programs compiled when it was logged

    def compiled():
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if line.startswith("Compiling ")]

    def add(log, step, metrics, add=Log.add):
        starts[step] = len(compiled())
        add(log, step, metrics)

    with jax.log_compiles(), mock.patch.object(Log, "add", add):
        train.train(run)
    updates = [line for line in compiled() if "update" in line.split(" with ")[0]]
    assert len(updates) == 2  # before and after both energies join, at step 2
    # The first pictures, diagnostics and checkpoint may compile their own programs; later ones do
    # not.
    assert starts[50] == starts[11]
    assert starts[2] > starts[1] > 0


def frozen_config():
    config = make_config()
    config.schedule.freeze_step = 2
    return config


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A run of four steps whose generator and inference model are frozen after two."""
    run = train.prepare(frozen_config(), epath.Path(tmp_path_factory.mktemp("frozen")))
    fits = []

    def fit(run, state, key, **options):
        fits.append((int(state.step), options))
        return prior_fitting.fit_base_prior(run, state, key, **options)

    with mock.patch.object(loop, "fit_base_prior", fit):
        state = train.train(run)[0]
    return Finished(run, state), fits


def test_from_the_freeze_step_the_data_energy_alone_learns(frozen):
    (run, state), fits = frozen
    assert fits == [(1, {"final": False}), (2, {"warm_start": True})]
    counts = {name: int(count) for name, count in state.num_updates.items()}
    assert counts == {"inference": 2, "generator": 2, "prior": 1 + 3, "energy": 3}
    # The sampler draws the samples that the energy was trained on.
    sampler = mmebm_jax.load(run.workdir)
    assert sampler.settings.prior_energy
    assert sampler.settings.data_energy


def test_a_frozen_run_is_resumed_as_if_it_had_not_been_stopped(frozen, tmp_path):
    (run, state), _ = frozen
    workdir = epath.Path(shutil.copytree(run.workdir, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "4")
    again, _ = train.train(train.prepare(frozen_config(), workdir))
    assert_same(again, state)
    longer = frozen_config()
    longer.num_steps = 6
    extended, _ = train.train(train.prepare(longer, workdir))
    for name in ("inference", "generator", "prior"):
        assert_same(extended.weights.params[name], state.weights.params[name])
    assert_same(extended.weights.base_prior, state.weights.base_prior)
    assert int(extended.num_updates["energy"]) == 5
