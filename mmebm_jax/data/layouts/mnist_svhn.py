"""MNIST–SVHN–Text (Shi et al. 2019, arXiv:1911.03393; Sutter et al. 2020): three views of a digit.

    DIR/train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-…    (MNIST's four files)
    DIR/train_32x32.mat, test_32x32.mat                                   (SVHN's cropped digits)

For each class, as many pictures of both sets are used as the smaller one has, in 20 random
pairings: about 1.1 million training examples. Modalities: "mnist", "svhn", and "text", the digit's
English word; the class is the digit. Both kinds of pictures get the same size and channels, 32 and
RGB with `image_size` 32. Leave `in_memory` at False.
"""

from pathlib import Path

import numpy as np
from scipy import io

from mmebm_jax.data.idx import read_idx
from mmebm_jax.data.rows import LABEL, Reading, Row, Tables, need
from mmebm_jax.storage.validation import brief

MNIST = "MNIST's four gzipped IDX files"
SVHN = "SVHN's cropped digits (format 2) from its page at Stanford"
NUM_PAIRINGS = 20
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PREFIXES = {"train": "train", "test": "t10k"}


def annotations(path: Path, version: str = "") -> list[Path]:
    """All files, since the same files hold pictures and classes."""
    files = []
    for split, prefix in _PREFIXES.items():
        for kind in ("images-idx3", "labels-idx1"):
            files.append(need(path / f"{prefix}-{kind}-ubyte.gz", MNIST))
        files.append(need(path / f"{split}_32x32.mat", SVHN))
    return files


def read(reading: Reading, version: str = "") -> Tables:
    """The rows of both splits; the pairing is the same every time.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged or is not the expected one.
    """
    images, labels, svhn, *rest = annotations(reading.path)
    return Tables(_rows(0, images, labels, svhn), _rows(1, *rest))


def _rows(seed: int, images: Path, labels: Path, svhn: Path) -> list[Row]:
    digits, classes = read_idx(images), read_idx(labels)
    if digits.ndim != 3 or classes.shape != digits.shape[:1]:
        raise ValueError(f"{images} and {labels.name} do not belong together: get {MNIST}.")
    houses, numbers = _svhn(svhn)
    rng, rows = np.random.default_rng(seed), []
    for digit, word in enumerate(WORDS):
        of_mnist, of_svhn = np.flatnonzero(classes == digit), np.flatnonzero(numbers == digit)
        count = min(len(of_mnist), len(of_svhn))
        for _ in range(NUM_PAIRINGS):
            pairs = zip(
                rng.permutation(of_mnist)[:count], rng.permutation(of_svhn)[:count], strict=True
            )
            rows += [
                Row(
                    f"{images.name} {i} with {svhn.name} {j}",
                    {"mnist": digits[i], "svhn": houses[j], "text": (word,), LABEL: digit},
                )
                for i, j in pairs
            ]
    return rows


def _svhn(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 `[N, 32, 32, 3]` and digits `[N]`; class 10 of the file is the digit 0."""
    try:
        content = io.loadmat(file)
        pictures, classes = content["X"], content["y"].ravel()
        if pictures.dtype != np.uint8 or pictures.shape != (32, 32, 3, len(classes)):
            raise ValueError(f"X has shape {pictures.shape}")
    except Exception as error:  # scipy raises many kinds for damaged files.
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(f"{file} is not SVHN's ({reason}): get {SVHN}.") from error
    return np.ascontiguousarray(np.moveaxis(pictures, -1, 0)), classes % 10
