import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax import batching
from mmebm_jax.cpu import packing


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)])
def test_interleaved_batches_alternate(shape):
    first, second = np.random.default_rng(0).normal(size=(2, 4, *shape)).astype(np.float32)
    both = batching.interleave(jnp.asarray(first), jnp.asarray(second))
    np.testing.assert_array_equal(both[::2], first)
    np.testing.assert_array_equal(both[1::2], second)


def test_deinterleave_inverts_interleave():
    first, second = jnp.arange(4.0), 10 + jnp.arange(4.0)
    back = batching.deinterleave(batching.interleave(first, second))
    np.testing.assert_array_equal(back, [first, second])


def test_every_nth_along_an_axis():
    values = np.arange(24).reshape(2, 6, 2)
    np.testing.assert_array_equal(batching.every_nth({"a": values}, 3, 1)["a"], values[:, [0, 3]])
    np.testing.assert_array_equal(batching.every_nth([values], 2)[0], values[:1])


def test_parts_are_dealt_out_in_turn():
    values = jnp.arange(12).reshape(6, 2)
    parts = batching.in_parts(values, 3, None)
    for part in range(3):
        np.testing.assert_array_equal(parts[part], values[part::3])


def test_a_packed_scan_is_the_plain_one():
    start = {"a": jax.random.normal(jax.random.key(0), (3, 4, 4, 2)), "b": jnp.ones([3, 5])}

    def body(carry, shift):
        new = jax.tree.map(lambda x: jnp.sin(x + shift), carry)
        return new, new["a"]

    results = [scan(body, start, jnp.arange(4.0)) for scan in (packing.packed_scan, jax.lax.scan)]
    jax.tree.map(np.testing.assert_array_equal, *results)
