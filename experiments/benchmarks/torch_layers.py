"""Convert the parameters of layers to PyTorch, where images are channels first.

Every kernel next to a flattened or rearranged image is permuted on the way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Params = Mapping[str, Any]
Arrays = dict[str, np.ndarray]
Maps = tuple[int, int, int]  # height, width, channels


def layer(name: str, kernel: np.ndarray, bias: Any = None) -> Arrays:
    """A dense kernel `[I, O]` or a convolution's `[h, w, I, O]` with axes in PyTorch's order."""
    axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    arrays = {f"{name}.weight": np.ascontiguousarray(kernel.transpose(axes))}
    return arrays if bias is None else arrays | {f"{name}.bias": np.array(bias)}


def plain(name: str, params: Params) -> Arrays:
    """A layer next to neither a flattened nor a rearranged image."""
    return layer(name, np.asarray(params["kernel"]), params.get("bias"))


def unshuffled(name: str, params: Params) -> Arrays:
    """A convolution with input channels (block, channel) here, (channel, block) in PyTorch."""
    kernel = np.asarray(params["kernel"])
    split = kernel.reshape(*kernel.shape[:2], 4, -1, kernel.shape[3])
    return layer(name, split.swapaxes(2, 3).reshape(kernel.shape), params["bias"])


def shuffled(name: str, params: Params) -> Arrays:
    """A convolution with output channels (block, channel) here, (channel, block) in PyTorch."""
    kernel = np.asarray(params["kernel"])
    split = kernel.reshape(*kernel.shape[:3], 4, -1).swapaxes(3, 4).reshape(kernel.shape)
    return layer(name, split, np.asarray(params["bias"]).reshape(4, -1).T.reshape(-1))


def from_flat(name: str, params: Params, maps: Sequence[Maps]) -> Arrays:
    """A dense layer on flattened maps, `[H, W, C]` here and `[C, H, W]` in PyTorch."""
    kernel, rows, start = np.asarray(params["kernel"]), [], 0
    for shape in maps:
        size = int(np.prod(shape))
        block = kernel[start : start + size].reshape(*shape, -1)
        rows.append(block.transpose(2, 0, 1, 3).reshape(size, -1))
        start += size
    return layer(name, np.concatenate(rows), params["bias"])


def to_flat(name: str, params: Params, maps: Maps) -> Arrays:
    """A dense layer whose outputs are maps, `[H, W, C]` here and `[C, H, W]` in PyTorch."""
    kernel = np.asarray(params["kernel"])
    columns = kernel.reshape(-1, *maps).transpose(0, 3, 1, 2).reshape(kernel.shape)
    bias = np.asarray(params["bias"]).reshape(maps).transpose(2, 0, 1).reshape(-1)
    return layer(name, columns, bias)
