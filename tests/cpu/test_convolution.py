import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mmebm_jax.cpu import convolution
from mmebm_jax.cpu.convolution import CPU_OPTIONS, known_options, scan_safe_convolution

NHWC = ("NHWC", "HWIO", "NHWC")


def builtin(inputs, kernel, strides, padding):
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=NHWC)


def arrays(height, width, kernel, channels=2, features=3):
    keys = jax.random.split(jax.random.key(0), 2)
    return (
        jax.random.normal(keys[0], [2, height, width, channels]),
        jax.random.normal(keys[1], [*kernel, channels, features]),
    )


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((8, 8), (3, 3), (1, 1), "SAME"),
        ((8, 6), (4, 4), (2, 2), "SAME"),
        ((7, 5), (3, 3), (2, 2), "SAME"),
        ((7, 9), (3, 2), (2, 1), "VALID"),
        ((8, 7), (3, 3), (2, 2), "VALID"),  # the last row is never read
        ((6, 7), (3, 4), (1, 2), ((0, 2), (3, 1))),
        ((5, 5), (1, 1), (2, 2), "VALID"),
        ((5, 4), (5, 3), (1, 1), ((2, 0), (0, 1))),
        ((6, 5), (4, 2), (1, 1), ((3, 1), (0, 2))),
        ((4, 6), (2, 3), (1, 1), ((0, 3), (1, 0))),  # one row reads only padding
    ],
)
@pytest.mark.parametrize("channels", [(2, 3), (4, 2), (3, 3)])  # each order has its own code path
def test_equals_the_built_in_convolution(size, kernel, strides, padding, channels):
    inputs, kernel = arrays(*size, kernel, *channels)
    expected = builtin(inputs, kernel, strides, padding)
    weight = jax.random.normal(jax.random.key(1), expected.shape)

    def derivatives(convolution):
        def loss(inputs, kernel):
            return jnp.sum(weight * jnp.sin(convolution(inputs, kernel, strides, padding)))

        def slope(inputs, kernel):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(loss, (0, 1))(inputs, kernel))

        return jax.jit(
            lambda *args: (
                convolution(*args, strides, padding),
                jax.grad(loss, (0, 1))(*args),
                jax.grad(slope, (0, 1))(*args),
            )
        )(inputs, kernel)

    got, wanted = derivatives(scan_safe_convolution), derivatives(builtin)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("channels", [(4, 2), (2, 4)])
def test_keeps_bfloat16(channels):
    whole = [jnp.round(values) for values in arrays(5, 4, (3, 3), *channels)]
    exact = builtin(*whole, (1, 1), "SAME")  # sums of small integers, so nothing is rounded
    rounded = scan_safe_convolution(*(x.astype("bfloat16") for x in whole), (1, 1), "SAME")
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded.astype("float32"), exact)


@pytest.mark.parametrize(("strides", "padding"), [(1, "SAME"), ((2, 2), "VALID"), (1, (1, 0))])
def test_serves_flax_layers(strides, padding):
    inputs, _ = arrays(7, 6, (3, 3))
    usual = nn.Conv(4, (3, 3), strides, padding=padding)
    ours = nn.Conv(4, (3, 3), strides, padding=padding, conv_general_dilated=scan_safe_convolution)
    params = usual.init(jax.random.key(0), inputs)
    np.testing.assert_allclose(
        ours.apply(params, inputs), usual.apply(params, inputs), rtol=1e-5, atol=1e-6
    )


def test_gradients_inside_a_scan():
    inputs, kernel = arrays(6, 6, (3, 3), features=2)

    def through(convolution, inputs, kernel):
        def body(maps, _):
            def energy(maps):
                return jnp.sum(jnp.tanh(convolution(maps, kernel, (1, 1), "SAME")) ** 2)

            return maps - 0.1 * jax.grad(energy)(maps), None

        return jnp.sum(lax.scan(body, inputs, length=3)[0] ** 2)

    got, expected = (
        jax.jit(jax.grad(lambda *args, c=c: through(c, *args), (0, 1)))(inputs, kernel)
        for c in (scan_safe_convolution, builtin)
    )
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"lhs_dilation": (2, 1)}, {"rhs_dilation": (1, 2)}, {"feature_group_count": 2}],
)
def test_dilation_and_groups_are_refused(options):
    inputs, kernel = arrays(6, 6, (3, 3))
    with pytest.raises(ValueError, match="neither dilation nor groups"):
        scan_safe_convolution(inputs, kernel, (1, 1), "SAME", **options)


def test_options_are_for_a_compiler_that_knows_them(monkeypatch):
    known_options.cache_clear()
    assert known_options() in ({}, CPU_OPTIONS)
    known_options.cache_clear()
    monkeypatch.setattr(f"{convolution.__name__}.CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert known_options() == {}
    known_options.cache_clear()
