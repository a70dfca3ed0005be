"""FID's backbone: weights and resize of pytorch-fid 0.3.0 (github.com/mseitzer/pytorch-fid).

Features of any other network, or of these weights after a different resize, do not give FID.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pooch
from flax import traverse_util

from mmebm_jax.data.torch_file import read_state_dict
from mmebm_jax.metrics.backbone import Backbone, in_batches
from mmebm_jax.metrics.inception_network import SIDE, Inception
from mmebm_jax.storage.validation import brief
from mmebm_jax.typing import Params

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + WEIGHTS_FILE
)
DISTANCE_NAME = "FID"
NUM_FEATURES = 2048
_SHA256_PREFIX = "6726825d"


def inception_variables(state: Mapping[str, np.ndarray]) -> Params:
    """Flax variables from a state dict with pytorch-fid's names.

    Args:
        state: name to array; the classifier's head and counters are left out.

    Raises:
        ValueError: an array is missing or does not have the network's shape.
    """
    names = {
        "conv.weight": ("params", "conv", "kernel"),
        "bn.weight": ("params", "bn", "scale"),
        "bn.bias": ("params", "bn", "bias"),
        "bn.running_mean": ("batch_stats", "bn", "mean"),
        "bn.running_var": ("batch_stats", "bn", "var"),
    }
    flat = {}
    for name, value in state.items():
        *path, layer, kind = name.split(".")
        if f"{layer}.{kind}" in names and path:
            collection, layer, kind = names[f"{layer}.{kind}"]
            value = np.asarray(value, np.float32)
            flat[collection, *path, layer, kind] = (
                value.transpose(2, 3, 1, 0) if kind == "kernel" and value.ndim == 4 else value
            )
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros([1, SIDE, SIDE, 3]))
    expected = traverse_util.flatten_dict(shapes)
    for place, shape in expected.items():
        held = flat[place].shape if place in flat else None
        if held != shape.shape:
            raise ValueError(
                f"the weights hold {'.'.join(place[1:])} of shape {held}, not {shape.shape}; "
                f"take {WEIGHTS_FILE}"
            )
    return traverse_util.unflatten_dict({place: flat[place] for place in expected})


@jax.jit
def resize(images: jax.Array) -> jax.Array:
    """Resizes bilinearly to 299: `[B, H, W, 3]` of any size to `[B, 299, 299, 3]`.

    Like torch's interpolate with `align_corners=False`: half-pixel centres, and no antialiasing
    when a picture shrinks.
    """
    shape = (len(images), SIDE, SIDE, 3)
    return jax.image.resize(images, shape, "bilinear", antialias=False, precision="highest")


def inception_backbone(variables: Params, *, batch_size: int = 50) -> Backbone:
    """The backbone of FID.

    Args:
        variables: from `load_inception`.
        batch_size: pictures at a time.
    """
    network = jax.jit(Inception().apply)

    def apply(variables: Params, images: jax.Array) -> jax.Array:
        # Compiled separately, so that the network compiles only once for pictures of all sizes.
        return network(variables, resize(images))

    return Backbone(
        DISTANCE_NAME, NUM_FEATURES, lambda images: in_batches(apply, variables, images, batch_size)
    )


def load_inception(path: Path | str) -> Params:
    """Reads the weights that define FID.

    Args:
        path: path of `WEIGHTS_FILE`, which is published at `WEIGHTS_URL`.

    Raises:
        FileNotFoundError: there is no such file; the message says where it is published.
        ValueError: the file has a different name or content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; FID needs its weights: get {WEIGHTS_URL}")
    _check_weights(path)
    return inception_variables(read_state_dict(path))


def fetch_inception(folder: Path | str) -> Path:
    """Downloads `WEIGHTS_FILE` (about 95 MB) unless it is there already, and checks it.

    Args:
        folder: where to keep it; made if absent.

    Returns:
        Its path, for `load_inception`.

    Raises:
        OSError: it cannot be downloaded; the message says where to get it by hand.
        ValueError: the file that was there or was downloaded is a different one.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        try:
            pooch.HTTPDownloader(timeout=60)(WEIGHTS_URL, str(partial), None)
        except Exception as error:  # from any layer of the network stack
            partial.unlink(missing_ok=True)
            reason = brief(str(error))
            raise OSError(
                f"FID's weights cannot be downloaded ({reason}): put {WEIGHTS_URL} into {folder}"
            ) from error
        partial.rename(path)
    _check_weights(path)
    return path


def _check_weights(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.name != WEIGHTS_FILE or not digest.startswith(_SHA256_PREFIX):
        raise ValueError(
            f"{path} (SHA-256 {digest[:8]}…) is not {WEIGHTS_FILE} (SHA-256 {_SHA256_PREFIX}…): "
            f"replace it by {WEIGHTS_URL}"
        )
