"""The classifiers that judge a run's samples."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mmebm_jax import data
from mmebm_jax.metrics import classifier
from mmebm_jax.modalities.modality import from_raw
from mmebm_jax.networks.classifier import NUM_FEATURES
from mmebm_jax.training import Run
from mmebm_jax.typing import Params

ByModality = dict[str, np.ndarray]


class Classifiers:
    """Digit classifiers, one per modality: predictions and features of samples."""

    def __init__(self, run: Run, folder: epath.Path) -> None:
        """Read the classifiers from `folder`, or train them on the training split."""
        self._kinds = {m.name: m.kind for m in run.model.modalities}
        steps = run.config.evaluation.classifier_steps
        meta = {"data": run.config.data.to_dict(), "steps": steps, "version": run.splits.version}
        known = classifier.load_classifiers(folder, meta)
        if known is None:
            known = self._train(run, steps)
            classifier.save_classifiers(folder, known[0], known[1], meta)
        self._params, self.accuracies = known

    def _train(self, run: Run, steps: int) -> tuple[dict[str, Params], dict[str, float]]:
        train, test = data.whole(run.splits.train), data.whole(run.splits.test)
        modalities = {m.name: m for m in run.model.modalities}

        def to_model_range(raw: Mapping[str, np.ndarray]) -> dict[str, Any]:
            return {name: from_raw(modalities[name], values) for name, values in raw.items()}

        params = classifier.train_classifiers(
            jax.random.key(0),
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

    @property
    def num_features(self) -> int:
        """F, of every modality's features."""
        return NUM_FEATURES

    def predict(self, samples: Mapping[str, Any]) -> tuple[ByModality, ByModality]:
        """Predicted classes `int[N]` and features `[N, F]`, each by modality."""
        classes, features = {}, {}
        for name, values in samples.items():
            logits, features[name] = classifier.predict(
                self._kinds[name], self._params[name], values
            )
            classes[name] = logits.argmax(-1)
        return classes, features
