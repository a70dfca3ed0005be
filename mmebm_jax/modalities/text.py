"""Text: `[B, L, V]`, one-hot in data, probabilities in samples; raw data are int32 tokens `[B, L]`.

A token is a character, or a word if the alphabet is a tuple of words; token 0 is padding.
Probabilities (a relaxed one-hot) are what Langevin dynamics can move. They enter the data energy
through the `trunk` of the chosen networks, whose features `networks.joint` concatenates.
"""

import jax
import numpy as np

from mmebm_jax.modalities.kind import Kind, KindNetworks, Shape, unchanged
from mmebm_jax.networks.classifier import DenseClassifier
from mmebm_jax.networks.perceptron import PerceptronDecoder
from mmebm_jax.networks.text import TextExpert, TextTrunk
from mmebm_jax.networks.text_residual import (
    ResidualTextDecoder,
    ResidualTextExpert,
    ResidualTextTrunk,
)
from mmebm_jax.networks.text_transformer import (
    TransformerDecoder,
    TransformerExpert,
    TransformerTrunk,
)
from mmebm_jax.typing import Alphabet

# Special tokens in an alphabet of words: tokens 0, 1 and 2.
SPECIAL = PADDING, END, UNKNOWN = ("<pad>", "<eos>", "<unk>")


def _from_raw(raw: jax.Array | np.ndarray, shape: Shape) -> jax.Array:
    return jax.nn.one_hot(raw, shape[-1])


def _to_raw(values: np.ndarray) -> np.ndarray:
    """Return the likeliest tokens."""
    return values.argmax(axis=-1).astype(np.int32)


def _problems(raw: np.ndarray, shape: Shape) -> tuple[np.ndarray, str]:
    size = shape[-1]
    wrong = np.logical_or(raw < 0, raw >= size).reshape(len(raw), -1)
    return np.asarray(wrong.any(axis=1)), f"leaves 0..{size - 1}"


def spelled(tokens: np.ndarray, alphabet: Alphabet) -> list[str]:
    """Spell tokens `[N, L]` as N lines: characters without spaces, or sentences of words.

    A sentence ends before its first `END`, and `PADDING` is left out everywhere.
    """
    if isinstance(alphabet, str):
        return ["".join(alphabet[token] for token in line) for line in tokens]
    return [_sentence([alphabet[token] for token in line]) for line in tokens]


def _sentence(words: list[str]) -> str:
    words = words[: words.index(END)] if END in words else words
    return " ".join(word for word in words if word != PADDING)


def _draw(values: np.ndarray, alphabet: Alphabet) -> list[str]:
    """Spell out each example; give token numbers if the alphabet is too short."""
    if len(alphabet) < values.shape[-1]:
        return [" ".join(map(str, tokens)) for tokens in _to_raw(values)]
    return spelled(_to_raw(values), alphabet)


TEXT = Kind(
    name="text",
    values="tokens",
    dimensions=("length", "vocabulary size"),
    bounds=(0.0, 1.0),
    raw_dtype=np.int32,
    accepted="strings, int tokens or float one-hot",
    raw_shape=lambda shape: shape[:1],
    is_raw=lambda dtype: np.issubdtype(dtype, np.integer),
    from_raw=_from_raw,
    to_raw=_to_raw,
    problem_of_shape=lambda shape: "",
    problems=_problems,
    networks={
        "small": KindNetworks(
            expert=lambda shape, sizes: TextExpert(sizes.hidden),
            decoder=lambda shape, sizes: PerceptronDecoder(shape, sizes.hidden),
            trunk=lambda shape, sizes: TextTrunk(sizes.hidden),
        ),
        "resnet": KindNetworks(
            expert=lambda shape, sizes: ResidualTextExpert(sizes.hidden),
            decoder=lambda shape, sizes: ResidualTextDecoder(shape, sizes.hidden),
            trunk=lambda shape, sizes: ResidualTextTrunk(sizes.hidden),
        ),
        "transformer": KindNetworks(
            expert=lambda shape, sizes: TransformerExpert(sizes.hidden),
            decoder=lambda shape, sizes: TransformerDecoder(shape, sizes.hidden),
            trunk=lambda shape, sizes: TransformerTrunk(sizes.hidden),
        ),
    },
    classifier=DenseClassifier,
    augment=unchanged,
    draw=_draw,
)
