from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.networks.joint import JOINT_LAYER, SMALLEST_SCALE, LatentEnergy
from mmebm_jax.networks.spectral import normalise_kernels
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


def test_activations_that_are_computed_again_change_nothing(tiny_model):
    networks = {name: getattr(tiny_model, name) for name in ("inference", "generator", "energy")}
    saving = tiny_model._replace(
        **{name: network.clone(rematerialise=True) for name, network in networks.items()}
    )
    key = jax.random.key(0)
    params = jax.jit(tiny_model.init)(key)
    jax.tree.map(np.testing.assert_array_equal, params, jax.jit(saving.init)(key))
    rng = np.random.default_rng(0)
    batch = {"picture": rng.normal(size=(4, 8, 8, 1)), "text": rng.normal(size=(4, 3, 4))}

    def total(params, model):
        encoding = model.encode(params["inference"], batch)
        outputs = model.decode(params["generator"], Latents(encoding.experts.location[0], {}))
        return model.data_energy(params["energy"], outputs).sum()

    gradients = [
        jax.jit(jax.grad(total), static_argnums=1)(params, m) for m in (tiny_model, saving)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)
    text = jax.jit(jax.grad(total), static_argnums=1).lower(params, saving).as_text()
    assert "optimization_barrier" in text


def test_a_scale_beside_the_joint_kernel_is_a_scaled_kernel(tiny_model):
    params = jax.jit(tiny_model.init)(jax.random.key(0))["energy"]
    rng = np.random.default_rng(0)
    batch = {"picture": rng.normal(size=(4, 8, 8, 1)), "text": rng.normal(size=(4, 3, 4))}

    @partial(jax.jit, static_argnums=1)
    def energies(params, normalise):
        def total(params):
            values = tiny_model.data_energy(normalise(params), batch)
            return jnp.sum(jnp.sin(values)), values

        return jax.grad(total, has_aux=True)(params)

    ours = energies(params, tiny_model.normalised)
    expected = energies(params, lambda p: normalise_kernels(p, tiny_model.spectral_gain))
    assert tiny_model.normalised(params)[JOINT_LAYER]["kernel"] is params[JOINT_LAYER]["kernel"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), ours, expected
    )


def test_networks_in_short_floats_keep_the_rest_in_long_ones(tiny_model):
    short = tiny_model._replace(arithmetic="bfloat16")
    params = jax.jit(tiny_model.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "picture": rng.normal(size=(4, 8, 8, 1)).astype(np.float32),
        "text": rng.normal(size=(4, 3, 4)).astype(np.float32),
    }

    def outputs(model):
        encoding = model.encode(params["inference"], batch)
        decoded = model.decode(params["generator"], Latents(encoding.experts.location[0], {}))
        return encoding.experts.location, decoded, model.data_energy(params["energy"], batch)

    long_ones, short_ones = outputs(tiny_model), outputs(short)
    for a, b in zip(jax.tree.leaves(long_ones), jax.tree.leaves(short_ones), strict=True):
        assert b.dtype == np.float32
        assert (a != b).any()
        np.testing.assert_allclose(a, b, atol=0.02)
    gradient = jax.grad(lambda p: short.data_energy(p, batch).sum())(params["energy"])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(gradient))
