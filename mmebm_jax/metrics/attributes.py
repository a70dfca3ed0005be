"""Agreement of attributes, for pictures and for what is generated from them, without classes.

An attribute is any property of an example that takes a few values and may be visible in a picture:
a category, a number of a vector that takes two values, or whether a sentence has a word. One
picture classifier predicts all of them. Its accuracy on real test pictures is the ceiling for
generated ones, and the agreement with other examples' attributes is the floor.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.typing import Params

Batches = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""(random generator, number of examples) → pictures in model range and attributes int `[B, A]`."""


class Settings(NamedTuple):
    """How a classifier of attributes is trained."""

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.1


class Agreement(NamedTuple):
    """How often predictions agree with the requested values."""

    rate: float  # share of the examples, in [0, 1]
    shuffled: float  # expected share if each had the request of another example


def agreement(
    predicted: np.ndarray, asked: np.ndarray, among: np.ndarray | None = None
) -> Agreement | None:
    """Compare one attribute of N examples with the requested values.

    The shuffled share is an exact expectation: each request is compared with the predictions for
    all other examples, without random numbers.

    Args:
      predicted: predicted values `int[N]`.
      asked: requested values `int[N]`.
      among: which requests count, `bool[N]`; None for all.

    Returns:
      The agreement; None if no request counts or there is only one example.
    """
    among = np.ones(len(asked), bool) if among is None else among
    if not among.any() or len(asked) < 2:
        return None
    own = predicted == asked
    values, counts = np.unique(predicted, return_counts=True)
    count_of = dict(zip(values.tolist(), counts.tolist(), strict=True))
    alike = np.array([count_of.get(value, 0) for value in asked.tolist()])
    others = (alike - own) / (len(asked) - 1)
    return Agreement(float(own[among].mean()), float(others[among].mean()))


def two_levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the numbers of vectors `[N, D]` that take only two values.

    Returns:
      Their indices `int[A]`, and thresholds `[A]` halfway between the two values.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    is_level = np.isclose(values, low) | np.isclose(values, high)
    found = np.flatnonzero(is_level.all(axis=0) & (high > low))
    return found, 0.5 * (low + high)[found]


def words_said(tokens: np.ndarray, num_words: int) -> np.ndarray:
    """Which words sentences have, in any alternative: tokens `int[..., N, L]` → `bool[N, V]`."""
    said = np.zeros((tokens.shape[-2], num_words), bool)
    for alternative in tokens.reshape(-1, *tokens.shape[-2:]):
        said[np.arange(len(said))[:, None], alternative] = True
    return said


def right_words(drawn: np.ndarray, true: np.ndarray, frequency: np.ndarray) -> dict[str, float]:
    """How many words of drawn sentences fit the examples that they were drawn for.

    Args:
      drawn: which words the drawn sentences have, `bool[N, W]`.
      true: which words fit the examples, `bool[N, W]`.
      frequency: frequency of the words in training sentences, `[W]`.

    Returns:
      The mean share of a sentence's words that fit: "drawn"; "majority", for equally many of the
      commonest words; "shuffled", its expectation for another example's words; and "num_words", the
      mean number of words. Sentences without any word are left out; "counted" is the share of the
      others. Empty if there is no sentence.
    """
    counts = drawn.sum(axis=1)
    kept = counts > 0
    if not kept.any() or len(drawn) < 2:
        return {}
    drawn, own, counts = drawn[kept], true[kept], counts[kept]
    by_rank = np.cumsum(own[:, np.argsort(-frequency, kind="stable")], axis=1)
    right = (drawn & own).sum(axis=1)
    of_others = (drawn @ true.sum(axis=0) - right) / (len(true) - 1)
    return {
        "drawn": float(np.mean(right / counts)),
        "majority": float(np.mean(by_rank[np.arange(len(counts)), counts - 1] / counts)),
        "shuffled": float(np.mean(of_others / counts)),
        "num_words": float(np.mean(counts)),
        "counted": float(np.mean(kept)),
    }


def train_classifier(
    key: jax.Array,
    kind: str,
    batches: Batches,
    sizes: Sequence[int],
    settings: Settings,
    weights: Sequence[np.ndarray] | None = None,
) -> Params:
    """Train one classifier for all attributes, by their mean cross entropy.

    Args:
      key: typed PRNG key.
      kind: kind of the modality that shows them.
      batches: draws training examples.
      sizes: number of values of each attribute.
      settings: settings of the training.
      weights: weights of each attribute's values in the loss, `[size]` each; None for 1.

    Returns:
      Parameters of the kind's classifier, whose logits for all attributes are concatenated.
    """
    init_key, data_key = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(data_key)))
    given = [np.ones(size) for size in sizes] if weights is None else weights
    weight = jnp.asarray(np.concatenate(given), jnp.float32)
    form = (kind, tuple(sizes), settings)
    inputs, _ = batches(rng, 2)
    params = _init(init_key, kind, sum(sizes), jnp.asarray(inputs))
    state = _optimiser(settings).init(params)
    # Not a lax.scan: convolution gradients inside a loop body are some 30 times slower on XLA:CPU.
    for _ in range(settings.steps):
        inputs, values = batches(rng, settings.batch_size)
        params, state = _step(form, params, state, inputs, values, weight)
    return jax.device_get(params)


def predicted(logits: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The likeliest value of each attribute, `int[N, A]`, from logits `[N, sum of sizes]`."""
    ends = np.cumsum(sizes)
    parts = np.split(logits, ends[:-1], axis=1)
    return np.stack([part.argmax(axis=1) for part in parts], axis=1)


def _optimiser(settings: Settings) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.adamw(rate, weight_decay=settings.weight_decay)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _init(key: jax.Array, kind: str, num_outputs: int, inputs: jax.Array) -> Params:
    return KINDS[kind].classifier(num_outputs).init(key, inputs)["params"]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _step(
    form: tuple[str, tuple[int, ...], Settings],
    params: Params,
    state: optax.OptState,
    inputs: jax.Array,
    values: jax.Array,
    weight: jax.Array,
) -> tuple[Params, optax.OptState]:
    kind, sizes, settings = form
    ends = np.cumsum(sizes)

    def loss_fn(params: Params) -> jax.Array:
        logits, _ = KINDS[kind].classifier(sum(sizes)).apply({"params": params}, inputs)
        total = jnp.zeros(())
        for index, (start, size) in enumerate(zip(ends - sizes, sizes, strict=True)):
            target = values[:, index]
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits[:, start : start + size], target
            )
            total = total + jnp.mean(weight[start + target] * each)
        return total / len(sizes)

    updates, state = _optimiser(settings).update(jax.grad(loss_fn)(params), state, params)
    return optax.apply_updates(params, updates), state
