"""Images: `[B, H, W, C]` float32 in [-1, 1]; raw data are uint8."""

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.modalities.kind import Kind, KindNetworks, Shape
from mmebm_jax.networks.classifier import ImageClassifier
from mmebm_jax.networks.image import ImageDecoder, ImageExpert, ImageTrunk
from mmebm_jax.networks.image_residual import (
    ResidualImageDecoder,
    ResidualImageExpert,
    ResidualImageTrunk,
)
from mmebm_jax.typing import Alphabet

RESIDUAL = KindNetworks(
    expert=lambda shape, sizes: ResidualImageExpert(sizes.width),
    decoder=lambda shape, sizes: ResidualImageDecoder(shape, sizes.width),
    trunk=lambda shape, sizes: ResidualImageTrunk(sizes.width),
)
MOST_SHIFT = 1  # pixels; a larger shift pushes the strokes of a 16x16 digit off the canvas


def _from_raw(raw: jax.Array | np.ndarray, shape: Shape) -> jax.Array:
    del shape
    return jnp.asarray(raw, jnp.float32) / 127.5 - 1.0


def _to_raw(values: np.ndarray) -> np.ndarray:
    return np.round((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)


def _problem_of_shape(shape: Shape) -> str:
    return "make height and width multiples of 4" if shape[0] % 4 or shape[1] % 4 else ""


def _problems(raw: np.ndarray, shape: Shape) -> tuple[np.ndarray, str]:
    del shape
    return np.zeros(len(raw), bool), ""  # every uint8 is valid


def _shifted(generator: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Shift each image `[B, H, W, C]` by up to `MOST_SHIFT` pixels, repeating its edge."""
    batch, height, width, _ = images.shape
    down, right = generator.integers(-MOST_SHIFT, MOST_SHIFT + 1, (2, batch, 1))
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return images[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _draw(values: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Return uint8 RGB `[N, H, W, 3]`; NaN becomes mid-grey."""
    del alphabet
    if values.dtype != np.uint8:
        values = _to_raw(np.nan_to_num(values.astype(np.float32), posinf=1, neginf=-1))
    if values.shape[-1] not in (1, 3):
        raise ValueError(f"images have shape {values.shape}: give [..., H, W, C] with C 1 or 3.")
    return np.broadcast_to(values, (*values.shape[:-1], 3))


IMAGE = Kind(
    name="image",
    values="numbers",
    dimensions=("height", "width", "channels"),
    bounds=(-1.05, 1.05),  # a small margin for a chain to move in
    raw_dtype=np.uint8,
    accepted="uint8 or float in [-1, 1]",
    raw_shape=lambda shape: shape,
    is_raw=lambda dtype: dtype == np.uint8,
    from_raw=_from_raw,
    to_raw=_to_raw,
    problem_of_shape=_problem_of_shape,
    problems=_problems,
    networks={
        "small": KindNetworks(
            expert=lambda shape, sizes: ImageExpert(sizes.width, sizes.hidden),
            decoder=lambda shape, sizes: ImageDecoder(shape, sizes.width, sizes.hidden),
            trunk=lambda shape, sizes: ImageTrunk(sizes.width),
        ),
        "resnet": RESIDUAL,
        "transformer": RESIDUAL,  # only text has a transformer
    },
    classifier=ImageClassifier,
    augment=_shifted,
    draw=_draw,
)
