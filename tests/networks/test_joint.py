import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.networks.joint import SMALLEST_SCALE, LatentEnergy
from mmebm_jax.typing import Latents

NAMES = ("picture", "text")


@pytest.fixture(scope="module")
def params(private_model):
    return jax.jit(private_model.init)(jax.random.key(0))


def test_shared_and_private_latents_have_features_of_their_own(private_model, params):
    rng = np.random.default_rng(0)
    batch = {"picture": rng.normal(size=(4, 8, 8, 1)), "text": rng.normal(size=(4, 3, 4))}
    infer = jax.jit(lambda params: private_model.inference.apply({"params": params}, batch))
    before = infer(params["inference"])
    for kind, size in ((before.shared, 3), (before.private, 2)):
        assert list(kind) == list(NAMES)
        for location, scale in kind.values():
            assert location.shape == scale.shape == (4, size)
            assert (scale > SMALLEST_SCALE).all()
    assert before.subset_logit.shape == (3,)
    for scale in before.auxiliary_scale.values():
        np.testing.assert_allclose(scale, np.ones(2) + SMALLEST_SCALE, rtol=1e-5)
    moved = dict(params["inference"])
    moved["picture_private"] = jax.tree.map(lambda leaf: leaf + 0.5, moved["picture_private"])
    after = infer(moved)
    jax.tree.map(np.testing.assert_array_equal, after.shared, before.shared)
    np.testing.assert_array_equal(after.private["text"].location, before.private["text"].location)
    assert (after.private["picture"].location != before.private["picture"].location).any()


def test_a_decoder_reads_the_shared_and_its_own_latent_alone(private_model, params):
    latents = Latents(jnp.ones([4, 3]), {name: jnp.ones([4, 2]) for name in NAMES})
    decode = jax.jit(lambda u: private_model.decode(params["generator"], u))

    def changed(**leaves):
        other = decode(latents._replace(**leaves))
        return {name: bool((other[name] != decode(latents)[name]).any()) for name in NAMES}

    assert changed(shared=jnp.zeros([4, 3])) == {"picture": True, "text": True}
    for name in NAMES:
        private = latents.private | {name: jnp.zeros([4, 2])}
        assert changed(private=private) == {other: other == name for other in NAMES}


def test_named_modalities_alone_are_decoded(private_model, params):
    latents = Latents(jnp.ones([4, 3]), {name: jnp.ones([4, 2]) for name in NAMES})
    one = private_model.decode(params["generator"], latents, ("text",))
    every = private_model.decode(params["generator"], latents)
    assert (list(one), list(every)) == (["text"], list(NAMES))
    np.testing.assert_allclose(one["text"], every["text"], rtol=1e-5)


def test_the_latent_energy_is_bounded_and_zero_without_latents():
    energy = LatentEnergy(4, 2.0)
    params = energy.init(jax.random.key(0), jnp.zeros([1, 3]))
    params = jax.tree.map(lambda leaf: 100 * leaf + 1, params)
    values = np.asarray(energy.apply(params, 1e3 * jnp.array([[1.0, 2, 3], [-3, 1, -2]])))
    np.testing.assert_allclose(abs(values), 2, rtol=1e-3)
    nothing = jnp.zeros([5, 0])
    assert jax.tree.leaves(energy.init(jax.random.key(0), nothing)) == []
    np.testing.assert_array_equal(energy.apply({}, nothing), np.zeros(5))
