import numpy as np
import pytest

from mmebm_jax.metrics.backbone import (
    Backbone,
    cached_statistics,
    image_distance,
    image_statistics,
    in_batches,
)


def _corner(params, images):
    return images[:, 0, 0, :] * params


CORNER = Backbone("FD-corner", 3, lambda images: in_batches(_corner, 2.0, images, 4))


def test_any_function_is_a_backbone_and_names_its_distance():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (10, 2, 2, 3)).astype(np.uint8)
    reference = image_statistics(CORNER, images)
    np.testing.assert_allclose(reference[0], 2 / 255 * images[:, 0, 0].mean(0), rtol=1e-5)
    shifted = image_distance(CORNER, images + np.uint8(51), reference)
    assert shifted == pytest.approx({"FD-corner": 3 * 0.4**2}, rel=1e-4)


def test_the_last_batch_grey_pictures_and_ranges():
    images = np.random.default_rng(0).uniform(0, 1, (10, 2, 2, 3))
    np.testing.assert_allclose(CORNER.features(images), 2 * images[:, 0, 0], rtol=1e-6)
    grey = CORNER.features(images[..., :1])
    np.testing.assert_allclose(grey, 2 * images[:, 0, 0, :1].repeat(3, 1), rtol=1e-6)
    for bad in (images - 0.5, 255 * images, images.astype(int)):
        with pytest.raises(ValueError, match="pass uint8, or floats in"):
            CORNER.features(bad)
    with pytest.raises(ValueError, match="need"):
        CORNER.features(images[..., :2])


def test_fewer_pictures_than_features_are_refused_before_any_is_looked_at():
    def never(images):
        raise AssertionError

    with pytest.raises(ValueError, match=r"2048 pictures for a FID of 2048 features; .* 2049"):
        image_statistics(Backbone("FID", 2048, never), np.zeros((2048, 2, 2, 3)))


def test_statistics_of_a_reference_are_computed_once(tmp_path):
    path, calls = tmp_path / "a" / "reference.npz", []

    def compute(value):
        calls.append(value)
        return np.full(2, value), np.eye(2)

    for meta, expected in (({"split": "test"}, 1), ({"split": "test"}, 1), ({"split": "train"}, 3)):
        mean, covariance = cached_statistics(path, meta, lambda: compute(len(calls) * 2.0 + 1))
        np.testing.assert_array_equal(mean, [expected] * 2)
        np.testing.assert_array_equal(covariance, np.eye(2))
    assert calls == [1, 3]
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="delete it"):
        cached_statistics(path, {}, lambda: compute(0))
