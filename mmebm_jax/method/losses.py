"""The revision losses, one value per example; the update takes their mean. See `bounds` for VAEs.

Targets arrive gradient-stopped (a chain's result always is), so each loss moves the one network it
names. Paper B is arXiv:2605.00644, paper A arXiv:2408.10467.
"""

import jax
import jax.numpy as jnp

from mmebm_jax.method import inference
from mmebm_jax.method.inference import Encoding
from mmebm_jax.modalities.families import log_density
from mmebm_jax.modalities.modality import Modality, joint_log_likelihood
from mmebm_jax.typing import Batch, Latents, Mask


def generator_loss(
    outputs: dict[str, jax.Array],
    targets: Batch,
    *,
    modalities: tuple[Modality, ...],
    mask: Mask | None = None,
) -> jax.Array:
    """−log p_β(x | u) for outputs decoded from a fixed latent, `[B]` nats.

    With data and revised latents this is paper B's first generator term (and paper A's), with
    revised samples and the latents they came from its second.
    """
    return -joint_log_likelihood(modalities, outputs, targets, mask)


def inference_loss(
    encoding: Encoding, latents: Latents, mask: Mask | None = None, *, independent: bool = False
) -> jax.Array:
    """−log q_φ(u | x) of fixed latents, `[B]` nats; private ones count where x_m is observed.

    With `independent` every observed expert is scored by itself instead of through the aggregate:
    the mean of −log q_m(z | x_m), the papers' ablation of independent inference networks.
    """
    posterior = encoding.posterior
    if independent:
        experts = encoding.experts
        each = log_density(posterior.family, latents.shared, experts.location, experts.scale)
        observed = experts.observed
        total = jnp.where(observed, each.sum(axis=-1), 0.0).sum(axis=0) / observed.sum(axis=0)
    else:
        total = inference.log_prob(posterior, latents.shared)
    for name, distribution in encoding.private.items():
        own = log_density(posterior.family, latents.private[name], *distribution).sum(axis=-1)
        total = total + (own if mask is None else jnp.where(mask[name], own, 0.0))
    return -total


def contrast_loss(
    data_energy: jax.Array, sample_energy: jax.Array, penalty: float = 0.0
) -> jax.Array:
    """E(data) − E(sample) + penalty · (E(data)² + E(sample)²), `[B]`.

    The gradient of maximum likelihood, where log Z cancels, for the data-space energy and for the
    latent one alike. The penalty keeps energies near zero; without one they run away (Du & Mordatch
    2019, arXiv:1903.08689, section 3.3).
    """
    contrast = data_energy - sample_energy
    return contrast + penalty * (jnp.square(data_energy) + jnp.square(sample_energy))
