"""The classifiers that judge a run's samples."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mmebm_jax import data
from mmebm_jax.metrics import classifier, polymnist_classifier
from mmebm_jax.modalities.modality import from_raw
from mmebm_jax.networks.classifier import NUM_FEATURES
from mmebm_jax.storage.files import check_folder
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

    Data without classes have none of them, and nothing that they judge is measured there.
    Those of the first seed give every number; the others, and PolyMNIST's published ones where
    the configuration names their folder, say how much of a coherence is the judge's.
    """

    def __init__(self, run: Run, folder: epath.Path) -> None:
        """Nothing is read or trained before something is to be judged.

        Args:
          run: whose samples are judged.
          folder: of the classifiers; those that it lacks are trained on the training split, and
            kept there.

        Raises:
          FileNotFoundError, ValueError: published classifiers that are not there, not what they
            should be, or asked to judge other data; a folder that cannot be written to.
        """
        self.folder = epath.Path(folder)
        self._run = run
        self._kinds = {m.name: m.kind for m in run.model.modalities}
        self._published = read_published(run)
        self.have_judged = False
        if not lacks_classes(run) and not self.folder.is_dir():
            check_folder(self.folder)  # Before the samples are drawn.

    @cached_property
    def _first(self) -> tuple[dict[str, Params], dict[str, float]]:
        """Parameters and test accuracies of the first seed's."""
        self.have_judged = True
        return self._known(0)

    @cached_property
    def _by_seed(self) -> list[tuple[dict[str, Params], dict[str, float]]]:
        """Parameters and test accuracies of every seed; those that are missing are trained."""
        others = range(1, self._run.config.evaluation.classifier_seeds)
        return [self._first, *(self._known(seed) for seed in others)]

    def complete(self) -> None:
        """Train what is missing of every seed now, not when it is first asked to judge."""
        _ = self._by_seed

    def _known(self, seed: int) -> tuple[dict[str, Params], dict[str, float]]:
        config, splits = self._run.config, self._run.splits
        if lacks_classes(self._run):
            return {}, {}
        steps = config.evaluation.classifier_steps
        meta = {"data": config.data.to_dict(), "steps": steps, "version": splits.version}
        # The first stands where it did when there was one.
        place = self.folder / f"seed{seed}" if seed else self.folder
        meta |= {"seed": seed} if seed else {}
        known = classifier.load_classifiers(place, meta)
        if known is None:
            check_folder(place)
            known = self._train(self._run, steps, seed)
            classifier.save_classifiers(place, known[0], known[1], meta)
        return known

    def _train(self, run: Run, steps: int, seed: int) -> tuple[dict[str, Params], dict[str, float]]:
        train, test = (data.whole(data.complete(s)) for s in (run.splits.train, run.splits.test))
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

    @cached_property
    def by_judge(self) -> dict[str, dict[str, float]]:
        """Test accuracy by judge and modality; seeds that are missing are trained."""
        found = {f"seed{seed}": known[1] for seed, known in enumerate(self._by_seed)}
        if self._published:
            test = data.whole(data.complete(self._run.splits.test))
            samples = {m.name: from_raw(m, test[m.name]) for m in self._run.model.modalities}
            found[PUBLISHED] = {
                name: float(np.mean(values == test["label"]))
                for name, values in self._judge_published(samples).items()
            }
        return found

    @property
    def accuracies(self) -> dict[str, float]:
        """Test accuracy of the first seed's, by modality."""
        return self._first[1]

    @property
    def num_features(self) -> int:
        """F, of every modality's features."""
        return NUM_FEATURES

    def predict(self, samples: Mapping[str, Any]) -> tuple[ByModality, ByModality]:
        """Predicted classes `int[N]` and features `[N, F]`, each by modality, of the first seed."""
        return self._predict(self._first[0], samples)

    def judge(self, samples: Mapping[str, Any]) -> Judged:
        """What all classifiers say of samples, name → `[N, *shape]` in model range."""
        first, features = self.predict(samples)
        by_judge = {"seed0": first}
        for seed, (params, _) in enumerate(self._by_seed[1:], 1):
            by_judge[f"seed{seed}"] = self._predict(params, samples)[0]
        if self._published:
            by_judge[PUBLISHED] = self._judge_published(samples)
        return Judged(first, features, by_judge)

    def _predict(
        self, params: Mapping[str, Params], samples: Mapping[str, Any]
    ) -> tuple[ByModality, ByModality]:
        classes, features = {}, {}
        for name, values in samples.items():
            logits, features[name] = classifier.predict(self._kinds[name], params[name], values)
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


def lacks_classes(run: Run) -> str:
    """Why no classifier can be trained on a run's data, or ""."""
    if run.splits.num_classes < 2:
        return "the data have no labels of two classes or more"
    if not len(data.complete(run.splits.train)):
        return "no training example has every modality, as classifiers need"
    return ""


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
