"""Generators whose metrics are all known in advance, on four classes of Gaussian features.

Features of class c are N(10 e_c, I) in four dimensions, so a nearest-mean classifier is perfect. A
source of class c asks for a target of class c.
"""

import numpy as np
import pytest

from mmebm_jax.metrics.coherence import coherence_floors, cross_coherence
from mmebm_jax.metrics.diversity import class_balance, conditional_diversity, memorisation
from mmebm_jax.metrics.frechet import conditional_frechet, frechet_floor, gaussian_statistics
from mmebm_jax.metrics.prdc import prdc

NUM_CLASSES, NUM_EXAMPLES, NUM_DRAWS = 4, 1000, 8
LABELS = np.arange(NUM_EXAMPLES) % NUM_CLASSES
MEANS = 10 * np.eye(NUM_CLASSES)
RNG = np.random.default_rng(0)


def _real(labels):
    return MEANS[labels] + RNG.normal(size=(*labels.shape, NUM_CLASSES))


TRAIN, TEST, OTHER_TEST = (_real(LABELS) for _ in range(3))
REFERENCE = {"target": gaussian_statistics(TEST)}
FLOOR = frechet_floor({"target": TRAIN}, REFERENCE, NUM_EXAMPLES)["mean"]
# The expectation for samples from the data's own distribution, with five neighbours.
COVERAGE = 1 - np.prod([(NUM_EXAMPLES - i) / (2 * NUM_EXAMPLES - i) for i in range(1, 6)])
OF_CLASS = np.stack([np.flatnonzero(label == LABELS) for label in range(NUM_CLASSES)])


def _copies_the_training_set():
    chosen = RNG.integers(0, OF_CLASS.shape[1], (NUM_EXAMPLES, NUM_DRAWS))
    draws = TRAIN[OF_CLASS[LABELS[:, None], chosen]]
    draws[:, 0] = TRAIN
    return draws


def _deterministic_given_the_class():
    return np.repeat(MEANS[LABELS][:, None], NUM_DRAWS, axis=1)


def _ignores_the_source():
    shown = (np.arange(NUM_EXAMPLES)[:, None] // NUM_CLASSES + np.arange(NUM_DRAWS)) % NUM_CLASSES
    return _real(shown)


def _draws_from_test_data():
    chosen = RNG.integers(0, OF_CLASS.shape[1], (NUM_EXAMPLES, NUM_DRAWS))
    draws = OTHER_TEST[OF_CLASS[LABELS[:, None], chosen]]
    draws[:, 0] = OTHER_TEST
    return draws


def _measure(draws):
    first = draws[:, 0]
    classes = draws.argmax(-1)
    coherence = [cross_coherence({"s": {"target": c}}, LABELS)["mean"] for c in classes.T]
    return {
        "coherence": np.mean(coherence),
        "diversity": conditional_diversity(draws, LABELS, TEST, LABELS)["ratio"],
        "balance": class_balance(first.argmax(-1), NUM_CLASSES)["entropy"],
        "frechet": conditional_frechet({"s": {"target": first}}, REFERENCE)["mean"],
        **memorisation(first, TRAIN, TEST),
        **prdc(TEST, first),
    }


def test_a_generator_that_copies_the_training_set():
    result = _measure(_copies_the_training_set())
    # It looks perfect, except for its distances to its own training set.
    assert (result["distance"], result["ratio"], result["copied"]) == (0, 0, 1)
    assert result["frechet"] == pytest.approx(FLOOR)
    assert result["coherence"] == result["balance"] == 1
    assert result["diversity"] == pytest.approx(1, abs=0.05)
    assert result["density"] == pytest.approx(1, abs=0.08)
    assert result["coverage"] == pytest.approx(COVERAGE, abs=0.02)
    # For Gaussian data a few percent lie outside the other set's balls in any case.
    assert min(result["precision"], result["recall"]) > 0.9


def test_a_generator_that_is_deterministic_given_the_class():
    result = _measure(_deterministic_given_the_class())
    assert result["coherence"] == result["balance"] == 1  # coherence sees nothing wrong
    assert result["diversity"] == 0
    # Its balls are points without real examples; only the cores of the classes are covered.
    assert result["precision"] == 1
    assert result["recall"] == 0
    assert result["coverage"] < 0.3
    # Every class mean is closer to a training example than a new example is.
    assert result["ratio"] < 1
    # The covariance within classes, I, is missing. Between classes it is 0 along (1, 1, 1, 1) and
    # 100 / 4 = 25 in the other directions, where the data have 1 and 26.
    expected = 1 + 3 * (np.sqrt(26) - np.sqrt(25)) ** 2
    assert result["frechet"] == pytest.approx(expected, abs=0.1)


def test_a_generator_that_ignores_the_source():
    result = _measure(_ignores_the_source())
    assert result["coherence"] == 1 / NUM_CLASSES
    assert result["balance"] == pytest.approx(1, abs=1e-3)
    # Eight draws, two per class: a variance between classes of 8/7 · 100 · 3/16 per feature plus 1
    # within, where the data have 1.
    assert result["diversity"] == pytest.approx(np.sqrt(1 + 8 / 7 * 18.75), rel=0.03)
    # As a set they are perfect samples.
    assert result["frechet"] < 3 * FLOOR + 0.1
    assert result["density"] == pytest.approx(1, abs=0.08)
    assert result["coverage"] == pytest.approx(COVERAGE, abs=0.02)
    assert min(result["precision"], result["recall"]) > 0.9
    assert result["ratio"] == pytest.approx(1, abs=0.05)
    assert result["copied"] == pytest.approx(0.01, abs=0.01)


def test_a_generator_that_draws_from_real_test_data():
    result = _measure(_draws_from_test_data())
    assert result["coherence"] == result["balance"] == 1
    assert result["diversity"] == pytest.approx(1, abs=0.05)
    assert result["ratio"] == pytest.approx(1, abs=0.05)
    assert result["copied"] == pytest.approx(0.01, abs=0.01)
    assert result["frechet"] < 3 * FLOOR + 0.1
    assert result["density"] == pytest.approx(1, abs=0.08)
    assert result["coverage"] == pytest.approx(COVERAGE, abs=0.02)
    assert min(result["precision"], result["recall"]) > 0.9


def test_the_sources_own_reconstruction_lowers_the_distance_that_papers_average():
    first = _deterministic_given_the_class()[:, 0]
    reference = {"source": gaussian_statistics(TEST), **REFERENCE}
    features = {"source": {"source": TEST, "target": first}, "target": {"target": first}}
    found = conditional_frechet(features, reference)
    distance = found["by_source_and_target"]["source"]["target"]
    assert found["by_source_and_target"]["source"]["source"] == pytest.approx(0, abs=1e-6)
    assert found["mean"] == pytest.approx(distance)
    assert found["with_self"] == pytest.approx(2 / 3 * distance)


def test_one_class_alone_is_no_balance():
    balance = class_balance(np.zeros(NUM_EXAMPLES, int), NUM_CLASSES)
    assert balance == {"entropy": 0, "smallest_share": 0, "largest_share": 1}


def test_coherence_of_real_and_of_shuffled_pairs():
    real = {"source": TEST.argmax(1), "target": OTHER_TEST.argmax(1)}
    floors = coherence_floors(real, LABELS, NUM_CLASSES, np.random.default_rng(1))
    for found in floors.values():
        assert (found["real_data"], found["chance"]) == (1, 1 / NUM_CLASSES)
        assert found["shuffled_pairs"] == pytest.approx(1 / NUM_CLASSES, abs=0.04)
