"""Faces are drawn from their attributes, and the same seed gives the same faces."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmebm_jax.data import load_data, whole
from mmebm_jax.data.sets.avatars import ATTRIBUTES, combinations, sentences
from mmebm_jax.modalities.text import spelled

pytest.importorskip("dicebear")
pytest.importorskip("dicebear_styles")
pytest.importorskip("resvg_py")
SIZES = [len(values) for values in ATTRIBUTES.values()]
COLOURS = ("skin", "hair_colour", "shirt", "background")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return {
        "data_dir": str(tmp_path_factory.mktemp("avatars")),
        "num_train": 400,
        "num_test": 100,
        "image_size": 16,
    }


def chosen(batch):
    """The index of each attribute's value, `[N, num_attributes]`."""
    parts = np.split(batch["attributes"], np.cumsum(SIZES)[:-1], axis=1)
    assert all((part == 1).sum(axis=1).tolist() == [1] * len(part) for part in parts)
    return np.stack([part.argmax(axis=1) for part in parts], axis=1)


def test_no_combination_is_in_both_splits(options):
    train, test = combinations(0, 0.2)
    assert len(train) + len(test) == np.prod(SIZES)
    assert not {tuple(c) for c in train} & {tuple(c) for c in test}
    splits = load_data("avatars", **options)
    found = [{tuple(c) for c in chosen(whole(s))} for s in (splits.train, splits.test)]
    assert found[0] <= {tuple(c) for c in train}
    assert found[1] <= {tuple(c) for c in test}


def test_sentences_name_what_was_drawn(options):
    splits = load_data("avatars", prepare=False, **options)
    batch = whole(splits.train)
    texts = spelled(batch["text"], splits.alphabet)
    for numbers, text in zip(chosen(batch), texts, strict=True):
        names = {a: list(v)[n] for n, (a, v) in zip(numbers, ATTRIBUTES.items(), strict=True)}
        assert text == sentences(names)[0]
        assert "<unk>" not in text


def test_the_colours_asked_for_are_in_the_picture(options):
    splits = load_data("avatars", prepare=False, **options)
    train, test = whole(splits.train), whole(splits.test)
    for index, name in enumerate(ATTRIBUTES):
        if name not in COLOURS:
            continue
        judge = LogisticRegression(max_iter=200)
        judge.fit(train["image"].reshape(400, -1) / 255 - 0.5, chosen(train)[:, index])
        right = judge.predict(test["image"].reshape(100, -1) / 255 - 0.5) == chosen(test)[:, index]
        assert right.mean() > 0.9, name


def test_the_same_seed_draws_the_same_faces(options, tmp_path):
    again = load_data("avatars", **{**options, "data_dir": str(tmp_path), "num_test": 5})
    first = load_data("avatars", prepare=False, **options)
    for name, values in whole(first.train).items():
        np.testing.assert_array_equal(values, whole(again.train)[name])
    other = load_data("avatars", **{**options, "data_dir": str(tmp_path), "seed": 1})
    assert (whole(other.train)["image"] != whole(first.train)["image"]).any()


def test_what_is_not_drawn_yet_is_said(options, tmp_path):
    with pytest.raises(ValueError, match="avatars are not drawn in"):
        load_data("avatars", prepare=False, **{**options, "data_dir": str(tmp_path)})
