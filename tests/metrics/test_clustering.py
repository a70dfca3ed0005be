import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.distributions import base_prior
from mmebm_jax.fitting.base_prior import fit_mixture
from mmebm_jax.metrics.clustering import clustering_scores, linear_probes, mixture_clusters


def test_scores_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    same = clustering_scores(np.array([7, 7, 7, 7, 3, 3, 3, 3]), labels)
    assert same == pytest.approx(
        {"nmi": 1, "accuracy": 1, "purity": 1, "num_clusters": 2, "chance": 0.5}
    )
    across = clustering_scores(np.array([0, 0, 1, 1, 0, 0, 1, 1]), labels)
    assert across == pytest.approx(
        {"nmi": 0, "accuracy": 0.5, "purity": 0.5, "num_clusters": 2, "chance": 0.5}
    )
    # Four pure clusters of two, one assigned per class. Entropies of 2 and 1 bits share 1.
    split = clustering_scores(np.array([0, 0, 1, 1, 2, 2, 3, 3]), labels)
    assert split == pytest.approx(
        {"nmi": 1 / 1.5, "accuracy": 0.5, "purity": 1, "num_clusters": 4, "chance": 0.5}
    )


def test_the_assignment_is_the_best_one_to_one():
    # Counts [[3, 2], [2, 0]]: choosing 3 greedily leaves 0, the optimum is 2 + 2.
    labels, clusters = np.array([0] * 5 + [1] * 2), np.array([0, 0, 0, 1, 1, 0, 0])
    assert clustering_scores(clusters, labels)["accuracy"] == pytest.approx(4 / 7)
    with pytest.raises(ValueError, match="pass int"):
        clustering_scores(clusters[:3], labels)


def test_clusters_of_a_mixture_weigh_shape_and_weight():
    # Component 0 is wide along the first axis; component 1 is narrow and lies on that axis.
    mixture = base_prior.BasePrior(
        jnp.log(jnp.array([0.5, 0.5])),
        jnp.array([[0.0, 0], [4, 0]]),
        jnp.array([[[1 / 3, 0], [0, 2.0]], [[2.0, 0], [0, 2]]]),
        jnp.asarray(False),
    )
    latents = np.array([[0.0, 0], [4, 0], [2.5, 0], [6.5, 0], [4, 0.5]])
    np.testing.assert_array_equal(mixture_clusters(mixture, latents), [0, 1, 0, 0, 1])
    rare = mixture._replace(log_weight=jnp.log(jnp.array([0.999, 0.001])))
    np.testing.assert_array_equal(mixture_clusters(rare, latents), 0)
    with pytest.raises(ValueError, match="no components"):
        mixture_clusters(base_prior.standard(1, 2, "laplace"), latents)
    with pytest.raises(ValueError, match=r"need \[N, 2\]"):
        mixture_clusters(mixture, latents[:, :1])


def test_a_fitted_mixture_finds_separate_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    latents = 10 * np.eye(3)[labels] + rng.normal(size=(300, 3))
    clusters = mixture_clusters(fit_mixture(latents, 3), latents)
    assert clustering_scores(clusters, labels)["accuracy"] == 1
    single = mixture_clusters(base_prior.standard(1, 3), latents)
    assert clustering_scores(single, labels)["nmi"] == 0


def test_probes_tell_latents_that_hold_the_class_from_those_that_do_not():
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(800) % 4, "test": np.arange(400) % 4}
    shared, private = (
        {side: make(values) for side, values in labels.items()}
        for make in (
            lambda values: 10 * np.eye(4)[values] + rng.normal(size=(len(values), 4)),
            lambda values: rng.normal(size=(len(values), 4)),
        )
    )
    result = linear_probes(
        {"shared": shared["train"], "private": private["train"]},
        labels["train"],
        {"shared": shared["test"], "private": private["test"]},
        labels["test"],
    )
    assert result["shared"] == 1
    assert result["private"] == pytest.approx(0.25, abs=0.08)
    assert result["chance"] == 0.25
    with pytest.raises(ValueError, match="same names"):
        linear_probes({"a": np.zeros((2, 1))}, [0, 1], {"b": np.zeros((2, 1))}, [0, 1])
