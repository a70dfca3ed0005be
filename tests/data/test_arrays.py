"""Data sets from Python arrays."""

import numpy as np
import pytest

from mmebm_jax.data import batches, from_arrays, load_data, whole
from mmebm_jax.data.source import OBSERVED
from mmebm_jax.modalities.text import spelled
from mmebm_jax.runs import sharding
from mmebm_jax.training import feed


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "picture": rng.integers(0, 256, (count, 8, 12, 3)).astype(np.uint8),
        "words": [["a bird", "one bird"] if n % 2 else "a dog" for n in range(count)],
        "size": np.arange(count) / 4,
        "colour": np.arange(count) % 3,
    }


def test_arrays_are_taken_in_their_order():
    train, test = arrays(10), arrays(4)
    splits = from_arrays(train, test, categories=["colour"], length=4)
    assert {name: tuple(field) for name, field in splits.fields.items()} == {
        "picture": ("image", (8, 12, 3)),
        "words": ("text", (4, 7)),
        "size": ("vector", (1,)),
        "colour": ("category", (3,)),
    }
    assert splits.num_classes == 0
    batch = whole(splits.train)
    np.testing.assert_array_equal(batch["picture"], train["picture"])
    np.testing.assert_allclose(batch["size"][:, 0], np.linspace(-1, 1, 10), atol=1e-6)
    assert batch["colour"].tolist() == train["colour"].tolist()
    assert spelled(batch["words"], splits.alphabet)[:2] == ["a dog", "a bird"]
    read = batches(splits.train, 10, 0)
    seen = {text for n in range(2) for text in spelled(read[n]["words"], splits.alphabet)}
    assert seen == {"a dog", "a bird", "one bird"}
    with pytest.raises(ValueError, match=r"config\.input\.device_resident: of alternative texts"):
        next(
            feed.batches(
                splits.train,
                sharding.data_mesh(),
                batch_size=2,
                seed=0,
                start_step=0,
                device_resident=True,
            )
        )
    assert from_arrays(train, test).version != from_arrays(arrays(10, seed=1), test).version


def test_what_is_missing_from_arrays():
    train, test = arrays(6), arrays(6)
    train["words"] = ["", None, "a dog", "a dog", "a dog", "a dog"]
    train["size"] = np.where(np.arange(6) == 5, np.nan, 1.5)
    observed = whole(from_arrays(train, test).train)[OBSERVED]
    assert (~observed).sum(axis=0).tolist() == [0, 2, 0, 1]  # ordered by kind, then by name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": np.zeros(3)}, r"arrays of train differ in length"),
        ({"picture": np.zeros([6, 8, 8, 3])}, r"array 'picture' is float64 .* give uint8 pictures"),
        ({"picture": np.zeros([6, 6, 8, 3], np.uint8)}, r"pictures 'picture' have shapes"),
        ({"size": np.full(6, np.inf)}, r"a number is not finite"),
        ({"label": np.zeros(6, int)}, r"'label' is 1 in the test split"),
    ],
)
def test_what_no_data_set_can_be_made_of_is_one_line(change, message):
    test = arrays(6) | ({"label": np.ones(6, int)} if "label" in change else {})
    with pytest.raises(ValueError, match=message) as caught:
        from_arrays(arrays(6) | change, test)
    assert "\n" not in str(caught.value)


def test_no_command_can_read_them_again():
    with pytest.raises(ValueError, match=r"arrays that were given from Python: .*from_arrays"):
        load_data("arrays")
