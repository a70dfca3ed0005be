"""Calibration of posteriors: simulation-based ranks and expected coverage."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures.subject import (
    Measure,
    Part,
    Subject,
    check_finite,
    needs,
    of_the_prior_itself,
    shared_latents,
)
from mmebm_jax.method.model import Model
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.method.train_state import Weights
from mmebm_jax.metrics import calibration
from mmebm_jax.metrics.targets import model_target
from mmebm_jax.modalities.modality import simulate
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.typing import Batch, Latents, Mask

NUM_DRAWS = 19  # per posterior, so that ranks take 20 values
NUM_CANDIDATES = 100  # draws from p_0 for each draw from a tilted prior
LONGER = 5  # the chain is also run at this multiple of its training length
CHAINS_AT_A_TIME = 1000
_STATIC = ("model", "settings")


class Case(NamedTuple):
    """A posterior to check: what it is conditioned on, and how it is sampled."""

    given: tuple[str, ...]
    method: str  # one of `sampling.METHODS`, or "prior"
    sampler: Sampler


@needs(shared_latents)
def posterior_calibration(subject: Subject) -> Part:
    """Ranks and coverage of expert, aggregate and revised draws, on data simulated by the model.

    Latents are drawn from the prior (if it is tilted, by resampling many draws from its base) and
    data from the likelihoods, noise included. The entry "prior" is a control whose draws ignore the
    data: its latent ranks are uniform, but its density ranks are not. A posterior whose chain
    diverges is left out and listed under "absent".
    """
    count = subject.run.config.evaluation.calibration_examples
    draw_key, chain_key = jax.random.split(subject.keys["calibration"])
    latent_key, data_key = jax.random.split(draw_key)
    truth = _resampling(subject.sampler).prior_latents(latent_key, count)
    batch = _simulate(
        data_key,
        subject.sampler.weights,
        truth,
        model=subject.sampler.model,
        settings=subject.settings,
    )
    found, diverged = {}, {}
    for index, (name, case) in enumerate(_cases(subject).items()):
        try:
            key = jax.random.fold_in(chain_key, index)
            found[name] = _scores(subject, key, truth, batch, case)
        except FloatingPointError as error:
            diverged[f"calibration, {name}"] = str(error)
    sizes = {"num_examples": count, "num_draws": NUM_DRAWS}
    return {"calibration": found | sizes, "absent": diverged}


def _cases(subject: Subject) -> dict[str, Case]:
    names, sampler = tuple(subject.names), subject.sampler
    cases = {}
    if len(names) > 1:
        cases = {f"expert {name}": Case((name,), "sample", sampler) for name in names}
    cases["aggregate"] = Case(names, "sample", sampler)
    num_steps = subject.settings.chains.posterior.num_steps
    for length in (num_steps, LONGER * num_steps) if num_steps else ():
        longer = sampler.with_posterior_steps(length)
        cases[f"revised {length}"] = Case(names, "revised", longer)
    cases["prior"] = Case(names, "prior", _resampling(sampler))
    return cases


def _resampling(sampler: Sampler) -> Sampler:
    """A sampler that draws from the prior by resampling, without its chain, which may be cold."""
    sampler = of_the_prior_itself(sampler)
    chains = sampler.settings.chains
    chains = chains._replace(
        prior=chains.prior._replace(num_steps=0), prior_candidates=NUM_CANDIDATES
    )
    return sampler.with_weights(sampler.weights, sampler.settings._replace(chains=chains))


def _scores(subject: Subject, key: jax.Array, truth: Latents, batch: Batch, case: Case) -> Part:
    """Calibration scores from the ranks of the truth among the draws of a posterior.

    Raises:
      FloatingPointError: draws contain NaN or infinity.
    """
    count = len(truth.shared)
    mask = {name: np.full(count, name in case.given) for name in batch}
    size = min(max(CHAINS_AT_A_TIME // NUM_DRAWS, 1), count)
    parts = []
    for start in range(0, count, size):
        # The last part is padded with the first examples, so that only one shape is compiled.
        rows = np.arange(start, start + size) % count
        repeated, shown = (
            {name: np.repeat(np.asarray(v)[rows], NUM_DRAWS, 0) for name, v in side.items()}
            for side in (batch, mask)
        )
        drawn = _draws(jax.random.fold_in(key, start), case, repeated, shown)
        parts.append(jax.tree.map(partial(_by_example, size), drawn))
    draws: Latents = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
    check_finite(draws)
    both = jax.tree.map(
        lambda true, drawn: jnp.concatenate([true[None], drawn.swapaxes(0, 1)]), truth, draws
    )
    density = np.asarray(
        _log_joint(
            subject.sampler.weights,
            batch,
            mask,
            both,
            model=subject.sampler.model,
            settings=subject.settings,
        )
    )
    ranks = calibration.calibration_ranks(truth.shared, draws.shared)
    of_density = calibration.calibration_ranks(density[0], density[1:].T)
    p_values = [
        calibration.uniformity_test(r, NUM_DRAWS)["smallest_p_value"] for r in (ranks, of_density)
    ]
    return {
        "p_value": p_values[0],
        "density_p_value": p_values[1],
        "interval_coverage": _by_text(calibration.interval_coverage(ranks, NUM_DRAWS)),
        "density_coverage": _by_text(calibration.density_coverage(density[0], density[1:].T)),
    }


def _by_text(coverage: Mapping[float, float]) -> dict[str, float]:
    """The same with string keys, for JSON."""
    return {str(level): share for level, share in coverage.items()}


def _by_example(count: int, leaf: jax.Array) -> jax.Array:
    return leaf.reshape(count, NUM_DRAWS, leaf.shape[-1])


def _draws(
    key: jax.Array, case: Case, batch: Mapping[str, Any], mask: Mapping[str, Any]
) -> Latents:
    if case.method == "prior":
        return case.sampler.prior_latents(key, len(next(iter(batch.values()))))
    return case.sampler.infer(key, batch, method=case.method, mask=mask)


@partial(jax.jit, static_argnames=_STATIC)
def _simulate(
    key: jax.Array, weights: Weights, latents: Latents, *, model: Model, settings: SamplerSettings
) -> dict[str, jax.Array]:
    """Simulate data from the generator given latents."""
    outputs = Trained(model, settings, weights).networks().decode_frozen(latents)
    return simulate(key, model.modalities, outputs)


@partial(jax.jit, static_argnames=_STATIC)
def _log_joint(
    weights: Weights,
    batch: Batch,
    mask: Mask,
    latents: Latents,
    *,
    model: Model,
    settings: SamplerSettings,
) -> jax.Array:
    networks = Trained(model, settings, weights).networks()
    return model_target(networks, batch, mask).log_joint(latents)


MEASURES: tuple[Measure, ...] = (posterior_calibration,)
