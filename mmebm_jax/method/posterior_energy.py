"""The energy of the posterior chain that `Networks.revise_posterior` runs."""

import jax

from mmebm_jax.modalities.modality import Modality, joint_log_likelihood
from mmebm_jax.typing import Batch, Decode, EnergyFn, Latents, Mask


def posterior_energy(
    batch: Batch,
    *,
    modalities: tuple[Modality, ...],
    decode: Decode,
    prior_energy: EnergyFn,
    mask: Mask | None = None,
) -> EnergyFn:
    """Equation (2): U(u) = −log p(x, u) of the observed modalities, the posterior chain's energy.

    Paper A's posterior sampling and paper B's latent revision; at T = 1 the chain targets
    the generator's posterior itself.

    Args:
      batch: data; modalities outside `modalities` are not read.
      modalities: the observed modalities.
      decode: latents → decoder outputs, with parameters that carry no gradient.
      prior_energy: u → −log p(u) up to a constant.
      mask: which examples have which modality.
    """

    def energy(latents: Latents) -> jax.Array:
        likelihood = joint_log_likelihood(modalities, decode(latents), batch, mask)
        return prior_energy(latents) - likelihood

    return energy
