"""A model under evaluation, and what measures may need from it."""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.classifiers import ByModality, Classifiers, Judged, lacks_classes
from mmebm_jax import data
from mmebm_jax.metrics import frechet
from mmebm_jax.networks.classifier import NUM_FEATURES
from mmebm_jax.runs.sampler import Sampler, Stages
from mmebm_jax.training import Run

CHUNK = 500  # examples at a time; programs are compiled for this size and for a smaller last chunk
KEYS = ("prior", "base", "chain", "cross", "mean", "revised", "count", "probe")
LATER_KEYS = (
    *("drawn", "diversity", "reconstruction", "shuffle", "likelihood", "normaliser"),
    *("calibration", "images"),
)

Part = dict[str, Any]
Measure = Callable[["Subject"], Part]
Need = Callable[[Run], str]
"""A run → what it lacks, as a part of a sentence with its mend, or ""."""

M = TypeVar("M", bound=Measure)
T = TypeVar("T")


class Subject:
    """A model under evaluation; results that several measures share are computed only once."""

    def __init__(
        self,
        run: Run,
        sampler: Sampler,
        classifiers: Classifiers,
        num_steps: int | None = None,
    ) -> None:
        """Load the number of test examples that the configuration asks for.

        Args:
          run: the run's data and configuration.
          sampler: the model with its weights.
          classifiers: one per modality and seed.
          num_steps: data-space refinement steps; None for the configured number.
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
        self.num_sources = num_sources(run)
        seed = jax.random.key(run.config.seed + 1)
        self.keys = dict(zip(KEYS, jax.random.split(seed, len(KEYS)), strict=True))
        for number, name in enumerate(LATER_KEYS, 1):
            self.keys[name] = jax.random.fold_in(seed, number)
        raw = data.whole(data.complete(run.splits.test), self.num_samples)
        self.labels = raw.get("label", np.zeros(0, np.int32))  # empty without classes
        self.test = jax.device_get(sampler.as_batch(without_label(raw), check_values=False))
        self.sources = {name: values[: self.num_sources] for name, values in self.test.items()}
        self.source_labels = self.labels[: self.num_sources]
        # With fewer samples than features, a Fréchet distance reflects only the number of samples.
        self.has_distances = self.num_samples > classifiers.num_features

    @cached_property
    def all_test(self) -> tuple[ByModality, np.ndarray]:
        """Features of all test examples, by modality, and their labels."""
        raw = data.whole(data.complete(self.run.splits.test))
        batch = self.sampler.as_batch(without_label(raw), check_values=False)
        return self.classifiers.predict(batch)[1], raw["label"]

    @cached_property
    def train(self) -> dict[str, np.ndarray]:
        """As many training examples as there are samples, in model range."""
        raw = data.whole(data.complete(self.run.splits.train), self.num_samples)
        return jax.device_get(self.sampler.as_batch(without_label(raw), check_values=False))

    @cached_property
    def train_features(self) -> ByModality:
        """Classifier features of `train`."""
        return self.classifiers.predict(self.train)[1]

    @cached_property
    def judged_test(self) -> Judged:
        """The classifiers' predictions for the test examples: a ceiling for samples."""
        return self.classifiers.judge(self.test)

    @cached_property
    def reference(self) -> dict[str, frechet.Statistics]:
        """Gaussians fitted to the features of all test examples."""
        return {n: frechet.gaussian_statistics(f) for n, f in self.all_test[0].items()}

    @cached_property
    def stages(self) -> Stages:
        """Samples from the prior at every stage, from the generator to the result of `sample()`."""

        def one(key: jax.Array, start: int, count: int) -> Stages:
            return self.sampler.stages(key, count, num_steps=self.num_steps)

        return in_chunks(one, self.keys["prior"], self.num_samples, self._samples_at_a_time)

    @property
    def generated(self) -> dict[str, Any]:
        """The generator's samples from the learned prior."""
        return self.stages.generated

    @property
    def refined(self) -> dict[str, Any]:
        """The same samples after refinement under the joint energy."""
        return self.stages.refined

    @property
    def samples(self) -> dict[str, Any]:
        """The model's samples as `sample()` draws them: refined, then chosen among candidates."""
        return self.stages.chosen

    @property
    def has_choice(self) -> bool:
        """Whether the data energy chooses among refined candidates."""
        return self.sampler.refines(self.num_steps) and self.settings.candidates > 1

    @property
    def _samples_at_a_time(self) -> int:
        """Samples per chunk, so that chains process CHUNK candidates at a time, as elsewhere."""
        return max(1, CHUNK // self.settings.candidates) if self.has_choice else CHUNK

    @cached_property
    def judged_samples(self) -> Judged:
        """The classifiers' predictions for `samples`."""
        return self.classifiers.judge(self.samples)

    @cached_property
    def drawn(self) -> dict[str, Judged]:
        """Source → the classifiers' predictions for the draws of `sample(given=…)`."""
        return {s: self.classifiers.judge(self.draw(s)) for s in self.names}

    @cached_property
    def crossed(self) -> dict[str, Judged]:
        """Source → the classifiers' predictions for outputs generated from a draw of its expert."""
        return {s: self.classifiers.judge(self.cross(s, "sample")) for s in self.names}

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """Compute a value at the first call and cache it; the measures of one file share it."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def draw(self, source: str) -> dict[str, np.ndarray]:
        """Draws of `sample(given=…)` for the source examples of one modality."""
        key = jax.random.fold_in(self.keys["drawn"], self.names.index(source))
        return self.once(
            ("draws", source), lambda: self.complete(key, source, self.sources[source])
        )

    def complete(self, key: jax.Array, source: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Draws of `sample(given=…)`, one for each of the values of one modality."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            given = {source: values[start : start + count]}
            return self.sampler.sample(
                key, given=given, num_steps=self.num_steps, check_values=False
            )

        return in_chunks(one, key, len(values), self._samples_at_a_time)

    def cross(self, source: str, method: str) -> dict[str, np.ndarray]:
        """The generator's outputs for latents inferred from one modality."""
        key = jax.random.fold_in(self.keys["cross"], self.names.index(source))
        return self.conditional(key, (source,), method)

    def from_base_prior(self, key: jax.Array) -> dict[str, np.ndarray]:
        """The generator's samples from the prior without its latent energy."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            latents = self.sampler.prior_latents(key, count, use_energy=False)
            return self.sampler.generate(latents)

        return in_chunks(one, key, self.num_samples)

    def conditional(
        self, key: jax.Array, given: tuple[str, ...], method: str, most: int | None = None
    ) -> dict[str, np.ndarray]:
        """The generator's outputs for latents inferred from a subset of the modalities."""

        def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
            observed = {name: self.sources[name][start : start + count] for name in given}
            return self.sampler.generate(self.sampler.infer(key, observed, method=method))

        return in_chunks(one, key, min(most or self.num_sources, self.num_sources))

    def distances(self, features: ByModality) -> dict[str, float]:
        """Fréchet distance to all test examples, by modality."""
        return {
            name: frechet.frechet_distance(
                frechet.gaussian_statistics(features[name]), self.reference[name]
            )
            for name in features
        }

    def distance(self, features: ByModality) -> float:
        """Fréchet distance to all test examples, averaged over modalities."""
        return float(np.mean(list(self.distances(features).values())))


def needs(*wanted: Need) -> Callable[[M], M]:
    """Declare what a measure needs from a run."""

    def mark(measure: M) -> M:
        measure.needs = wanted  # type: ignore[attr-defined]
        return measure

    return mark


def lack(measure: Measure, run: Run) -> str:
    """The first thing a measure needs that a run lacks, or ""."""
    found = (need(run) for need in getattr(measure, "needs", ()))
    return next((problem for problem in found if problem), "")


def labels(run: Run) -> str:
    """Needs classes that a classifier can be trained on."""
    return lacks_classes(run)


def complete_training_examples(run: Run) -> str:
    """Needs training examples with every modality."""
    if len(data.complete(run.splits.train)):
        return ""
    return "no training example has every modality"


def two_modalities(run: Run) -> str:
    """Needs at least two modalities, to generate one from another."""
    return "" if len(run.model.modalities) > 1 else "the data have one modality"


def shared_latents(run: Run) -> str:
    """Needs shared latents z."""
    return "" if run.model.num_latents else "the model has no shared latents (model.num_latents 0)"


def enough_for_distances(run: Run) -> str:
    """Needs more samples than a classifier has features, and as many training examples."""
    return more_samples_than(NUM_FEATURES, run) or as_many_training_examples(run)


def enough_sources_for_distances(run: Run) -> str:
    """Needs more source examples than a classifier has features."""
    return more_sources_than(NUM_FEATURES, run)


def as_many_training_examples(run: Run) -> str:
    """Needs as many training examples as samples, for the floor."""
    count = num_samples(run)
    if (found := len(data.complete(run.splits.train))) >= count:
        return ""
    return (
        f"its floor takes {count} training examples, and there are {found}: lower "
        "config.evaluation.num_samples"
    )


def more_samples_than(num_features: int, run: Run) -> str:
    """Why there are too few samples for a Fréchet distance with this many features, or ""."""
    return _too_few(num_features, run, "num_samples", num_samples(run))


def more_sources_than(num_features: int, run: Run) -> str:
    """The same for the source examples of completions."""
    return _too_few(num_features, run, "num_sources", num_sources(run))


def _too_few(num_features: int, run: Run, name: str, count: int) -> str:
    if count > num_features:
        return ""
    takes = f"a Fréchet distance of {num_features} features takes at least {num_features + 1}"
    if (found := len(data.complete(run.splits.test))) <= num_features:
        return f"{takes} samples, and there are {count}: the test split has {found}, too few"
    return f"{takes} samples, and there are {count}: raise config.evaluation.{name}"


def num_samples(run: Run) -> int:
    """Number of samples of each kind: as configured, but at most the number of test examples."""
    return min(run.config.evaluation.num_samples, len(data.complete(run.splits.test)))


def num_sources(run: Run) -> int:
    """Number of test examples to complete: as configured, but at most `num_samples`."""
    return min(run.config.evaluation.num_sources, num_samples(run))


def of_the_prior_itself(sampler: Sampler) -> Sampler:
    """The sampler that draws from p_0 itself, without the temperatures used only for drawing."""
    return at_temperatures(sampler, shared_temperature=1.0, token_temperature=1.0)


def at_temperatures(sampler: Sampler, **temperatures: Any) -> Sampler:
    """The sampler with other temperatures for its draws, named as in `Chains`."""
    chains = sampler.settings.chains._replace(**temperatures)
    return sampler.with_weights(sampler.weights, sampler.settings._replace(chains=chains))


def in_chunks(
    function: Callable[[jax.Array, int, int], Any],
    key: jax.Array,
    num_samples: int,
    size: int = CHUNK,
) -> Any:
    """Concatenate the trees of arrays that `function(key, start, count)` returns, over chunks.

    Raises:
      FloatingPointError: some values are not finite.
    """
    chunks = []
    for start in range(0, num_samples, size):
        count = min(size, num_samples - start)
        chunk = jax.device_get(function(jax.random.fold_in(key, start), start, count))
        check_finite(chunk)
        chunks.append(chunk)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)


def check_finite(draws: Any) -> None:
    """Refuse a tree of arrays with values that are not finite.

    Raises:
      FloatingPointError: some values are NaN or infinite.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(draws)):
        raise FloatingPointError("draws hold NaN or infinity: a chain has diverged.")


def without_label(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The modalities of raw examples, without their labels."""
    return {name: values for name, values in raw.items() if name != "label"}
