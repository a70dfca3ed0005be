import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.networks.spectral import normalise_kernels, spectral_norm

SHAPES = [(5, 3), (3, 5), (4, 4), (3, 3, 2, 4), (1, 1, 2, 6), (4, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_norm_is_the_largest_singular_value(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    matrix = kernel.reshape(-1, shape[-1])
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    assert float(spectral_norm(kernel)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_gradient_is_the_leading_singular_pair(shape):
    kernel = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    left, _, right = np.linalg.svd(kernel.reshape(-1, shape[-1]))
    expected = np.outer(left[:, 0], right[0]).reshape(shape)
    np.testing.assert_allclose(jax.grad(spectral_norm)(kernel), expected, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_a_normalised_kernel_matches_finite_differences():
    rng = np.random.default_rng(2)
    kernel, weight, direction = rng.normal(size=(3, 4, 3))

    def through(kernel):
        return jnp.sum(jnp.asarray(weight) * normalise_kernels({"k": kernel}, 1.5)["k"])

    def exact(kernel):
        return np.sum(weight * kernel * 1.5 / np.linalg.svd(kernel, compute_uv=False)[0])

    slope = np.sum(np.asarray(jax.grad(through)(jnp.asarray(kernel, jnp.float32))) * direction)
    step = 1e-5 * direction
    expected = (exact(kernel + step) - exact(kernel - step)) / 2e-5
    assert slope == pytest.approx(expected, rel=1e-3)


def test_every_kernel_gets_the_gain_and_biases_stay():
    rng = np.random.default_rng(0)
    params = {
        "layer": {"kernel": rng.normal(size=(3, 3, 2, 4)), "bias": rng.normal(size=4)},
        "dense": {"kernel": 1e-3 * rng.normal(size=(6, 5)), "bias": rng.normal(size=5)},
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    scaled = normalise_kernels(params, 1.7)
    for name, layer in scaled.items():
        kernel = np.asarray(layer["kernel"])
        norm = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        assert norm == pytest.approx(1.7, rel=1e-5)
        ratio = kernel / np.asarray(params[name]["kernel"])
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)
        assert ratio.flat[0] > 0
        np.testing.assert_array_equal(layer["bias"], params[name]["bias"])


def test_layers_named_apart_keep_their_kernel_and_get_its_factor():
    rng = np.random.default_rng(0)
    kernels = {name: jnp.asarray(rng.normal(size=(6, 5)), jnp.float32) for name in ("a", "b")}
    params = {name: {"kernel": kernel, "bias": jnp.ones(5)} for name, kernel in kernels.items()}
    everywhere = normalise_kernels(params, 1.7)
    partly = normalise_kernels(params, 1.7, apart=("b",))
    jax.tree.map(np.testing.assert_array_equal, partly["a"], everywhere["a"])
    assert partly["b"]["kernel"] is kernels["b"]
    np.testing.assert_allclose(
        partly["b"]["scale"] * kernels["b"], everywhere["b"]["kernel"], rtol=1e-6
    )


def test_a_kernel_of_zeros_stays_finite():
    params = {"kernel": jnp.zeros([3, 4])}
    value, gradient = jax.value_and_grad(lambda p: normalise_kernels(p, 1.0)["kernel"].sum())(
        params
    )
    assert value == 0
    assert np.isfinite(gradient["kernel"]).all()


@pytest.mark.parametrize("second", [0.0, 0.9, 0.9999, 1.0])
def test_the_norm_holds_however_near_the_second_singular_value_is(second):
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in (20, 9))
    kernel = (left * np.array([3.0, 3.0 * second, 1.0, 0.1])) @ right.T
    assert float(spectral_norm(jnp.asarray(kernel, jnp.float32))) == pytest.approx(3.0, rel=1e-5)
