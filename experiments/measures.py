"""What an evaluation measures: each function of `MEASURES` adds its part of `evaluation.json`.

A new metric is a pure function in `mmebm_jax/metrics`, called by a function here.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np

from experiments.classifiers import ByModality, Classifiers
from mmebm_jax import data
from mmebm_jax.metrics import coherence, diversity, frechet, prdc, probe
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import Run

CHUNK = 500
NUM_PROBE_EXAMPLES = 5000
NUM_SOURCES, NUM_DRAWS = 100, 8  # of conditional diversity: per modality, per source
NUM_NEIGHBOURS_OF = 2000  # examples whose neighbours are looked for
# With more observed subsets than this, coherence by number of inputs is too expensive.
MOST_SUBSETS = 40
KEYS = ("prior", "base", "chain", "cross", "mean", "revised", "count", "probe")

Part = dict[str, Any]


class Subject:
    """A model under evaluation: what several measures read is computed once."""

    def __init__(
        self,
        run: Run,
        sampler: Sampler,
        classifiers: Classifiers,
        num_steps: int | None = None,
    ) -> None:
        """Take the test examples, as many as the configuration asks for.

        Args:
          run: the run's data and configuration.
          sampler: the model with its weights.
          classifiers: one per modality.
          num_steps: of data-space refinement; None for the trained number.
        """
        self.run, self.sampler, self.classifiers, self.num_steps = (
            run,
            sampler,
            classifiers,
            num_steps,
        )
        self.settings = sampler.settings
        self.names = [m.name for m in sampler.modalities]
        self.num_samples = min(run.config.evaluation.num_samples, len(run.splits.test))
        seed = jax.random.key(run.config.seed + 1)
        self.keys = dict(zip(KEYS, jax.random.split(seed, len(KEYS)), strict=True))
        self.keys["drawn"] = jax.random.fold_in(seed, 1)
        self.keys["diversity"] = jax.random.fold_in(seed, 2)
        self.keys["reconstruction"] = jax.random.fold_in(seed, 3)
        raw = data.whole(run.splits.test, self.num_samples)
        self.labels = raw["label"]
        self.test = jax.device_get(sampler.as_batch(_without_label(raw), check_values=False))
        # With fewer samples than features a Fréchet distance tells of the samples' number alone.
        self.has_distances = self.num_samples > classifiers.num_features

    @cached_property
    def all_test(self) -> tuple[ByModality, np.ndarray]:
        """Features of all test examples, by modality, and their labels."""
        raw = data.whole(self.run.splits.test)
        batch = self.sampler.as_batch(_without_label(raw), check_values=False)
        return self.classifiers.predict(batch)[1], raw["label"]

    @cached_property
    def train(self) -> tuple[dict[str, np.ndarray], ByModality]:
        """As many training examples as there are samples, in model range, and their features."""
        raw = data.whole(self.run.splits.train, self.num_samples)
        batch = self.sampler.as_batch(_without_label(raw), check_values=False)
        return jax.device_get(batch), self.classifiers.predict(batch)[1]

    @cached_property
    def reference(self) -> dict[str, frechet.Statistics]:
        """Gaussians fitted to the features of all test examples."""
        return {n: frechet.gaussian_statistics(f) for n, f in self.all_test[0].items()}

    @cached_property
    def generated(self) -> dict[str, np.ndarray]:
        """The generator's samples from the learned prior."""
        return self.from_prior(self.keys["prior"], use_energy=True)

    @cached_property
    def refined(self) -> dict[str, np.ndarray]:
        """The same, refined under the joint energy."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            part = {name: values[start : start + count] for name, values in self.generated.items()}
            return self.sampler.refine(key, part, num_steps=self.num_steps).position

        return in_chunks(one, self.keys["chain"], self.num_samples)

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """The model's samples: refined where it has a data energy."""
        return self.refined if self.settings.data_energy else self.generated

    @cached_property
    def drawn(self) -> dict[str, tuple[ByModality, ByModality]]:
        """Classes and features of what `sample(given=…)` draws for each source."""

        def draw(source: str) -> dict[str, np.ndarray]:
            def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
                given = {source: self.test[source][start : start + count]}
                return self.sampler.sample(
                    key, given=given, num_steps=self.num_steps, check_values=False
                )

            key = jax.random.fold_in(self.keys["drawn"], self.names.index(source))
            return in_chunks(one, key, self.num_samples)

        return {source: self.classifiers.predict(draw(source)) for source in self.names}

    def from_prior(self, key: jax.Array, *, use_energy: bool) -> dict[str, np.ndarray]:
        """The generator's samples from the prior, with or without its latent energy."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            latents = self.sampler.prior_latents(key, count, use_energy=use_energy)
            return self.sampler.generate(latents)

        return in_chunks(one, key, self.num_samples)

    def conditional(
        self, key: jax.Array, given: tuple[str, ...], method: str
    ) -> dict[str, np.ndarray]:
        """The generator's outputs for the latents of test examples, of which some is given."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            observed = {name: self.test[name][start : start + count] for name in given}
            return self.sampler.generate(self.sampler.infer(key, observed, method=method))

        return in_chunks(one, key, self.num_samples)

    def distance(self, features: ByModality) -> float:
        """Mean Fréchet distance over modalities to all test examples."""
        each = [
            frechet.frechet_distance(
                frechet.gaussian_statistics(features[name]), self.reference[name]
            )
            for name in features
        ]
        return float(np.mean(each))


def joint_samples(subject: Subject) -> Part:
    """Coherence and Fréchet distance of samples from the prior, at each stage."""
    stages = {"generator": subject.generated}
    if subject.settings.prior_energy:
        stages["base_prior"] = subject.from_prior(subject.keys["base"], use_energy=False)
    if subject.settings.data_energy:
        stages["energy"] = subject.refined
    judged = {name: subject.classifiers.predict(samples) for name, samples in stages.items()}
    part: Part = {
        "frechet": {name: subject.distance(features) for name, (_, features) in judged.items()}
    }
    if len(subject.names) > 1:
        part["joint_coherence"] = {
            name: coherence.joint_coherence(classes) for name, (classes, _) in judged.items()
        }
    return part


def floors(subject: Subject) -> Part:
    """What real data have: training examples in the place of samples."""
    if not subject.has_distances or len(subject.run.splits.train) < subject.num_samples:
        return {}
    floor = frechet.frechet_floor(subject.train[1], subject.reference, subject.num_samples)
    part: Part = {"frechet": {"floor": floor["mean"]}}
    if len(subject.names) > 1:
        real = subject.classifiers.predict(subject.test)[0]
        part["joint_coherence"] = {"real_data": coherence.joint_coherence(real)}
    return part


def crossing(subject: Subject) -> Part:
    """Cross coherence from one input: an expert's draw, its mean, and a revised draw."""
    if len(subject.names) < 2:
        return {}
    found, distances = {}, {}
    for method in ("sample", "mean", "revised"):
        judged = {
            source: subject.classifiers.predict(
                subject.conditional(
                    jax.random.fold_in(subject.keys["cross"], index), (source,), method
                )
            )
            for index, source in enumerate(subject.names)
        }
        classes = {source: predicted for source, (predicted, _) in judged.items()}
        found[method] = coherence.cross_coherence(classes, subject.labels)
        if method == "sample":
            each = [subject.distance(features) for _, features in judged.values()]
            distances["cross"] = float(np.mean(each))
    cross = {
        "mean": found["sample"]["mean"],
        "by_target": found["sample"]["by_target"],
        "expert_mean": found["mean"]["mean"],
        "posterior_revised": found["revised"]["mean"],
    }
    return {"frechet": distances, "cross_coherence": cross}


def drawing(subject: Subject) -> Part:
    """Coherence and distance of what `sample(given=…)` draws for one input, the input left out."""
    if len(subject.names) < 2:
        return {}
    classes = {source: predicted for source, (predicted, _) in subject.drawn.items()}
    part: Part = {
        "cross_coherence": {"drawn": coherence.cross_coherence(classes, subject.labels)["mean"]}
    }
    if subject.has_distances:
        others = {
            source: {target: f for target, f in features.items() if target != source}
            for source, (_, features) in subject.drawn.items()
        }
        found = frechet.conditional_frechet(others, subject.reference)
        part["frechet"] = {"conditional": found["mean"]}
    return part


def conditional_diversity(subject: Subject) -> Part:
    """How far draws of `sample(given=…)` for one input differ, over data of its class."""
    if len(subject.names) < 2:
        return {}
    count = min(NUM_SOURCES, subject.num_samples)
    features: list[float] = []
    pixels: list[float] = []
    real_features, real_labels = subject.all_test
    for index, source in enumerate(subject.names):
        draws = subject.sampler.sample(
            jax.random.fold_in(subject.keys["diversity"], index),
            NUM_DRAWS,
            {source: subject.test[source][:count]},
            num_steps=subject.num_steps,
            check_values=False,
        )
        for target in subject.names:
            if target == source:
                continue
            values = np.asarray(draws[target])
            flat = values.reshape(-1, *values.shape[2:])
            of_draws = subject.classifiers.predict({target: flat})[1][target]
            of_draws = of_draws.reshape(count, NUM_DRAWS, -1)
            for found, drawn, real, labels in (
                (features, of_draws, real_features[target], real_labels),
                (pixels, values, subject.test[target], subject.labels),
            ):
                ratio = _diversity(drawn, subject.labels[:count], real, labels)
                found += [] if ratio is None else [ratio]
    if not features:
        return {}
    return {
        "diversity": {
            "conditional": float(np.mean(features)),
            "conditional_pixels": float(np.mean(pixels)),
        }
    }


def _diversity(
    draws: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> float | None:
    """The ratio over sources whose class has at least two real examples; None without any."""
    classes, counts = np.unique(real_labels, return_counts=True)
    known = np.isin(labels, classes[counts >= 2])
    if not known.any():
        return None
    found = diversity.conditional_diversity(draws[known], labels[known], real, real_labels)
    return found["ratio"]


def reconstruction(subject: Subject) -> Part:
    """Fréchet distance of what the generator makes of test examples, all modalities given."""
    images = subject.conditional(subject.keys["reconstruction"], tuple(subject.names), "revised")
    return {"frechet": {"reconstruction": subject.distance(subject.classifiers.predict(images)[1])}}


def fidelity(subject: Subject) -> Part:
    """Precision, recall, density, coverage, and distance to the nearest training example.

    On the classifiers' features of all modalities together; beside each what training data have.
    """
    if not subject.has_distances or len(subject.run.splits.train) < subject.num_samples:
        return {}
    sides = (subject.all_test[0], subject.classifiers.predict(subject.samples)[1], subject.train[1])
    test, samples, train = (
        np.concatenate([side[name] for name in subject.names], axis=1)[:NUM_NEIGHBOURS_OF]
        for side in sides
    )
    return {
        "fidelity": prdc.prdc(test, samples),
        "fidelity_of_training_data": prdc.prdc(test, train),
        "memorisation": diversity.memorisation(samples, train, test),
    }


def classes(subject: Subject) -> Part:
    """How evenly samples from the prior fall on the classes, mean over modalities."""
    predicted = subject.classifiers.predict(subject.samples)[0]
    each = [
        diversity.class_balance(values, subject.run.splits.num_classes)
        for values in predicted.values()
        if subject.run.splits.num_classes > 1
    ]
    if not each:
        return {}
    return {"class_balance": {name: float(np.mean([b[name] for b in each])) for name in each[0]}}


def energies(subject: Subject) -> Part:
    """Energies of data and samples, and a warning where a long chain has left them."""
    if not subject.settings.data_energy:
        return {}
    ranges, warnings = measure_energies(
        subject.sampler, subject.test, subject.generated, subject.refined, subject.num_steps
    )
    return {"energies": ranges, "warnings": warnings}


def by_inputs(subject: Subject) -> Part:
    """Cross coherence by the number of observed modalities."""
    names = subject.names
    subsets = [s for size in range(1, len(names)) for s in itertools.combinations(names, size)]
    if not subsets or len(subsets) > MOST_SUBSETS:
        return {}
    predicted = {
        subset: subject.classifiers.predict(
            subject.conditional(jax.random.fold_in(subject.keys["count"], index), subset, "sample")
        )[0]
        for index, subset in enumerate(subsets)
    }
    return {"coherence_by_inputs": coherence.coherence_by_count(predicted, subject.labels)}


def linear_probe(subject: Subject) -> Part:
    """Accuracy of a linear classifier of the shared latents' posterior mean."""
    if not subject.sampler.model.num_latents:
        return {}
    sides = []
    for source in (subject.run.splits.train, subject.run.splits.test):
        raw = data.whole(source, NUM_PROBE_EXAMPLES)
        batch = subject.sampler.as_batch(_without_label(raw), check_values=False)
        on_host = jax.device_get(batch)

        def encode(
            key: jax.Array, start: int, count: int, batch: Mapping[str, np.ndarray] = on_host
        ) -> dict[str, jax.Array]:
            given = {name: values[start : start + count] for name, values in batch.items()}
            return {"latents": subject.sampler.infer(key, given, method="mean").shared}

        encoded = in_chunks(encode, subject.keys["probe"], len(raw["label"]))
        sides += [encoded["latents"], raw["label"]]
    return {"linear_probe": probe.linear_probe(*sides)}


MEASURES: tuple[Callable[[Subject], Part], ...] = (
    joint_samples,
    floors,
    crossing,
    drawing,
    conditional_diversity,
    reconstruction,
    fidelity,
    classes,
    energies,
    by_inputs,
    linear_probe,
)


def measure_energies(
    sampler: Sampler,
    test: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    refined: Mapping[str, np.ndarray],
    num_steps: int | None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Joint energies of data and samples, and a line if a longer chain left those of training.

    Args:
      sampler: the model with its weights.
      test: test examples, name → `[N, *shape]` in model range.
      generated: samples before refinement.
      refined: the same after refinement.
      num_steps: of the refinement; None for the trained number.

    Returns:
      Lowest, mean and highest energy of each; and the warnings.
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


def in_chunks(
    function: Callable[[jax.Array, int, int], Mapping[str, jax.Array]],
    key: jax.Array,
    num_samples: int,
) -> dict[str, np.ndarray]:
    """Concatenate the results of `function(key, start, count)` over chunks of the samples."""
    chunks = []
    for start in range(0, num_samples, CHUNK):
        count = min(CHUNK, num_samples - start)
        chunks.append(jax.device_get(function(jax.random.fold_in(key, start), start, count)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _without_label(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in raw.items() if name != "label"}
