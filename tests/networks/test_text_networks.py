"""Residual and attention networks for text: shapes, words as probabilities, masked padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.modalities.text import TEXT
from mmebm_jax.networks.parts import Sizes
from mmebm_jax.networks.text_residual import ResidualTextExpert, ResidualTextTrunk
from mmebm_jax.networks.text_transformer import (
    NUM_HEADS,
    TransformerDecoder,
    TransformerExpert,
    TransformerTrunk,
)

NUM_WORDS = 6
TOKENS = np.array([[3, 1, 4, 2, 5, 0, 0, 0], [1, 1, 2, 0, 0, 0, 0, 0], [0] * 8])


def initial(network, inputs):
    return jax.jit(network.init)(jax.random.key(0), inputs)


@pytest.mark.parametrize("name", ["resnet", "transformer"])
@pytest.mark.parametrize("shape", [(8, 27), (32, 50), (7, 5)])
def test_shapes(name, shape):
    networks, sizes = TEXT.networks[name], Sizes(2, 8)
    text = jnp.zeros([5, *shape])
    found = {}
    for role, inputs in (("expert", text), ("decoder", jnp.zeros([5, 3])), ("trunk", text)):
        network = getattr(networks, role)(shape, sizes)
        found[role] = jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)[0].shape
    assert found["expert"] == (5, 8)
    assert found["decoder"] == (5, *shape)
    remaining = {8: 4, 32: 4, 7: 7}[shape[0]] if name == "resnet" else 1
    assert found["trunk"] == (5, remaining * 8)


@pytest.mark.parametrize("network", [TransformerExpert(8), TransformerTrunk(8)])
def test_what_padding_is_embedded_as_has_no_influence(network):
    text = jax.nn.one_hot(TOKENS, NUM_WORDS)
    params = initial(network, text)["params"]
    apply = jax.jit(lambda params: network.apply({"params": params}, text))

    def changed(token):
        kernel = params["embedding"]["kernel"].at[token].add(jnp.arange(8.0))
        return apply({**params, "embedding": {"kernel": kernel}})

    before = apply(params)
    np.testing.assert_allclose(changed(0)[:2], before[:2], rtol=1e-5, atol=1e-6)
    assert (np.abs(changed(1) - before)[:2] > 1e-3).any(axis=1).all()
    assert np.isfinite(before).all()  # The last text is all padding.


@pytest.mark.parametrize("network", [TransformerExpert(8), TransformerTrunk(8)])
def test_longer_padding_changes_nothing(network):
    # The same parameters on a shortened text, which only loses padding.
    text = jax.nn.one_hot(TOKENS[:2], NUM_WORDS)
    params = initial(network, text)["params"]
    cut = {**params, "places": params["places"][:6]}
    np.testing.assert_allclose(
        network.apply({"params": cut}, text[:, :6]),
        network.apply({"params": params}, text),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "network",
    [TransformerExpert(8), TransformerTrunk(8), ResidualTextExpert(8), ResidualTextTrunk(8)],
)
def test_the_order_of_words_matters(network):
    text = jax.nn.one_hot(TOKENS[:1], NUM_WORDS)
    params = initial(network, text)
    before, after = (network.apply(params, x) for x in (text, text[:, [1, 0, *range(2, 8)]]))
    assert np.abs(before - after).max() > 1e-4


@pytest.mark.parametrize("network", [TransformerTrunk(8), ResidualTextTrunk(8)])
def test_a_chain_may_move_words_and_padding_alike(network):
    text = jax.nn.one_hot(TOKENS, NUM_WORDS)
    relaxed = 0.7 * text + 0.3 / NUM_WORDS
    params = initial(network, text)

    def slope(text):
        return jax.grad(lambda x: network.apply(params, x).sum())(text)

    for place in (text, relaxed, jnp.zeros_like(text)):
        assert np.isfinite(slope(place)).all()
    assert (np.abs(slope(relaxed)) > 1e-8).all()


def test_sizes_that_heads_do_not_divide_have_one():
    text = jax.nn.one_hot(TOKENS, NUM_WORDS)
    for hidden, heads in ((8, NUM_HEADS), (6, 1)):
        params = initial(TransformerExpert(hidden), text)["params"]
        query = params["_Block_0"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]
        assert query.shape == (hidden, heads, hidden // heads)


def test_every_latent_moves_every_position():
    decoder = TransformerDecoder((5, 4), 8)
    latents = jax.random.normal(jax.random.key(1), (1, 3))
    params = initial(decoder, latents)
    jacobian = jax.jit(jax.jacobian(lambda z: decoder.apply(params, z[None])[0]))(latents[0])
    assert (np.abs(jacobian) > 1e-9).any(axis=1).all()
