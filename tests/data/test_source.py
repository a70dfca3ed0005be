import numpy as np
import pytest

from mmebm_jax.data import ArraySource, batches, complete, load_data, whole
from mmebm_jax.data.source import OBSERVED, IncompleteSource, observed_of, with_missing

NAMES = ("picture", "text", "vector")


def make_source(count=4000):
    """Examples of every kind that are nonzero everywhere and carry their own index."""
    index = np.arange(count)
    return ArraySource(
        {
            "picture": np.full([count, 2, 2, 1], 7, np.uint8),
            "text": 1 + np.stack([index, index], axis=1).astype(np.int32),
            "vector": np.full([count, 3], -0.5, np.float32),
            "label": index.astype(np.int32),
        }
    )


def test_what_is_missing_is_zeros_and_the_rest_is_untouched():
    complete = whole(make_source(50))
    batch = whole(with_missing(make_source(50), NAMES, 0.5, seed=0))
    assert set(batch) == {*NAMES, "label", OBSERVED}
    np.testing.assert_array_equal(batch["label"], complete["label"])
    for column, name in enumerate(NAMES):
        seen = batch[OBSERVED][:, column]
        assert batch[name].dtype == complete[name].dtype
        assert 0 < seen.sum() < 50
        np.testing.assert_array_equal(batch[name][seen], complete[name][seen])
        assert not batch[name][~seen].any()
    # The source itself stays unchanged.
    for name, values in whole(make_source(50)).items():
        np.testing.assert_array_equal(values, complete[name])


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.9])
def test_the_stated_share_is_hidden_but_never_all_of_an_example(ratio):
    observed = with_missing(make_source(), NAMES, ratio, seed=1).gather(np.arange(4000))[OBSERVED]
    assert observed.dtype == bool
    assert observed.shape == (4000, 3)
    assert observed.any(axis=1).all()
    # With probability r³ an example would lack everything; then one of the three is kept.
    error = 4 * np.sqrt(0.25 / 4000)
    np.testing.assert_allclose(observed.mean(axis=0), 1 - ratio + ratio**3 / 3, atol=error)
    both = (1 - ratio) ** 2
    np.testing.assert_allclose((observed[:, 0] & observed[:, 1]).mean(), both, atol=error)


def test_an_example_lacks_the_same_wherever_it_is_read():
    source = with_missing(make_source(30), NAMES, 0.5, seed=2)
    expected = whole(source)[OBSERVED]
    seen = batches(source, 8, seed=0)
    for step in range(9):  # more than two epochs, in a different order and position
        batch = seen[step]
        np.testing.assert_array_equal(batch[OBSERVED], expected[batch["label"]])
    again = with_missing(make_source(30), NAMES, 0.5, seed=2)
    np.testing.assert_array_equal(whole(again)[OBSERVED], expected)
    other = with_missing(make_source(30), NAMES, 0.5, seed=3)
    assert (whole(other)[OBSERVED] != expected).any()


def test_processes_share_what_is_observed():
    source = with_missing(make_source(40), NAMES, 0.5, seed=0)
    parts = [batches(source, 12, 7, process_index=i, process_count=3)[4] for i in range(3)]
    alone = batches(source, 12, 7)[4]
    for name in alone:
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), alone[name])


def test_an_example_without_any_modality_is_refused_in_one_line():
    observed = np.ones([5, 3], bool)
    observed[[2, 4]] = False
    with pytest.raises(ValueError, match=r"example 2 has no observed modality \(2 such") as caught:
        IncompleteSource(make_source(5), NAMES, observed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (4, 3), (5, 2)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"observed has shape .*: give \[5, 3\]"):
        IncompleteSource(make_source(5), NAMES, np.ones(shape, bool))


def test_a_data_set_can_be_made_incomplete():
    splits = load_data("polydigits", num_modalities=2, num_train=20, num_test=10)
    batch = whole(with_missing(splits.train, tuple(splits.fields), 0.5, seed=0))
    assert batch[OBSERVED].shape == (20, 2)
    brightness = np.stack([batch[name].max((1, 2, 3)) for name in splits.fields], axis=1)
    np.testing.assert_array_equal(brightness > 0, batch[OBSERVED])


def test_what_a_source_lacks_itself_stays_missing():
    rng = np.random.default_rng(0)
    known = rng.random((4000, 3)) < 0.6
    known[~known.any(axis=1), 1] = True
    source = IncompleteSource(make_source(), NAMES, known)
    hidden = with_missing(source, NAMES, 0.5, seed=0)
    observed = whole(hidden)[OBSERVED]
    assert not (observed & ~known).any()
    assert observed.any(axis=1).all()
    np.testing.assert_array_equal(observed, observed_of(hidden))
    # An example that would lack everything keeps one of its known modalities, not always the same.
    pairs = known.all(axis=1) & (observed.sum(axis=1) == 1)
    assert (observed[pairs].mean(axis=0) > 0.2).all()


def test_complete_examples_are_those_that_lack_nothing():
    source = make_source(20)
    assert complete(source) is source
    observed = np.ones([20, 3], bool)
    observed[::3, 1] = False
    found = complete(IncompleteSource(source, NAMES, observed))
    assert len(found) == observed.all(axis=1).sum()
    batch = whole(found)
    assert OBSERVED not in batch
    np.testing.assert_array_equal(batch["label"], np.flatnonzero(observed.all(axis=1)))
