import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmebm_jax.cpu.norms import clip_by_global_norm, global_norm

TREE = {"kernel": jnp.array([[3.0, 0.0], [0.0, -4.0]]), "bias": jnp.array(12.0)}


def test_the_norm_is_of_all_leaves_together():
    assert float(global_norm(TREE)) == pytest.approx(13)
    assert float(global_norm({})) == 0


@pytest.mark.parametrize("shape", [(512, 256), (2**17 + 1,), (2**13, 3, 8)])  # folded or not
def test_the_norm_of_large_leaves(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.sqrt(np.sum(values.astype(np.float64) ** 2))
    assert float(global_norm({"a": jnp.asarray(values)})) == pytest.approx(expected, rel=1e-6)
    values[-1] = np.nan
    assert np.isnan(global_norm({"a": jnp.asarray(values)}))


@pytest.mark.parametrize("max_norm", [1.0, 13.0, 20.0])
@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_clips_as_optax_does(max_norm, value):
    gradients = jax.tree.map(lambda leaf: value * leaf, TREE)
    ours, theirs = clip_by_global_norm(max_norm), optax.clip_by_global_norm(max_norm)
    clipped, state = ours.update(gradients, ours.init(TREE))
    expected, _ = theirs.update(gradients, theirs.init(TREE))
    if np.isfinite(value):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, expected)
    else:
        assert not np.isfinite(clipped["bias"])
        assert not np.isfinite(expected["bias"])
    assert state == theirs.init(TREE)
