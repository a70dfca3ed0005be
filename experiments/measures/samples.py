"""Samples from the prior and given one input: quality, diversity, classes and energies."""

from collections.abc import Mapping

import jax
import numpy as np

from experiments.measures.subject import (
    Measure,
    Part,
    Subject,
    enough_for_distances,
    in_chunks,
    labels,
    needs,
    two_modalities,
)
from mmebm_jax.metrics import coherence, diversity, prdc
from mmebm_jax.runs.sampler import Sampler

NUM_SOURCES, NUM_DRAWS = 125, 4  # for conditional diversity: sources per modality, draws per source
NUM_NEIGHBOURS_OF = 2000  # examples whose neighbours are searched for


@needs(labels)
def joint_samples(subject: Subject) -> Part:
    """Coherence and Fréchet distance of samples from the prior, at each stage."""
    last = subject.judged_samples
    stages = {}
    if subject.settings.prior_energy:
        stages["base_prior"] = subject.from_base_prior(subject.keys["base"])
    if subject.settings.data_energy:
        stages["generator"] = subject.generated
    if subject.has_choice:
        stages["chain"] = subject.refined
    judged = {name: subject.classifiers.predict(samples) for name, samples in stages.items()}
    judged["energy" if subject.settings.data_energy else "generator"] = last.classes, last.features
    distances = {name: subject.distances(features) for name, (_, features) in judged.items()}
    part: Part = {
        "frechet": {name: float(np.mean(list(d.values()))) for name, d in distances.items()},
        "frechet_by_modality": distances,
    }
    if len(subject.names) > 1:
        part["joint_coherence"] = {
            name: coherence.joint_coherence(classes) for name, (classes, _) in judged.items()
        }
    return part


@needs(labels, two_modalities)
def conditional_diversity(subject: Subject) -> Part:
    """How much draws of `sample(given=…)` for one input vary, relative to data of its class."""
    count = min(NUM_SOURCES, subject.num_sources)
    features: list[float] = []
    pixels: list[float] = []
    of_data: list[float] = []
    real_features, real_labels = subject.all_test
    rng = np.random.default_rng(np.asarray(jax.random.key_data(subject.keys["shuffle"])))
    alike = [
        rng.choice(np.flatnonzero(real_labels == label), NUM_DRAWS)
        for label in subject.labels[:count]
    ]
    for index, source in enumerate(subject.names):
        key = jax.random.fold_in(subject.keys["diversity"], index)
        repeated = np.repeat(subject.sources[source][:count], NUM_DRAWS, axis=0)
        draws = subject.complete(key, source, repeated)
        for target in subject.names:
            if target == source:
                continue
            values = draws[target].reshape(count, NUM_DRAWS, *draws[target].shape[1:])
            of_draws = subject.classifiers.predict({target: draws[target]})[1][target]
            of_draws = of_draws.reshape(count, NUM_DRAWS, -1)
            for found, drawn, real, real_classes in (
                (features, of_draws, real_features[target], real_labels),
                (of_data, real_features[target][alike], real_features[target], real_labels),
                (pixels, values, subject.test[target], subject.labels),
            ):
                ratio = diversity_ratio(drawn, subject.labels[:count], real, real_classes)
                found += [] if ratio is None else [ratio]
    if not features:
        return {}
    return {
        "diversity": {
            "conditional": float(np.mean(features)),
            "conditional_pixels": float(np.mean(pixels)),
            "of_data": float(np.mean(of_data)),
        }
    }


def diversity_ratio(
    draws: np.ndarray, classes: np.ndarray, real: np.ndarray, real_classes: np.ndarray
) -> float | None:
    """Conditional diversity over sources whose class has two real examples; None without any.

    Args:
      draws: `[S, D, ...]`, D draws for each of S sources.
      classes: classes of the sources, `[S]`.
      real: real data, `[N, ...]`.
      real_classes: classes of the real data, `[N]`.
    """
    known_classes, counts = np.unique(real_classes, return_counts=True)
    known = np.isin(classes, known_classes[counts >= 2])
    if not known.any():
        return None
    found = diversity.conditional_diversity(draws[known], classes[known], real, real_classes)
    return found["ratio"]


@needs(labels, enough_for_distances)
def fidelity(subject: Subject) -> Part:
    """Precision, recall, density, coverage, and distance to the nearest training example.

    Computed on the concatenated classifier features of all modalities, for samples and, as a
    reference, for training data.
    """
    sides = (subject.all_test[0], subject.judged_samples.features, subject.train_features)
    test, samples, train = (
        np.concatenate([side[name] for name in subject.names], axis=1)[:NUM_NEIGHBOURS_OF]
        for side in sides
    )
    return {
        "fidelity": prdc.prdc(test, samples),
        "fidelity_of_training_data": prdc.prdc(test, train),
        "memorisation": diversity.memorisation(samples, train, test),
    }


@needs(labels)
def class_balance(subject: Subject) -> Part:
    """How evenly prior samples cover the classes, averaged over modalities, next to real data."""
    num_classes = subject.run.splits.num_classes

    def mean(predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
        each = [diversity.class_balance(values, num_classes) for values in predicted.values()]
        return {name: float(np.mean([b[name] for b in each])) for name in each[0]}

    return {
        "class_balance": mean(subject.judged_samples.classes),
        "class_balance_of_data": mean(subject.judged_test.classes),
    }


def energies(subject: Subject) -> Part:
    """Energies of data and samples, with a warning if a long chain has left their range."""
    if not subject.settings.data_energy:
        return {}
    ranges, warnings = measure_energies(
        subject.sampler, subject.test, subject.generated, subject.refined, subject.num_steps
    )
    return {"energies": ranges, "warnings": warnings}


def measure_energies(
    sampler: Sampler,
    test: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    refined: Mapping[str, np.ndarray],
    num_steps: int | None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Joint energies of data and samples, and a warning if a longer chain left the usual range.

    Args:
      sampler: the model with its weights.
      test: test examples, name → `[N, *shape]` in model range.
      generated: samples before refinement.
      refined: the same samples after refinement.
      num_steps: number of refinement steps; None for the configured number.

    Returns:
      The lowest, mean and highest energy of each, and the warnings.
    """

    def energies(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        def one(key: jax.Array, start: int, count: int) -> dict[str, jax.Array]:
            part = {name: values[start : start + count] for name, values in batch.items()}
            return {"energy": sampler.energy(part, check_values=False)}

        num_examples = len(next(iter(batch.values())))
        return in_chunks(one, jax.random.key(0), num_examples)["energy"]

    values = {
        "data": energies(test),
        "generator": energies(generated),
        "refined": energies(refined),
    }
    ranges = {
        name: {"low": float(e.min()), "mean": float(e.mean()), "high": float(e.max())}
        for name, e in values.items()
    }
    seen = np.concatenate([values["data"], values["generator"]])
    warning = sampler.energy_warning(values["refined"], num_steps or 0, seen)
    return ranges, [warning] if warning else []


MEASURES: tuple[Measure, ...] = (
    joint_samples,
    conditional_diversity,
    fidelity,
    class_balance,
    energies,
)
