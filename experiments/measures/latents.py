"""What the latents encode: linearly decodable classes, and clusters."""

from collections.abc import Mapping

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from experiments.measures.subject import (
    Measure,
    Part,
    Subject,
    in_chunks,
    labels,
    needs,
    shared_latents,
    without_label,
)
from mmebm_jax import data
from mmebm_jax.fitting.base_prior import fit_mixture
from mmebm_jax.metrics import clustering
from mmebm_jax.training import Run

NUM_EXAMPLES = 5000  # per split
MIXTURE_ITERATIONS = 100

Encoded = tuple[dict[str, np.ndarray], np.ndarray]


@needs(labels, shared_latents)
def linear_probes(subject: Subject) -> Part:
    """Accuracy of linear probes on the posterior means, for every latent and every expert."""
    (train, train_labels), (test, test_labels) = _encoded(subject)
    # Otherwise the BLAS and XLA threads would wait for each other.
    with threadpool_limits(1):
        found = clustering.linear_probes(train, train_labels, test, test_labels)
    return {"linear_probe": found["shared"], "linear_probes": found}


def _enough_for_mixture(run: Run) -> str:
    """Needs two training examples per class."""
    wanted = 2 * run.splits.num_classes
    if len(run.splits.train) >= wanted:
        return ""
    return f"a mixture of a component a class takes {wanted} training examples"


@needs(labels, shared_latents, _enough_for_mixture)
def latent_clusters(subject: Subject) -> Part:
    """How well clusters of the shared latents' posterior mean agree with the classes.

    Clusters come from a mixture with as many components as classes, and from the run's own mixture
    if it has one; for reference, also from the first modality's classifier and from shuffled
    clusters.
    """
    (train, _), (test, classes) = _encoded(subject)
    num_classes = subject.run.splits.num_classes
    fitted = fit_mixture(
        train["shared"],
        num_classes,
        subject.run.config.seed,
        max_iterations=MIXTURE_ITERATIONS,
    )
    clusters = clustering.mixture_clusters(fitted, test["shared"])
    found = {"mixture": clustering.clustering_scores(clusters, classes)}
    own = subject.sampler.weights.base_prior
    if len(np.unique(np.asarray(own.mean), axis=0)) > 1:
        own_clusters = clustering.mixture_clusters(own, test["shared"])
        found["own_prior"] = clustering.clustering_scores(own_clusters, classes)
    shuffled = np.random.default_rng(0).permutation(clusters)
    found["shuffled"] = clustering.clustering_scores(shuffled, classes)
    first = subject.judged_test.classes[subject.names[0]]
    found["classifier"] = clustering.clustering_scores(first, subject.labels)
    return {"clustering": found}


def _encoded(subject: Subject) -> tuple[Encoded, Encoded]:
    """Latents of training and test examples by name, with their labels."""
    splits = subject.run.splits
    return subject.once(
        "encoded", lambda: (_encode(subject, splits.train), _encode(subject, splits.test))
    )


def _encode(subject: Subject, source: data.Source) -> Encoded:
    raw = data.whole(data.complete(source), NUM_EXAMPLES)
    batch = jax.device_get(subject.sampler.as_batch(without_label(raw), check_values=False))

    def one(key: jax.Array, start: int, count: int) -> Mapping[str, jax.Array]:
        part = {name: values[start : start + count] for name, values in batch.items()}
        latents = subject.sampler.infer(key, part, method="mean")
        found = {"shared": latents.shared}
        found |= {f"private {name}": values for name, values in latents.private.items()}
        for name in subject.names if len(subject.names) > 1 else ():
            given = {name: part[name]}
            found[f"shared from {name}"] = subject.sampler.encode(given, check_values=False)
        return found

    return in_chunks(one, subject.keys["probe"], len(raw["label"])), raw["label"]


MEASURES: tuple[Measure, ...] = (linear_probes, latent_clusters)
