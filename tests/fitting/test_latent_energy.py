import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from mmebm_jax.distributions.base_prior import PrivateShapes, standard
from mmebm_jax.fitting import latent_energy
from mmebm_jax.networks.joint import LatentEnergy
from mmebm_jax.typing import Latents

MEAN, VARIANCE = np.array([1.0, 0.0]), np.array([0.5, 1.0])
# KL(N(MEAN, VARIANCE) ‖ N(0, I)).
DIVERGENCE = 0.5 * np.sum(VARIANCE + MEAN**2 - 1 - np.log(VARIANCE))


def test_tilt_loss_by_hand():
    data, base = jnp.array([1.0, 2.5, -0.5]), jnp.array([0.0, np.log(4.0)])
    assert float(latent_energy.tilt_loss(data, base)) == pytest.approx(1.0 + np.log((1 + 0.25) / 2))
    # A common constant cancels, even a large one.
    assert float(latent_energy.tilt_loss(data + 200, base + 200)) == pytest.approx(
        1.0 + np.log(0.625), abs=1e-4
    )


@pytest.fixture(scope="module")
def fit(tiny_model):
    """Fit the energy of a two-dimensional model to planted latents."""
    model = tiny_model._replace(num_latents=2, prior=LatentEnergy(32, 10.0))
    latents = np.random.default_rng(0).normal(MEAN, np.sqrt(VARIANCE), size=(4000, 2))
    latents = jnp.asarray(latents, jnp.float32)
    params = model.prior.init(jax.random.key(0), latents[:1])["params"]

    def run(seed):
        fitted, gap = latent_energy.fit_latent_energy(
            jax.random.key(seed), model, params, Latents(latents, {}), standard(3, 2),
            num_steps=400, learning_rate=1e-2,
        )  # fmt: skip
        return lambda z: np.asarray(model.latent_energy(fitted, z)), fitted, float(gap.training)

    return run


def test_the_energy_is_the_density_ratio(fit):
    energy, _, gap = fit(0)
    rng = np.random.default_rng(1)
    points = np.concatenate(
        [rng.normal(size=(500, 2)), rng.normal(MEAN, np.sqrt(VARIANCE), size=(500, 2))]
    ).astype(np.float32)
    truth = multivariate_normal([0, 0], np.eye(2)).logpdf(points)
    truth -= multivariate_normal(MEAN, np.diag(VARIANCE)).logpdf(points)
    learned = energy(points)
    assert np.corrcoef(learned, truth)[0, 1] > 0.97
    assert np.polyfit(truth, learned, 1)[0] == pytest.approx(1, abs=0.15)
    assert gap == pytest.approx(DIVERGENCE, abs=0.06)


def test_the_fit_is_a_function_of_its_key(fit):
    (_, one, gap), (_, again, gap_again), (_, other, other_gap) = fit(0), fit(0), fit(1)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert gap == gap_again != other_gap
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_private_energies_are_the_ratio_of_conditionals(tiny_model):
    """w = s + noise of variance .5, with a base prior that does not depend on z."""
    model = tiny_model._replace(
        num_latents=1, num_private=1, prior=LatentEnergy(32, 10.0, ("picture",))
    )
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(6000, 1)).astype(np.float32)
    private = (shared + np.sqrt(0.5) * rng.normal(size=shared.shape)).astype(np.float32)
    latents = Latents(jnp.asarray(shared), {"picture": jnp.asarray(private)})
    base = standard(2, 1, private=PrivateShapes(("picture",), 1, 2))
    params = model.prior.init(jax.random.key(0), *latents)["params"]
    fitted, worth = latent_energy.fit_latent_energy(
        jax.random.key(1), model, params, latents, base, num_steps=600, learning_rate=1e-2
    )
    # E_z KL(N(z, .5) ‖ N(0, 1)); the divergence for z itself is 0.
    expected = 0.5 * (0.5 + 1.0 - 1.0 - np.log(0.5))
    assert float(worth.training) == pytest.approx(expected, abs=0.08)
    assert float(worth.held_out) == pytest.approx(expected, abs=0.15)
    points = rng.normal(size=(500, 1)).astype(np.float32)
    at = np.full_like(points, 0.5)
    energy = model.latent_energy(fitted, at, {"picture": points}) - model.latent_energy(fitted, at)
    truth = norm(0, 1).logpdf(points) - norm(0.5, np.sqrt(0.5)).logpdf(points)
    assert np.corrcoef(energy, truth[:, 0])[0, 1] > 0.97
