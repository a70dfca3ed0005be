"""A trained model as a target of importance sampling: its joint density and inference model."""

import dataclasses

import jax
import jax.numpy as jnp

from mmebm_jax.distributions import families, mixture_of_experts
from mmebm_jax.distributions.base_prior import private_log_prior
from mmebm_jax.method import prior
from mmebm_jax.method.networks import Networks
from mmebm_jax.metrics.likelihood import Target
from mmebm_jax.modalities.modality import joint_log_likelihood
from mmebm_jax.typing import Batch, Diagonal, Latents, Mask


def model_target(networks: Networks, batch: Batch, mask: Mask) -> Target:
    """log p(x_S, u) for the observed modalities S of each example, and proposals from q_φ(u | x_S).

    Private latents of modalities outside S are left out of both, since their prior integrates to 1.
    If the prior is tilted, p(z) lacks its normaliser, and estimates are too high by log Z. Energies
    of private latents, whose normalisers depend on z, are ignored, and so is a modality's `weight`,
    which is not part of its density.

    Args:
        networks: the networks at the weights to evaluate.
        batch: every modality, name → `[B, *shape]` in model range.
        mask: S, name → `bool[B]`.
    """
    model = networks.model
    plain = tuple(dataclasses.replace(m, weight=1.0) for m in model.modalities)
    encoding = networks.encode(batch, mask)
    q = encoding.posterior
    prior_energy = prior.tilted_energy(
        networks.fitted_prior, networks.latent_energy, model.prior_family
    )

    def propose(key: jax.Array, num_samples: int) -> tuple[Latents, jax.Array]:
        shared_key, private_key = jax.random.split(key)
        shared = jax.vmap(lambda k: mixture_of_experts.sample(k, q))(
            jax.random.split(shared_key, num_samples)
        )
        log_proposal = mixture_of_experts.log_prob(q, shared)
        private = {}
        for index, (name, own) in enumerate(encoding.private.items()):
            shape = (num_samples, *own.location.shape)
            own_key = jax.random.fold_in(private_key, index)
            noise = families.standard_noise(own_key, q.family, shape)
            each = Diagonal(own.location[None], own.scale[None])
            private[name] = each.location + each.scale * noise
            density = families.log_density(q.family, private[name], *each).sum(axis=-1)
            log_proposal = log_proposal + jnp.where(mask[name][None], density, 0.0)
        return Latents(shared, private), log_proposal

    def log_joint(latents: Latents) -> jax.Array:
        shape = latents.shared.shape[:2]
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), latents)
        outputs = {
            name: values.reshape(*shape, *values.shape[1:])
            for name, values in networks.decode_frozen(flat).items()
        }
        total = joint_log_likelihood(plain, outputs, batch, mask)
        total = total - prior_energy(flat.shared).reshape(shape)
        of_private = private_log_prior(networks.fitted_prior, model.prior_family, flat)
        for name, density in of_private.items():
            total = total + jnp.where(mask[name][None], density.reshape(shape), 0.0)
        return total

    return Target(propose, log_joint)
