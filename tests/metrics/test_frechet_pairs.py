import numpy as np
import pytest

from mmebm_jax.metrics.frechet import (
    conditional_frechet,
    frechet_by_modality,
    frechet_floor,
    gaussian_statistics,
)

RNG = np.random.default_rng(0)
POINTS = {name: RNG.normal(size=(40, 3)) for name in "abc"}
REFERENCE = {name: gaussian_statistics(points) for name, points in POINTS.items()}


def _shifted(name, shift):
    """Features at a distance of `shift`² from the reference, differing only in their mean."""
    return POINTS[name] + np.array([shift, 0, 0])


def test_by_modality_is_the_squared_shift():
    result = frechet_by_modality({"a": _shifted("a", 1), "b": _shifted("b", 3)}, REFERENCE)
    assert result["by_modality"] == pytest.approx({"a": 1, "b": 9})
    assert result["mean"] == pytest.approx(5)


def test_conditional_mean_leaves_out_the_source_and_with_self_does_not():
    shifts = {"a": {"a": 0, "b": 1, "c": 2}, "b": {"a": 3, "b": 0, "c": 1}}
    features = {
        s: {t: _shifted(t, by) for t, by in targets.items()} for s, targets in shifts.items()
    }
    result = conditional_frechet(features, REFERENCE)
    assert result["by_source_and_target"]["b"]["a"] == pytest.approx(9)
    assert result["mean"] == pytest.approx((1 + 4 + 9 + 1) / 4)
    assert result["with_self"] == pytest.approx((1 + 4 + 9 + 1) / 6)
    del features["a"]["a"]
    assert "with_self" not in conditional_frechet(features, REFERENCE)
    with pytest.raises(ValueError, match="no target differs"):
        conditional_frechet({"a": {"a": POINTS["a"]}}, REFERENCE)


def test_floor_takes_as_many_training_examples_as_samples():
    train = {"a": np.concatenate([_shifted("a", 2), 100 + POINTS["a"]])}
    assert frechet_floor(train, REFERENCE, 40)["mean"] == pytest.approx(4)
    with pytest.raises(ValueError, match="80 training examples for a floor of 81"):
        frechet_floor(train, REFERENCE, 81)


@pytest.mark.parametrize("num_examples", [2, 3])
def test_fewer_samples_than_features_are_refused_with_the_number_needed(num_examples):
    few = POINTS["a"][:num_examples]
    with pytest.raises(ValueError, match=rf"{num_examples} examples for 3 .* at least 4"):
        gaussian_statistics(few, refuse_few=True)
    with pytest.raises(ValueError, match=r"a to b: .* at least 4"):
        conditional_frechet({"a": {"b": few}}, REFERENCE)
    gaussian_statistics(POINTS["a"][:4], refuse_few=True)


def test_a_modality_without_reference_is_named():
    with pytest.raises(ValueError, match="d has no reference; there are a, b, c"):
        frechet_by_modality({"d": POINTS["a"]}, REFERENCE)
    with pytest.raises(ValueError, match="no features"):
        frechet_by_modality({}, REFERENCE)
