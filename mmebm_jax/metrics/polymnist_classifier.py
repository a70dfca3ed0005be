"""PolyMNIST's published digit classifiers, with which papers since MoPoE report coherence.

Files `pretrained_img_to_digit_clf_m0` … `_m4` of the data set's release (Sutter et al. 2021,
arXiv:2105.02470; zenodo.org/record/4899160): state dicts of the network in
`mmnist/networks/ConvNetworkImgClfCMNIST.py` of github.com/thomassutter/MoPoE. Its dropout is off
here. No checksums of the files are published: their shapes are checked, and their accuracy on the
test split should be reported with every number that they give.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmebm_jax.data.torch_file import read_state_dict

FILE = "pretrained_img_to_digit_clf_{}"
SHAPE = (28, 28, 3)
SHAPES = {
    "encoder.0.weight": (10, 3, 4, 4),
    "encoder.0.bias": (10,),
    "encoder.3.weight": (20, 10, 4, 4),
    "encoder.3.bias": (20,),
    "encoder.7.weight": (128, 980),
    "encoder.7.bias": (128,),
    "encoder.10.weight": (10, 128),
    "encoder.10.bias": (10,),
}

Weights = Mapping[str, np.ndarray]
"""Arrays with PyTorch's names and layout."""


def load_classifiers(folder: Path | str, names: Sequence[str]) -> dict[str, Weights]:
    """Reads the classifiers of some modalities; no code in their files is run.

    Args:
        folder: the folder that holds the files.
        names: names of the modalities, "m0" to "m4".

    Returns:
        Modality name to weights.

    Raises:
        FileNotFoundError: a modality has no file.
        ValueError: a file does not hold the weights of this network.
    """
    weights: dict[str, Weights] = {}
    for name in names:
        path = Path(folder) / FILE.format(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: give the folder of PolyMNIST's released classifiers."
            )
        state = read_state_dict(path)
        shapes = {key: array.shape for key, array in state.items()}
        if shapes != SHAPES:
            wrong = next(key for key in {**SHAPES, **shapes} if shapes.get(key) != SHAPES.get(key))
            raise ValueError(
                f"{path} holds {wrong} of shape {shapes.get(wrong)}, not {SHAPES.get(wrong)}: "
                "it is none of PolyMNIST's released classifiers."
            )
        weights[name] = {key: np.asarray(array, np.float32) for key, array in state.items()}
    return weights


@jax.jit
def logits(weights: Weights, images: jax.Array) -> jax.Array:
    """Logits of the ten digits.

    Args:
        weights: weights of one modality.
        images: `[B, 28, 28, 3]` in [-1, 1]; rescaled to [0, 1], on which the network was trained.

    Returns:
        `[B, 10]`.
    """

    def conv(x: jax.Array, layer: int) -> jax.Array:
        kernel = jnp.asarray(weights[f"encoder.{layer}.weight"])
        x = lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        return jax.nn.relu(x + weights[f"encoder.{layer}.bias"][None, :, None, None])

    def dense(x: jax.Array, layer: int) -> jax.Array:
        return x @ weights[f"encoder.{layer}.weight"].T + weights[f"encoder.{layer}.bias"][None]

    x = (images.transpose(0, 3, 1, 2) + 1) / 2
    x = conv(conv(x, 0), 3).reshape(len(images), -1)
    return dense(jax.nn.relu(dense(x, 7)), 10)
