import itertools

import numpy as np
import pytest

from mmebm_jax.data import ArraySource, batches, index_batches, iterate, load_data, whole


def counting_source(n):
    """Examples that carry their own index."""
    return ArraySource({"x": np.arange(n, dtype=np.int32), "label": np.arange(n, dtype=np.int32)})


def indices(dataset, steps):
    return [dataset[step]["x"].tolist() for step in range(steps)]


def test_every_epoch_visits_each_example_once_in_its_own_order():
    flat = list(itertools.chain(*indices(batches(counting_source(30), 10, seed=0), 6)))
    first, second = flat[:30], flat[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    assert first != sorted(first)


def test_an_epoch_that_does_not_divide_into_batches_drops_nothing():
    flat = list(itertools.chain(*indices(batches(counting_source(10), 4, seed=3), 5)))
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))


def test_a_batch_depends_on_seed_and_step_alone():
    source = counting_source(50)
    first = batches(source, 8, seed=1)
    for _ in range(3):
        first[17]
    np.testing.assert_array_equal(first[9]["x"], batches(source, 8, seed=1)[9]["x"])
    assert indices(batches(source, 8, seed=1), 3) != indices(batches(source, 8, seed=2), 3)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("start", [0, 1, 13])
def test_resuming_at_a_step_continues_the_uninterrupted_run(start, prefetch):
    dataset = batches(counting_source(30), 8, seed=5)
    resumed = itertools.islice(iterate(dataset, start, prefetch), 12)
    expected = indices(dataset, start + 12)[start:]
    assert [batch["x"].tolist() for batch in resumed] == expected


def test_indices_are_those_of_the_batches():
    numbers = index_batches(30, 8, seed=5, process_index=1, process_count=2)
    read = batches(counting_source(30), 8, seed=5, process_index=1, process_count=2)
    for step in (0, 7):
        np.testing.assert_array_equal(numbers[step], read[step]["x"])


def test_processes_share_the_global_batch_in_contiguous_slices():
    source = counting_source(40)
    alone = batches(source, 12, seed=7)
    parts = [batches(source, 12, seed=7, process_index=i, process_count=3) for i in range(3)]
    for step in (0, 3, 11):
        pieces = [part[step]["x"] for part in parts]
        assert [len(piece) for piece in pieces] == [4, 4, 4]
        np.testing.assert_array_equal(np.concatenate(pieces), alone[step]["x"])


@pytest.mark.parametrize(
    ("batch_size", "process", "message"),
    [
        (11, (0, 1), "batch_size is 11 but the source has 10"),
        (0, (0, 1), "batch_size is 0"),
        (9, (0, 2), "batch_size 9 does not divide over 2 processes"),
        (8, (2, 2), "process_index is 2"),
    ],
)
def test_bad_batches_are_refused(batch_size, process, message):
    with pytest.raises(ValueError, match=message):
        batches(
            counting_source(10), batch_size, 0, process_index=process[0], process_count=process[1]
        )


def test_whole_reads_in_stored_order():
    assert whole(counting_source(10))["x"].tolist() == list(range(10))
    assert whole(counting_source(10), limit=4)["x"].tolist() == [0, 1, 2, 3]
    assert len(whole(counting_source(10), limit=99)["x"]) == 10


def test_arrays_that_disagree_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        ArraySource({"x": np.zeros(3), "label": np.zeros(2, np.int32)})
    with pytest.raises(ValueError, match="there are no arrays"):
        ArraySource({})


def test_classes_are_optional():
    source = ArraySource({"x": np.arange(3)})
    assert len(source) == 3
    assert set(whole(source)) == {"x"}


class Turning:
    """A source whose examples show in which pass they are read."""

    def __len__(self):
        return 10

    def gather(self, indices):
        return self.gather_at(indices, np.zeros_like(indices))

    def gather_at(self, indices, passes):
        return {"x": indices, "pass": passes}


@pytest.mark.parametrize("process", [(0, 1), (0, 2), (1, 2)])
def test_a_source_is_told_the_pass_of_each_example(process):
    source = Turning()
    read = batches(source, 4, seed=3, process_index=process[0], process_count=process[1])
    seen = [read[step] for step in range(10)]
    for step, batch in enumerate(seen):
        share = 4 // process[1]
        places = step * 4 + process[0] * share + np.arange(share)
        np.testing.assert_array_equal(batch["pass"], places // 10)
    if process == (0, 1):
        pairs = {(int(i), int(p)) for b in seen for i, p in zip(b["x"], b["pass"], strict=True)}
        assert pairs == {(i, p) for i in range(10) for p in range(4)}
        resumed = next(iterate(read, 7))
        np.testing.assert_array_equal(resumed["pass"], seen[7]["pass"])


def test_an_unknown_data_set_names_the_known_ones():
    with pytest.raises(ValueError, match="choose one of arrays, avatars, folder"):
        load_data("imagenet")


def test_load_data_passes_its_options_on():
    splits = load_data("polydigits", num_modalities=1, num_train=20, num_test=10)
    assert list(splits.fields) == ["m0"]
    assert (len(splits.train), len(splits.test)) == (20, 10)
