"""Conversion of plain text to the tokens of a model, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmebm_jax.data import words
from mmebm_jax.modalities.modality import Modality, to_raw
from mmebm_jax.modalities.text import UNKNOWN, spelled
from mmebm_jax.storage.validation import shown
from mmebm_jax.typing import Alphabet

Spelled = list[Any]
"""A line for each example, or a list of lines where each example has several draws."""


def are_sentences(values: Any) -> bool:
    """Whether values are a non-empty sequence or one-dimensional array of strings."""
    if isinstance(values, np.ndarray):
        may_be = values.ndim == 1 and values.dtype.kind in "UOT"
    else:
        may_be = isinstance(values, Sequence) and not isinstance(values, str)
    return may_be and len(values) > 0 and all(isinstance(value, str) for value in values)


def to_tokens(lines: Sequence[str], modality: Modality, alphabet: Alphabet) -> np.ndarray:
    """Tokens int32 `[N, L]` of N texts made of words or characters.

    Args:
      lines: the texts.
      modality: a modality of the kind text.
      alphabet: what its tokens stand for.

    Raises:
      ValueError: a text is too long or holds a word or character that the model never saw, or the
        run does not know what its tokens stand for.
    """
    length = modality.shape[0]
    if not knows_words(modality, alphabet):
        raise ValueError("this model does not know what its tokens stand for: give token numbers")
    if isinstance(alphabet, str):
        return np.concatenate([_characters(line, length, alphabet) for line in lines])
    tokens, num_cut = words.Tokeniser(alphabet, length)(lines)
    if num_cut:
        raise ValueError(f"the text is too long: give at most {length - 1} words and marks")
    strange = (tokens == alphabet.index(UNKNOWN)).any(axis=1)
    if strange.any():
        line = lines[int(strange.argmax())]
        raise ValueError(f"{shown(line)} holds a word that this model never saw: choose another")
    return tokens


def to_lines(values: np.ndarray, modality: Modality, alphabet: Alphabet) -> Spelled:
    """Samples of a text modality, tokens `[N, L]` or probabilities `[N, L, V]`, as plain text.

    With several draws for each example the shape is `[N, D, L]` or `[N, D, L, V]`.

    Raises:
      ValueError: the wrong shape, or the run does not know what its tokens stand for.
    """
    if not knows_words(modality, alphabet):
        raise ValueError(f"this model does not know what the tokens of {modality.name} stand for.")
    shape = modality.shape[:1] if values.dtype.kind in "iu" else modality.shape
    num_axes = values.ndim - len(shape)
    if num_axes not in (1, 2) or values.shape[num_axes:] != shape:
        raise ValueError(
            f"modality {modality.name!r} has shape {values.shape}: give [N, "
            f"{', '.join(map(str, shape))}], or several draws for each of N."
        )
    if num_axes == 2:
        return [to_lines(each, modality, alphabet) for each in values]
    return spelled(values if len(shape) == 1 else to_raw(modality, values), alphabet)


def knows_words(modality: Modality, alphabet: Alphabet) -> bool:
    """Whether it is known for every token of a text what it stands for."""
    return len(alphabet) >= modality.shape[1]


def _characters(text: str, length: int, alphabet: str) -> np.ndarray:
    """Tokens of the characters, `[1, length]`; token 0 fills the rest of the line."""
    unknown = sorted(set(text) - set(alphabet))
    if unknown:
        raise ValueError(f"{shown(unknown[0])} is none of {shown(alphabet)}: leave it out")
    if len(text) > length:
        raise ValueError(f"it has {len(text)} characters: give at most {length}")
    tokens = [alphabet.index(character) for character in text]
    return np.array([tokens + [0] * (length - len(text))], np.int32)
