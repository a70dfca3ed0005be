"""Computation behind the app: draws, their chains, and energies of exchanged modalities."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.runs.sampler import Sampler

Examples = Mapping[str, Any]  # name → `[N, *shape]` in model range


class Controls(NamedTuple):
    """The settings of the sliders."""

    num_draws: int
    posterior_steps: int  # 0 samples from the inference model
    refinement_steps: int  # 0 for the generator alone
    temperature: float = 1.0  # of both chains, as a multiple of training's
    seed: int = 0


class Draws(NamedTuple):
    """N draws and how they were made; fields are empty if the model has no such chain."""

    generated: dict[str, np.ndarray]  # every modality, the given ones unchanged
    refined: dict[str, np.ndarray]  # the same after refinement
    trajectory: dict[str, np.ndarray]  # modalities not given, `[T + 1, N, *shape]`, from the start
    energies: np.ndarray  # E_α along the trajectory, shape=[T + 1, N]
    posterior_energies: np.ndarray  # −log p(x, u) before each step, shape=[S, N]


def controlled(sampler: Sampler, controls: Controls) -> Sampler:
    """The same model with its chains set by the sliders."""
    chains = sampler.settings.chains
    posterior = chains.posterior._replace(
        num_steps=controls.posterior_steps,
        temperature=chains.posterior.temperature * controls.temperature,
    )
    data = chains.data._replace(
        num_steps=controls.refinement_steps,
        temperature=chains.data.temperature * controls.temperature,
    )
    settings = sampler.settings._replace(
        chains=chains._replace(posterior=posterior, data=data),
        conditional_steps=controls.posterior_steps,
    )
    return sampler.with_weights(sampler.weights, settings)


def draw(sampler: Sampler, given: Examples, controls: Controls) -> Draws:
    """Draw what is not given, as `Sampler.sample` does, and return the chains as well.

    Args:
      sampler: the model, with its chains as configured.
      given: one example `[1, *shape]` in model range of each observed modality; empty for none.
      controls: the settings of the sliders.

    Raises:
      ValueError: every modality is given.
    """
    if len(given) == len(sampler.modalities):
        raise ValueError("every modality is observed, so nothing is left to draw: clear one.")
    sampler, count = controlled(sampler, controls), controls.num_draws
    latent_key, chain_key = jax.random.split(jax.random.key(controls.seed))
    given = {name: jnp.repeat(jnp.asarray(values), count, 0) for name, values in given.items()}
    posterior_energies = np.zeros([0, count])
    if not given:
        latents = sampler.prior_latents(latent_key, count)
    else:
        completing = sampler.completing
        latents = completing.infer(latent_key, given, method="sample")
        if controls.posterior_steps:
            # The same keys as in `infer_latents`, which uses the other half to draw the start.
            chain = completing.posterior_chain(jax.random.split(latent_key)[1], latents, given)
            latents, posterior_energies = chain.position, np.asarray(chain.info.energy)
    generated = sampler.generate(latents) | given
    if not (sampler.settings.data_energy and controls.refinement_steps):
        return Draws(_numpy(generated), {}, {}, np.zeros([0, count]), posterior_energies)
    chain = sampler.refine(chain_key, generated, given=given, keep_trajectory=True)
    refined = generated | chain.position
    ends = sampler.energy(refined, check_values=False)
    return Draws(
        generated=_numpy(generated),
        refined=_numpy(refined),
        trajectory={
            name: np.concatenate([np.asarray(generated[name])[None], np.asarray(steps)])
            for name, steps in chain.trajectory.items()
        },
        energies=np.concatenate([np.asarray(chain.info.energy), np.asarray(ends)[None]]),
        posterior_energies=posterior_energies,
    )


def exchanged_energies(
    energy_fn: Callable[[Examples], Any], examples: Examples, name: str
) -> np.ndarray:
    """Energies of examples with one modality taken from another example.

    Args:
      energy_fn: a batch of every modality → `[B]`.
      examples: K examples.
      name: name of the modality to exchange.

    Returns:
      `[K, K]`: row i, column j is example i with the modality `name` of example j.
    """
    count = len(examples[name])
    rows, columns = np.divmod(np.arange(count**2), count)
    batch = {
        key: np.asarray(values)[columns if key == name else rows]
        for key, values in examples.items()
    }
    return np.asarray(energy_fn(batch)).reshape(count, count)


def _numpy(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in batch.items()}
