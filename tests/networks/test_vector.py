import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.modalities import modality
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.networks.joint import Generator, Inference, JointEnergy
from mmebm_jax.networks.parts import Part, Sizes
from mmebm_jax.networks.perceptron import PerceptronDecoder
from mmebm_jax.networks.vector import VectorExpert, VectorTrunk
from mmebm_jax.typing import Latents


def shapes(network, inputs):
    return jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)[0]


def test_shapes():
    for expected, network, inputs in (
        ((5, 6), VectorExpert(6), jnp.zeros([5, 3])),
        ((5, 3), PerceptronDecoder((3,), 6), jnp.zeros([5, 2])),
        ((5, 6), VectorTrunk(6), jnp.zeros([5, 3])),
    ):
        assert shapes(network, inputs).shape == expected


def test_a_vector_stands_beside_an_image():
    modalities = (
        Modality("point", "vector", (3,), "laplace", 0.5),
        Modality("picture", "image", (8, 8, 1), "gaussian", 0.5),
    )
    batch = {m.name: jnp.zeros([5, *m.shape]) for m in modalities}

    def parts(role):
        networks = {m.name: m.of_kind.networks["small"] for m in modalities}
        return tuple(
            Part(m.name, getattr(networks[m.name], role)(m.shape, Sizes(2, 8))) for m in modalities
        )

    inference = Inference(parts("expert"), 2, 0)
    generator = Generator(parts("decoder"))
    energy = JointEnergy(parts("trunk"), 8)
    latents = Latents(jnp.zeros([5, 2]), {})
    assert shapes(inference, batch).shared["point"].scale.shape == (5, 2)
    assert shapes(generator, latents)["point"].shape == (5, 3)
    assert shapes(energy, batch).shape == (5,)


def test_a_vector_is_kept_as_it_is():
    point = Modality("point", "vector", (3,), "gaussian", 0.5)
    raw = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)
    values = modality.from_raw(point, raw)
    np.testing.assert_array_equal(modality.to_raw(point, values), raw)
    assert modality.to_raw(point, values).dtype == np.float32
    assert point.bounds == (-1.05, 1.05)
    outputs = jnp.zeros([4, 3])
    expected = jax.scipy.stats.norm.logpdf(raw, 0.0, 0.5).sum(axis=-1)
    np.testing.assert_allclose(modality.log_likelihood(point, outputs, values), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="does not suit kind vector"):
        Modality("point", "vector", (3,), "categorical")
