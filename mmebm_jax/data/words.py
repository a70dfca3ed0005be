"""Sentences as tokens: words by Hugging Face's `tokenizers`, without anything learned but a list.

A sentence is lower-cased, cleaned of control characters and split at blanks and around punctuation.
The list of words alone, which every run keeps in its `data.json`, makes the same tokens again.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmebm_jax.modalities.text import END, PADDING, SPECIAL, UNKNOWN

_INSTALL = "texts need the package tokenizers: pip install 'mmebm_jax[folder]'."


class Vocabulary(NamedTuple):
    """The words of a data set."""

    words: tuple[str, ...]  # `SPECIAL` first, then by falling count
    num_left_out: int  # frequent enough, but beyond the bound


def learn_words(sentences: Iterable[str], smallest_count: int, most: int) -> Vocabulary:
    """The words of some sentences.

    Args:
      sentences: of the training split.
      smallest_count: how often a word must be seen, from 1 on.
      most: how many words at most, `SPECIAL` among them; the rarest are left out.
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
    """Sentences to tokens: their words, `END`, and `PADDING` up to the length.

    Args:
      words: a vocabulary; a word that is not in it is `UNKNOWN`.
      length: L; what is longer than L − 1 words is cut.
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
