"""Calibration of posteriors: simulation-based ranks and expected coverage."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures.subject import Measure, Part, Subject, needs, shared_latents
from mmebm_jax.method import prior, sampling
from mmebm_jax.method.model import Model
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.method.train_state import Weights
from mmebm_jax.metrics import calibration
from mmebm_jax.metrics.targets import model_target
from mmebm_jax.modalities.modality import simulate
from mmebm_jax.typing import Batch, Latents, Mask

NUM_DRAWS = 19  # of each posterior: ranks take 20 values
NUM_CANDIDATES = 100  # draws of p_0 for each draw of a tilted prior
LONGER = 5  # the second length of the chain, in lengths of training's
CHAINS_AT_A_TIME = 1000
_STATIC = ("model", "settings")


class Case(NamedTuple):
    """A posterior to check: what it is given, and how it is drawn from."""

    given: tuple[str, ...]
    method: str  # of `sampling.METHODS`, or "prior"
    settings: SamplerSettings


@needs(shared_latents)
def posterior_calibration(subject: Subject) -> Part:
    """Ranks and coverage of experts, aggregate and revised draws, on data of the model's own.

    Latents are drawn from the prior (where it is tilted, by resampling many draws of its base),
    data from the likelihoods, noise included. Beside them "prior": draws that ignore the data,
    whose ranks of latents are uniform, and of densities not.
    """
    count = subject.run.config.evaluation.calibration_examples
    draw_key, chain_key = jax.random.split(subject.keys["calibration"])
    truth, batch = _simulate(
        draw_key,
        subject.sampler.weights,
        model=subject.sampler.model,
        settings=subject.settings,
        num_examples=count,
    )
    found = {
        name: _scores(subject, jax.random.fold_in(chain_key, index), truth, batch, case)
        for index, (name, case) in enumerate(_cases(subject).items())
    }
    return {"calibration": found | {"num_examples": count, "num_draws": NUM_DRAWS}}


def _cases(subject: Subject) -> dict[str, Case]:
    names, settings = tuple(subject.names), subject.settings
    cases = {}
    if len(names) > 1:
        cases = {f"expert {name}": Case((name,), "sample", settings) for name in names}
    cases["aggregate"] = Case(names, "sample", settings)
    num_steps = settings.chains.posterior.num_steps
    for length in (num_steps, LONGER * num_steps) if num_steps else ():
        chain = settings.chains.posterior._replace(num_steps=length)
        of_length = settings._replace(chains=settings.chains._replace(posterior=chain))
        cases[f"revised {length}"] = Case(names, "revised", of_length)
    cases["prior"] = Case(names, "prior", settings)
    return cases


def _scores(subject: Subject, key: jax.Array, truth: Latents, batch: Batch, case: Case) -> Part:
    """What the ranks of the truth among the draws of a posterior say."""
    count = len(truth.shared)
    mask = {name: np.full(count, name in case.given) for name in batch}
    size = min(max(CHAINS_AT_A_TIME // NUM_DRAWS, 1), count)
    parts = []
    for start in range(0, count, size):
        # The last part is filled up from the first, so that one shape is compiled.
        rows = np.arange(start, start + size) % count
        repeated, shown = (
            {name: np.repeat(np.asarray(v)[rows], NUM_DRAWS, 0) for name, v in side.items()}
            for side in (batch, mask)
        )
        drawn = _draws(
            jax.random.fold_in(key, start),
            subject.sampler.weights,
            repeated,
            shown,
            model=subject.sampler.model,
            settings=case.settings,
            method=case.method,
        )
        parts.append(jax.tree.map(partial(_by_example, size), drawn))
    draws: Latents = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
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
    """As JSON holds it."""
    return {str(level): share for level, share in coverage.items()}


def _by_example(count: int, leaf: jax.Array) -> jax.Array:
    return leaf.reshape(count, NUM_DRAWS, leaf.shape[-1])


@partial(jax.jit, static_argnames=(*_STATIC, "num_examples"))
def _simulate(
    key: jax.Array, weights: Weights, *, model: Model, settings: SamplerSettings, num_examples: int
) -> tuple[Latents, dict[str, jax.Array]]:
    """Latents of the prior, and data of the generator given them."""
    latent_key, data_key = jax.random.split(key)
    trained = Trained(model, settings, weights)
    latents = _prior_draws(latent_key, trained, num_examples)
    outputs = trained.networks().decode_frozen(latents)
    return latents, simulate(data_key, model.modalities, outputs)


@partial(jax.jit, static_argnames=(*_STATIC, "method"))
def _draws(
    key: jax.Array,
    weights: Weights,
    batch: Batch,
    mask: Mask,
    *,
    model: Model,
    settings: SamplerSettings,
    method: str,
) -> Latents:
    trained = Trained(model, settings, weights)
    if method == "prior":
        return _prior_draws(key, trained, len(next(iter(batch.values()))))
    return sampling.infer_latents(key, trained, batch, method=method, mask=mask)


def _prior_draws(key: jax.Array, trained: Trained, count: int) -> Latents:
    """Draws of the prior by resampling; of its chain, which may be cold, no step is taken."""
    model, networks = trained.model, trained.networks()
    shared_key, private_key = jax.random.split(key)
    chain = trained.settings.chains.prior._replace(num_steps=0)
    drawn = prior.sample(
        shared_key,
        trained.weights.base_prior,
        networks.latent_energy,
        count,
        chain,
        NUM_CANDIDATES,
    )
    keys = jax.random.split(private_key, len(model.private_names))
    own = {
        name: networks.draw_private(k, name, drawn.position)
        for k, name in zip(keys, model.private_names, strict=True)
    }
    return Latents(drawn.position, own)


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
