"""Attributes without classes: floors are expectations, and words are counted by hand."""

import jax
import numpy as np
import pytest

from mmebm_jax.metrics import attributes, classifier


def test_agreement_and_its_floor():
    asked = np.array([0, 0, 1, 2, 2, 2])
    found = attributes.agreement(asked, asked)
    # Pairs of different examples with equal values: 2 · 1 + 0 + 3 · 2 out of 6 · 5.
    assert found == (1.0, pytest.approx(8 / 30))
    constant = np.full(6, 2)
    assert attributes.agreement(constant, asked) == (0.5, pytest.approx(0.5))
    among = np.array([True, False, True, False, False, True])
    predicted = np.array([0, 1, 2, 0, 0, 2])
    found = attributes.agreement(predicted, asked, among)
    # Other examples that predict 0, 1 and 2: 2, 1 and 1 out of 5.
    assert found == (pytest.approx(2 / 3), pytest.approx((2 + 1 + 1) / 15))
    assert attributes.agreement(asked, asked, np.zeros(6, bool)) is None


def test_the_floor_is_the_mean_over_shuffles():
    rng = np.random.default_rng(0)
    predicted, asked = rng.integers(3, size=(2, 50))
    shifts = [np.mean(np.roll(predicted, shift) == asked) for shift in range(1, 50)]
    assert attributes.agreement(predicted, asked).shuffled == pytest.approx(np.mean(shifts))


def test_numbers_of_two_levels():
    values = np.array([[-1, 0.1, 5, 0], [1, 0.2, 5, 3], [1, 0.3, 5, 0]])
    index, thresholds = attributes.two_levels(values)
    assert index.tolist() == [0, 3]
    assert thresholds.tolist() == [0, 1.5]


def test_words_of_all_alternatives():
    tokens = np.array([[[1, 2, 0], [3, 3, 0]], [[4, 2, 0], [3, 1, 0]]])
    said = attributes.words_said(tokens, 5)
    assert [np.flatnonzero(row).tolist() for row in said] == [[0, 1, 2, 4], [0, 1, 3]]
    assert np.flatnonzero(attributes.words_said(tokens[0, :1], 5)[0]).tolist() == [0, 1, 2]


def test_right_words_beside_the_commonest_and_others():
    drawn = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]]) > 0
    true = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0]]) > 0
    found = attributes.right_words(drawn, true, np.array([0.5, 0.1, 0.3]))
    # The two most frequent words are 0 and 2, the most frequent is word 0.
    assert found["drawn"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["majority"] == pytest.approx((1 / 2 + 0) / 2)
    # The others share 0 + 2 of the first sentence's words, and 0 + 0 of the second's.
    assert found["shuffled"] == pytest.approx((2 / 2 / 2 + 0) / 2)
    assert found["num_words"] == 1.5
    assert found["counted"] == pytest.approx(2 / 3)
    assert attributes.right_words(drawn[2:], true[2:], np.ones(3)) == {}


def test_one_classifier_tells_all_attributes():
    def batches(rng, count):
        values = np.stack([rng.integers(3, size=count), rng.integers(2, size=count)], axis=1)
        shades = np.stack([values[:, 0] - 1.0, 2.0 * values[:, 1] - 1], axis=-1)
        pictures = np.broadcast_to(shades[:, None, None], (count, 8, 8, 2))
        return (pictures + rng.normal(0, 0.1, pictures.shape)).astype(np.float32), values

    settings = attributes.Settings(steps=60, batch_size=32)
    params = attributes.train_classifier(jax.random.key(0), "image", batches, (3, 2), settings)
    pictures, values = batches(np.random.default_rng(1), 100)
    logits, _ = classifier.predict("image", params, pictures)
    assert np.mean(attributes.predicted(logits, (3, 2)) == values) > 0.95
