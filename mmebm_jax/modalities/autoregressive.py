"""The autoregressive likelihood of text: p(x | u) = ∏_t p(x_t | x_<t, u).

The logits at a position are the decoder's, plus log-linear terms in three contexts: the last word,
the word before it, and the counts of all words so far. Each context has a low-rank matrix
(`networks.word_order`). If words were independent given the latents, an uncertain sentence would be
decoded to the likeliest word at each position, and these need not fit together.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmebm_jax.networks.word_order import NUM_CONTEXTS, NUM_ROWS, RANK

Choose = Callable[[jax.Array, jax.Array], jax.Array]
"""(index of a position, its logits `[..., V]`) → the word there, one-hot `[..., V]`."""


def log_density(outputs: jax.Array, observed: jax.Array, scale: float) -> jax.Array:
    """Compute the log-density of each word given the true words before it; elementwise, nats.

    Args:
      outputs: `[..., L + NUM_ROWS, V]` of a `WordOrder`.
      observed: `[..., L, V]`, one-hot or relaxed.
      scale: not used.
    """
    del scale
    logits = outputs[..., :-NUM_ROWS, :] + _led_to(outputs, _contexts(observed))
    return observed * jax.nn.log_softmax(logits, axis=-1)


def mean(outputs: jax.Array) -> jax.Array:
    """Return word probabilities at each position, given the likeliest word at each earlier one.

    Their likeliest words are the greedily decoded sentence.
    """
    logits, _ = _unroll(outputs, lambda _, logits: _one_hot(logits.argmax(axis=-1), logits))
    return jax.nn.softmax(logits)


def sample(key: jax.Array, outputs: jax.Array, scale: float) -> jax.Array:
    """Sample a sentence word by word, one-hot `[..., L, V]`."""
    del scale

    def choose(place: jax.Array, logits: jax.Array) -> jax.Array:
        drawn = jax.random.categorical(jax.random.fold_in(key, place), logits)
        return _one_hot(drawn, logits)

    return _unroll(outputs, choose)[1]


def _one_hot(words: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.nn.one_hot(words, logits.shape[-1], dtype=logits.dtype)


def _contexts(text: jax.Array) -> jax.Array:
    """Text `[..., L, V]` → contexts of each position, `[..., NUM_CONTEXTS, L, V]`."""
    before = [(0, 0)] * (text.ndim - 2)
    last = jnp.pad(text, [*before, (1, 0), (0, 0)])[..., :-1, :]
    last_but_one = jnp.pad(last, [*before, (1, 0), (0, 0)])[..., :-1, :]
    return jnp.stack([last, last_but_one, last.cumsum(axis=-2)], axis=-3)


def _led_to(outputs: jax.Array, contexts: jax.Array) -> jax.Array:
    """Contexts `[..., NUM_CONTEXTS, L, V]` → their terms in the logits, `[..., L, V]`."""
    factors = outputs[..., -NUM_ROWS:, :]
    shape = (*factors.shape[:-2], 2, NUM_CONTEXTS, RANK, factors.shape[-1])
    factors = factors.reshape(shape)
    from_words, to_words = factors[..., 0, :, :, :], factors[..., 1, :, :, :]
    features = jnp.einsum("...clv,...crv->...clr", contexts, from_words)
    return jnp.einsum("...clr,...crv->...lv", features, to_words)


def _unroll(outputs: jax.Array, choose: Choose) -> tuple[jax.Array, jax.Array]:
    """Choose words one after another; return logits and words at each position, `[..., L, V]`."""
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
