"""How long samples are refined: a time for the data chain, found from the model and its data.

Along the chain samples come nearer to the data and then pass them. How near they are is measured
without labels, by the inference model: the Fréchet distance between what its experts say of samples
and of training examples. Samples count as `Sampler.sample` draws them, by the weights of the choice
among their candidates, for a choice goes on where the chain ends.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax import data
from mmebm_jax.data.source import Source
from mmebm_jax.method.model import Model
from mmebm_jax.metrics.frechet import Statistics, frechet_distance
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.typing import OBSERVED, Batch, Params

NUM_SAMPLES, NUM_EXAMPLES = 500, 4000
PART = 500  # examples at a time
# The chain is followed for five times its steps in training, or until the distance has not fallen
# for half as long as it fell.
MOST_LOOKS, PATIENCE = 50, 1.5
# Near its least the distance hardly changes: the shortest time is taken from which on it falls by
# no more than this share of its fall.
TOLERANCE = 0.02
LOGGER = logging.getLogger("mmebm_jax")


class SamplingTime(NamedTuple):
    """The time of samples, and the curve that it was read from."""

    time: float  # steps · s²/2 of the shortest chain that is as good as any
    times: list[float]
    distances: list[float]  # mean over modalities


def fit_sampling_time(
    key: jax.Array,
    sampler: Sampler,
    source: Source,
    *,
    num_samples: int = NUM_SAMPLES,
    most_looks: int = MOST_LOOKS,
) -> SamplingTime:
    """The time for which the data chain is to refine samples of the prior.

    Args:
      key: PRNG key.
      sampler: of a model with a data energy; its data chain's step size is the one that is taken.
      source: training examples.
      num_samples: that are followed, each with its candidates.
      most_looks: at the distance, a tenth of the chain's steps apart, before the search ends.

    Raises:
      ValueError: there is no data energy, or its chain has no steps or starts from noise.
    """
    settings = sampler.settings
    chain, candidates = settings.chains.data, settings.candidates
    if not settings.data_energy or not chain.num_steps or settings.chains.data_start == "noise":
        raise ValueError(
            "a sampling time is of a learned data energy whose chain takes steps from the "
            "generator's samples."
        )
    reference = _reference(sampler, source)
    prior_key, chain_key = jax.random.split(key)
    count = PART // candidates * candidates
    starts = range(0, num_samples * candidates, count)
    parts: list[Batch] = [
        sampler.generate(sampler.prior_latents(jax.random.fold_in(prior_key, start), count))
        for start in starts
    ]
    block = max(1, chain.num_steps // 10)
    times: list[float] = []
    distances: list[float] = []
    for number in range(1, most_looks + 1):
        keys = jax.random.split(jax.random.fold_in(chain_key, number), len(parts))
        parts = [
            dict(sampler.refine(k, part, num_steps=block).position)
            for k, part in zip(keys, parts, strict=True)
        ]
        weights = _choice_weights(sampler, parts)
        found = _features(sampler, parts)
        each = [
            frechet_distance(weighted_statistics(found[name], weights), reference[name])
            for name in reference
        ]
        times.append(number * block * chain.step_size**2 / 2)
        distances.append(float(np.mean(each)))
        if times[-1] > PATIENCE * times[int(np.argmin(distances))]:
            break
    time = times[shortest(distances)]
    LOGGER.info("samples are refined for a time of %.4g.", time)
    return SamplingTime(time, times, distances)


def shortest(distances: Sequence[float]) -> int:
    """The first place of a falling curve that is as low as its least, but for `TOLERANCE`."""
    enough = min(distances) + TOLERANCE * (distances[0] - min(distances))
    return int(np.argmax(np.asarray(distances) <= enough))


def _reference(sampler: Sampler, source: Source) -> dict[str, Statistics]:
    """Statistics of training examples, of each modality over those that have it."""
    raw = data.whole(source, NUM_EXAMPLES)
    names = [modality.name for modality in sampler.modalities]
    examples = sampler.as_batch({name: raw[name] for name in names}, check_values=False)
    features = _features(sampler, _parts_of(examples))
    observed = raw.get(OBSERVED, np.ones([len(raw[names[0]]), len(names)], bool))
    return {
        name: weighted_statistics(features[name], seen / seen.sum())
        for name, seen in zip(names, np.asarray(observed, np.float64).T, strict=True)
        if seen.any()
    }


def weighted_statistics(features: np.ndarray, weights: np.ndarray) -> Statistics:
    """Mean `[F]` and covariance `[F, F]` of features `[N, F]` by weights `[N]` of sum 1."""
    features = np.asarray(features, np.float64)
    mean = weights @ features
    away = features - mean
    return mean, (weights[:, None] * away).T @ away


def _choice_weights(sampler: Sampler, parts: Sequence[Batch]) -> np.ndarray:
    """Of every candidate, the chance that it is the sample that is drawn; their sum is 1."""
    settings = sampler.settings
    energies = np.concatenate([np.asarray(sampler.energy(p, check_values=False)) for p in parts])
    logits = -energies.astype(np.float64).reshape(-1, settings.candidates)
    logits /= settings.candidate_temperature
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True) / len(weights)).ravel()


def _parts_of(batch: Mapping[str, Any]) -> list[Batch]:
    count = len(next(iter(batch.values())))
    return [
        {name: values[start : start + PART] for name, values in batch.items()}
        for start in range(0, count, PART)
    ]


def _features(sampler: Sampler, parts: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Means of each modality's expert and private latents, name → `[N, Z + W]`."""
    params = sampler.weights.params["inference"]
    found = [_means(params, part, model=sampler.model) for part in parts]
    return {
        name: np.concatenate([np.asarray(each[name], np.float64) for each in found])
        for name in found[0]
    }


def _encoded(params: Params, batch: Batch, *, model: Model) -> dict[str, jax.Array]:
    encoding = model.encode(params, batch)
    means = {m.name: [encoding.experts.location[i]] for i, m in enumerate(model.modalities)}
    for name, private in encoding.private.items():
        means[name].append(private.location)
    return {name: jnp.concatenate(each, axis=-1) for name, each in means.items()}


_means = jax.jit(_encoded, static_argnames="model")
