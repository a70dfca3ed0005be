"""Weights in few bits: exact codes, bounded errors, sizes as claimed."""

import numpy as np
import pytest
import safetensors.numpy

from mmebm_jax.runs import tensors

KERNEL = "params/generator/m0/Dense_0/kernel"
WHITENING = "base_prior/private/m0/whitening"
SINGLE = np.dtype(np.float32)


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


@pytest.mark.parametrize("bits", [8, 6, 5, 3])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_codes_are_packed_without_gaps_and_come_back(numbers, bits, count):
    top = 2 ** (bits - 1) - 1
    codes = numbers.integers(-top, top + 1, count).astype(np.int8)
    content = tensors.pack(codes, bits)
    assert content.nbytes == -(-count * bits // 8)
    np.testing.assert_array_equal(tensors.unpack(content, count, bits), codes)


def test_the_order_of_bits_is_fixed():
    """Exports store these bytes: 6 bits each, the lowest first, −1 as 63."""
    content = tensors.pack(np.array([1, -1, 2, -31], np.int8), 6)
    number = 1 | 63 << 6 | 2 << 12 | (64 - 31) << 18
    assert content.tobytes() == number.to_bytes(3, "little")


@pytest.mark.parametrize("bits", [8, 6])
def test_what_lies_on_the_grid_is_kept_and_the_rest_is_near(numbers, bits):
    top = 2 ** (bits - 1) - 1
    codes = numbers.integers(-top, top + 1, (3, 50, 4)).astype(np.int8)
    codes[0, 0] = top
    scale = np.array([1e-6, 1.0, 3.0, 1e3], np.float32)
    found, of_channels = tensors.quantise(codes * scale, bits)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_allclose(of_channels, scale, rtol=1e-6)
    values = numbers.normal(size=(1000, 5)).astype(np.float32) * [1, 2, 3, 0, 1e-3]
    found, of_channels = tensors.quantise(values, bits)
    plain = np.abs(values).max(axis=0) / top  # step size without clipping
    error = np.square(found * of_channels - values).mean(axis=0)
    assert (error <= plain**2 / 12 * 1.1).all()  # variance of uniform rounding errors
    assert not found[:, 3].any()


@pytest.mark.parametrize("chosen", tensors.DTYPES)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (KERNEL, (64, 80)),
        ("params/energy/m0/Conv_0/kernel", (3, 3, 64, 8)),
        (KERNEL, (4, 5)),
        ("params/generator/m0/Dense_0/bias", (80,)),
        (WHITENING, (6, 5, 5)),
        ("base_prior/whitening", (6, 5, 5)),
        ("base_prior/log_weight", (6,)),
    ],
)
def test_every_weight_comes_back_from_what_its_layout_says(numbers, name, shape, chosen):
    values = numbers.normal(size=shape).astype(np.float32)
    if "whitening" in name:
        values = np.tril(values)
    parts = tensors.stored(name, values, chosen)
    layout = tensors.layout(name, shape, SINGLE, chosen)
    assert {n: (part.shape, part.dtype) for n, part in parts.items()} == layout
    read = safetensors.numpy.load(safetensors.numpy.save(parts))
    found = tensors.restored(name, read, shape, SINGLE)
    assert found.dtype == SINGLE
    if chosen == "float32" or name in ("base_prior/whitening", "base_prior/log_weight"):
        np.testing.assert_array_equal(found, values)
    elif len(parts) == 2:
        # Rounding to 2^b − 2 steps over a channel's range of at most ± 5.
        steps = 10 / (2 ** tensors.num_bits(chosen) - 2)
        assert np.sqrt(np.mean(np.square(found - values))) < steps / 12**0.5
    else:
        np.testing.assert_allclose(found, values, rtol=2**-11, atol=2**-24)
    size = sum(part.nbytes for part in parts.values())
    if chosen == "int6" and name.endswith("kernel") and values.size > 4096:
        assert size == values.size * 6 // 8 + 4 * shape[-1]


def test_types_that_are_no_floats_stay(numbers):
    flag = np.asarray(True)
    for chosen in tensors.DTYPES:
        assert tensors.layout("base_prior/is_laplace", (), flag.dtype, chosen) == {
            "base_prior/is_laplace": ((), flag.dtype)
        }
