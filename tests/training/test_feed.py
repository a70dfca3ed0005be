import itertools

import jax
import numpy as np
import pytest

from mmebm_jax import data
from mmebm_jax.runs import sharding
from mmebm_jax.training import feed


@pytest.fixture
def source():
    generator = np.random.default_rng(0)
    return data.ArraySource(
        {
            "image": generator.integers(256, size=(30, 4, 4, 1)).astype(np.uint8),
            "label": np.arange(30, dtype=np.int32),
        }
    )


def take(source, start, count, *, device_resident):
    mesh = sharding.data_mesh()
    batches = feed.batches(
        source, mesh, batch_size=8, seed=3, start_step=start, device_resident=device_resident
    )
    taken = list(itertools.islice(batches, count))
    for batch in taken:
        split = sharding.split_batch(mesh)
        assert all(v.sharding.is_equivalent_to(split, v.ndim) for v in batch.values())
    return taken


@pytest.mark.parametrize("device_resident", [False, True])
@pytest.mark.parametrize("start", [0, 5])
def test_batches_are_those_of_the_pipeline(source, start, device_resident):
    pipeline = data.batches(source, 8, 3)
    for step, batch in enumerate(take(source, start, 6, device_resident=device_resident), start):
        expected = pipeline[step]
        assert batch.keys() == expected.keys()
        for name, values in expected.items():
            assert batch[name].dtype == values.dtype
            np.testing.assert_array_equal(batch[name], values)


def test_a_resident_set_that_does_not_fit_is_refused_with_sizes(source, monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1000}

        def __str__(self):
            return "gpu 0"

    class Mesh:
        local_devices = (Device(),)

    with pytest.raises(ValueError, match=r"device_resident: .* 0 MB, more than 50% .* of gpu 0"):
        feed._resident(source, Mesh())
    assert jax.tree.leaves(feed._resident(source, sharding.data_mesh()))
