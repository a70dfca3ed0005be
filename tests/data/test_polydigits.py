import socket

import numpy as np
import pytest

from mmebm_jax.data import load_data, whole
from mmebm_jax.data.photographs import PHOTOGRAPHS, POLYMNIST_PHOTOGRAPHS, draw_over, photograph
from mmebm_jax.data.sets.polydigits import ALPHABET, WORDS, handwriting


def recover_mask(image, photo):
    """Invert `draw_over`: the one crop that explains every pixel gives the digit's mask."""
    size = image.shape[0]
    rows, columns = np.indices([side - size + 1 for side in photo.shape[:2]]).reshape(2, -1)
    # One pixel at a time, since after a few pixels hardly any position is left to check.
    for row, column in np.ndindex(size, size):
        under, pixel = photo[rows + row, columns + column], image[row, column]
        explained = (under == pixel).all(-1) | (under == 255 - pixel).all(-1)
        rows, columns = rows[explained], columns[explained]
    crops = [photo[i : i + size, j : j + size] for i, j in zip(rows, columns, strict=True)]
    masks = {(crop == 255 - image).all(-1).tobytes() for crop in crops}
    assert len(masks) == 1
    return masks.pop()


@pytest.fixture(scope="module")
def splits():
    return load_data("polydigits", seed=0, num_modalities=5, num_train=300, num_test=100, word=True)


def test_shapes_types_and_fields(splits):
    batch = whole(splits.train, 7)
    for m in range(5):
        assert batch[f"m{m}"].shape == (7, 16, 16, 3)
        assert batch[f"m{m}"].dtype == np.uint8
        assert splits.fields[f"m{m}"] == ("image", (16, 16, 3))
    assert batch["word"].shape == (7, 8)
    assert batch["word"].dtype == batch["label"].dtype == np.int32
    assert splits.fields["word"] == ("text", (8, len(ALPHABET)))
    assert splits.alphabet == ALPHABET
    assert (len(splits.train), len(splits.test), splits.num_classes) == (300, 100, 10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_test_handwriting_is_in_train(seed):
    train, test = handwriting(seed)
    assert (len(train.masks), len(test.masks)) == (1500, 297)
    shapes = [{mask.tobytes() for mask in part.masks} for part in (train, test)]
    assert len(shapes[0]) == 1500
    assert len(shapes[1]) == 297
    assert not shapes[0] & shapes[1]
    assert set(train.labels) == set(test.labels) == set(range(10))


@pytest.mark.parametrize("part", [0, 1])
def test_every_modality_shows_a_digit_of_the_label_from_its_own_split(splits, part):
    classes = {m.tobytes(): c for m, c in zip(*handwriting(0)[part], strict=True)}
    batch = whole((splits.train, splits.test)[part], 6)
    drawn = {}
    for m, name in enumerate(PHOTOGRAPHS):
        photo = photograph(name, 96)
        drawn[m] = [recover_mask(image, photo) for image in batch[f"m{m}"]]
        assert [classes[mask] for mask in drawn[m]] == batch["label"].tolist()
    assert drawn[0] != drawn[1]


def test_classes_are_balanced(splits):
    assert np.bincount(whole(splits.train)["label"]).tolist() == [30] * 10
    assert np.bincount(whole(splits.test)["label"]).tolist() == [10] * 10


def test_words_spell_the_label_at_varying_offsets(splits):
    batch = whole(splits.train)
    texts = ["".join(ALPHABET[t] for t in tokens) for tokens in batch["word"]]
    assert [text.strip() for text in texts] == [WORDS[label] for label in batch["label"]]
    ones = {text.index("one") for text, label in zip(texts, batch["label"], strict=True)
            if label == 1}  # fmt: skip
    assert ones == set(range(6))


def test_the_seed_decides_everything(splits):
    again = load_data(
        "polydigits", seed=0, num_modalities=5, num_train=300, num_test=100, word=True
    )
    other = load_data(
        "polydigits", seed=1, num_modalities=5, num_train=300, num_test=100, word=True
    )
    for name, array in whole(splits.train).items():
        np.testing.assert_array_equal(array, whole(again.train)[name])
        assert (array != whole(other.train)[name]).any()


def test_a_modality_does_not_depend_on_the_others(splits):
    fewer = load_data("polydigits", seed=0, num_modalities=2, num_train=300, num_test=100)
    assert sorted(whole(fewer.train)) == ["label", "m0", "m1"]
    assert fewer.alphabet == ""
    np.testing.assert_array_equal(whole(fewer.train)["m1"], whole(splits.train)["m1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_modalities": 0}, r"num_modalities is 0: it must be a whole number in \[1, 5\]"),
        ({"num_modalities": 6}, "num_modalities is 6"),
        ({"seed": -1}, "seed is -1"),
        ({"num_train": 0}, "num_train is 0"),
        ({"num_test": 0}, "num_test is 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_data("polydigits", **options)


def test_draw_over_inverts_inside_the_mask_alone():
    photo = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    mask = np.eye(4, dtype=bool)[None]
    image = draw_over(np.random.default_rng(0), mask, photo)[0]
    np.testing.assert_array_equal(image[mask[0]], 255 - photo[mask[0]])
    np.testing.assert_array_equal(image[~mask[0]], photo[~mask[0]])


@pytest.mark.parametrize("name", sorted({*PHOTOGRAPHS, *POLYMNIST_PHOTOGRAPHS}))
def test_photographs_need_no_network(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a photograph opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    photo = photograph(name)
    assert photo.dtype == np.uint8
    assert photo.shape[2] == 3
    assert photo.std() > 20
    assert min(photograph(name, 96).shape[:2]) == 96


def test_an_unknown_photograph_names_the_known_ones():
    with pytest.raises(ValueError, match="choose one of coffee"):
        photograph("moon")
