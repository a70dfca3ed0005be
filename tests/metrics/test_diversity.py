import numpy as np
import pytest

from mmebm_jax.metrics.diversity import class_balance, conditional_diversity, memorisation


def test_conditional_diversity_by_hand():
    # Two features. Class 0 has variances (2, 8), class 1 (32, 8); sources have classes 0, 0, 1.
    real = np.array([[1.0, 0], [3, 4], [0, 0], [8, 4]])
    # The draws have variances (.5, 2), (0, 0), (2, 0).
    draws = np.array([[[0.0, 0], [1, 2]], [[7, 7], [7, 7]], [[5, 1], [7, 1]]])
    result = conditional_diversity(draws, np.array([0, 0, 1]), real, np.array([0, 0, 1, 1]))
    of_draws = (0.5 + 2 + 0 + 0 + 2 + 0) / 6
    of_data = (2 + 8 + 2 + 8 + 32 + 8) / 6
    assert result["draws"] == pytest.approx(of_draws**0.5)
    assert result["data"] == pytest.approx(of_data**0.5)
    assert result["ratio"] == pytest.approx((of_draws / of_data) ** 0.5)


@pytest.mark.parametrize("num_draws", [2, 10])
def test_draws_from_the_class_have_diversity_one_whatever_their_number(num_draws):
    rng = np.random.default_rng(0)
    scale = np.array([0.1, 3.0, 1.0])
    labels = rng.integers(0, 4, 4000)
    real = 10 * labels[:, None] + scale * rng.normal(size=(4000, 3))
    draws = 10 * labels[:, None, None] + scale * rng.normal(size=(4000, num_draws, 3))
    ratio = conditional_diversity(draws, labels, real, labels)["ratio"]
    assert ratio == pytest.approx(1, abs=0.03)
    half = conditional_diversity(draws / 2, labels, real, labels)["ratio"]
    assert half == pytest.approx(ratio / 2)


def test_pixels_of_images_are_features():
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 256, (5, 3, 4, 4, 3)).astype(np.uint8)
    real = rng.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    labels, sources = np.arange(20) % 2, np.array([0, 1, 1, 0, 0])
    images = conditional_diversity(draws, sources, real, labels)
    flat = conditional_diversity(
        draws.reshape(5, 3, -1).astype(float), sources, real.reshape(20, -1).astype(float), labels
    )
    assert images == pytest.approx(flat)


def test_conditional_diversity_refuses_what_has_no_spread():
    draws, real = np.zeros((3, 2, 4)), np.random.default_rng(0).normal(size=(5, 4))
    labels, sources = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1])
    with pytest.raises(ValueError, match="class 1 has 1 real examples"):
        conditional_diversity(draws, sources, real, labels)
    with pytest.raises(ValueError, match="K at least 2"):
        conditional_diversity(draws[:, :1], sources, real, labels)
    with pytest.raises(ValueError, match="pass one each"):
        conditional_diversity(draws, sources[:2], real, labels)
    with pytest.raises(ValueError, match="all equal"):
        conditional_diversity(draws, sources * 0, np.ones((5, 4)), labels)
    with pytest.raises(ValueError, match="diverged"):
        conditional_diversity(draws * np.nan, sources * 0, real, labels)


def test_class_balance_of_known_shares():
    even = class_balance(np.repeat(np.arange(5), 7), 5)
    assert even == pytest.approx({"entropy": 1, "smallest_share": 0.2, "largest_share": 0.2})
    single = class_balance(np.full(9, 2), 4)
    assert single == {"entropy": 0, "smallest_share": 0, "largest_share": 1}
    uneven = class_balance(np.array([0, 0, 1, 2]), 4)
    # The entropy of (1/2, 1/4, 1/4, 0) is 1.5 of 2 bits.
    assert uneven == pytest.approx({"entropy": 0.75, "smallest_share": 0, "largest_share": 0.5})


def test_class_balance_refuses_classes_out_of_range():
    with pytest.raises(ValueError, match=r"must lie in 0\.\.2"):
        class_balance(np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="pass int"):
        class_balance(np.array([0.5]), 3)


def test_memorisation_by_hand():
    train, test = np.array([[0.0, 0], [10, 0]]), np.array([[0.0, 1], [10, 3]])
    result = memorisation(np.array([[0.0, 0], [10, 4], [13, 4]]), train, test)
    assert result["distance"] == pytest.approx((0 + 4 + 5) / 3)
    assert result["floor"] == pytest.approx(2)
    assert result["ratio"] == pytest.approx(1.5)
    assert result["copied"] == pytest.approx(1 / 3)  # below 1.02, the test set's 1 % quantile


def test_copies_are_seen_where_some_test_data_are_in_the_training_set_too():
    train = np.random.default_rng(0).normal(size=(100, 3))
    test = np.concatenate([train[:5], 1 + train[5:]])
    assert memorisation(train, train, test)["copied"] == 1
    assert memorisation(1 + train, train, test)["copied"] == 0


def test_memorisation_refuses_a_test_set_out_of_the_training_set():
    train = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match="held-out"):
        memorisation(train, train, train[:5])
