"""Coherence: do the modalities of one example show the same class?

All functions work on class predictions, `int[N]` per modality, from the classifiers in
`mmebm_jax.metrics.classifier`. Definitions follow the public code of MoPoE (arXiv:2105.02470) and
MMVAE+ (OpenReview sdQGxouELX).
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np


def joint_coherence(predictions: Mapping[str, Any]) -> float:
    """The share of unconditional samples on which the classifiers of all modalities agree.

    Args:
        predictions: modality name to predicted classes `int[N]`, at least two modalities.

    Returns:
        A share in [0, 1]. Independent, uniform predictions give num_classes^(1 - M).

    Raises:
        ValueError: fewer than two modalities, no samples, or lengths that differ.
    """
    if len(predictions) < 2:
        raise ValueError(f"joint coherence needs two modalities or more, not {list(predictions)}")
    first, *others = (_classes(name, value) for name, value in predictions.items())
    for name, value in zip(list(predictions)[1:], others, strict=True):
        _check_length(name, value, first)
    return float(np.mean(np.all([value == first for value in others], axis=0)))


def cross_coherence(predictions: Mapping[str, Mapping[str, Any]], labels: Any) -> dict[str, Any]:
    """How often a target generated from one source shows the source's class.

    Args:
        predictions: source name to target name to predicted classes `int[N]`. A target equal to
            its source is left out of every mean.
        labels: `int[N]`, the classes of the examples that the sources were taken from.

    Returns:
        Shares in [0, 1]: "by_target", each target's mean over its sources; "by_source", each
        source's mean over its targets; "mean", the mean over targets of "by_target".

    Raises:
        ValueError: no source with another modality as target, no labels, or lengths that differ.
    """
    labels = _classes("labels", labels)
    by_target, by_source = defaultdict(list), defaultdict(list)
    for source, targets in predictions.items():
        for target, value in targets.items():
            if target != source:
                share = _agreement(f"{source} to {target}", value, labels)
                by_target[target].append(share)
                by_source[source].append(share)
    if not by_target:
        raise ValueError("no target differs from its source; pass predictions[source][target]")
    target_means = {name: float(np.mean(shares)) for name, shares in by_target.items()}
    return {
        "mean": float(np.mean(list(target_means.values()))),
        "by_target": target_means,
        "by_source": {name: float(np.mean(shares)) for name, shares in by_source.items()},
    }


def coherence_by_count(
    predictions: Mapping[tuple[str, ...], Mapping[str, Any]], labels: Any
) -> dict[int, float]:
    """Cross coherence by the number of observed modalities.

    Args:
        predictions: observed modality names to target name to predicted classes `int[N]`.
            Observed targets are left out, and so are subsets that leave no target.
        labels: `int[N]`, the classes of the observed examples.

    Returns:
        Number of observed modalities, ascending, to a share in [0, 1]: the mean over the subsets
        of that size of the mean over their unobserved targets.

    Raises:
        ValueError: no subset leaves a target, no labels, or lengths that differ.
    """
    labels = _classes("labels", labels)
    by_count = defaultdict(list)
    for observed, targets in predictions.items():
        shares = [
            _agreement(f"{'+'.join(observed)} to {target}", value, labels)
            for target, value in targets.items()
            if target not in observed
        ]
        if shares:
            by_count[len(set(observed))].append(float(np.mean(shares)))
    if not by_count:
        raise ValueError("every target is observed; pass predictions for unobserved modalities")
    return {count: float(np.mean(by_count[count])) for count in sorted(by_count)}


def coherence_floors(
    predictions: Mapping[str, Any], labels: Any, num_classes: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Both coherences for real examples, for shuffled ones and for guesses.

    Args:
        predictions: modality name to predicted classes `int[N]` of real examples, for at least two
            modalities.
        labels: `int[N]`, their classes.
        num_classes: C.
        rng: shuffles every modality separately, so that pairs agree only by chance.

    Returns:
        "joint" and "cross", each with "real_data", the ceiling that the classifiers allow;
        "shuffled_pairs"; and "chance", for independent uniform guesses: C^(1 − M), and 1/C.

    Raises:
        ValueError: as `joint_coherence`, or fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"coherence needs two classes or more, not {num_classes}")
    labels = _classes("labels", labels)
    shuffled = {name: rng.permutation(np.asarray(value)) for name, value in predictions.items()}
    sides = {"real_data": predictions, "shuffled_pairs": shuffled}
    joint = {name: joint_coherence(side) for name, side in sides.items()}
    cross = {
        name: float(np.mean([_agreement(target, value, labels) for target, value in side.items()]))
        for name, side in sides.items()
    }
    return {
        "joint": joint | {"chance": float(num_classes) ** (1 - len(predictions))},
        "cross": cross | {"chance": 1 / num_classes},
    }


def _classes(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim != 1 or not len(value) or not np.issubdtype(value.dtype, np.integer):
        raise ValueError(
            f"{name} is {value.dtype}{list(value.shape)}; pass class numbers, int[N], N at least 1"
        )
    return value


def _check_length(name: str, value: np.ndarray, like: np.ndarray) -> None:
    if len(value) != len(like):
        raise ValueError(f"{name} has {len(value)} classes, not {len(like)}; pass one per example")


def _agreement(name: str, value: Any, labels: np.ndarray) -> float:
    value = _classes(name, value)
    _check_length(name, value, labels)
    return float(np.mean(value == labels))
