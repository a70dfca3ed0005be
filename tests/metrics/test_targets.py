"""A tiny model's evidence by quadrature, against importance sampling from its own posterior."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.distributions import base_prior
from mmebm_jax.method.networks import Networks
from mmebm_jax.metrics.likelihood import importance_weighted_bound
from mmebm_jax.metrics.targets import model_target
from mmebm_jax.modalities.modality import log_likelihood, simulate
from mmebm_jax.typing import Latents
from tests.conftest import make_model

KEY = jax.random.key(0)
GRID = jnp.linspace(-5, 5, 41)
CELL = float(jnp.log(GRID[1] - GRID[0]))
NUM_EXAMPLES = 2


def _networks(num_private, is_tilted):
    model = make_model(num_latents=1, num_private=num_private)
    picture, text = model.modalities
    # With such a broad likelihood, an untrained inference model covers the posterior.
    model = model._replace(modalities=(dataclasses.replace(picture, scale=2.0, weight=3.0), text))
    params = model.init(KEY)
    params = {**params, "prior": jax.tree.map(lambda leaf: leaf + 0.3, params["prior"])}
    base = base_prior.standard(2, 1)
    return Networks(model, None, params, params, base, is_tilted=is_tilted)


def _by_quadrature(networks, batch, names):
    """log ∫ p(z) Π_m p(w_m) p(x_m | z, w_m), with p(z) unnormalised as in the target."""
    model = networks.model
    axes = [GRID] * (1 + model.num_private * 2)
    points = jnp.asarray(list(itertools.product(*axes)))
    private = {n: points[:, 1 + i : 2 + i] for i, n in enumerate(model.private_names)}
    outputs = model.decode(networks.params["generator"], Latents(points[:, :1], private))
    total = -0.5 * (points**2 + jnp.log(2 * jnp.pi)).sum(-1) + points.shape[1] * CELL
    if networks.is_tilted:
        total = total - networks.latent_energy(points[:, :1])
    each = [total] * NUM_EXAMPLES
    for m in model.modalities:
        if m.name in names:
            for n in range(NUM_EXAMPLES):
                # A modality's weight is not part of its density.
                density = log_likelihood(m, outputs[m.name], batch[m.name][n][None]) / m.weight
                each[n] = each[n] + density
    return np.array([jax.nn.logsumexp(e) for e in each])


@pytest.mark.parametrize(("num_private", "is_tilted"), [(0, True), (1, False)])
def test_evidence_of_every_subset(num_private, is_tilted):
    networks = _networks(num_private, is_tilted)
    model = networks.model
    latents = Latents(
        jnp.array([[0.5], [-1.0]]), {n: jnp.array([[0.3], [1.0]]) for n in model.private_names}
    )
    batch = simulate(KEY, model.modalities, networks.decode_frozen(latents))
    for names in (("picture",), ("text",), ("picture", "text")):
        mask = {m.name: jnp.full(NUM_EXAMPLES, m.name in names) for m in model.modalities}
        bound = jax.jit(
            lambda mask: importance_weighted_bound(
                KEY, model_target(networks, batch, mask), 4000, chunk_size=500
            )
        )(mask)
        assert (bound.effective_sample_size > 100).all()
        expected = _by_quadrature(networks, batch, names)
        np.testing.assert_allclose(bound.value, expected, atol=0.1)
