"""A model under evaluation, and what a measure may need of it."""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.classifiers import ByModality, Classifiers, Judged, lacks_classes
from mmebm_jax import data
from mmebm_jax.metrics import frechet
from mmebm_jax.networks.classifier import NUM_FEATURES
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import Run

CHUNK = 500
KEYS = ("prior", "base", "chain", "cross", "mean", "revised", "count", "probe")
LATER_KEYS = (
    *("drawn", "diversity", "reconstruction", "shuffle", "likelihood", "normaliser"),
    *("calibration", "images", "chosen"),
)

Part = dict[str, Any]
Measure = Callable[["Subject"], Part]
Need = Callable[[Run], str]
"""A run → what it lacks, as a part of a sentence with its mend, or ""."""

M = TypeVar("M", bound=Measure)
T = TypeVar("T")


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
          classifiers: one per modality and seed.
          num_steps: of data-space refinement; None for the trained number.
        """
        self.run, self.sampler, self.classifiers, self.num_steps = (
            run,
            sampler,
            classifiers,
            num_steps,
        )
        self.settings = sampler.settings
        self._known: dict[Hashable, Any] = {}
        self.names = [m.name for m in sampler.modalities]
        self.num_samples = num_samples(run)
        seed = jax.random.key(run.config.seed + 1)
        self.keys = dict(zip(KEYS, jax.random.split(seed, len(KEYS)), strict=True))
        for number, name in enumerate(LATER_KEYS, 1):
            self.keys[name] = jax.random.fold_in(seed, number)
        raw = data.whole(data.complete(run.splits.test), self.num_samples)
        self.labels = raw.get("label", np.zeros(0, np.int32))  # none without classes
        self.test = jax.device_get(sampler.as_batch(without_label(raw), check_values=False))
        # With fewer samples than features a Fréchet distance tells of the samples' number alone.
        self.has_distances = self.num_samples > classifiers.num_features

    @cached_property
    def all_test(self) -> tuple[ByModality, np.ndarray]:
        """Features of all test examples, by modality, and their labels."""
        raw = data.whole(data.complete(self.run.splits.test))
        batch = self.sampler.as_batch(without_label(raw), check_values=False)
        return self.classifiers.predict(batch)[1], raw["label"]

    @cached_property
    def train(self) -> tuple[dict[str, np.ndarray], ByModality]:
        """As many training examples as there are samples, in model range, and their features.

        Without classes there are no features.
        """
        raw = data.whole(data.complete(self.run.splits.train), self.num_samples)
        batch = self.sampler.as_batch(without_label(raw), check_values=False)
        features = {} if lacks_classes(self.run) else self.classifiers.predict(batch)[1]
        return jax.device_get(batch), features

    @cached_property
    def judged_test(self) -> Judged:
        """What the classifiers say of the test examples: a ceiling for samples."""
        return self.classifiers.judge(self.test)

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
        """The model's samples, as `sample()` draws them: refined, and chosen among candidates."""
        if not self.settings.data_energy:
            return self.generated
        return self.chosen if self.has_choice else self.refined

    @property
    def has_choice(self) -> bool:
        """Whether the data energy chooses among refined candidates."""
        return self.sampler.refines(self.num_steps) and self.settings.candidates > 1

    @cached_property
    def chosen(self) -> dict[str, np.ndarray]:
        """Samples that the data energy chose among refined candidates."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            return self.sampler.sample(key, count, num_steps=self.num_steps)

        return in_chunks(one, self.keys["chosen"], self.num_samples)

    @cached_property
    def judged_samples(self) -> Judged:
        """What the classifiers say of them."""
        return self.classifiers.judge(self.samples)

    @cached_property
    def drawn(self) -> dict[str, Judged]:
        """Source → what the classifiers say of what `sample(given=…)` draws."""
        return {s: self.classifiers.judge(self.draw(s)) for s in self.names}

    @cached_property
    def crossed(self) -> dict[str, Judged]:
        """Source → what they say of what the generator makes of a draw of its expert."""
        return {s: self.classifiers.judge(self.cross(s, "sample")) for s in self.names}

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """What several measures of one file share, computed at the first call."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def draw(self, source: str) -> dict[str, np.ndarray]:
        """What `sample(given=…)` draws for the test examples of one modality."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            given = {source: self.test[source][start : start + count]}
            return self.sampler.sample(
                key, given=given, num_steps=self.num_steps, check_values=False
            )

        key = jax.random.fold_in(self.keys["drawn"], self.names.index(source))
        return in_chunks(one, key, self.num_samples)

    def cross(self, source: str, method: str) -> dict[str, np.ndarray]:
        """The generator's outputs for latents inferred from one modality."""
        key = jax.random.fold_in(self.keys["cross"], self.names.index(source))
        return self.conditional(key, (source,), method)

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


def needs(*wanted: Need) -> Callable[[M], M]:
    """Mark a measure by what it needs of a run."""

    def mark(measure: M) -> M:
        measure.needs = wanted  # type: ignore[attr-defined]
        return measure

    return mark


def lack(measure: Measure, run: Run) -> str:
    """What a run lacks of what a measure needs, or ""."""
    found = (need(run) for need in getattr(measure, "needs", ()))
    return next((problem for problem in found if problem), "")


def labels(run: Run) -> str:
    """Needs classes, of examples that a classifier can be trained on."""
    return lacks_classes(run)


def complete_training_examples(run: Run) -> str:
    """Needs training examples that lack nothing."""
    if len(data.complete(run.splits.train)):
        return ""
    return "no training example has every modality"


def two_modalities(run: Run) -> str:
    """Needs something to generate from something else."""
    return "" if len(run.model.modalities) > 1 else "the data have one modality"


def shared_latents(run: Run) -> str:
    """Needs z."""
    return "" if run.model.num_latents else "the model has no shared latents (model.num_latents 0)"


def enough_for_distances(run: Run) -> str:
    """Needs more samples than a classifier has features, and as many training examples."""
    return more_samples_than(NUM_FEATURES, run) or as_many_training_examples(run)


def as_many_training_examples(run: Run) -> str:
    """Needs training examples in the place of samples, for the floor."""
    count = num_samples(run)
    if (found := len(data.complete(run.splits.train))) >= count:
        return ""
    return (
        f"its floor takes {count} training examples, and there are {found}: lower "
        "config.evaluation.num_samples"
    )


def more_samples_than(num_features: int, run: Run) -> str:
    """What is wrong with the number of samples for a Fréchet distance of so many features."""
    count = num_samples(run)
    if count > num_features:
        return ""
    return (
        f"a Fréchet distance of {num_features} features takes at least {num_features + 1} samples, "
        f"and there are {count}: raise config.evaluation.num_samples"
        + (f" (the test split has {count})" if len(data.complete(run.splits.test)) == count else "")
    )


def num_samples(run: Run) -> int:
    """Samples of each kind: as the configuration says, at most the test examples."""
    return min(run.config.evaluation.num_samples, len(data.complete(run.splits.test)))


def of_the_prior_itself(sampler: Sampler) -> Sampler:
    """The sampler whose draws of z are those of p_0(z), without `prior.shared_temperature`."""
    chains = sampler.settings.chains._replace(shared_temperature=1.0)
    return sampler.with_weights(sampler.weights, sampler.settings._replace(chains=chains))


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


def without_label(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The modalities of raw examples."""
    return {name: values for name, values in raw.items() if name != "label"}
