"""The autoregressive likelihood of text: p(x | u) = ∏_t p(x_t | x_<t, u).

Logits of a place are those that the latents decode to, plus what the words before it say, log-
linearly: the last word, the one before it, and how often each word has stood so far. Each of these
three contexts has a matrix of low rank (`networks.word_order`). Were words independent given the
latents, a sentence of which little is known would be a row of each place's likeliest word.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmebm_jax.networks.word_order import NUM_CONTEXTS, NUM_ROWS, RANK

Choose = Callable[[jax.Array, jax.Array], jax.Array]
"""(a place's index, its logits `[..., V]`) → the word there, one-hot `[..., V]`."""


def log_density(outputs: jax.Array, observed: jax.Array, scale: float) -> jax.Array:
    """Nats of each word given those before it, under the true words; elementwise.

    Args:
      outputs: `[..., L + NUM_ROWS, V]` of a `WordOrder`.
      observed: `[..., L, V]`, one-hot or relaxed.
      scale: not used.
    """
    del scale
    logits = outputs[..., :-NUM_ROWS, :] + _led_to(outputs, _contexts(observed))
    return observed * jax.nn.log_softmax(logits, axis=-1)


def mean(outputs: jax.Array) -> jax.Array:
    """Probabilities of each place's words where each earlier place has its likeliest one.

    The likeliest words of these are the sentence that is decoded greedily.
    """
    logits, _ = _unroll(outputs, lambda _, logits: _one_hot(logits.argmax(axis=-1), logits))
    return jax.nn.softmax(logits)


def sample(key: jax.Array, outputs: jax.Array, scale: float) -> jax.Array:
    """A sentence drawn word by word, one-hot `[..., L, V]`."""
    del scale

    def choose(place: jax.Array, logits: jax.Array) -> jax.Array:
        drawn = jax.random.categorical(jax.random.fold_in(key, place), logits)
        return _one_hot(drawn, logits)

    return _unroll(outputs, choose)[1]


def _one_hot(words: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.nn.one_hot(words, logits.shape[-1], dtype=logits.dtype)


def _contexts(text: jax.Array) -> jax.Array:
    """Text `[..., L, V]` → `[..., NUM_CONTEXTS, L, V]`: what stands before each place."""
    before = [(0, 0)] * (text.ndim - 2)
    last = jnp.pad(text, [*before, (1, 0), (0, 0)])[..., :-1, :]
    last_but_one = jnp.pad(last, [*before, (1, 0), (0, 0)])[..., :-1, :]
    return jnp.stack([last, last_but_one, last.cumsum(axis=-2)], axis=-3)


def _led_to(outputs: jax.Array, contexts: jax.Array) -> jax.Array:
    """Contexts `[..., NUM_CONTEXTS, L, V]` → what they add to the logits, `[..., L, V]`."""
    factors = outputs[..., -NUM_ROWS:, :]
    shape = (*factors.shape[:-2], 2, NUM_CONTEXTS, RANK, factors.shape[-1])
    factors = factors.reshape(shape)
    from_words, to_words = factors[..., 0, :, :, :], factors[..., 1, :, :, :]
    features = jnp.einsum("...clv,...crv->...clr", contexts, from_words)
    return jnp.einsum("...clr,...crv->...lv", features, to_words)


def _unroll(outputs: jax.Array, choose: Choose) -> tuple[jax.Array, jax.Array]:
    """Logits and words of each place, `[..., L, V]`, where words are chosen one after another."""
    own = jnp.moveaxis(outputs[..., :-NUM_ROWS, :], -2, 0)
    places = jnp.arange(len(own))

    def step(
        contexts: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        place, logits = inputs
        logits = logits + _led_to(outputs, contexts[..., None, :])[..., 0, :]
        word = choose(place, logits)
        last, _, counts = jnp.moveaxis(contexts, -2, 0)
        return jnp.stack([word, last, counts + word], axis=-2), (logits, word)

    start = jnp.zeros((*own.shape[1:-1], NUM_CONTEXTS, own.shape[-1]), own.dtype)
    _, (logits, words) = jax.lax.scan(step, start, (places, own))
    return jnp.moveaxis(logits, 0, -2), jnp.moveaxis(words, 0, -2)
