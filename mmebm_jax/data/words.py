"""Sentences as tokens: words, split by Hugging Face's `tokenizers`; only their list is learned.

A sentence is lower-cased, cleaned of control characters and split at spaces and around punctuation.
The list of words, which every run keeps in its `data.json`, suffices to make the same tokens again.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmebm_jax.modalities.text import END, PADDING, SPECIAL, UNKNOWN

_INSTALL = "texts need the package tokenizers: pip install 'mmebm_jax[folder]'."


class Vocabulary(NamedTuple):
    """The words of a data set."""

    words: tuple[str, ...]  # `SPECIAL` first, then by decreasing count
    num_left_out: int  # words that are frequent enough, but beyond the maximal number


def learn_words(sentences: Iterable[str], smallest_count: int, most: int) -> Vocabulary:
    """Learn the vocabulary of some sentences.

    Args:
      sentences: sentences of the training split.
      smallest_count: how often a word must occur, at least 1.
      most: maximal number of words, including `SPECIAL`; the rarest are left out.
    """
    library = _tokenizers()
    tokenizer = _tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=2**31 - 1, min_frequency=smallest_count, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(sentences, trainer)
    numbered = tokenizer.get_vocab()
    known = sorted((word for word in numbered if word not in SPECIAL), key=numbered.__getitem__)
    kept = known[: most - len(SPECIAL)]
    return Vocabulary((*SPECIAL, *kept), len(known) - len(kept))


class Tokeniser:
    """Turns sentences into tokens: their words, `END`, and `PADDING` up to the length.

    Args:
      words: a vocabulary; a word that is not in it becomes `UNKNOWN`.
      length: L; sentences of more than L − 1 words are cut.
    """

    def __init__(self, words: Sequence[str], length: int):
        numbered = {word: number for number, word in enumerate(words)}
        self._end, self._padding, self._length = numbered[END], numbered[PADDING], length
        self._tokenizer = _tokenizer(_tokenizers().models.WordLevel(numbered, unk_token=UNKNOWN))

    def __call__(self, sentences: Sequence[str]) -> tuple[np.ndarray, int]:
        """Tokens of N sentences, int32 `[N, L]`, and how many sentences were cut."""
        tokens = np.full([len(sentences), self._length], self._padding, np.int32)
        num_cut = 0
        for line, found in zip(tokens, self._tokenizer.encode_batch(list(sentences)), strict=True):
            kept = found.ids[: self._length - 1]
            num_cut += len(kept) < len(found.ids)
            line[: len(kept)] = kept
            line[len(kept)] = self._end
        return tokens, num_cut


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(_INSTALL) from error
    return tokenizers


def _tokenizer(model: Any) -> Any:
    library = _tokenizers()
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return tokenizer
