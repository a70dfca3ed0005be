"""Sampling from trained weights, step by step and un-jitted; users call `runs.sampler`."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax.method import inference, langevin, prior, revision
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.method.model import Model
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.modality import means
from mmebm_jax.typing import Batch, EnergyFn, Latents, Mask

METHODS = ("sample", "mean", "revised")


class SamplerSettings(NamedTuple):
    """How samples are drawn."""

    prior_chain: Chain
    posterior_chain: Chain
    data_chain: Chain
    prior_energy: bool  # whether a latent energy was learned
    data_energy: bool  # whether a data-space energy was learned
    prior_candidates: int = 1  # draws from p_0 for each start of the prior chain
    data_start: str = "generator"  # of the data chain; "noise" in an ablation


class Trained(NamedTuple):
    """A trained model: its networks, their weights, and how samples are drawn."""

    model: Model
    settings: SamplerSettings
    weights: Weights

    @property
    def latent_energy(self) -> EnergyFn | None:
        """E_γ, or None where none was learned."""
        if not self.settings.prior_energy:
            return None
        return lambda latents: self.model.latent_energy(self.weights.params["prior"], latents)


def sample_latents(
    key: jax.Array, trained: Trained, num_samples: int, *, use_energy: bool = True
) -> Latents:
    """Latents of the learned prior, or of its base without `use_energy`."""
    model, settings = trained.model, trained.settings
    energy_fn = trained.latent_energy if use_energy else None
    return prior.sample_latents(
        key,
        prior.LatentPrior(trained.weights.base_prior, energy_fn, model.prior_family),
        num_samples,
        settings.prior_chain,
        num_candidates=settings.prior_candidates,
        private=dict.fromkeys(model.private_names, (num_samples, model.num_private)),
    )


def prior_chain(key: jax.Array, trained: Trained, num_samples: int) -> LangevinResult:
    """The chain from draws of the base prior over shared latents, with its diagnostics."""
    settings, base_prior = trained.settings, trained.weights.base_prior
    energy_fn, candidates = trained.latent_energy, settings.prior_candidates
    return prior.sample(key, base_prior, energy_fn, num_samples, settings.prior_chain, candidates)


def infer_latents(
    key: jax.Array,
    trained: Trained,
    given: Batch,
    *,
    method: str = "sample",
    mask: Mask | None = None,
) -> Latents:
    """Latents for any observed subset of the modalities.

    Private latents of modalities that are not given come from their prior.

    Args:
      key: PRNG key.
      trained: the model.
      given: the observed modalities, name → `[B, *shape]` in model range.
      method: "sample" draws from the inference model, "mean" takes its mean, "revised" refines a
        draw under the generator's posterior of what is given.
      mask: name → `bool[B]`, which examples have which of the given modalities; None for all.

    Raises:
      ValueError: an unknown method, or nothing given.
    """
    model = trained.model
    observed = tuple(m for m in model.modalities if m.name in given)
    if not observed:
        raise ValueError("give at least one modality to infer latents from.")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {METHODS}.")
    start_key, chain_key = jax.random.split(key)
    num_examples = len(given[observed[0].name])
    batch = {
        m.name: given.get(m.name, jnp.zeros([num_examples, *m.shape])) for m in model.modalities
    }
    known = {m.name: jnp.full([num_examples], m.name in given) for m in model.modalities}
    mask = known if mask is None else {name: known[name] & mask[name] for name in known}
    encoding = model.encode(trained.weights.params["inference"], batch, mask)
    latents = inference.infer(
        start_key, encoding, model.prior_family, mask, central=method == "mean"
    )
    if method != "revised":
        return latents
    given_mask = {m.name: mask[m.name] for m in observed}
    return posterior_chain(chain_key, trained, latents, given, given_mask).position


def posterior_chain(
    key: jax.Array, trained: Trained, latents: Latents, given: Batch, mask: Mask | None = None
) -> LangevinResult:
    """The chain from `latents` under the generator's posterior of what is given."""
    model, weights = trained.model, trained.weights
    energy_fn = revision.posterior_energy(
        given,
        modalities=tuple(m for m in model.modalities if m.name in given),
        decode=lambda u: model.decode(weights.params["generator"], u),
        prior_energy=prior.joint_energy(
            weights.base_prior, trained.latent_energy, model.prior_family
        ),
        mask=mask,
    )
    return langevin.run(key, latents, energy_fn, trained.settings.posterior_chain)


def generate(trained: Trained, latents: Latents) -> dict[str, jax.Array]:
    """The generator's means for latents of B examples, name → `[B, *shape]` in data range."""
    outputs = trained.model.decode(trained.weights.params["generator"], latents)
    return means(trained.model.modalities, outputs)


def refine(
    key: jax.Array,
    trained: Trained,
    samples: Mapping[str, jax.Array],
    *,
    num_steps: int | None = None,
    given: Mapping[str, jax.Array] | None = None,
    keep_trajectory: bool = False,
) -> LangevinResult:
    """Refine generated modalities under the joint energy; those `given` are held fixed.

    Args:
      key: PRNG key.
      trained: the model.
      samples: name → `[B, *shape]`; entries that are also given are not moved. A chain that was
        trained from noise replaces the rest by noise.
      num_steps: of the chain; None takes training's.
      given: observed modalities.
      keep_trajectory: also return every step.

    Returns:
      The chain's result over the free modalities.
    """
    model, chain = trained.model, trained.settings.data_chain
    if num_steps is not None:
        chain = chain._replace(num_steps=num_steps)
    normalised = model.normalised(trained.weights.params["energy"])
    held = given or {}
    free = {name: values for name, values in samples.items() if name not in held}
    if trained.settings.data_start == "noise":
        start_key, key = jax.random.split(key)
        free = revision.noise_start(start_key, model.modalities, free)
    return revision.revise_data(
        key,
        free,
        revision.given(lambda x: model.data_energy(normalised, x), held),
        chain,
        modalities=model.modalities,
        keep_trajectory=keep_trajectory,
    )
