"""Reads pictures of any mode as they look on screen: upright, cropped and resized."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmebm_jax.storage.validation import brief

# What Pillow raises for files that are damaged or unpack to an absurd size.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of 16-bit grey


def read_picture(path: Path, size: int, channels: int) -> tuple[np.ndarray, bool]:
    """A picture's centre square, resized with antialiasing (Lanczos).

    Palettes are resolved, transparency is placed over white, 16-bit grey keeps its eight highest
    bits, and a camera's rotation (EXIF) is undone. An animation gives its first frame.

    Args:
      path: path of the file.
      size: height and width of the result.
      channels: 3 for RGB, 1 for grey.

    Returns:
      uint8 `[size, size, channels]`, and whether the picture was smaller than that.

    Raises:
      ValueError: the file is missing, damaged, or of a kind that Pillow does not read.
    """
    try:
        with warnings.catch_warnings():
            # A file that unpacks to a hundred million pixels is treated as damaged.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return square(image, size, channels)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except UNREADABLE as error:
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(f"{path} cannot be read as a picture ({reason})") from error


def square(image: Image.Image, size: int, channels: int) -> tuple[np.ndarray, bool]:
    """The centre square of an opened picture; see `read_picture`."""
    return fitted(image, (size, size), channels)


def fitted(image: Image.Image, size: tuple[int, int], channels: int) -> tuple[np.ndarray, bool]:
    """The centre of an opened picture, resized to a height and width; see `read_picture`."""
    height, width = size
    upright = _eight_bits(ImageOps.exif_transpose(image))
    flat = _over_white(upright).convert("RGB" if channels == 3 else "L")
    small = flat.width < width or flat.height < height
    resized = ImageOps.fit(flat, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.uint8).reshape(height, width, channels), small


def square_of_array(picture: np.ndarray, size: int, channels: int) -> tuple[np.ndarray, bool]:
    """As `square`, for an array uint8 `[H, W]` or `[H, W, C]` with 1, 3 or 4 channels."""
    flat = picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
    return square(Image.fromarray(np.ascontiguousarray(flat)), size, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode not in _DEEP:
        if image.mode == "F":
            raise ValueError("its values are floats, whose range is not known")
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values leave the 16 bits of grey")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    transparent = image.convert("RGBA")
    white = Image.new("RGBA", transparent.size, "white")
    return Image.alpha_composite(white, transparent)
