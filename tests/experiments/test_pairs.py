"""Measures without classes, on planted generators that copy or ignore their input."""

from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from configs import folder
from experiments import judges, measures
from experiments.measures import pairs
from mmebm_jax import data, training
from tests.commands import SHRINK, small_config

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210), "grey": (128,) * 3}
SIZES = {name: size for name, size in SHRINK.items() if name.startswith("model.")}
NUM_TEST = 80


def arrays(count, seed):
    """Two-part pictures, a sentence on the left, binary attributes on the right, and a category."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(4, size=(2, count))
    shades = np.array(list(COLOURS.values()))
    pictures = np.zeros((count, 8, 8, 3))
    pictures[:, :, :4], pictures[:, :, 4:] = (shades[side][:, None, None] for side in (left, right))
    pictures = np.clip(pictures + rng.normal(0, 8, pictures.shape), 0, 255).astype(np.uint8)
    words = np.array(list(COLOURS))[left]
    return {
        "picture": pictures,
        "text": [[f"a {word} bird", f"this is {word}"] for word in words],
        "ticks": np.eye(4)[right] * 3.0,
        "side": right,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = folder.get_config("smoke")
    config.update_from_flattened_dict(SIZES | {"evaluation.classifier_steps": 60})
    splits = data.from_arrays(arrays(400, 0), arrays(NUM_TEST, 1), categories=["side"], length=5)
    return training.prepare(config, tmp_path_factory.mktemp("planted") / "run", data=splits)


def subject(run, draw, joint=None):
    """A subject whose draws are `draw(raw test examples)`."""
    test = data.whole(run.splits.test)
    known = {}

    def once(name, compute):
        if name not in known:
            known[name] = compute()
        return known[name]

    return SimpleNamespace(
        run=run,
        classifiers=SimpleNamespace(folder=epath.Path(run.workdir) / "classifiers"),
        sampler=SimpleNamespace(as_raw=lambda samples: samples),
        num_sources=NUM_TEST,
        sources=test,
        samples=draw(test) if joint is None else joint,
        draw=lambda source: draw(test) | {source: test[source]},
        once=once,
    )


def ignoring(test):
    """The same example for every input."""
    return {name: np.repeat(values[:1], len(values), axis=0) for name, values in test.items()}


def test_a_generator_that_copies_is_as_good_as_real_pairs(run):
    found = pairs.pair_retrieval(subject(run, dict))["retrieval"]
    assert (found.pop("pool"), found.pop("chance")) == (NUM_TEST, 1 / NUM_TEST)
    mean = found.pop("mean")
    assert set(found) == {"picture+text", "picture+ticks", "picture+side"}
    for sides in found.values():
        assert sides["joint"] == sides["real"] == sides["pictures_drawn"] == sides["others_drawn"]
        # A quarter of all partners are equal, so one of about 20 equally good ones is right.
        assert min(sides["real"].values()) > 2.5 / NUM_TEST
        assert max(sides["shuffled"].values()) < 2 / NUM_TEST
    assert mean["joint"] == mean["real"] > 1.5 * mean["shuffled"]


def test_a_generator_that_ignores_what_is_given_guesses(run):
    found = pairs.pair_retrieval(subject(run, ignoring))["retrieval"]
    for other in ("text", "ticks", "side"):
        for side in ("pictures_drawn", "others_drawn", "joint"):
            for share in found[f"picture+{other}"][side].values():
                assert share == pytest.approx(1 / NUM_TEST)


def test_attributes_of_copies_and_of_one_picture_for_all(run):
    copied = pairs.attribute_agreement(subject(run, dict))["attributes"]
    constant = pairs.attribute_agreement(subject(run, ignoring))["attributes"]
    assert set(copied) == set(constant) == {"picture+ticks", "picture+side", "mean"}
    for name in ("picture+ticks", "picture+side"):
        mean = copied[name]["mean"]
        assert mean["pictures_drawn"] == mean["joint"] == mean["real"] > 0.9
        assert mean["others_drawn"] == 1
        assert mean["pictures_drawn_shuffled"] < mean["pictures_drawn"] - 0.1
        mean = constant[name]["mean"]
        for side in ("pictures_drawn", "others_drawn"):
            assert mean[side] == pytest.approx(mean[f"{side}_shuffled"])
        assert mean["real"] == copied[name]["mean"]["real"]
    ticks = copied["picture+ticks"]
    assert set(ticks["by_attribute"]) == {f"ticks {n}" for n in range(4)}
    asked = data.whole(run.splits.test)["ticks"] > 0
    expected = np.mean(~asked, axis=0)  # most training pictures lack each attribute
    assert ticks["mean"]["majority"] == pytest.approx(expected.mean())


def test_words_of_copies_and_of_one_picture_for_all(run):
    copied = pairs.attribute_agreement(subject(run, dict))["attribute_words"]["picture+text"]
    assert set(copied["by_word"]) == set(copied["visible"]) == {f"word {c}" for c in COLOURS}
    mean = copied["mean"]
    assert mean["pictures_drawn"] == mean["joint"] == mean["real"] > 0.9
    assert mean["real_shuffled"] == pytest.approx(0.25, abs=0.1)
    assert mean["sentences_drawn"] == mean["sentences_num_words"] == 1
    assert mean["sentences_shuffled"] < 0.4
    constant = pairs.attribute_agreement(subject(run, ignoring))["attribute_words"]
    mean = constant["picture+text"]["mean"]
    assert mean["pictures_drawn"] == pytest.approx(mean["pictures_drawn_shuffled"])
    # The one sentence is right for as many pictures as have its colour.
    left = arrays(NUM_TEST, 1)["text"]
    same = np.mean([sentences == left[0] for sentences in left])
    assert mean["sentences_drawn"] == pytest.approx(same)


def test_judges_are_kept_and_trained_anew_for_other_data(run, monkeypatch):
    pair = judges.pairs(run)[0]
    place = epath.Path(run.workdir) / "kept"
    trained = []
    train = judges.matching.train_towers
    monkeypatch.setattr(
        judges.matching, "train_towers", lambda *given: trained.append(given) or train(*given)
    )
    raw = {m.name: data.whole(run.splits.test)[m.name] for m in pair}
    first = judges.PairJudge(run, place, pair).vectors(raw)
    again = judges.PairJudge(run, place, pair).vectors(raw)
    assert len(trained) == 1
    for name, vectors in first.items():
        np.testing.assert_array_equal(vectors, again[name])
    other = run._replace(splits=run.splits._replace(version="other"))
    judges.PairJudge(other, place, pair)
    assert len(trained) == 2


def test_data_without_pairs_say_so(tmp_path, run):
    lone = training.prepare(small_config(), tmp_path / "run")
    missing = measures.absent(lone)
    for name in ("pair_retrieval", "attribute_agreement"):
        assert missing[name] == "the data have no pictures beside text, vectors or categories"
    assert not {"pair_retrieval", "attribute_agreement"} & set(measures.absent(run))
