"""Networks that give features of pictures, each with a name for the distance of its features.

A Fréchet distance is comparable only with distances of the same network; only Inception's is FID.
"""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mmebm_jax.metrics.frechet import Statistics, frechet_distance, gaussian_statistics
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.npz import read_npz
from mmebm_jax.storage.places import place
from mmebm_jax.typing import Params


class Backbone(NamedTuple):
    """Any function from pictures to features.

    `features` maps `[N, H, W, 1 or 3]`, uint8 or floats in [0, 1], to `[N, num_features]`.
    """

    distance_name: str  # name of the Fréchet distance between such features
    num_features: int
    features: Callable[[np.ndarray], np.ndarray]


def image_statistics(backbone: Backbone, images: np.ndarray) -> Statistics:
    """Mean and covariance of the backbone's features, in float64; can be stored for a reference.

    Args:
        backbone: the network.
        images: `[N, H, W, 1 or 3]`, uint8 or floats in [0, 1]; more than the network has features.

    Raises:
        ValueError: no more pictures than features (raised before any computation), or as
            `in_batches`.
    """
    if len(images) <= backbone.num_features:
        raise ValueError(
            f"{len(images)} pictures for a {backbone.distance_name} of {backbone.num_features} "
            f"features; use at least {backbone.num_features + 1}"
        )
    return gaussian_statistics(backbone.features(images), refuse_few=True)


def image_distance(
    backbone: Backbone, images: np.ndarray, reference: Statistics
) -> dict[str, float]:
    """The Fréchet distance of pictures to a reference, under the backbone's name for it.

    Args:
        backbone: the network.
        images: as in `image_statistics`.
        reference: `image_statistics` of real pictures by the same backbone.

    Returns:
        The name of the distance to its value.

    Raises:
        ValueError: as `image_statistics` and `frechet_distance`.
    """
    distance = frechet_distance(image_statistics(backbone, images), reference)
    return {backbone.distance_name: distance}


def cached_statistics(
    path: epath.PathLike, meta: Mapping[str, Any], compute: Callable[[], Statistics]
) -> Statistics:
    """Statistics of a reference set, computed once.

    Args:
        path: an `.npz`, local or remote; its folder is made if absent.
        meta: JSON values that identify them: data set, split, number, backbone, weights.
        compute: computes them if there are none; those of another `meta` are replaced.

    Raises:
        ValueError: the file is damaged.
    """
    file, header = place(path), json.dumps(dict(meta), sort_keys=True)
    if file.exists():
        try:
            arrays = read_npz(file)
            known = str(arrays["meta"]), (arrays["mean"], arrays["covariance"])
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete it") from error
        if known[0] == header:
            return known[1]
    mean, covariance = compute()
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.asarray(header), mean=mean, covariance=covariance)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, buffer.getvalue())
    return mean, covariance


def in_batches(
    apply: Callable[[Params, jax.Array], Any], params: Params, images: np.ndarray, batch_size: int
) -> np.ndarray:
    """Features of all pictures, one compiled batch at a time.

    Args:
        apply: (params, `[B, H, W, 3]` float32 in [0, 1]) to `[B, F]`.
        params: its first argument.
        images: `[N, H, W, 1 or 3]`, uint8 or floats in [0, 1]; grey ones get three equal channels.
        batch_size: B; the last batch is padded.

    Returns:
        `[N, F]` float32.

    Raises:
        ValueError: no pictures, the wrong shape, or floats outside [0, 1].
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3):
        raise ValueError(f"pictures have shape {images.shape}; need [N, H, W, 1 or 3]")
    parts = []
    for start in range(0, len(images), batch_size):
        chunk = _unit_range(images[start : start + batch_size])
        padding = [(0, batch_size - len(chunk)), (0, 0), (0, 0), (0, 0)]
        features = apply(params, jnp.asarray(np.pad(chunk, padding)))
        parts.append(np.asarray(features)[: len(chunk)])
    return np.concatenate(parts)


def _unit_range(images: np.ndarray) -> np.ndarray:
    """The pictures as float32 in [0, 1] with three channels."""
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    elif not (images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"pictures are {images.dtype} in {images.min()}..{images.max()}; "
            "pass uint8, or floats in [0, 1]"
        )
    return np.broadcast_to(images.astype(np.float32), (*images.shape[:3], 3))
