import numpy as np
import pytest

from mmebm_jax.metrics.coherence import (
    coherence_by_count,
    coherence_floors,
    cross_coherence,
    joint_coherence,
)

NAMES = ("a", "b", "c")
LABELS = np.arange(200) % 10
RIGHT = LABELS
WRONG = (LABELS + 1) % 10


def _pairs(value):
    return {source: dict.fromkeys(NAMES, value) for source in NAMES}


def test_all_right_is_one_and_all_wrong_is_zero():
    assert joint_coherence(dict.fromkeys(NAMES, RIGHT)) == 1
    assert joint_coherence({"a": RIGHT, "b": WRONG}) == 0
    assert cross_coherence(_pairs(RIGHT), LABELS)["mean"] == 1
    assert cross_coherence(_pairs(WRONG), LABELS)["mean"] == 0
    assert coherence_by_count({("a",): {"b": RIGHT}}, LABELS) == {1: 1.0}
    assert coherence_by_count({("a",): {"b": WRONG}}, LABELS) == {1: 0.0}


def test_joint_coherence_needs_every_modality_to_agree():
    predictions = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 0], "c": [1, 2, 0, 0]}
    assert joint_coherence(predictions) == 0.5


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_chance_is_within_four_binomial_deviations(num_modalities):
    rng = np.random.default_rng(0)
    n, chance = 10_000, 10.0 ** (1 - num_modalities)
    guesses = {str(m): rng.integers(0, 10, n) for m in range(num_modalities)}
    bound = 4 * np.sqrt(chance * (1 - chance) / n)
    assert abs(joint_coherence(guesses) - chance) < bound
    cross = cross_coherence({"0": {"1": guesses["1"]}}, guesses["0"])["mean"]
    assert abs(cross - 0.1) < 4 * np.sqrt(0.1 * 0.9 / n)


def test_cross_coherence_by_hand():
    labels = [0, 1, 2, 3]
    predictions = {
        "a": {"a": [9, 9, 9, 9], "b": [0, 1, 2, 3], "c": [0, 1, 9, 9]},  # b 1, c 1/2
        "b": {"a": [0, 9, 9, 9], "c": [9, 9, 9, 9]},  # a 1/4, c 0
    }
    result = cross_coherence(predictions, labels)
    assert result["by_target"] == {"a": 0.25, "b": 1.0, "c": 0.25}
    assert result["by_source"] == {"a": 0.75, "b": 0.125}
    # Averaged over targets, not over pairs (which would give 7/16).
    assert result["mean"] == 0.5


def test_coherence_by_count_by_hand():
    labels = [0, 1]
    predictions = {
        ("a",): {"a": [0, 1], "b": [0, 1], "c": [0, 9]},  # 3/4; a is observed
        ("b",): {"a": [9, 9], "c": [9, 9]},  # 0
        ("a", "b"): {"c": [0, 9]},  # 1/2
        ("a", "b", "c"): {"a": [0, 1]},  # nothing left to predict
    }
    assert coherence_by_count(predictions, labels) == {1: 0.375, 2: 0.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: joint_coherence({"a": [1]}), "two modalities"),
        (lambda: joint_coherence({"a": [1, 2], "b": [1]}), "b has 1"),
        (lambda: joint_coherence({"a": [], "b": []}), "a is"),
        (lambda: joint_coherence({"a": np.zeros((2, 10)), "b": [1, 2]}), "class numbers"),
        (lambda: cross_coherence({"a": {"a": [1]}}, [1]), "differs from its source"),
        (lambda: cross_coherence({"a": {"b": [1]}}, [1, 2]), "a to b has 1"),
        (lambda: coherence_by_count({("a",): {"a": [1]}}, [1]), "observed"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_floors_and_ceilings():
    labels = np.arange(4000) % 4
    wrong = np.where(np.arange(4000) < 400, (labels + 1) % 4, labels)
    real = {"a": labels, "b": labels, "c": wrong}
    found = coherence_floors(real, labels, 4, np.random.default_rng(0))
    assert found["joint"]["real_data"] == 0.9
    assert found["cross"]["real_data"] == pytest.approx((1 + 1 + 0.9) / 3)
    assert (found["joint"]["chance"], found["cross"]["chance"]) == (1 / 16, 1 / 4)
    for name in ("joint", "cross"):
        assert found[name]["shuffled_pairs"] == pytest.approx(found[name]["chance"], abs=0.02)
    with pytest.raises(ValueError, match="two classes or more"):
        coherence_floors(real, labels, 1, np.random.default_rng(0))
