"""Judges that need no classes: do two modalities match, and what does a picture show?

Both are trained on the training split at the first evaluation and saved with the classifiers.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mmebm_jax import data
from mmebm_jax.data.source import Source, gather_at, turns
from mmebm_jax.metrics import attributes, classifier, matching
from mmebm_jax.modalities.kinds import KINDS
from mmebm_jax.modalities.modality import Modality, from_raw
from mmebm_jax.modalities.text import SPECIAL
from mmebm_jax.training import Run
from mmebm_jax.typing import Params

CHUNK = 1000
MOST_EXAMPLES = 50_000  # training examples whose attributes are read
MOST_ALTERNATIVES = 10  # sentences per example
RAREST, COMMONEST = 0.01, 0.9  # share of training examples that a word must fit
MOST_WORDS = 100
PARTNERS = ("text", "vector", "category")  # kinds that are compared with pictures

Raw = dict[str, np.ndarray]


def pairs(run: Run) -> list[tuple[Modality, Modality]]:
    """Every picture modality paired with every modality of another kind."""
    modalities = run.model.modalities
    return [
        (picture, partner)
        for picture in modalities
        if picture.kind == "image"
        for partner in modalities
        if partner.kind in PARTNERS
    ]


class PairJudge:
    """Two towers that tell which examples of two modalities belong together."""

    def __init__(self, run: Run, folder: epath.Path, pair: tuple[Modality, Modality]) -> None:
        """Load the towers from `folder`, or train them on the training split."""
        self.pair = pair
        names = tuple(modality.name for modality in pair)
        steps = run.config.evaluation.classifier_steps
        place = epath.Path(folder) / "_".join(("matching", *names))

        def train() -> Params:
            source = data.complete(run.splits.train)
            return matching.train_towers(
                jax.random.key(0),
                {modality.name: modality.kind for modality in pair},
                partial(_training_pairs, source, pair),
                matching.Settings(steps=steps),
            )

        self._params = _kept(place, _meta(run, names, steps), train)

    def vectors(self, raw: Raw) -> Raw:
        """Name → vectors `[N, F]`, for whichever of the two modalities are present."""
        return {
            m.name: matching.embed(
                m.kind, self._params[m.name], raw[m.name], to_model=partial(from_raw, m)
            )
            for m in self.pair
            if m.name in raw
        }


class Labels(NamedTuple):
    """The attributes of one modality."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]  # number of values of each attribute
    read: Callable[[np.ndarray], np.ndarray]  # raw `[N, ...]` → values `int[N, A]`

    @property
    def are_words(self) -> bool:
        """Whether attributes are words of a sentence, rather than values that every example has."""
        return self.names[:1] != () and self.names[0].startswith(_WORD)


_WORD = "word "


class AttributeJudge:
    """A classifier that predicts the attributes of another modality from pictures."""

    def __init__(self, run: Run, folder: epath.Path, pair: tuple[Modality, Modality]) -> None:
        """Load the classifier from `folder`, or train it on the training split."""
        self.picture, self.source = pair
        self._run = run
        self.labels = labels(run, self.source)
        names = (self.picture.name, self.source.name)
        steps = run.config.evaluation.classifier_steps
        meta = _meta(run, names, steps) | {"attributes": list(self.labels.names)}
        place = epath.Path(folder) / "_".join(("attributes", *names))
        self._params = _kept(place, meta, self._train)[self.picture.name]

    @cached_property
    def of_training(self) -> np.ndarray:
        """Attributes of training examples, `int[N, A]`."""
        return self._attributes(data.complete(self._run.splits.train), MOST_EXAMPLES)

    def of_test(self, num_examples: int) -> np.ndarray:
        """Attributes of the first test examples, from any of their sentences, `int[N, A]`."""
        return self._attributes(data.complete(self._run.splits.test), num_examples)

    def seen_in(self, pictures: np.ndarray) -> np.ndarray:
        """What the classifier predicts for raw pictures, `int[N, A]`."""
        logits, _ = classifier.predict(
            self.picture.kind, self._params, pictures, to_model=partial(from_raw, self.picture)
        )
        return attributes.predicted(logits, self.labels.sizes)

    def _attributes(self, source: Source, most: int) -> np.ndarray:
        read, name = self.labels.read, self.source.name
        return np.concatenate(
            [
                np.max([read(raw[name]) for raw in alternatives], axis=0)
                for alternatives in _in_turns(source, most)
            ]
        )

    def _train(self) -> Params:
        source, values = data.complete(self._run.splits.train), self.of_training
        weights = None
        if self.labels.are_words:  # Learn rare words, not just their absence.
            share = values.mean(axis=0)
            weights = [0.5 / np.array([1 - each, each]) for each in share]

        def batch(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
            index = rng.integers(len(values), size=count)
            pictures = source.gather(index)[self.picture.name]
            pictures = KINDS[self.picture.kind].augment(rng, pictures)
            return np.asarray(from_raw(self.picture, pictures)), values[index]

        params = attributes.train_classifier(
            jax.random.key(1),
            self.picture.kind,
            batch,
            self.labels.sizes,
            attributes.Settings(steps=self._run.config.evaluation.classifier_steps),
            weights,
        )
        return {self.picture.name: params}


def labels(run: Run, modality: Modality) -> Labels:
    """The attributes of a modality, which may be none."""
    if modality.kind == "category":
        return Labels(
            (modality.name,), modality.shape[-1:], lambda raw: np.asarray(raw, np.int32)[:, None]
        )
    train = data.complete(run.splits.train)
    if modality.kind == "vector":
        values = data.whole(train, MOST_EXAMPLES)[modality.name]
        index, thresholds = attributes.two_levels(values)
        names = tuple(f"{modality.name} {number}" for number in index)
        return Labels(
            names, (2,) * len(names), lambda raw: (raw[:, index] > thresholds).astype(np.int32)
        )
    alphabet = run.splits.alphabet
    if isinstance(alphabet, str):
        return Labels((), (), lambda raw: np.zeros((len(raw), 0), np.int32))
    share = np.mean(
        np.concatenate(
            [
                np.max([_said(raw[modality.name], modality) for raw in alternatives], axis=0)
                for alternatives in _in_turns(train, MOST_EXAMPLES)
            ]
        ),
        axis=0,
    )
    kept = [
        token
        for token in np.argsort(-share, kind="stable")
        if RAREST <= share[token] <= COMMONEST and alphabet[token] not in SPECIAL
    ][:MOST_WORDS]
    return Labels(
        tuple(_WORD + alphabet[token] for token in kept),
        (2,) * len(kept),
        lambda raw: _said(raw, modality)[:, kept].astype(np.int32),
    )


def _said(tokens: np.ndarray, modality: Modality) -> np.ndarray:
    return attributes.words_said(np.asarray(tokens), modality.shape[-1])


def _in_turns(source: Source, most: int) -> Iterator[list[Raw]]:
    """Chunks of a source, each with all alternatives of its examples."""
    num_passes = MOST_ALTERNATIVES if turns(source) else 1
    for start in range(0, min(len(source), most), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(source), most))
        yield [gather_at(source, index, np.full(len(index), turn)) for turn in range(num_passes)]


def _training_pairs(
    source: Source, pair: tuple[Modality, Modality], rng: np.random.Generator, count: int
) -> dict[str, np.ndarray]:
    index = rng.integers(len(source), size=count)
    raw = gather_at(source, index, rng.integers(MOST_ALTERNATIVES, size=count))
    return {m.name: np.asarray(from_raw(m, KINDS[m.kind].augment(rng, raw[m.name]))) for m in pair}


def _meta(run: Run, names: tuple[str, ...], steps: int) -> dict[str, Any]:
    of_data = {"data": run.config.data.to_dict(), "version": run.splits.version}
    return of_data | {"modalities": list(names), "steps": steps}


def _kept(place: epath.Path, meta: dict[str, Any], train: Callable[[], Params]) -> Params:
    """Load the parameters saved with the same `meta`, or train and save them now."""
    known = classifier.load_classifiers(place, meta)
    if known is not None:
        return known[0]
    params = train()
    classifier.save_classifiers(place, params, {}, meta)
    return params
