"""The convolution used on a CPU, whose gradients stay fast inside `lax.scan`.

XLA:CPU optimises the layout of convolutions in the entry computation only. The transposed
convolutions that automatic differentiation creates inside a loop body therefore fall to a slow
single-threaded emitter, about 30 times slower (jax-ml/jax issue 12868). Here both gradients are
written as ordinary channels-last convolutions of explicitly transposed arrays, which need no layout
pass. The values equal those of `jax.lax.conv_general_dilated` up to the order of summation.

Newer XLA:CPU hands convolutions to YNNPACK, which runs each on one thread. Eigen uses all threads,
which makes an update a tenth faster. `compiler_options` limits YNNPACK to matrix products and sums.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
from jax import lax

from mmebm_jax.cpu.by_backend import on_cpu

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE"
}
Pads = tuple[tuple[int, int], ...]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def channels_last_convolution(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """Convolve `[B, H, W, C]` with a kernel `[h, w, C, D]`; gives `[B, H', W', D]`.

    `pads` holds (low, high) for each spatial axis.
    """
    return _convolve(inputs, kernel, strides, pads)


def _convolve(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
    """`channels_last_convolution` of inputs dilated by `dilation`, without its gradient rule."""
    height, _, num_inputs, num_outputs = kernel.shape
    undilated = strides == dilation == (1, 1)
    if undilated and num_outputs < num_inputs and height > 1 and min(pads[0]) >= 0:
        return _by_rows(inputs, kernel, pads)
    return lax.conv_general_dilated(
        inputs, kernel, strides, pads, lhs_dilation=dilation, dimension_numbers=DIMENSIONS
    )


def _by_rows(inputs: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Compute a convolution as the sum of convolutions with each row of its kernel.

    Eigen spends much of its time on copying each pixel's neighbourhood, which for one kernel row is
    only a fraction. The results of all rows are channels of one convolution. They are summed by a
    window reduction, which XLA does not fuse: it would fuse additions into a slower loop.
    """
    height, width, num_inputs, num_outputs = kernel.shape
    beside = kernel.transpose(1, 2, 0, 3).reshape(1, width, num_inputs, height * num_outputs)
    each = lax.conv_general_dilated(
        inputs, beside, (1, 1), ((0, 0), pads[1]), dimension_numbers=DIMENSIONS
    )
    # With lines, columns and kernel rows on one axis, a window's members are equally spaced.
    batch, lines, columns, _ = each.shape
    step = height * columns
    total = lax.reduce_window(
        each.reshape(batch, lines * step, num_outputs),
        0.0,
        lax.add,
        window_dimensions=(1, height, 1),
        window_strides=(1, height, 1),
        window_dilation=(1, step + 1, 1),
        padding=((0, 0), (step * pads[0][0], step * pads[0][1]), (0, 0)),
    )
    return total.reshape(batch, lines + sum(pads[0]) - height + 1, columns, num_outputs)


def _forward(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return channels_last_convolution(inputs, kernel, strides, pads), (inputs, kernel)


def _backward(
    strides: tuple[int, int], pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    spans = [
        (size - 1) * stride + 1 for size, stride in zip(gradient.shape[1:3], strides, strict=True)
    ]
    sizes, widths = inputs.shape[1:3], kernel.shape[:2]

    # d/d inputs: convolve the gradient, dilated by the stride, with the mirrored kernel.
    spread_pads = [
        (width - 1 - low, size + low - span)
        for width, (low, _), size, span in zip(widths, pads, sizes, spans, strict=True)
    ]
    mirrored = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    input_gradient = _convolve(gradient, mirrored, (1, 1), tuple(spread_pads), strides)

    # d/d kernel: channels take the role of examples, and one of the two arrays that of the kernel:
    # the one with more channels, which fill the matrix product better as channels of the output.
    if inputs.shape[3] > gradient.shape[3]:
        kernel_gradient = lax.conv_general_dilated(
            gradient.transpose(3, 1, 2, 0),
            inputs.transpose(1, 2, 0, 3),
            (1, 1),
            spread_pads,
            lhs_dilation=strides,
            dimension_numbers=DIMENSIONS,
        )
        return input_gradient, kernel_gradient[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    kernel_pads = [
        (low, width - 1 + span - size - low)
        for width, (low, _), size, span in zip(widths, pads, sizes, spans, strict=True)
    ]
    kernel_gradient = lax.conv_general_dilated(
        inputs.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        kernel_pads,
        rhs_dilation=strides,
        dimension_numbers=DIMENSIONS,
    )
    return input_gradient, kernel_gradient.transpose(1, 2, 0, 3)


channels_last_convolution.defvjp(_forward, _backward)


def scan_safe_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **unused: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` as `flax.linen.Conv` calls it, for two-dimensional layers.

    Raises:
      ValueError: the convolution is dilated or grouped, as in no network here.
    """
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if feature_group_count != 1 or any(dilation != 1 for dilation in dilations):
        raise ValueError("scan_safe_convolution takes neither dilation nor groups; use lax's own.")
    strides = (window_strides[0], window_strides[1])
    pads = (
        lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
        if isinstance(padding, str)
        else padding
    )
    return channels_last_convolution(lhs, rhs, strides, tuple((int(a), int(b)) for a, b in pads))


conv_general_dilated = on_cpu(scan_safe_convolution, lax.conv_general_dilated)
"""For `flax.linen.Conv`."""


def compiler_options() -> dict[str, str | bool]:
    """Return the options to pass to `jax.jit` for a program with many convolutions."""
    return known_options() if jax.default_backend() == "cpu" else {}


@cache
def known_options() -> dict[str, str | bool]:
    """Return `CPU_OPTIONS` if the installed compiler knows them, else none."""
    lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), "float32"))
    try:
        lowered.compile(compiler_options=CPU_OPTIONS)
    except jax.errors.JaxRuntimeError:  # Another version's compiler does not know the option.
        return {}
    return CPU_OPTIONS
