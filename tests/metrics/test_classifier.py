import jax
import numpy as np
import pytest

from mmebm_jax.metrics import classifier
from mmebm_jax.modalities.image import IMAGE
from mmebm_jax.networks.classifier import NUM_FEATURES

KINDS = {"image": "image", "word": "text", "point": "vector"}


def _planted(n, seed):
    """A bright quadrant, a repeated token or a point's quadrant determines the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    images = rng.integers(0, 120, (n, 8, 12, 3), np.uint8)
    for i, label in enumerate(labels):
        images[i, 4 * (label // 2) :, 6 * (label % 2) :][:4, :6] += 100
    tokens = np.where(rng.random((n, 5)) < 0.2, rng.integers(0, 6, (n, 5)), labels[:, None])
    signs = np.stack([labels // 2, labels % 2], axis=1) * 2 - 1
    points = (signs * rng.uniform(0.1, 1, (n, 2))).astype(np.float32)
    return {"image": images, "word": tokens, "point": points}, labels


def _to_model_range(batch):
    convert = {"image": lambda a: a / np.float32(127.5) - 1, "word": lambda a: np.eye(6)[a]}
    return {name: convert.get(name, np.asarray)(value) for name, value in batch.items()}


@pytest.fixture(scope="module")
def trained():
    inputs, labels = _planted(1000, 0)
    return classifier.train_classifiers(
        jax.random.key(0), KINDS, inputs, labels, 4,
        steps=80, batch_size=50, to_model_range=_to_model_range,
    )  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_planted_task_is_learnt(trained, name):
    inputs, labels = _planted(301, 1)
    share = classifier.accuracy(
        KINDS[name], trained[name], inputs[name], labels,
        to_model=lambda raw: _to_model_range({name: raw})[name],
    )  # fmt: skip
    assert share > 0.97


def test_prediction_keeps_every_example_and_ignores_the_batching(trained):
    inputs = _to_model_range(_planted(23, 2)[0])["image"]
    logits, features = classifier.predict("image", trained["image"], inputs, batch_size=10)
    assert logits.shape == (23, 4)
    assert features.shape == (23, NUM_FEATURES)
    whole = classifier.predict("image", trained["image"], inputs, batch_size=23)
    np.testing.assert_allclose(logits, whole[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features, whole[1], rtol=1e-4, atol=1e-4)


def test_prediction_compiles_once_for_all_batches(trained):
    inputs = _to_model_range(_planted(40, 2)[0])["word"]
    before = classifier._apply._cache_size()
    for count in (40, 33, 7):
        classifier.predict("text", trained["word"], inputs[:count], batch_size=16)
    assert classifier._apply._cache_size() == before + 1


def test_training_depends_on_the_key_alone():
    inputs, labels = _planted(100, 0)
    words = np.eye(6)[inputs["word"]]

    def train(seed):
        return classifier.train_classifier(
            jax.random.key(seed), "text", words, labels, 4, steps=3, batch_size=20
        )

    jax.tree.map(np.testing.assert_array_equal, train(0), train(0))
    kernels = [train(seed)["logits"]["kernel"] for seed in (0, 1)]
    assert not np.array_equal(*kernels)


def test_shift_moves_by_one_pixel_at_most_and_repeats_the_edge():
    image = np.arange(16).reshape(1, 4, 4, 1)
    seen = IMAGE.augment(np.random.default_rng(0), np.repeat(image, 200, 0))
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)), mode="edge")
    allowed = {padded[r : r + 4, c : c + 4].tobytes() for r in range(3) for c in range(3)}
    assert {one.tobytes() for one in seen} == allowed


def test_save_and_load_round_trip(trained, tmp_path):
    folder = tmp_path / "new" / "classifiers"
    meta = {"data": "planted", "shape": (8, 12, 3), "seed": 0}
    assert classifier.load_classifiers(folder, meta) is None
    classifier.save_classifiers(folder, trained, {"image": 0.9, "word": 1.0}, meta)
    loaded, accuracies = classifier.load_classifiers(folder, meta)
    assert accuracies == {"image": 0.9, "word": 1.0}
    assert jax.tree.structure(loaded) == jax.tree.structure(trained)
    jax.tree.map(np.testing.assert_array_equal, loaded, trained)
    assert classifier.load_classifiers(folder, meta | {"seed": 1}) is None
    assert [file.name for file in folder.iterdir()] == ["classifiers.npz"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x"])
def test_damaged_file_is_named(trained, tmp_path, damage):
    classifier.save_classifiers(tmp_path, trained, {}, {})
    file = tmp_path / "classifiers.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"classifiers\.npz is damaged"):
        classifier.load_classifiers(tmp_path, {})


def test_bad_input_is_named(trained):
    key, images, labels = jax.random.key(0), np.zeros((4, 8, 8, 3)), np.zeros(4, int)
    train = classifier.train_classifier
    with pytest.raises(ValueError, match="unknown kind 'sound'"):
        train(key, "sound", images, labels, 4)
    with pytest.raises(ValueError, match="multiples of 4"):
        train(key, "image", images[:, :6], labels, 4)
    with pytest.raises(ValueError, match=r"need \[B, size\]"):
        train(key, "vector", images, labels, 4)
    with pytest.raises(ValueError, match="one label per example"):
        train(key, "image", images, labels[:2], 4)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        train(key, "image", images, labels + 4, 4)
    with pytest.raises(ValueError, match="steps"):
        train(key, "image", images, labels, 4, steps=0)
    with pytest.raises(ValueError, match="no inputs"):
        classifier.train_classifiers(key, KINDS, {}, labels, 4)
    with pytest.raises(ValueError, match="not trained on"):
        classifier.predict("image", trained["image"], images)
    with pytest.raises(ValueError, match="at least one"):
        classifier.predict("image", trained["image"], images[:0])
    with pytest.raises(ValueError, match="4 inputs but 2 labels"):
        classifier.accuracy("image", trained["image"], images, labels[:2])
