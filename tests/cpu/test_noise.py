import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.cpu import noise


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 4, 5, 2), (64, 28, 28, 3), (2, 0), (0, 3, 2)])
def test_noise_is_jaxs_own(shape):
    key = jax.random.key(7)
    drawn = noise.written_out_normal(key, shape, jnp.float32)
    np.testing.assert_array_equal(drawn, jax.random.normal(key, shape))


@pytest.mark.parametrize(
    ("key", "dtype"),
    [
        (jax.random.PRNGKey(3), "float32"),  # two plain words, as in older code
        (jax.random.key(3, impl="rbg"), "float32"),
        (jax.random.key(3), "bfloat16"),
    ],
)
def test_so_it_is_with_other_keys_and_types(key, dtype):
    drawn = noise.written_out_normal(key, (4, 6), jnp.dtype(dtype))
    assert drawn.dtype == dtype
    np.testing.assert_array_equal(drawn, jax.random.normal(key, (4, 6), dtype))


def test_a_batch_of_keys_draws_what_each_would():
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(lambda key: noise.written_out_normal(key, (2, 5))))(keys)
    for key, drawn in zip(keys, together, strict=True):
        np.testing.assert_allclose(drawn, jax.random.normal(key, (2, 5)), rtol=1e-5, atol=1e-7)
