"""The classifiers that judge a run's samples."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mmebm_jax import data
from mmebm_jax.metrics import classifier, polymnist_classifier
from mmebm_jax.modalities.modality import from_raw
from mmebm_jax.networks.classifier import NUM_FEATURES
from mmebm_jax.training import Run
from mmebm_jax.typing import Params

ByModality = dict[str, np.ndarray]
PUBLISHED = "published"
BATCH = 500


class Judged(NamedTuple):
    """What the classifiers say of N samples."""

    classes: ByModality  # name → int[N], by the first seed
    features: ByModality  # name → [N, F], of the first seed
    by_judge: dict[str, ByModality]  # "seed0", "seed1" …, "published" → classes


class Classifiers:
    """Classifiers, one per modality and seed: predictions and features of samples.

    Those of the first seed give every number; the others, and PolyMNIST's published ones where
    the configuration names their folder, say how much of a coherence is the judge's.
    """

    def __init__(self, run: Run, folder: epath.Path) -> None:
        """Read the classifiers from `folder`, or train them on the training split.

        Raises:
          FileNotFoundError, ValueError: published classifiers that are not there, not what they
            should be, or asked to judge other data.
        """
        self.folder = epath.Path(folder)
        self._kinds = {m.name: m.kind for m in run.model.modalities}
        settings = run.config.evaluation
        # First, since training the others takes a while.
        self._published = read_published(run)
        steps = settings.classifier_steps
        meta = {"data": run.config.data.to_dict(), "steps": steps, "version": run.splits.version}
        self._by_seed, self.by_judge = [], {}
        for seed in range(settings.classifier_seeds):
            # The first stands where it did when there was one.
            place = self.folder / f"seed{seed}" if seed else self.folder
            of_seed = meta | ({"seed": seed} if seed else {})
            known = classifier.load_classifiers(place, of_seed)
            if known is None:
                known = self._train(run, steps, seed)
                classifier.save_classifiers(place, known[0], known[1], of_seed)
            self._by_seed.append(known[0])
            self.by_judge[f"seed{seed}"] = known[1]
        if self._published:
            self.by_judge[PUBLISHED] = self._accuracies_of_published(run)

    def _train(self, run: Run, steps: int, seed: int) -> tuple[dict[str, Params], dict[str, float]]:
        train, test = data.whole(run.splits.train), data.whole(run.splits.test)
        modalities = {m.name: m for m in run.model.modalities}

        def to_model_range(raw: Mapping[str, np.ndarray]) -> dict[str, Any]:
            return {name: from_raw(modalities[name], values) for name, values in raw.items()}

        params = classifier.train_classifiers(
            jax.random.key(seed),
            self._kinds,
            {name: train[name] for name in modalities},
            train["label"],
            run.splits.num_classes,
            steps=steps,
            to_model_range=to_model_range,
        )
        accuracies = {
            name: classifier.accuracy(
                self._kinds[name],
                params[name],
                to_model_range({name: test[name]})[name],
                test["label"],
            )
            for name in modalities
        }
        return params, accuracies

    def _accuracies_of_published(self, run: Run) -> dict[str, float]:
        test = data.whole(run.splits.test)
        samples = {m.name: from_raw(m, test[m.name]) for m in run.model.modalities}
        found = self._judge_published(samples)
        return {name: float(np.mean(values == test["label"])) for name, values in found.items()}

    @property
    def accuracies(self) -> dict[str, float]:
        """Test accuracy of the first seed's, by modality."""
        return self.by_judge["seed0"]

    @property
    def num_features(self) -> int:
        """F, of every modality's features."""
        return NUM_FEATURES

    def predict(self, samples: Mapping[str, Any]) -> tuple[ByModality, ByModality]:
        """Predicted classes `int[N]` and features `[N, F]`, each by modality, of the first seed."""
        return self._predict(0, samples)

    def judge(self, samples: Mapping[str, Any]) -> Judged:
        """What all classifiers say of samples, name → `[N, *shape]` in model range."""
        first, features = self._predict(0, samples)
        by_judge = {"seed0": first}
        for seed in range(1, len(self._by_seed)):
            by_judge[f"seed{seed}"] = self._predict(seed, samples)[0]
        if self._published:
            by_judge[PUBLISHED] = self._judge_published(samples)
        return Judged(first, features, by_judge)

    def _predict(self, seed: int, samples: Mapping[str, Any]) -> tuple[ByModality, ByModality]:
        classes, features = {}, {}
        for name, values in samples.items():
            logits, features[name] = classifier.predict(
                self._kinds[name], self._by_seed[seed][name], values
            )
            classes[name] = logits.argmax(-1)
        return classes, features

    def _judge_published(self, samples: Mapping[str, Any]) -> ByModality:
        classes = {}
        for name, values in samples.items():
            parts = [
                polymnist_classifier.logits(self._published[name], jnp.asarray(part))
                for part in np.split(np.asarray(values), range(BATCH, len(values), BATCH))
            ]
            classes[name] = np.concatenate(parts).argmax(-1)
        return classes


def read_published(run: Run) -> dict[str, polymnist_classifier.Weights]:
    """PolyMNIST's published classifiers, or none where the configuration names no folder.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: other files, or other data than PolyMNIST.
    """
    folder = run.config.evaluation.polymnist_classifiers
    if not folder:
        return {}
    wrong = [m.name for m in run.model.modalities if m.shape != polymnist_classifier.SHAPE]
    if wrong or run.config.data.name != "polymnist":
        raise ValueError(
            f"config.evaluation.polymnist_classifiers is {folder!r}, but the data are "
            f"{run.config.data.name}: leave it empty."
        )
    return polymnist_classifier.load_classifiers(folder, list(run.splits.fields))
