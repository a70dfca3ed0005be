"""PolyDigits: a small PolyMNIST, made in a second from data that ship with scikit-learn.

Each example is one digit class in several modalities: in each, a different person's digit over a
different photograph, and optionally the digit's English name as text.
"""

from typing import Annotated, NamedTuple

import numpy as np
import pydantic

from mmebm_jax.data.photographs import PHOTOGRAPHS, draw_over, photograph
from mmebm_jax.data.source import ArraySource, DataSplits, Field
from mmebm_jax.storage.validation import Record

SIZE = 16
WORD_LENGTH = 8
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ALPHABET = " " + "".join(sorted(set("".join(WORDS))))
LICENCE = (
    "Digits: UCI Optical Recognition of Handwritten Digits, CC BY 4.0. Photographs: coffee CC0, "
    "rocket and astronaut public domain, flower (vultilion) and china (danielbuechele) CC BY 2.0."
)

_NUM_TEST_HANDWRITING = 297
# At this scale a 16 x 16 crop shows structure rather than one flat colour.
_PHOTO_SHORT_SIDE = 6 * SIZE


Count = Annotated[int, pydantic.Field(ge=1, le=10**6)]


class Options(Record):
    """What to make."""

    seed: int = pydantic.Field(
        0, ge=0, le=2**31 - 1, description="Seed of the split of handwriting and of all draws."
    )
    num_modalities: int = pydantic.Field(
        3, ge=1, le=len(PHOTOGRAPHS), description="Number of image modalities, 16×16×3 each."
    )
    num_train: Count = pydantic.Field(
        15_000, description="Training examples; classes are balanced to within one."
    )
    num_test: Count = pydantic.Field(3_000, description="Test examples, balanced likewise.")
    word: bool = pydantic.Field(
        False, description="Whether the English digit word is a further modality, as text."
    )


class Handwriting(NamedTuple):
    """Digit shapes: ``masks`` bool ``[N, 16, 16]``, ``labels`` int ``[N]`` in 0..9."""

    masks: np.ndarray
    labels: np.ndarray


def handwriting(seed: int) -> tuple[Handwriting, Handwriting]:
    """Splits scikit-learn's 1,797 digits into 1,500 to train on and 297 to test on.

    The 8 x 8 digits are enlarged smoothly to 16 x 16, then thresholded at half intensity. The
    split is stratified by class and shuffled by ``seed``.
    """
    from scipy import ndimage
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    smooth = ndimage.zoom(
        images.reshape(-1, 8, 8), (1, 2, 2), order=3, mode="nearest", grid_mode=True
    )
    masks = smooth > 8
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_NUM_TEST_HANDWRITING, stratify=labels, random_state=seed
    )
    return Handwriting(masks[train], labels[train]), Handwriting(masks[test], labels[test])


def _choose(rng: np.random.Generator, labels: np.ndarray, digits: Handwriting) -> np.ndarray:
    """For each label, the mask of a random digit of that class: bool ``[N, 16, 16]``."""
    by_class = np.argsort(digits.labels, kind="stable")
    counts = np.bincount(digits.labels, minlength=10)
    starts = np.cumsum(counts) - counts
    return digits.masks[by_class[starts[labels] + rng.integers(counts[labels])]]


def _words(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Each label's English word, padded with spaces at random: int32 tokens ``[N, 8]``."""
    lengths = np.array([len(word) for word in WORDS])
    offsets = rng.integers(WORD_LENGTH - lengths[labels] + 1)
    table = np.array(
        [
            [[ALPHABET.index(c) for c in (" " * offset + word).ljust(WORD_LENGTH)[:WORD_LENGTH]]
             for offset in range(WORD_LENGTH)]
            for word in WORDS
        ],
        np.int32,
    )  # fmt: skip
    return table[labels, offsets]


def _split(
    seed: int, split: int, digits: Handwriting, num: int, num_modalities: int, word: bool
) -> ArraySource:
    labels = np.random.default_rng([seed, split]).permutation(np.arange(num) % 10)
    arrays = {}
    for m, name in enumerate(PHOTOGRAPHS[:num_modalities]):
        # A separate stream, so that a modality does not depend on which others there are.
        rng = np.random.default_rng([seed, split, 1 + m])
        photo = photograph(name, _PHOTO_SHORT_SIDE)
        arrays[f"m{m}"] = draw_over(rng, _choose(rng, labels, digits), photo)
    if word:
        arrays["word"] = _words(np.random.default_rng([seed, split, 0, 1]), labels)
    return ArraySource(arrays | {"label": labels.astype(np.int32)})


def load(options: Options, *, prepare: bool = True) -> DataSplits:
    """Makes the data set in memory, the same one for the same options.

    Each example is a class; each image modality "m0", "m1", … draws a random digit of that class,
    and a random crop of its own photograph, independently: uint8 ``[16, 16, 3]``. No test
    handwriting is in train. The modality "word" is int32 ``[8]``, tokens of `ALPHABET`: the English
    digit word at a random offset, padded with spaces.

    Args:
        options: what to make.
        prepare: unused; nothing is kept on disk.

    Source: scikit-learn's copy of the UCI Optical Recognition of Handwritten Digits test set.
    """
    train_digits, test_digits = handwriting(options.seed)
    shape = (options.num_modalities, options.word)
    fields = {f"m{m}": Field("image", (SIZE, SIZE, 3)) for m in range(options.num_modalities)}
    if options.word:
        fields["word"] = Field("text", (WORD_LENGTH, len(ALPHABET)))
    return DataSplits(
        train=_split(options.seed, 0, train_digits, options.num_train, *shape),
        test=_split(options.seed, 1, test_digits, options.num_test, *shape),
        fields=fields,
        num_classes=10,
        alphabet=ALPHABET if options.word else "",
    )
