"""Fits the time for which the data chain refines samples to the model and its data.

Along the chain, samples first approach the data and then move past them. Their distance is measured
without labels by the inference model: the Fréchet distance between the means of its experts for
samples and for training examples. As in `Sampler.sample`, every candidate is weighted by its
probability of being chosen: choosing low energies moves samples further in the chain's direction,
so the best chain is shorter when there are several candidates.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax import data
from mmebm_jax.data.source import Source
from mmebm_jax.method.data_revision import gap_closing
from mmebm_jax.method.model import Model
from mmebm_jax.metrics.frechet import Statistics, frechet_distance, weighted_statistics
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.runs.schema import MOST_TIME
from mmebm_jax.typing import OBSERVED, Batch, Params

NUM_SAMPLES, NUM_EXAMPLES = 500, 4000
PART = 500  # examples processed at a time
# The chain is followed for at most `FARTHEST` times its training steps. After all training steps it
# ends earlier if its time exceeds `PATIENCE` times the time with the smallest distance so far.
FARTHEST, PATIENCE = 5.0, 1.5
# Near its minimum the distance hardly changes, so the time taken is the shortest one after which
# the distance falls by no more than this share of its total fall.
TOLERANCE = 0.02
# Samples take the time in fewer, larger steps than the curve. Their distance may exceed the curve's
# by at most this share of the total fall.
MOST_LOST = 0.2
NOT_FINITE = "the data chain's samples are not finite"


class SamplingTime(NamedTuple):
    """The fitted time, and the curve that it was read from."""

    time: float  # steps · s²/2 of the shortest chain that is as good as any; 0 if none was found
    times: list[float]
    distances: list[float]  # mean over modalities
    problem: str = ""  # the reason why none was found


def fit_sampling_time(
    key: jax.Array,
    sampler: Sampler,
    source: Source,
    *,
    num_samples: int = NUM_SAMPLES,
    farthest: float = FARTHEST,
) -> SamplingTime:
    """Fit the time for which the data chain refines samples of the prior.

    Args:
      key: PRNG key.
      sampler: of a model with a data energy; the curve is made with its data chain's step size.
      source: training examples; each modality uses the examples that have it.
      num_samples: number of samples that are followed, each with its candidates.
      farthest: maximal length of the chain, in multiples of its number of steps.

    Raises:
      ValueError: there is no data energy, or its chain has no steps or starts from noise.
    """
    settings = sampler.settings
    candidates = settings.candidates
    if (
        not settings.data_energy
        or not settings.chains.data.num_steps
        or settings.chains.data_start == "noise"
    ):
        raise ValueError(
            "a sampling time is of a learned data energy whose chain takes steps from the "
            "generator's samples."
        )
    raw = data.whole(source, NUM_EXAMPLES)
    reference = _reference(sampler, raw)
    prior_key, chain_key, check_key, unit_key = jax.random.split(key, 4)
    count = PART // candidates * candidates
    starts: list[Batch] = [
        sampler.generate(sampler.prior_latents(jax.random.fold_in(prior_key, start), count))
        for start in range(0, num_samples * candidates, count)
    ]
    if settings.chains.gap_share:
        unit = _time_of_training(unit_key, sampler, starts[0], raw)
        if not unit <= MOST_TIME:  # or it is NaN
            return SamplingTime(0.0, [], [], NOT_FINITE)
        sampler = sampler.with_sampling_time(unit)
    chain = sampler.settings.chains.data
    parts, block = starts, max(1, chain.num_steps // 10)
    times: list[float] = []
    distances: list[float] = []
    for steps in range(block, max(block, int(farthest * chain.num_steps)) + 1, block):
        parts = _refined(jax.random.fold_in(chain_key, steps), sampler, parts, block)
        distance = _distance(sampler, parts, reference)
        time = steps * chain.step_size**2 / 2
        if not (np.isfinite(distance) and time <= MOST_TIME):
            break
        times.append(time)
        distances.append(distance)
        has_turned = times[-1] > PATIENCE * times[int(np.argmin(distances))]
        if has_turned and steps >= chain.num_steps:
            break
    if not times:
        return SamplingTime(0.0, times, distances, NOT_FINITE)
    place = shortest(distances)
    time = times[place]
    of_samples = sampler.with_sampling_time(time)
    drawn = _distance(sampler, _refined(check_key, of_samples, starts, chain.num_steps), reference)
    if drawn <= distances[place] + MOST_LOST * (distances[0] - min(distances)):
        return SamplingTime(time, times, distances)
    problem = (
        f"{chain.num_steps} steps are too few for a time of {time:.4g}, at a distance of "
        f"{drawn:.4g} after {distances[place]:.4g} in small steps: raise "
        "config.energy.chain.num_steps"
    )
    return SamplingTime(0.0, times, distances, problem)


def shortest(distances: Sequence[float]) -> int:
    """The first index at which a falling curve is within `TOLERANCE` of its minimum."""
    enough = min(distances) + TOLERANCE * (distances[0] - min(distances))
    return int(np.argmax(np.asarray(distances) <= enough))


def _refined(key: jax.Array, sampler: Sampler, parts: Sequence[Batch], steps: int) -> list[Batch]:
    keys = jax.random.split(key, len(parts))
    return [
        dict(sampler.refine(k, part, num_steps=steps).position)
        for k, part in zip(keys, parts, strict=True)
    ]


def _distance(
    sampler: Sampler, parts: Sequence[Batch], reference: Mapping[str, Statistics]
) -> float:
    """The distance, averaged over modalities; NaN if samples are not finite."""
    weights, found = _choice_weights(sampler, parts), _features(sampler, parts)
    if not all(np.isfinite(values).all() for values in (weights, *found.values())):
        return float("nan")
    each = [
        frechet_distance(weighted_statistics(found[name], weights), reference[name])
        for name in reference
    ]
    return float(np.mean(each))


def _time_of_training(
    key: jax.Array, sampler: Sampler, start: Batch, raw: Mapping[str, Any]
) -> float:
    """The time that a training chain takes when its step sizes are set by the energy gap."""
    settings = sampler.settings
    chain = settings.chains.data
    usual = chain.num_steps * chain.step_size**2 / 2
    names = [modality.name for modality in sampler.modalities]
    is_complete = _observed(raw, names).all(axis=1)
    if not is_complete.any():
        return usual
    examples = sampler.as_batch(
        {name: np.asarray(raw[name])[is_complete][:PART] for name in names}, check_values=False
    )
    infer_key, chain_key = jax.random.split(key)
    if settings.chains.tokens == "given":
        words = {m.name: examples[m.name] for m in sampler.modalities if m.is_of_tokens}
        latents = sampler.infer(infer_key, words, method="sample")
        start = sampler.generate(latents) | words
    rule = gap_closing(
        chain, settings.chains.gap_share, sampler.energy(examples, check_values=False).mean()
    )
    as_trained = sampler.with_chains(data=chain._replace(step_size=rule))
    sizes = jax.vmap(rule)(as_trained.refine(chain_key, start).info)
    return float(jnp.square(sizes).sum()) / 2 or usual


def _reference(sampler: Sampler, raw: Mapping[str, Any]) -> dict[str, Statistics]:
    """Statistics of training examples, for each modality over the examples that have it."""
    names = [modality.name for modality in sampler.modalities]
    parts = _parts_of({name: raw[name] for name in names})
    features = _features(sampler, [sampler.as_batch(p, check_values=False) for p in parts])
    observed = _observed(raw, names).astype(np.float64)
    return {
        name: weighted_statistics(features[name], seen / seen.sum())
        for name, seen in zip(names, observed.T, strict=True)
        if seen.any()
    }


def _observed(raw: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """Which example has which modality, `bool[N, M]`."""
    return np.asarray(raw.get(OBSERVED, np.ones([len(raw[names[0]]), len(names)], bool)))


def _choice_weights(sampler: Sampler, parts: Sequence[Batch]) -> np.ndarray:
    """The probability of each candidate to be the sample that is drawn; they sum to 1."""
    settings = sampler.settings
    energies = np.concatenate([np.asarray(sampler.energy(p, check_values=False)) for p in parts])
    logits = -energies.reshape(-1, settings.candidates) / settings.candidate_temperature
    return np.asarray(jax.nn.softmax(logits, axis=1), np.float64).ravel() / len(logits)


def _parts_of(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    count = len(next(iter(batch.values())))
    return [
        {name: values[start : start + PART] for name, values in batch.items()}
        for start in range(0, count, PART)
    ]


def _features(sampler: Sampler, parts: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Means of each modality's expert and private latent, name → `[N, Z + W]`."""
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
