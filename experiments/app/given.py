"""Convert the user's input, a picture, text, numbers or a category, to raw examples."""

import io
import math
import warnings
from typing import Any

import numpy as np
from PIL import Image

from mmebm_jax.data import pictures
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.runs import sentences
from mmebm_jax.storage.validation import brief, shown
from mmebm_jax.typing import Alphabet

MOST_FILE_BYTES = 4 * 2**20
MOST_PIXELS = 2**25
MOST_CHARACTERS = 4096
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read(value: Any, modality: Modality, alphabet: Alphabet) -> np.ndarray | None:
    """One raw example `[1, *raw_shape]`; None if nothing is given.

    Args:
      value: bytes of a picture file, or a line of text, depending on the modality's kind.
      modality: the modality to convert to.
      alphabet: what the tokens of a text stand for.

    Raises:
      ValueError: the value cannot be converted; one line that names the modality.
    """
    if value is None or value in ("", b"") or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, bytes if modality.kind == "image" else str):
        raise ValueError(f"{modality.name} is {shown(value)}: {hint(modality, alphabet)}.")
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise ValueError(f"{modality.name} is longer than {MOST_CHARACTERS} characters: cut it.")
    try:
        return _read(value, modality, alphabet)
    except ValueError as error:
        raise ValueError(f"{modality.name}: {error}.") from error


def hint(modality: Modality, alphabet: Alphabet) -> str:
    """The instruction shown for a modality's input."""
    count, numbers = modality.shape[0], math.prod(modality.shape)
    if modality.kind == "image":
        megabytes = MOST_FILE_BYTES >> 20
        return f"give a picture ({', '.join(FORMATS)}) of at most {megabytes} MiB"
    if modality.kind == "text" and not sentences.knows_words(modality, alphabet):
        return f"give {count} token numbers of 0 to {modality.shape[1] - 1}"
    if modality.kind == "text":
        what = "characters" if isinstance(alphabet, str) else "words and marks"
        return f"give at most {count - (not isinstance(alphabet, str))} {what}"
    if modality.kind == "category":
        return f"give a number of 0 to {count - 1}"
    return f"give {numbers} numbers in [-1, 1] with blanks between"


def _read(value: Any, modality: Modality, alphabet: Alphabet) -> np.ndarray:
    if modality.kind == "image":
        return _picture(value, modality.shape)[None]
    if modality.kind == "text":
        return _tokens(value, modality, alphabet)
    try:
        numbers = [float(number) for number in value.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"{shown(value)} is no number: {hint(modality, alphabet)}") from None
    if modality.kind == "category":
        if len(numbers) != 1 or numbers[0] not in range(modality.shape[0]):
            raise ValueError(f"{shown(value)} is no category: {hint(modality, alphabet)}")
        return np.array(numbers, np.int32)
    if len(numbers) != modality.shape[0] or not all(abs(number) <= 1 for number in numbers):
        raise ValueError(f"{len(numbers)} numbers do not fit: {hint(modality, alphabet)}")
    return np.array([numbers], np.float32)


def _picture(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 `[H, W, C]`, fitted like the pictures of a data set; see `data.pictures`."""
    if len(content) > MOST_FILE_BYTES:
        raise ValueError(f"the file is larger than {MOST_FILE_BYTES >> 20} MiB: make it smaller")
    height, width, channels = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"it has more than {MOST_PIXELS >> 20} million pixels")
                image.load()
                return pictures.fitted(image, (height, width), channels)[0]
    except Image.UnidentifiedImageError:
        raise ValueError(f"it is no picture: give {', '.join(FORMATS)}") from None
    except pictures.UNREADABLE as error:
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(f"the picture cannot be read ({reason})") from error


def _tokens(text: str, modality: Modality, alphabet: Alphabet) -> np.ndarray:
    if sentences.knows_words(modality, alphabet):
        return sentences.to_tokens([text], modality, alphabet)
    length, size = modality.shape
    numbers = text.replace(",", " ").split()
    if len(numbers) != length or not all(n.isdecimal() and int(n) < size for n in numbers):
        raise ValueError(f"{shown(text)} holds no such tokens: {hint(modality, alphabet)}")
    return np.array([[int(number) for number in numbers]], np.int32)
