"""How an export stores a weight: as numbers of a float type, or a large kernel in few bits.

With an integer type a kernel w of at least `SMALLEST_KERNEL` values is stored as codes c of b bits
and one scale s for each output channel, w ≈ s · c with |c| < 2^(b−1): uniform symmetric
quantisation per channel (Krishnamoorthi 2018, arXiv:1806.08342, section 2). The whitenings of the
private latents' priors are lower triangular, so only their lower triangles are stored.
"""

import math
from collections.abc import Mapping

import numpy as np

DTYPES = ("float32", "float16", "int8", "int6")
SMALLEST_KERNEL = 4096  # values; for smaller ones the size saved is not worth the error
SCALE = ".scale"  # suffix of the name of a kernel's scales
# Shares of a channel's largest value that its largest code may stand for; the best one is used.
CLIPPING = np.linspace(1.0, 0.5, 11)


def layout(
    name: str, shape: tuple[int, ...], dtype: np.dtype, chosen: str
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The tensors that hold a weight: name → shape and type.

    Args:
      name: name of the weight, such as "params/generator/…/kernel".
      shape: shape of the weight.
      dtype: type of the weight.
      chosen: storage type, one of `DTYPES`.
    """
    half, single = np.dtype(np.float16), np.dtype(np.float32)
    if _is_packed(name, shape, dtype, chosen):
        size = math.ceil(math.prod(shape) * num_bits(chosen) / 8)
        return {name: ((size,), np.dtype(np.uint8)), name + SCALE: (shape[-1:], single)}
    if _is_triangle(name, chosen):
        return {name: ((shape[0], shape[1] * (shape[1] + 1) // 2), half)}
    is_parameter = name.startswith("params/") and dtype == single
    return {name: (shape, half if is_parameter and chosen != "float32" else dtype)}


def stored(name: str, values: np.ndarray, chosen: str) -> dict[str, np.ndarray]:
    """A weight as the tensors of its `layout`."""
    tensors = layout(name, values.shape, values.dtype, chosen)
    if len(tensors) > 1:
        codes, scale = quantise(values, num_bits(chosen))
        return {name: pack(codes, num_bits(chosen)), name + SCALE: scale}
    _, dtype = tensors[name]
    if _is_triangle(name, chosen):
        values = values[:, *np.tril_indices(values.shape[1])]
    # Safetensors writes an array's memory as it is, so it must be contiguous.
    return {name: np.ascontiguousarray(values, dtype).reshape(values.shape)}


def restored(
    name: str, tensors: Mapping[str, np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """A weight, restored from the tensors of its `layout`."""
    values = tensors[name]
    if name + SCALE in tensors:
        bits = 8 * len(values) // math.prod(shape)
        codes = unpack(values, math.prod(shape), bits).reshape(shape)
        return (codes * tensors[name + SCALE]).astype(dtype)
    if values.shape != shape:
        triangle, (rows, columns) = values, np.tril_indices(shape[1])
        values = np.zeros(shape, dtype)
        values[:, rows, columns] = triangle
    return values.astype(dtype)


def num_bits(chosen: str) -> int:
    """The number of bits of an integer storage type; 0 for others."""
    return int(chosen.removeprefix("int")) if chosen.startswith("int") else 0


def quantise(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes `int8` in the shape of the values, and scales along the last axis, `[C]`.

    Each channel takes the scale from `CLIPPING` with the least squared error: with few bits,
    clipping a rare large value costs less than coarser steps for all other values.
    """
    top = 2 ** (bits - 1) - 1
    channels = values.reshape(-1, values.shape[-1]).astype(np.float32)
    largest = np.maximum(np.abs(channels).max(axis=0), np.finfo(np.float32).tiny * top)
    best, scale = np.full(largest.shape, np.inf), np.ones_like(largest)
    for share in CLIPPING:
        tried = (largest * share / top).astype(np.float32)
        codes = np.clip(np.round(channels / tried), -top, top)
        error = np.square(codes * tried - channels).sum(axis=0)
        scale = np.where(error < best, tried, scale)
        best = np.minimum(error, best)
    codes = np.clip(np.round(channels / scale), -top, top).astype(np.int8)
    return codes.reshape(values.shape), scale


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """The lowest bits of `int8` codes, packed into bytes without gaps."""
    lowest = np.unpackbits(
        codes.reshape(-1, 1).view(np.uint8), axis=1, count=bits, bitorder="little"
    )
    return np.packbits(lowest, bitorder="little")


def unpack(content: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The first `count` codes in bytes that `pack` made, `int8[count]`."""
    lowest = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    codes = np.packbits(lowest, axis=1, bitorder="little")[:, 0].view(np.int8)
    unused = 8 - bits
    # Shifting up and back down extends the sign, the highest bit of a code.
    return (codes << unused) >> unused


def _is_packed(name: str, shape: tuple[int, ...], dtype: np.dtype, chosen: str) -> bool:
    is_kernel = name.startswith("params/") and len(shape) > 1 and dtype == np.float32
    return bool(num_bits(chosen)) and is_kernel and math.prod(shape) >= SMALLEST_KERNEL


def _is_triangle(name: str, chosen: str) -> bool:
    of_private = name.startswith("base_prior/private/") and name.endswith("/whitening")
    return bool(num_bits(chosen)) and of_private
