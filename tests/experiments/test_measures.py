"""Which measures an evaluation runs, and distances named after their backbone."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from experiments import evaluate, measures
from experiments.classifiers import BATCH, Classifiers
from experiments.measures import distances, likelihood
from experiments.measures.calibration import posterior_calibration
from experiments.measures.coherence import cross_samples
from experiments.measures.subject import Subject
from mmebm_jax import training
from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method.train_state import Weights
from mmebm_jax.metrics import polymnist_classifier
from mmebm_jax.metrics.backbone import Backbone
from mmebm_jax.modalities.modality import from_raw, to_raw
from mmebm_jax.runs import builders, checkpoint
from mmebm_jax.runs.sampler import Sampler
from tests.commands import save_run, small_config

# These need weights, or text, vectors or categories as well as pictures.
WITHOUT = {"fid", "mobilenet_distance", "pair_retrieval", "attribute_agreement"}


def names(found):
    return {measure.__name__ for measure in found}


@pytest.fixture
def prepare(tmp_path):
    return lambda **changes: training.prepare(small_config(**changes), tmp_path / "run")


def test_all_is_what_the_run_has_everything_for(prepare):
    run = prepare(data__num_train=100, data__num_test=100)
    everything = names(measures.MEASURES)
    assert len(everything) == len(measures.MEASURES)
    assert names(measures.chosen(run)) == everything - WITHOUT
    assert set(measures.absent(run)) == WITHOUT
    few = prepare(data__num_train=100, data__num_test=30)
    missing = set(measures.absent(few)) - WITHOUT
    assert missing == {"fidelity", "distance_floor", "conditional_distances"}


def test_one_modality_has_no_pairs(prepare):
    run = prepare(data__num_modalities=1)
    left = names(measures.chosen(run))
    assert {"joint_samples", "class_balance", "log_likelihood", "linear_probes"} <= left
    assert not left & {"cross_samples", "coherence_floors", "conditional_log_likelihood"}
    run = prepare(
        model__num_latents=0,
        model__num_private=2,
        prior__learn=False,
        prior__fit_mixture=False,
        elbo__learned_prior=False,
        elbo__objective="mmvae",
        model__aggregator="mixture",
    )
    assert not names(measures.chosen(run)) & {"log_likelihood", "linear_probes", "latent_clusters"}


def test_few_sources_leave_the_number_of_samples(prepare, tmp_path):
    """Sources are the first test examples; distances from too few of them are left out."""
    run = prepare(data__num_train=100, data__num_test=100, evaluation__num_sources=7)
    weights = Weights(run.model.init(jax.random.key(0)), standard(4, run.model.num_latents))
    sampler = Sampler(run.model, weights, builders.build_sampler_settings(run.config))
    subject = Subject(run, sampler, Classifiers(run, epath.Path(tmp_path)))
    assert (subject.num_samples, subject.num_sources) == (100, 7)
    source = subject.names[0]
    np.testing.assert_array_equal(subject.sources[source], subject.test[source][:7])
    assert {len(values) for values in subject.cross(source, "mean").values()} == {7}
    drawn = subject.draw(source)
    np.testing.assert_array_equal(drawn[source], subject.sources[source])
    missing = measures.absent(run)
    assert set(missing) - WITHOUT == {"conditional_distances"}
    assert "there are 7: raise config.evaluation.num_sources" in missing["conditional_distances"]


def test_a_chain_that_diverges_costs_its_own_numbers_alone(prepare, tmp_path):
    run = prepare(
        data__num_train=100,
        data__num_test=100,
        evaluation__num_samples=70,
        evaluation__calibration_examples=10,
        posterior__chain__step_size=1e3,
    )
    weights = Weights(run.model.init(jax.random.key(0)), standard(4, run.model.num_latents))
    sampler = Sampler(run.model, weights, builders.build_sampler_settings(run.config))
    classifiers = Classifiers(run, epath.Path(tmp_path))

    def broken(subject):
        raise FloatingPointError("samples hold NaN")

    only = [broken, cross_samples, distances.reconstruction, posterior_calibration]
    result = evaluate.evaluate(run, sampler, 0, classifiers, only=only)
    revised = {name for name in result["absent"] if name.startswith("calibration, revised")}
    others = {"broken", "reconstruction", "cross coherence, revised"}
    assert set(result["absent"]) - revised == others
    assert len(revised) == 2
    assert set(result["cross_coherence"]) == {"mean", "by_target", "expert_mean"}
    assert "aggregate" in result["calibration"]
    assert not any(name.startswith("revised") for name in result["calibration"])
    assert "not measured: broken: samples hold NaN" in evaluate.table(result)


def test_names_are_taken_in_the_order_of_the_contents(prepare):
    run = prepare(evaluation__measures="linear_probes, class_balance")
    order = [measure.__name__ for measure in measures.chosen(run)]
    assert order == ["joint_samples", "class_balance", "linear_probes"]
    assert measures.absent(run) == {}


def test_an_older_run_is_measured_by_todays_defaults(tmp_path):
    config = small_config()
    save_run(tmp_path, config)
    tree = config.to_dict()
    tree["evaluation"] = {"num_samples": 50, "classifier_steps": 20}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    found = checkpoint.read_config(epath.Path(tmp_path)).evaluation
    assert (found.num_samples, found.measures, found.classifier_seeds) == (50, "all", 3)


def test_distances_under_a_backbones_own_name(prepare):
    run = prepare(data__num_train=60, data__num_test=60, evaluation__num_samples=60)
    calls = []

    def corner(images):
        calls.append(len(images))
        return images[:, 3, 3].astype(np.float64)

    backbone = Backbone("FD-corner", 3, corner)
    raw = run.splits.test.gather(np.arange(60))
    test = {m.name: np.asarray(from_raw(m, raw[m.name])) for m in run.model.modalities}
    brighter = {name: np.clip(0.5 * values + 0.3, -1, 1) for name, values in test.items()}
    subject = SimpleNamespace(
        run=run,
        names=list(test),
        settings=SimpleNamespace(data_energy=True),
        sampler=SimpleNamespace(
            as_raw=lambda samples: {
                m.name: to_raw(m, samples[m.name]) for m in run.model.modalities
            }
        ),
        classifiers=SimpleNamespace(folder=epath.Path(run.workdir) / "classifiers"),
        generated=test,
        samples=brighter,
        train=brighter,
        cross=lambda source, method: {**brighter, source: test[source]},
    )
    found = distances.image_distances(subject, backbone, "abcd")["FD-corner"]
    assert found["generator"]["mean"] == pytest.approx(0, abs=1e-6)
    shift = found["energy"]["mean"]
    assert shift > 1
    assert found["floor"] == found["energy"]
    # Only one of the two means counts the source itself.
    assert found["conditional"]["mean"] == pytest.approx(shift)
    assert found["conditional"]["with_self"] == pytest.approx(shift / 2)
    assert found["weights"] == "SHA-256 abcd"
    before = len(calls)
    distances.image_distances(subject, backbone, "abcd")
    assert len(calls) - before == before - len(test)  # the reference statistics are cached
    distances.image_distances(subject, backbone, "other")
    assert len(calls) == 3 * before - len(test)


def test_published_classifiers_judge_every_sample():
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in polymnist_classifier.SHAPES.items()
    }
    judges = object.__new__(Classifiers)
    judges._published = {"m3": weights}
    images = rng.uniform(-1, 1, (BATCH + 7, 28, 28, 3)).astype(np.float32)
    classes = judges._judge_published({"m3": images})["m3"]
    expected = np.asarray(polymnist_classifier.logits(weights, images)).argmax(-1)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(classes, expected)


def test_what_no_classifier_judges_trains_none(prepare, tmp_path):
    run = prepare(evaluation__likelihood_examples=2)
    weights = Weights(run.model.init(jax.random.key(0)), standard(4, run.model.num_latents))
    sampler = Sampler(run.model, weights, builders.build_sampler_settings(run.config))
    classifiers = Classifiers(run, epath.Path(tmp_path / "classifiers"))
    result = evaluate.evaluate(run, sampler, 0, classifiers, only=[likelihood.log_likelihood])
    assert "log_likelihood" in result
    assert "classifier_accuracy" not in result
    assert not (tmp_path / "classifiers").exists()
    assert "classifier accuracy" not in evaluate.table(result)
