"""The losses, one value an example; the update takes their mean.

Targets arrive gradient-stopped (a chain's result always is), so each loss moves the one network it
names. Paper B is arXiv:2605.00644, paper A arXiv:2408.10467.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from mmebm_jax import inference
from mmebm_jax.inference import Experts
from mmebm_jax.modality import Modality
from mmebm_jax.revision import Decode, joint_log_likelihood
from mmebm_jax.typing import Batch, Mask


def mmvae_loss(
    key: jax.Array,
    experts: Experts,
    batch: Batch,
    *,
    modalities: tuple[Modality, ...],
    decode: Decode,
    beta: float = 1.0,
    mask: Mask | None = None,
) -> jax.Array:
    """Negative ELBO of the mixture of experts, stratified over experts (Shi et al. 2019, eq. 4).

    −Σ_m π_m E_{z ~ q_m} [Σ_n log p(x_n | z) + β (log p_0(z) − log q(z | x))], with p_0 the standard
    normal and q the whole mixture. Moves the experts and the generator.

    Args:
      key: PRNG key.
      experts: M experts of B examples.
      batch: data, name → `[B, *shape]`.
      modalities: all modalities.
      decode: latents `[M·B, Z]` → outputs.
      beta: weight of the divergence, ≥ 0.
      mask: which examples have which modality.

    Returns:
      `[B]`, nats.
    """
    latents = inference.stratified_sample(key, experts)
    num_experts, num_examples, num_latents = latents.shape
    outputs = {
        name: values.reshape(num_experts, num_examples, *values.shape[1:])
        for name, values in decode(latents.reshape(-1, num_latents)).items()
    }
    reconstruction = joint_log_likelihood(modalities, outputs, batch, mask)
    divergence = inference.log_prob(experts, latents) - norm.logpdf(latents).sum(axis=-1)
    weight = jnp.exp(experts.log_weight)
    return -jnp.sum(weight * (reconstruction - beta * divergence), axis=0)


def generator_loss(
    outputs: dict[str, jax.Array],
    targets: Batch,
    *,
    modalities: tuple[Modality, ...],
    mask: Mask | None = None,
) -> jax.Array:
    """−log p_β(x | z) for outputs decoded from a fixed latent, `[B]` nats.

    With data and revised latents this is paper B's first generator term (and paper A's), with
    revised samples and the latents they came from its second.
    """
    return -joint_log_likelihood(modalities, outputs, targets, mask)


def inference_loss(experts: Experts, latents: jax.Array) -> jax.Array:
    """−log q_φ(z | x) of fixed latents `[B, Z]` under the mixture, `[B]` nats."""
    return -inference.log_prob(experts, latents)


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
