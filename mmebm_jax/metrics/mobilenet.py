"""MobileNetV1 for ImageNet (Howard et al. 2017, arXiv:1704.04861) as an alternative to Inception.

The distance of its features is called FD-MobileNet, not FID: the two are not comparable.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax

from mmebm_jax.metrics.backbone import Backbone, in_batches
from mmebm_jax.storage.npz import read_npz
from mmebm_jax.storage.places import place

DISTANCE_NAME = "FD-MobileNet"
NUM_FEATURES = 1024
_SIDE = 224
_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the depthwise convolutions
_EPSILON = 1e-3

Weights = Mapping[str, np.ndarray]
"""Layer name to array: a convolution's `kernel` and `bias`, as `fold` makes them."""


def mobilenet_features(weights: Weights, images: jax.Array) -> jax.Array:
    """The spatial mean of the last convolution.

    Args:
        weights: from `load_mobilenet`.
        images: `[B, H, W, 3]` in [0, 1]; resized to 224 with an antialiased cubic filter.

    Returns:
        `[B, 1024]`, in [0, 6].
    """

    def conv(x: jax.Array, name: str, stride: int, groups: int = 1) -> jax.Array:
        x = lax.conv_general_dilated(
            x,
            jnp.asarray(weights[f"{name}/kernel"]),
            (stride, stride),
            "SAME",
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        return jnp.clip(x + weights[f"{name}/bias"][None, None, None], 0, 6)

    shape = (len(images), _SIDE, _SIDE, 3)
    x = jax.image.resize(images, shape, "cubic", precision="highest")
    x = conv(2 * jnp.clip(x, 0, 1) - 1, "conv0", 2)
    for index, stride in enumerate(_STRIDES, 1):
        x = conv(x, f"dw{index}", stride, groups=x.shape[-1])
        x = conv(x, f"pw{index}", 1)
    return x.mean((1, 2))


def fold(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Folds batch normalisation into the convolutions of a weights file.

    Args:
        arrays: for each of `conv0`, `dw1` … `dw13` (depthwise, `[3, 3, C]`), `pw1` … `pw13`
            (`[C, C']`): `NAME/w`, and `NAME/gamma`, `/beta`, `/mean`, `/var` of its normalisation.
            Others, such as the head, are ignored.

    Returns:
        `NAME/kernel` (HWIO) and `NAME/bias` for each.

    Raises:
        ValueError: an array is missing or does not have the network's shape.
    """
    folded = {}
    for name, shape in _shapes().items():
        width = shape[-1]
        wanted = {"w": shape} | dict.fromkeys(("gamma", "beta", "mean", "var"), (width,))
        for kind, expected in wanted.items():
            held = arrays[f"{name}/{kind}"].shape if f"{name}/{kind}" in arrays else None
            if held != expected:
                raise ValueError(
                    f"the weights hold {name}/{kind} of shape {held}, not {expected}; "
                    "take those of MobileNetV1 1.0"
                )
        kernel, gamma, beta, mean, variance = (
            np.asarray(arrays[f"{name}/{kind}"], np.float64) for kind in wanted
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        if kernel.ndim == 2:
            kernel = kernel[None, None]
        elif kernel.ndim == 3:
            kernel = kernel[:, :, None]
        folded[f"{name}/kernel"] = (kernel * scale).astype(np.float32)
        folded[f"{name}/bias"] = (beta - mean * scale).astype(np.float32)
    return folded


def load_mobilenet(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads and folds an `.npz` of the arrays that `fold` names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an `.npz` of plain arrays, or as `fold`.
    """
    path = place(path)
    arrays = read_npz(path)
    try:
        return fold(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def mobilenet_backbone(weights: Weights, *, batch_size: int = 50) -> Backbone:
    """The backbone of FD-MobileNet.

    Args:
        weights: from `load_mobilenet`.
        batch_size: pictures at a time.
    """
    apply = jax.jit(mobilenet_features)
    return Backbone(
        DISTANCE_NAME, NUM_FEATURES, lambda images: in_batches(apply, weights, images, batch_size)
    )


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"conv0": (3, 3, 3, 32)}
    for index, (before, width) in enumerate(zip((32, *_WIDTHS), _WIDTHS, strict=False), 1):
        shapes |= {f"dw{index}": (3, 3, before), f"pw{index}": (before, width)}
    return shapes
