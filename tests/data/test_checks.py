import numpy as np
import pytest

from mmebm_jax.data import ArraySource, DataSplits, Field, batches, iterate
from mmebm_jax.data.checks import MOST_MODALITIES, NUM_PROBED, CheckedSource, check_fields, checked
from mmebm_jax.data.source import IncompleteSource

FIELDS = {"text": Field("text", (3, 4)), "vector": Field("vector", (2,))}
COUNT = 4 * NUM_PROBED + 3


class Streamed:
    """Examples that are not in memory, one of which may be bad."""

    def __init__(self, bad=None, **changes):
        self.bad, self.changes, self.num_read = bad, changes, 0

    def __len__(self):
        return COUNT

    def gather(self, indices):
        self.num_read += len(indices)
        text = np.zeros([len(indices), 3], np.int32)
        text[np.asarray(indices) == self.bad] = 4
        batch = {
            "text": text,
            "vector": np.zeros([len(indices), 2], np.float32),
            "label": np.zeros(len(indices), np.int32),
        }
        return batch | {n: values[: len(indices)] for n, values in self.changes.items()}


def splits(train, test=None):
    return DataSplits(train, Streamed() if test is None else test, FIELDS, 1, "abcd")


def test_a_source_on_disk_is_sampled_at_the_start_and_watched_afterwards():
    good = splits(Streamed())
    result = checked(good)
    assert good.train.num_read == NUM_PROBED
    assert isinstance(result.train, CheckedSource)
    assert len(result.train) == COUNT
    indices = np.array([5, 1, 5])
    for name, values in result.train.gather(indices).items():
        np.testing.assert_array_equal(values, good.train.gather(indices)[name])
    # An example that the initial probe skips.
    late = checked(splits(Streamed(bad=2)))
    with pytest.raises(ValueError, match=r"example 2 of the train split: 'text' leaves 0\.\.3"):
        late.train.gather(np.array([0, 2]))
    with pytest.raises(ValueError, match=rf"example {COUNT - 1} of the test split"):
        checked(splits(Streamed(), Streamed(bad=COUNT - 1)))


def test_a_bad_example_ends_the_input_pipeline_with_its_number():
    train = checked(splits(Streamed(bad=2))).train
    with pytest.raises(ValueError, match=r"example 2 of the train split: 'text' leaves 0\.\.3"):
        for _, _ in zip(range(COUNT), iterate(batches(train, 1, 0)), strict=False):
            pass


def test_what_is_in_memory_is_checked_once_and_stays_as_it_is():
    arrays = Streamed().gather(np.arange(50))
    good = ArraySource(arrays)
    assert checked(splits(good)).train is good
    arrays["vector"][49, 1] = -np.inf
    with pytest.raises(ValueError, match=r"example 49 of the train split: 'vector' is not a num"):
        checked(splits(ArraySource(arrays)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": np.zeros([COUNT, 3], np.int64)}, r"'text' is int64 .* give int32 \[N, 3\]"),
        ({"text": np.zeros([COUNT, 4], np.int32)}, r"'text' is int32 of shape \[256, 4\]"),
        ({"label": np.zeros([COUNT, 1], np.int32)}, r"'label' is .*: give int32 \[N\]"),
        ({"label": np.ones([COUNT], np.int32)}, r"example 0 .* 'label' leaves 0\.\.0"),
        ({"vector": [[0.0, 0.0]] * COUNT}, r"'vector' is list of shape \[256, 2\]: give float32"),
    ],
)
def test_what_differs_from_its_field_is_named(changes, message):
    with pytest.raises(ValueError, match=rf"the train split.*{message}|{message}") as caught:
        checked(splits(Streamed(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("a b", Field("vector", (2,)), r"modality 'a b': a name must be a word"),
        ("", Field("vector", (2,)), r"a name must be a word"),
        ("label", Field("vector", (2,)), r"modality 'label': a name"),
        ("x_private", Field("vector", (2,)), r"modality 'x_private': a name"),
        ("x", Field("sound", (2,)), r"modality 'x' has kind 'sound'"),
        ("x", Field([], (2,)), r"modality 'x' has kind \[\]"),
        ("x", Field("vector", ()), r"has shape \(\): vector needs 1 whole numbers"),
        ("x", Field("vector", (0,)), r"has shape \(0,\)"),
        ("x", Field("vector", (2.0,)), r"has shape \(2\.0,\)"),
        ("x", Field("vector", (True,)), r"has shape \(True,\)"),
        ("x", Field("text", (2**20, 2**20)), r"at most 16777216 values"),
        ("x", Field("image", (8, 6, 3)), r"make height and width multiples of 4"),
    ],
)
def test_impossible_fields_are_named(name, field, message):
    check_fields(FIELDS)
    with pytest.raises(ValueError, match=message) as caught:
        check_fields({name: field})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, MOST_MODALITIES + 1])
def test_the_number_of_modalities_is_limited(count):
    with pytest.raises(ValueError, match=rf"there are {count} modalities: give 1 to 12"):
        check_fields({f"m{i}": FIELDS["vector"] for i in range(count)})


def test_no_classes_need_no_label():
    arrays = Streamed().gather(np.arange(50))
    del arrays["label"]
    with pytest.raises(ValueError, match="add 'label'"):
        checked(splits(ArraySource(arrays)))
    without = ArraySource(arrays)
    assert checked(DataSplits(without, without, FIELDS, 0, "abcd")).train is without
    with pytest.raises(ValueError, match="num_classes is -1: give 0 for none"):
        checked(DataSplits(without, without, FIELDS, -1, "abcd"))


def test_a_test_split_without_a_complete_example_is_refused():
    observed = np.ones([COUNT, 2], bool)
    observed[:, 1] = False
    lacking = IncompleteSource(Streamed(), tuple(FIELDS), observed)
    checked(splits(lacking))
    with pytest.raises(ValueError, match="no example of the test split has every modality"):
        checked(splits(Streamed(), lacking))


def test_an_empty_split_is_refused():
    empty = ArraySource({n: v[:0] for n, v in Streamed().gather(np.arange(1)).items()})
    with pytest.raises(ValueError, match="the test split holds no example"):
        checked(splits(Streamed(), empty))
