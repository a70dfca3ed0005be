"""Linear probe: how well a linear classifier predicts the class from the latents."""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_probe(
    train_latents: Any, train_labels: Any, test_latents: Any, test_labels: Any
) -> float:
    """Test accuracy of a logistic regression on standardised latents.

    Args:
        train_latents: `[N, Z]`, what the probe and the standardisation are fitted to.
        train_labels: `int[N]`, two classes or more.
        test_latents: `[K, Z]`.
        test_labels: `int[K]`.

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: shapes do not fit together, there is only one class, or latents are not finite
            (scikit-learn's own messages).
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(np.asarray(train_latents, np.float64), np.asarray(train_labels))
    return float(probe.score(np.asarray(test_latents, np.float64), np.asarray(test_labels)))
