"""Joint and conditional log-likelihoods of the model, and the normaliser of its latent energy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures.subject import (
    Measure,
    Part,
    Subject,
    complete_training_examples,
    needs,
    of_the_prior_itself,
    shared_latents,
    two_modalities,
)
from mmebm_jax import data
from mmebm_jax.distributions.base_prior import base_log_prob, base_sample
from mmebm_jax.method.model import Model
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.method.train_state import Weights
from mmebm_jax.metrics import annealing
from mmebm_jax.metrics.likelihood import Estimate, importance_weighted_bound
from mmebm_jax.metrics.targets import model_target
from mmebm_jax.typing import Batch, Mask

LATENTS_AT_A_TIME = 4000  # decoded in one batch
NUM_CHAINS = 500
FEWEST_EXACT = 20  # exact starts of reverse chains; with fewer, they start from the prior's chain
ANNEALING = annealing.Annealing(num_temperatures=100, step_size=0.3)


@needs(shared_latents, complete_training_examples)
def log_likelihood(subject: Subject) -> Part:
    """The importance-weighted bound for test and training examples, and log Z."""
    normaliser = log_normaliser(subject)
    low, high = normaliser.get("lower", 0.0), _highest(normaliser)
    part: Part = {
        "importance_samples": subject.run.config.evaluation.importance_samples,
        "num_examples": _num_examples(subject),
        "num_values": sum(int(np.prod(m.shape)) for m in subject.sampler.modalities),
    }
    for split in ("test", "training_data"):
        bound = _bound(subject, split, tuple(subject.names))
        value = np.asarray(bound.value, np.float64)
        part[split] = {
            "mean": float(value.mean() - high),
            "standard_error": _standard_error(value),
            "effective_sample_size": float(np.median(bound.effective_sample_size)),
        }
        if normaliser:  # shows how uncertain Z is
            part[split]["mean_at_lowest_normaliser"] = float(value.mean() - low)
    return {"log_likelihood": part} | ({"log_normaliser": normaliser} if normaliser else {})


@needs(shared_latents, two_modalities, complete_training_examples)
def conditional_log_likelihood(subject: Subject) -> Part:
    """log p(x_T | x_s) of all other modalities T given one modality s, next to log p(x_T).

    It is a difference of two bounds, so it is not a bound itself. The unconditional log p(x_T) is
    the floor: a source that says nothing about the others gains nothing.
    """
    high = _highest(log_normaliser(subject))
    both = _bound(subject, "test", tuple(subject.names))
    by_source: Part = {}
    for source in subject.names:
        alone = _bound(subject, "test", (source,))
        others = _bound(subject, "test", tuple(n for n in subject.names if n != source))
        given = np.asarray(both.value - alone.value, np.float64)
        nothing_given = np.asarray(others.value, np.float64) - high
        gain = given - nothing_given
        sizes = [np.median(e.effective_sample_size) for e in (both, alone, others)]
        by_source[source] = {
            "mean": float(given.mean()),
            "nothing_given": float(nothing_given.mean()),
            "gain": float(gain.mean()),
            "standard_error_of_gain": _standard_error(gain),
            "effective_sample_size": float(min(sizes)),
        }
    means = {
        name: float(np.mean([part[name] for part in by_source.values()]))
        for name in ("mean", "nothing_given", "gain")
    }
    return {"conditional_log_likelihood": means | {"by_source": by_source}}


def log_normaliser(subject: Subject) -> dict[str, float]:
    """Lower and upper estimates of log Z of the latent energy, computed once; empty without one."""
    if not subject.settings.prior_energy:
        return {}
    return subject.once("log_normaliser", lambda: _log_normaliser(subject))


def _log_normaliser(subject: Subject) -> dict[str, float]:
    sampler, weights = subject.sampler, subject.sampler.weights
    networks = Trained(sampler.model, sampler.settings, weights).networks()
    energy_fn = networks.latent_energy
    assert energy_fn is not None
    base = weights.base_prior
    log_prob = partial(base_log_prob, base)

    def sample(key: jax.Array, count: int) -> jax.Array:
        return base_sample(key, base, count)

    start_key, forward_key, reverse_key = jax.random.split(subject.keys["normaliser"], 3)
    forward = jax.jit(
        partial(
            annealing.forward_log_normaliser,
            base_sample=sample,
            base_log_prob=log_prob,
            energy_fn=energy_fn,
            num_chains=NUM_CHAINS,
            annealing=ANNEALING,
        )
    )(forward_key)
    bound = subject.sampler.model.prior.bound
    start = annealing.tilted_draws(start_key, sample, energy_fn, -bound, NUM_CHAINS)
    is_exact = len(start) >= FEWEST_EXACT
    if not is_exact:
        start = np.asarray(of_the_prior_itself(sampler).prior_latents(start_key, NUM_CHAINS).shared)
    reverse = jax.jit(
        partial(
            annealing.reverse_log_normaliser,
            base_log_prob=log_prob,
            energy_fn=energy_fn,
            annealing=ANNEALING,
        )
    )(reverse_key, start=jnp.asarray(start))
    report = annealing.log_normaliser_report(forward, reverse, exact_start=is_exact)
    return report | {"num_chains": NUM_CHAINS, "num_reverse_chains": len(start)}


def _highest(normaliser: dict[str, float]) -> float:
    """The highest estimate of log Z, so that a lower bound stays one; 0 without a latent energy."""
    if not normaliser:
        return 0.0
    return max(normaliser["lower"], normaliser.get("upper", normaliser.get("from_chain", -np.inf)))


@partial(jax.jit, static_argnames=("model", "settings", "num_samples", "chunk_size"))
def _estimate(
    key: jax.Array,
    weights: Weights,
    batch: Batch,
    mask: Mask,
    *,
    model: Model,
    settings: SamplerSettings,
    num_samples: int,
    chunk_size: int,
) -> Estimate:
    target = model_target(Trained(model, settings, weights).networks(), batch, mask)
    return importance_weighted_bound(key, target, num_samples, chunk_size=chunk_size)


def _bound(subject: Subject, split: str, names: tuple[str, ...]) -> Estimate:
    """The unnormalised bound on log p(x_S) for examples of a split, computed once for each S."""

    def compute() -> Estimate:
        count = _num_examples(subject)
        source = subject.test if split == "test" else subject.train
        estimate = _estimate(
            subject.keys["likelihood"],
            subject.sampler.weights,
            {name: values[:count] for name, values in source.items()},
            # A mask instead of fewer modalities, so that one program serves all subsets.
            {name: np.full(count, name in names) for name in source},
            model=subject.sampler.model,
            settings=subject.settings,
            num_samples=subject.run.config.evaluation.importance_samples,
            chunk_size=max(LATENTS_AT_A_TIME // count, 1),
        )
        return jax.device_get(estimate)

    return subject.once((split, names), compute)


def _num_examples(subject: Subject) -> int:
    return min(
        subject.run.config.evaluation.likelihood_examples,
        subject.num_samples,
        len(data.complete(subject.run.splits.train)),
    )


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


MEASURES: tuple[Measure, ...] = (log_likelihood, conditional_log_likelihood)
