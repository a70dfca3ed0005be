"""The autoregressive likelihood against sums over all sentences of a small language."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.modalities.autoregressive import log_density, mean, sample
from mmebm_jax.modalities.modality import Modality, log_likelihood, means
from mmebm_jax.networks.perceptron import PerceptronDecoder
from mmebm_jax.networks.word_order import NUM_CONTEXTS, NUM_ROWS, RANK, WordOrder

LENGTH, WORDS = 3, 4
OUTPUTS = jax.random.normal(jax.random.key(0), (2, LENGTH + NUM_ROWS, WORDS)) * 0.7
SENTENCES = np.array(list(itertools.product(range(WORDS), repeat=LENGTH)))
ONE_HOT = jax.nn.one_hot(SENTENCES, WORDS)


def by_loops(outputs, sentence):
    """Log-likelihood in nats of one sentence under one example's outputs, from the definition."""
    factors = np.asarray(outputs[LENGTH:]).reshape(2, NUM_CONTEXTS, RANK, WORDS)
    matrices = np.einsum("crv,crw->cvw", *factors)
    total = []
    for place, word in enumerate(sentence):
        logits = np.array(outputs[place])
        if place > 0:
            logits += matrices[0][sentence[place - 1]]
        if place > 1:
            logits += matrices[1][sentence[place - 2]]
        for earlier in sentence[:place]:
            logits += matrices[2][earlier]
        total.append(logits[word] - np.log(np.exp(logits).sum()))
    return total


def densities():
    """log p of every sentence for both examples, `[N, 2]`."""
    shape = (len(SENTENCES), *OUTPUTS.shape)
    each = log_density(jnp.broadcast_to(OUTPUTS, shape), ONE_HOT[:, None], 1.0)
    return np.asarray(each.sum((-2, -1)))


def test_all_sentences_have_probability_one():
    np.testing.assert_allclose(np.exp(densities()).sum(0), 1.0, rtol=1e-5)


def test_words_follow_from_those_before_them():
    got = log_density(OUTPUTS, jax.nn.one_hot(SENTENCES[[27, 54]], WORDS), 1.0).sum(-1)
    want = [by_loops(OUTPUTS[i], SENTENCES[n]) for i, n in enumerate((27, 54))]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_the_mean_is_the_greedy_sentence_and_its_probabilities():
    probabilities = mean(OUTPUTS)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)
    words = jax.nn.one_hot(probabilities.argmax(-1), WORDS)
    got = (words * jnp.log(probabilities)).sum(-1)
    np.testing.assert_allclose(got, log_density(OUTPUTS, words, 1.0).sum(-1), rtol=1e-4)


def test_draws_have_the_probability_of_their_sentence():
    count = 40_000
    outputs = jnp.broadcast_to(OUTPUTS[0], (count, *OUTPUTS.shape[1:]))
    drawn = np.asarray(sample(jax.random.key(1), outputs, 1.0).argmax(-1))
    index = (drawn * WORDS ** np.arange(LENGTH)[::-1]).sum(-1)
    share = np.bincount(index, minlength=len(SENTENCES)) / count
    np.testing.assert_allclose(share, np.exp(densities()[:, 0]), atol=0.01)


@pytest.mark.parametrize("leading", [(), (2,), (3, 2)])
def test_any_leading_axes(leading):
    outputs = jnp.broadcast_to(OUTPUTS, (*leading[:-1], *OUTPUTS.shape)) if leading else OUTPUTS[0]
    assert mean(outputs).shape == (*leading, LENGTH, WORDS)
    assert sample(jax.random.key(0), outputs, 1.0).shape == (*leading, LENGTH, WORDS)
    modality = Modality("text", "text", (LENGTH, WORDS), "autoregressive", weight=2.0)
    observed = jax.nn.one_hot(SENTENCES[[27, 54]], WORDS)
    want = 2.0 * log_density(OUTPUTS, observed, 1.0).sum((-2, -1))
    want = jnp.broadcast_to(want, (*leading[:-1], 2)) if leading else want[0]
    observed = observed if leading else observed[0]
    np.testing.assert_allclose(log_likelihood(modality, outputs, observed), want, rtol=1e-5)


def test_a_decoder_learns_the_order_of_words():
    decoder = WordOrder(PerceptronDecoder((LENGTH, WORDS), 8), num_words=WORDS)
    latents = jax.random.normal(jax.random.key(2), (5, 3))
    params = decoder.init(jax.random.key(3), latents)["params"]
    modality = Modality("text", "text", (LENGTH, WORDS), "autoregressive")
    text = ONE_HOT[:5]

    def loss(params):
        return -log_likelihood(modality, decoder.apply({"params": params}, latents), text).sum()

    gradient = jax.grad(loss)(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    outputs = decoder.apply({"params": params}, latents)
    assert means([modality], {"text": outputs})["text"].shape == (5, LENGTH, WORDS)


def test_latents_reach_the_density_smoothly():
    decoder = WordOrder(PerceptronDecoder((LENGTH, WORDS), 8), num_words=WORDS)
    latents = jax.random.normal(jax.random.key(2), (5, 3))
    params = decoder.init(jax.random.key(3), latents)["params"]

    def density(latents):
        return log_density(decoder.apply({"params": params}, latents), ONE_HOT[:5], 1.0).sum()

    direction = jax.random.normal(jax.random.key(4), latents.shape)
    slope = jnp.vdot(jax.grad(density)(latents), direction)
    step = 1e-2
    ahead, behind = density(latents + step * direction), density(latents - step * direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=2e-2)
