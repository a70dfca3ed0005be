"""Sampling from trained weights, step by step and un-jitted; users call `runs.sampler`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax.distributions.base_prior import resampled
from mmebm_jax.method import inference
from mmebm_jax.method.inference import Encoding
from mmebm_jax.method.langevin import LangevinResult
from mmebm_jax.method.model import Model
from mmebm_jax.method.networks import Chains, Networks
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.modality import means, uniform_noise
from mmebm_jax.typing import Batch, Latents, Mask

METHODS = ("sample", "mean", "revised")


class SamplerSettings(NamedTuple):
    """How samples are drawn."""

    chains: Chains
    prior_energy: bool  # whether a latent energy was learned
    data_energy: bool  # whether a data energy was learned
    conditional_steps: int = 0  # steps of the posterior chain for latents given modalities
    private_temperature: float = 1.0  # factor on the covariances of p_0(w_m | z) in completions
    candidates: int = 1  # refined samples from which the data energy chooses one
    candidate_temperature: float = 1.0  # T of that choice, with weights ∝ exp(−E_α / T)
    completion_temperature: float = 1.0  # T of that choice if some modalities are given


class Trained(NamedTuple):
    """A trained model: its networks, their weights, and how samples are drawn."""

    model: Model
    settings: SamplerSettings
    weights: Weights

    def networks(self, *, use_energy: bool = True) -> Networks:
        """Bind the networks to averaged weights; without `use_energy`, the prior is p_0 alone."""
        params = self.weights.params
        if self.settings.data_energy:
            params = {**params, "energy": self.model.normalised(params["energy"])}
        tilted = use_energy and self.settings.prior_energy
        base_prior = self.weights.base_prior
        return Networks(self.model, self.settings.chains, params, params, base_prior, tilted)


def sample_latents(
    key: jax.Array, trained: Trained, num_samples: int, *, use_energy: bool = True
) -> Latents:
    """Sample latents from the learned prior, or from its base prior without `use_energy`."""
    return trained.networks(use_energy=use_energy).sample_prior(key, num_samples)


def infer_latents(
    key: jax.Array,
    trained: Trained,
    given: Batch,
    *,
    method: str = "sample",
    mask: Mask | None = None,
) -> Latents:
    """Infer latents from any subset of modalities; other private latents come from p(w_m | z).

    Args:
      key: PRNG key.
      trained: the model.
      given: the observed modalities, name → `[B, *shape]` in model range.
      method: "sample" draws from the inference model, "mean" takes its mean, "revised" refines a
        draw under the generator's posterior of what is given.
      mask: name → `bool[B]`, which examples have which of the given modalities; None for all. The
        chain still moves the private latents that an example lacks data for, under their prior.

    Raises:
      ValueError: the method is unknown, or nothing is given.
    """
    if not given:
        raise ValueError("give at least one modality to infer latents from.")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {METHODS}.")
    networks = trained.networks()
    start_key, chain_key = jax.random.split(key)
    encoding, known = _encode(networks, given, mask)
    latents = inference.infer(
        start_key, encoding, networks.draw_private, known, central=method == "mean"
    )
    if method != "revised":
        return latents
    return revise_latents(chain_key, trained, latents, given, mask).position


def revise_latents(
    key: jax.Array, trained: Trained, latents: Latents, given: Batch, mask: Mask | None = None
) -> LangevinResult:
    """Run the chain of `infer_latents` with method "revised", from any latents."""
    networks = trained.networks()
    encoding, mask = _encode(networks, given, mask)
    result = networks.revise_posterior(key, latents, given, mask, encoding)
    # The chain's steps use the first keys derived from `key`.
    missing_key = jax.random.fold_in(key, networks.chains.posterior.num_steps)
    position = inference.redraw_missing(missing_key, result.position, networks.draw_private, mask)
    return result._replace(position=position)


def _encode(networks: Networks, given: Batch, mask: Mask | None = None) -> tuple[Encoding, Mask]:
    """Encode what is given, with all else missing; also return the mask of what is observed."""
    modalities, num_examples = networks.model.modalities, len(next(iter(given.values())))
    batch = {m.name: given.get(m.name, jnp.zeros([num_examples, *m.shape])) for m in modalities}
    known = {m.name: jnp.full([num_examples], m.name in given) for m in modalities}
    mask = known if mask is None else {n: seen & mask.get(n, seen) for n, seen in known.items()}
    return networks.encode(batch, mask), mask


def generate(trained: Trained, latents: Latents) -> dict[str, jax.Array]:
    """Return the generator's means at latents of B examples, name → `[B, *shape]` in data range."""
    return means(trained.model.modalities, trained.networks().decode_frozen(latents))


def refine(
    key: jax.Array,
    trained: Trained,
    samples: Batch,
    *,
    num_steps: int | None = None,
    given: Batch | None = None,
    keep_trajectory: bool = False,
) -> LangevinResult:
    """Refine generated modalities under the joint energy; those `given` are held fixed.

    Args:
      key: PRNG key.
      trained: the model.
      samples: name → `[B, *shape]`; entries that are also given are not moved. If the chain was
        trained from noise, the rest are replaced by noise.
      num_steps: number of steps of the chain; None for that of the settings.
      given: observed modalities.
      keep_trajectory: also return every step.

    Returns:
      The chain's result over the free modalities.
    """
    networks = trained.networks()
    if num_steps is not None:
        chain = networks.chains.data._replace(num_steps=num_steps)
        networks = networks._replace(chains=networks.chains._replace(data=chain))
    free = {name: values for name, values in samples.items() if name not in (given or {})}
    if networks.chains.data_start == "noise":
        start_key, key = jax.random.split(key)
        free = uniform_noise(start_key, networks.model.modalities, free)
    return networks.refine(key, free, observed=given, keep_trajectory=keep_trajectory)


def choose(key: jax.Array, trained: Trained, candidates: Batch, temperature: jax.Array) -> Batch:
    """Draw one of each sample's candidates `[B · C, *shape]`, by exp(−E_α / temperature)."""
    energies = trained.networks().data_energy(candidates) / temperature
    return resampled(key, candidates, energies, len(energies) // trained.settings.candidates)
