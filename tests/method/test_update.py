import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import polydigits
from mmebm_jax.distributions.aggregators import Aggregation
from mmebm_jax.distributions.base_prior import standard, with_clusters
from mmebm_jax.method import losses, train_state
from mmebm_jax.method.bounds import Bound
from mmebm_jax.method.data_revision import LARGEST
from mmebm_jax.method.langevin import Chain, LangevinInfo
from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.plan import Plan, Terms, UpdateSettings, bind
from mmebm_jax.method.update import make_update, total_loss
from mmebm_jax.modalities.modality import batch_from_raw, from_raw
from mmebm_jax.runs import builders
from mmebm_jax.typing import OBSERVED, Latents
from tests.conftest import make_model

pytestmark = pytest.mark.usefixtures("quick_compilation")
SETTINGS = UpdateSettings(
    chains=Chains(
        posterior=Chain(2, 0.1),
        prior=Chain(2, 0.2),
        data=Chain(2, 0.3, temperature=1e-3),
        prior_candidates=3,
    ),
    bound=Bound(),
    prior_penalty=0.01,
    energy_penalty=0.05,
    data_noise=0.02,
    noisy_samples=False,
    independent_inference=False,
    averaging=0.5,
    revision_stride=1,
)
TRANSFORMATIONS = {
    "inference": optax.scale_by_adam(),
    "generator": optax.identity(),
    "prior": optax.scale_by_adam(),
    "energy": optax.scale_by_adam(),
}
# Each network has its own learning rate, which decays with its number of updates.
SCHEDULES = {
    name: lambda count, peak=1e-3 * (1 + index): peak / (1 + count)
    for index, name in enumerate(NETWORKS)
}


def with_rates(schedules):
    return {
        name: optax.chain(TRANSFORMATIONS[name], optax.scale_by_learning_rate(schedules[name]))
        for name in NETWORKS
    }


OPTIMISERS = with_rates(SCHEDULES)
EVERYTHING = Terms(
    elbo=1.0,
    elbo_learned_prior=True,
    posterior_generator=2.0,
    posterior_inference=0.1,
    learn_prior=True,
    learn_energy=True,
    synthesis_generator=0.1,
    synthesis_inference=0.1,
)
ALONE = {
    "elbo": (Terms(elbo=1.0), ("inference", "generator")),
    "posterior_generator": (Terms(posterior_generator=1.0), ("generator",)),
    "posterior_inference": (Terms(posterior_inference=1.0), ("inference",)),
    "prior": (Terms(learn_prior=True), ("prior",)),
    "energy": (Terms(learn_energy=True), ("energy",)),
    "synthesis_generator": (
        Terms(learn_energy=True, synthesis_generator=1.0),
        ("generator", "energy"),
    ),
    "synthesis_inference": (
        Terms(learn_energy=True, synthesis_inference=1.0),
        ("inference", "energy"),
    ),
}


def make_raw_batch(seed=0, count=4):
    rng = np.random.default_rng(seed)
    return {
        "picture": rng.integers(256, size=(count, 8, 8, 1)).astype(np.uint8),
        "text": rng.integers(4, size=(count, 3)).astype(np.int32),
        "label": rng.integers(10, size=count).astype(np.int32),
    }


# For four examples, in the order of the modalities; none lacks both.
PARTLY = np.array([[True, True], [True, False], [False, True], [True, True]])


def make_state(model):
    fresh = jax.jit(lambda key: train_state.create(key, model, OPTIMISERS, 2))(jax.random.key(0))
    # Biases start at zero and the latent energy almost so: move all parameters away from there.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.asarray(0.1 * rng.normal(size=leaf.shape), np.float32), fresh.params
    )
    return fresh._replace(params=params)


@pytest.fixture(scope="module")
def state(tiny_model):
    return make_state(tiny_model)


@pytest.fixture(scope="module")
def private_state(private_model):
    return make_state(private_model)


def as_batch(model, raw):
    return {m.name: from_raw(m, jnp.asarray(raw[m.name])) for m in model.modalities}


def as_mask(model, observed):
    """`bool[B, M]` as one mask per modality name."""
    return {m.name: column for m, column in zip(model.modalities, observed.T, strict=True)}


def nonzero(gradient):
    """Network → parameter name → whether any entry is nonzero; all must be finite."""
    found = {}
    for network in NETWORKS:
        found[network] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient[network]):
            assert np.isfinite(leaf).all(), path
            found[network][jax.tree_util.keystr(path, simple=True, separator="/")] = bool(
                (np.asarray(leaf) != 0).any()
            )
    return found


@pytest.mark.parametrize(("terms", "reached"), ALONE.values(), ids=ALONE)
def test_each_term_reaches_its_networks_alone(tiny_model, state, terms, reached):
    batch = as_batch(tiny_model, make_raw_batch())
    plan, base_prior = Plan(tiny_model, SETTINGS, terms), state.weights.base_prior
    gradient, metrics = jax.jit(
        jax.grad(
            lambda p: total_loss(jax.random.key(1), p, base_prior, batch, None, plan), has_aux=True
        )
    )(state.params)
    assert terms.trained == reached
    for network, found in nonzero(gradient).items():
        for name, is_nonzero in found.items():
            assert is_nonzero == (network in reached and name != "subset_logit"), name
    expected = {
        "elbo": terms.elbo,
        "posterior_generator": terms.posterior_generator or terms.posterior_inference,
        "posterior_inference": terms.posterior_generator or terms.posterior_inference,
        "prior": terms.learn_prior,
        "energy": terms.learn_energy,
        "synthesis_generator": terms.synthesis_generator,
        "synthesis_inference": terms.synthesis_inference,
    }
    assert {n for n in metrics if n.startswith("loss/")} == {
        f"loss/{name}" for name, acts in expected.items() if acts
    }


class Jacobian(NamedTuple):
    """The gradient of each loss separately, with all terms active."""

    model: Model
    state: train_state.TrainState
    function: Callable[..., Any]  # (params, batch, observed) → (part → gradient, metrics)


@pytest.fixture(
    scope="module",
    params=[("tiny_model", "state"), ("private_model", "private_state")],
    ids=lambda names: names[0],
)
def jacobian(request):
    """For a model without and one with private latents; one program serves several tests."""
    model, state = map(request.getfixturevalue, request.param)

    def parts(params, batch, observed):
        _, metrics = total_loss(
            jax.random.key(1), params, state.weights.base_prior, batch,
            as_mask(model, observed), Plan(model, SETTINGS, EVERYTHING),
        )  # fmt: skip
        named = {n.removeprefix("loss/"): v for n, v in metrics.items() if n.startswith("loss/")}
        return named, metrics

    return Jacobian(model, state, jax.jit(jax.jacrev(parts, has_aux=True)))


@pytest.mark.slow
@pytest.mark.parametrize("observed", [np.ones_like(PARTLY), PARTLY], ids=["complete", "partly"])
def test_beside_all_others_each_loss_reaches_its_networks_alone(jacobian, observed):
    batch = as_batch(jacobian.model, make_raw_batch())
    gradients, _ = jacobian.function(jacobian.state.params, batch, observed)
    networks = {
        "elbo": ("inference", "generator"),  # not the prior, whose energy it contains
        "posterior_generator": ("generator",),
        "posterior_inference": ("inference",),
        "prior": ("prior",),
        "energy": ("energy",),
        "synthesis_generator": ("generator",),
        "synthesis_inference": ("inference",),
    }
    assert set(gradients) == set(networks)
    assert EVERYTHING.trained == NETWORKS
    for part, gradient in gradients.items():
        for network, found in nonzero(gradient).items():
            for name, is_nonzero in found.items():
                # Another bound weights subsets; only the bound uses r_m(w).
                read = name != "subset_logit" and (part == "elbo" or not name.endswith("auxiliary"))
                assert is_nonzero == (network in networks[part] and read), (part, network, name)


@pytest.mark.slow
def test_what_is_missing_has_no_influence(jacobian):
    model, params = jacobian.model, jacobian.state.params
    batch = as_batch(model, make_raw_batch())

    def altered(chosen):
        rows = {name: column.reshape(-1, 1) for name, column in as_mask(model, chosen).items()}
        return {
            name: np.where(
                rows[name].reshape(-1, *[1] * (values.ndim - 1)), np.float32("nan"), values
            )
            for name, values in batch.items()
        }

    results = [jacobian.function(params, values, PARTLY) for values in (batch, altered(~PARTLY))]
    jax.tree.map(np.testing.assert_array_equal, *results)
    for row, column in np.argwhere(PARTLY):
        one = np.zeros_like(PARTLY)
        one[row, column] = True
        _, metrics = jacobian.function(params, altered(one), PARTLY)
        assert np.isnan(metrics["loss/elbo"])


@pytest.mark.slow
def test_the_bound_holds_the_latent_energy(jacobian):
    """A constant energy c costs each example c nats; a varying one changes the gradient."""
    batch = as_batch(jacobian.model, make_raw_batch())
    constant = jax.tree.map(jnp.zeros_like, jacobian.state.params["prior"])

    def evaluate(prior_params):
        params = jacobian.state.params | {"prior": prior_params}
        gradients, metrics = jacobian.function(params, batch, PARTLY)
        return float(metrics["loss/elbo"]), gradients["elbo"]

    at_zero, gradient = evaluate(constant)
    constant["Dense_2"]["bias"] = jnp.full([1], 3.0, jnp.float32)
    expected = 10 * np.tanh(0.3)
    at_three, same = evaluate(constant)
    assert at_three - at_zero == pytest.approx(expected, abs=1e-3)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), same, gradient)
    _, other = evaluate(jacobian.state.params["prior"])
    change = jax.tree.map(lambda x, y: abs(x - y).max(), other, gradient)
    assert change["inference"]["text_mean"]["kernel"] > 1e-4


def test_without_its_switch_the_bound_knows_the_base_prior_alone(tiny_model, state):
    batch = as_batch(tiny_model, make_raw_batch())
    evaluate = jax.jit(
        lambda params: total_loss(
            jax.random.key(1), params, state.weights.base_prior, batch,
            None, Plan(tiny_model, SETTINGS, Terms(elbo=1.0, learn_prior=True)),
        )[1]
    )  # fmt: skip
    raised = jax.tree.map(lambda leaf: leaf + 1, state.params["prior"])
    one, other = evaluate(state.params), evaluate(state.params | {"prior": raised})
    assert one["loss/elbo"] == other["loss/elbo"]
    assert one["loss/prior"] != other["loss/prior"]


class LinearEnergy(nn.Module):
    """E(z) = w · z, whose gradient in w shows the latents at which it is evaluated."""

    @nn.compact
    def __call__(self, latents, private=()):
        return latents @ self.param("weight", nn.initializers.ones, (latents.shape[-1],))


def test_the_prior_learns_from_revised_latents_against_samples(tiny_model, state):
    model = tiny_model._replace(prior=LinearEnergy())
    weight, inferred, sampled = np.array(
        [[0.5, -1.0, 2.0], [1.0, 0.3, -0.7], [-2.0, 0.1, 0.4]], np.float32
    )
    # Experts that are certain of one point, and a generator that ignores its latents.
    inference = jax.tree.map(jnp.zeros_like, state.params["inference"])
    for name in ("picture", "text"):
        inference[f"{name}_mean"]["bias"] = jnp.asarray(inferred)
        inference[f"{name}_scale"]["bias"] = jnp.full([3], -20.0)
    params = state.params | {
        "inference": inference,
        "generator": jax.tree.map(jnp.zeros_like, state.params["generator"]),
        "prior": {"weight": jnp.asarray(weight)},
    }
    chains = SETTINGS.chains._replace(
        posterior=Chain(1, 0.6, temperature=0.0), prior=Chain(0, 0.2), prior_candidates=1
    )
    settings = SETTINGS._replace(chains=chains, prior_penalty=0.0)
    batch = as_batch(model, make_raw_batch())

    @partial(jax.jit, static_argnums=0)
    def gradient(terms, base_prior):
        return jax.grad(
            lambda p: total_loss(
                jax.random.key(1), params | {"prior": p}, base_prior, batch,
                None, Plan(model, settings, terms),
            )[0]
        )(params["prior"])["weight"]  # fmt: skip

    normal = standard(2, 3)
    point = normal._replace(mean=jnp.tile(sampled, [2, 1]), whitening=1e4 * normal.whitening)
    unrevised, revised = Terms(learn_prior=True), Terms(posterior_generator=1.0, learn_prior=True)
    np.testing.assert_allclose(gradient(unrevised, point), inferred - sampled, atol=3e-3)
    # One step at T = 0 under w · z + |z|² / 2, with the same samples.
    np.testing.assert_allclose(
        gradient(revised, normal) - gradient(unrevised, normal),
        -(0.6**2) / 2 * (weight + inferred),
        atol=3e-3,
    )


def test_a_stride_leaves_examples_to_the_bound_alone(tiny_model, state):
    settings = SETTINGS._replace(revision_stride=2)
    terms = EVERYTHING._replace(elbo_learned_prior=False)

    @jax.jit
    def evaluate(batch):
        return total_loss(
            jax.random.key(1), state.params, state.weights.base_prior, batch,
            as_mask(tiny_model, PARTLY), Plan(tiny_model, settings, terms),
        )[1]  # fmt: skip

    batch = as_batch(tiny_model, make_raw_batch())
    before = evaluate(batch)
    for example, is_revised in ((0, True), (2, True), (3, False)):
        other = {name: values.at[example].multiply(0.5) for name, values in batch.items()}
        changed = {name for name, value in evaluate(other).items() if value != before[name]}
        assert "loss/elbo" in changed
        of_data = ("posterior_generator", "posterior_inference", "prior", "energy")
        assert changed >= {f"loss/{part}" for part in of_data} if is_revised else len(changed) == 1


@pytest.mark.parametrize("standard_prior", [True, False])
def test_the_bound_holds_the_prior_that_was_fitted(tiny_model, state, standard_prior):
    batch = as_batch(tiny_model, make_raw_batch())
    terms = Terms(elbo=2.0, elbo_learned_prior=True, standard_prior=standard_prior)

    @jax.jit
    def bound(mean):
        base = state.weights.base_prior
        base = base._replace(mean=jnp.broadcast_to(mean, base.mean.shape))
        return total_loss(
            jax.random.key(1), state.params, base, batch,
            None, Plan(tiny_model, SETTINGS, terms),
        )[1]["loss/elbo"]  # fmt: skip

    # −log N(z; c, I) + log N(z; 0, I) is |c|² / 2 − c · z: summed over both signs of c, z cancels.
    mean = jnp.linspace(0.5, 1.0, tiny_model.num_latents)
    rise = bound(mean) + bound(-mean) - 2 * bound(0 * mean)
    expected = 0.0 if standard_prior else 2.0 * float(mean @ mean)
    np.testing.assert_allclose(rise, expected, atol=1e-3)


def test_the_bound_learns_clusters_that_samples_are_then_drawn_from(tiny_model):
    model = tiny_model._replace(generator=tiny_model.generator.clone(num_clusters=2))
    state = make_state(model)
    drawn = jax.jit(lambda key: train_state.create(key, model, OPTIMISERS, 2))(jax.random.key(0))
    np.testing.assert_array_equal(
        drawn.weights.base_prior.mean, drawn.params["generator"]["cluster_mean"]
    )
    assert (np.abs(drawn.weights.base_prior.mean) < 1).all()
    plan = Plan(model, SETTINGS, Terms(elbo=1.0, elbo_learned_prior=True))
    batch = as_batch(model, make_raw_batch())

    def bound(params, plan, base):
        return total_loss(jax.random.key(1), params, base, batch, None, plan)[0]

    learned = jax.jit(bound, static_argnums=1)(state.params, plan, state.weights.base_prior)
    # The same as with a prior fitted to exactly these clusters.
    base = with_clusters(standard(2, 3), state.params["generator"])
    plain = {k: v for k, v in state.params["generator"].items() if not k.startswith("cluster")}
    given = jax.jit(bound, static_argnums=1)(
        state.params | {"generator": plain}, plan._replace(model=tiny_model), base
    )
    np.testing.assert_allclose(learned, given, rtol=1e-6)
    new, _ = jax.jit(make_update(plan, OPTIMISERS))(state, make_raw_batch(), jax.random.key(0))
    for name in ("cluster_logit", "cluster_mean"):
        assert (new.params["generator"][name] != state.params["generator"][name]).all()
    average = new.weights.params["generator"]
    np.testing.assert_array_equal(new.weights.base_prior.mean, average["cluster_mean"])
    np.testing.assert_allclose(
        new.weights.base_prior.log_weight, jax.nn.log_softmax(average["cluster_logit"]), rtol=1e-6
    )


@pytest.mark.parametrize("start", ["generator", "noise"])
def test_samples_from_noise_owe_nothing_to_the_generator(tiny_model, state, start):
    batch = as_batch(tiny_model, make_raw_batch())
    settings = SETTINGS._replace(chains=SETTINGS.chains._replace(data_start=start))
    evaluate = jax.jit(
        lambda params: total_loss(
            jax.random.key(1), params, state.weights.base_prior, batch,
            None, Plan(tiny_model, settings, Terms(learn_energy=True)),
        )[1]
    )  # fmt: skip
    moved = jax.tree.map(lambda leaf: 2 * leaf + 0.3, state.params["generator"])
    one, other = evaluate(state.params), evaluate(state.params | {"generator": moved})
    assert one["energy_of_data"] == other["energy_of_data"]
    assert (one["energy_gap"] == other["energy_gap"]) == (start == "noise")


def test_independent_inference_scores_each_expert_alone(tiny_model, state):
    batch = as_batch(tiny_model, make_raw_batch())

    def evaluate(independent):
        settings = SETTINGS._replace(independent_inference=independent)
        function = jax.jit(
            lambda observed: total_loss(
                jax.random.key(1), state.params, state.weights.base_prior, batch,
                as_mask(tiny_model, observed),
                Plan(tiny_model, settings, Terms(posterior_inference=1.0)),
            )[0]
        )  # fmt: skip
        one_each = np.array([[True, False], [False, True]] * 2)
        return float(function(one_each)), float(function(np.ones_like(PARTLY)))

    (alone, together), (alone_independent, together_independent) = map(evaluate, (False, True))
    assert alone_independent == pytest.approx(alone, rel=1e-5)
    # The mean of logarithms is below the logarithm of the mean.
    assert together_independent > together + 1e-3


def test_generators_without_a_shared_latent_train():
    model = make_model(num_latents=0, num_private=2)
    state = make_state(model)
    terms = EVERYTHING._replace(elbo_learned_prior=False, learn_prior=False)
    update = jax.jit(make_update(Plan(model, SETTINGS, terms), OPTIMISERS))
    new, metrics = update(state, make_raw_batch(), jax.random.key(0))
    assert_finite(new, metrics)
    for name in ("inference", "generator", "energy"):
        assert float(metrics[f"gradient_norm/{name}"]) > 0
    # No information passes from one modality to the other.
    latents = Latents(jnp.zeros([4, 0]), {n: jnp.ones([4, 2]) for n in ("picture", "text")})
    one, other = (
        model.decode(new.params["generator"], u)
        for u in (latents, latents._replace(private=latents.private | {"text": jnp.zeros([4, 2])}))
    )
    np.testing.assert_array_equal(one["picture"], other["picture"])
    assert (one["text"] != other["text"]).any()


def assert_finite(state, metrics):
    for leaf in jax.tree.leaves((state.params, state.optimiser, state.weights, metrics)):
        assert np.isfinite(leaf).all()


# One variant for each combination of inference and bound.
BOUNDS = {
    (c.elbo.objective, c.elbo.estimator, c.model.aggregator, c.model.num_private > 0): c
    for c in map(polydigits.get_config, polydigits.VARIANTS)
}


WAYS = [
    *((way, "gaussian") for way in BOUNDS if way[2:] != ("mixture", True)),
    (("mmvae", "dreg", "mixture", False), "laplace"),
]


@pytest.mark.parametrize(("way", "family"), WAYS, ids=str)
def test_every_bound_trains_on_incomplete_data(tiny_model, state, way, family):
    config = BOUNDS[way].copy_and_resolve_references()
    config.model.posterior = config.prior.family = family
    builders.validate(config)
    model = tiny_model._replace(
        aggregation=Aggregation(config.model.aggregator, config.model.correlation),
        posterior_family=config.model.posterior,
        prior_family=config.prior.family,
    )
    if config.model.aggregator == "joint_expert":
        model = model._replace(inference=model.inference.clone(has_joint=True))
        state = make_state(model)
    settings = SETTINGS._replace(bound=builders.build_settings(config).bound)
    update = jax.jit(make_update(Plan(model, settings, Terms(elbo=1.0)), OPTIMISERS))
    raw = make_raw_batch() | {OBSERVED: PARTLY}
    new, metrics = update(state, raw, jax.random.key(0))
    assert_finite(new, metrics)
    for network in ("inference", "generator"):
        change = jax.tree.map(
            lambda a, b: (a != b).any(), new.params[network], state.params[network]
        )
        for path, moved in jax.tree_util.tree_leaves_with_path(change):
            is_weight = jax.tree_util.keystr(path, simple=True) == "subset_logit"
            assert moved == (way[0] == "code" or not is_weight), path


def test_the_total_is_the_sum_of_its_weighted_parts(tiny_model, state):
    """A mask that hides nothing does not change them."""
    batch = as_batch(tiny_model, make_raw_batch())

    @partial(jax.jit, static_argnums=0)
    def evaluate(terms, mask=None):
        return total_loss(
            jax.random.key(1), state.params, state.weights.base_prior, batch,
            mask, Plan(tiny_model, SETTINGS, terms),
        )  # fmt: skip

    total, parts = evaluate(EVERYTHING)
    named = {n.removeprefix("loss/"): v for n, v in parts.items() if n.startswith("loss/")}
    assert float(total) == pytest.approx(float(sum(named.values())), rel=1e-5)
    doubled = EVERYTHING._replace(
        elbo=2.0, posterior_generator=4.0, posterior_inference=0.2,
        synthesis_generator=0.2, synthesis_inference=0.2,
    )  # fmt: skip
    _, twice = evaluate(doubled, as_mask(tiny_model, np.ones_like(PARTLY)))
    assert twice.keys() == parts.keys()
    for name, value in parts.items():
        factor = 2 if name.startswith("loss/") and name not in ("loss/prior", "loss/energy") else 1
        assert float(twice[name]) == pytest.approx(factor * float(value), rel=1e-4, abs=1e-6), name


def test_a_constant_added_to_an_energy_changes_no_loss(tiny_model, state):
    """Data and samples have equal weight, so the constant, like log Z, cancels in the gradient."""
    batch = as_batch(tiny_model, make_raw_batch())
    settings = SETTINGS._replace(prior_penalty=0.0, energy_penalty=0.0)
    terms = Terms(learn_prior=True, learn_energy=True)
    gradient = jax.jit(
        jax.grad(
            lambda p: total_loss(
                jax.random.key(1), state.params | p, state.weights.base_prior, batch,
                None, Plan(tiny_model, settings, terms),
            )[0]
        )
    )({name: state.params[name] for name in terms.trained})  # fmt: skip
    constants = [gradient["energy"]["energy"]["bias"], gradient["prior"]["Dense_2"]["bias"]]
    np.testing.assert_allclose(np.concatenate(constants), 0, atol=1e-2)


def test_what_stands_still_enters_at_its_averaged_weights(tiny_model, state):
    terms = Terms(learn_energy=True, fitted_energy=True)
    update = jax.jit(make_update(Plan(tiny_model, SETTINGS, terms), OPTIMISERS))
    raw, key = make_raw_batch(), jax.random.key(1)
    _, expected = update(state, raw, key)

    def moved(name, values):
        return {**values, name: jax.tree.map(lambda leaf: leaf + 0.1, values[name])}

    for name in ("inference", "generator", "prior"):
        _, metrics = update(state._replace(params=moved(name, state.params)), raw, key)
        assert metrics["energy_gap"] == expected["energy_gap"], name
    for name in ("generator", "prior"):
        weights = state.weights._replace(params=moved(name, state.weights.params))
        _, metrics = update(state._replace(weights=weights), raw, key)
        assert metrics["energy_gap"] != expected["energy_gap"], name


@pytest.mark.parametrize("tokens", ["relaxed", "held", "given"])
def test_what_becomes_of_words_in_the_samples_that_the_energy_learns_from(
    tiny_model, state, tokens
):
    plan = Plan(tiny_model, SETTINGS, Terms(learn_energy=True))
    networks = bind(plan, state.params, state.weights.base_prior)
    networks = networks._replace(chains=SETTINGS.chains._replace(tokens=tokens))
    batch, _ = batch_from_raw(tiny_model.modalities, make_raw_batch())
    latents = networks.sample_prior(jax.random.key(1), len(batch["text"]))

    def samples_of(batch, latents):
        return losses.synthesise(jax.random.key(2), networks, latents, latents, batch)

    found = samples_of(batch, latents)
    words = found.refined["text"]
    assert np.any(found.refined["picture"] != found.generated["picture"])
    other = samples_of({**batch, "picture": -batch["picture"]}, latents)
    np.testing.assert_array_equal(other.generated["picture"], found.generated["picture"])
    reversed_words = samples_of({**batch, "text": batch["text"][::-1]}, latents)
    follows = np.any(reversed_words.generated["picture"] != found.generated["picture"])
    assert follows == (tokens == "given")
    if tokens == "relaxed":
        assert np.any(words != found.generated["text"])
    elif tokens == "held":
        likeliest = np.argmax(found.generated["text"], axis=-1)
        np.testing.assert_array_equal(words, np.eye(words.shape[-1], dtype="f4")[likeliest])
    else:
        np.testing.assert_array_equal(words, batch["text"])
        assert np.any(found.latents.shared != latents.shared)


@pytest.mark.parametrize("closed", [-3.0, 0.0, 0.25, 1.0])
def test_the_share_of_the_gap_that_a_chain_closes_is_reported(tiny_model, state, closed):
    """From an energy of 1 down to 1 − closed, where data have 0."""
    name = tiny_model.modalities[0].name
    data, refined = (
        {m.name: jnp.full([8, *m.shape], value) for m in tiny_model.modalities}
        for value in (0.0, np.sqrt(1 - closed))
    )
    synthesis = losses.Synthesis(
        Latents(jnp.zeros([8, 1]), {}), {}, refined, refined, data, jnp.ones([1, 8])
    )
    plan = Plan(tiny_model, SETTINGS._replace(data_noise=0.0), Terms(learn_energy=True))
    model = SquareEnergy(tiny_model, name)
    networks = bind(plan, state.params, state.weights.base_prior)._replace(model=model)
    found = losses.energy_term(jax.random.key(0), plan._replace(model=model), networks, synthesis)
    assert found["gap_closed"] == pytest.approx(max(closed, -1.0), abs=1e-5)


def test_training_takes_steps_by_the_gap_where_a_share_is_set(tiny_model, state):
    plan = Plan(tiny_model, SETTINGS, Terms(learn_energy=True))
    networks = bind(plan, state.params, state.weights.base_prior)
    batch, _ = batch_from_raw(tiny_model.modalities, make_raw_batch())
    assert networks.in_training(batch) is networks
    chains = SETTINGS.chains._replace(gap_share=0.5)
    chain = networks._replace(chains=chains).in_training(batch).chains.data
    of_data = networks.data_energy(batch).mean()
    info = LangevinInfo(of_data + jnp.array([0.5, 1.5]), jnp.array([2.0, 4.0]))
    each = 1 - 0.5 ** (1 / chain.num_steps)
    expected = min(np.sqrt(2 * each / 10), LARGEST * SETTINGS.chains.data.step_size)
    assert chain.step_size(info) == pytest.approx(expected, rel=1e-5)


def test_noise_on_both_sides_tells_no_data_from_samples(tiny_model, state):
    """An energy that only measures noise sees a gap only if just the data are noisy."""
    batch = {m.name: jnp.zeros([8, *m.shape]) for m in tiny_model.modalities}
    synthesis = losses.Synthesis(
        Latents(jnp.zeros([8, 1]), {}), {}, batch, batch, batch, jnp.zeros([0, 8])
    )
    gaps = {}
    for noisy_samples in (False, True):
        settings = SETTINGS._replace(data_noise=0.1, noisy_samples=noisy_samples)
        plan = Plan(tiny_model, settings, Terms(learn_energy=True))
        networks = bind(plan, state.params, state.weights.base_prior)
        picture = tiny_model.modalities[0].name
        model = SquareEnergy(tiny_model, picture)
        metrics = losses.energy_term(
            jax.random.key(0), plan._replace(model=model), networks._replace(model=model), synthesis
        )
        gaps[noisy_samples] = float(metrics["energy_gap"])
    assert gaps[False] == pytest.approx(0.01, rel=0.2)
    assert abs(gaps[True]) < 0.003


class SquareEnergy(NamedTuple):
    """A model whose data energy is the mean square of one modality."""

    model: Any
    name: str

    @property
    def modalities(self):
        return self.model.modalities

    def data_energy(self, params, batch):
        del params
        return jnp.square(batch[self.name]).mean(axis=(1, 2, 3))


def test_energies_learn_to_be_low_on_data(tiny_model, state):
    optimisers = with_rates({name: optax.constant_schedule(0.02) for name in NETWORKS})
    terms = Terms(learn_prior=True, learn_energy=True)
    update = jax.jit(make_update(Plan(tiny_model, SETTINGS, terms), optimisers))
    raw = make_raw_batch(count=32)
    for _ in range(60):
        state, metrics = update(state, raw, jax.random.key(0))
    assert metrics["energy_gap"] < -0.1
    assert metrics["prior_gap"] < -0.1


def test_an_update_moves_what_it_trains_at_its_rate(tiny_model, state):
    update = jax.jit(make_update(Plan(tiny_model, SETTINGS, Terms(elbo=1.0)), OPTIMISERS))
    new, metrics = update(state, make_raw_batch(), jax.random.key(0))
    # One update later the rate is halved; Adam's own count is kept, so nothing else differs.
    later = {
        name: (adam, rate._replace(count=jnp.int32(1)))
        for name, (adam, rate) in state.optimiser.items()
    }
    half, _ = update(state._replace(optimiser=later), make_raw_batch(), jax.random.key(0))
    assert int(new.step) == 1
    assert {name: int(count) for name, count in new.num_updates.items()} == {
        "inference": 1, "generator": 1, "prior": 0, "energy": 0,
    }  # fmt: skip
    for part in ("params", "optimiser"):
        for name in ("prior", "energy"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(new, part)[name],
                getattr(state, part)[name],
            )
    for name in ("inference", "generator"):
        before, after, halfway = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s.params[name])])
            for s in (state, new, half)
        )
        assert (before != after).mean() > 0.9
        np.testing.assert_allclose(halfway - before, (after - before) / 2, rtol=0.02, atol=1e-6)
    # The generator's optimiser is the identity, so its step is −0.002 · gradient.
    step = jax.tree.map(lambda a, b: a - b, new.params["generator"], state.params["generator"])
    norm = float(metrics["gradient_norm/generator"])
    assert float(optax.tree.norm(step)) == pytest.approx(2e-3 * norm, rel=1e-3)
    batch = as_batch(tiny_model, make_raw_batch())
    gradient = jax.jit(
        jax.grad(
            lambda p: total_loss(
                jax.random.fold_in(jax.random.key(0), 0), state.params | {"generator": p},
                state.weights.base_prior, batch,
                None, Plan(tiny_model, SETTINGS, Terms(elbo=1.0)),
            )[0]
        )
    )(state.params["generator"])  # fmt: skip
    jax.tree.map(
        lambda s, g: np.testing.assert_allclose(s, -2e-3 * g, rtol=1e-2, atol=1e-5),
        step,
        gradient,
    )


def test_several_updates_trace_once_and_keep_a_moving_average(private_model, private_state):
    update = jax.jit(make_update(Plan(private_model, SETTINGS, EVERYTHING), OPTIMISERS))
    state = private_state
    average = jax.tree.map(np.asarray, state.weights.params)
    # Late enough that the decay is the configured one, no longer the ramp.
    state = state._replace(num_updates=state.num_updates | {"generator": jnp.int32(50)})
    losses_seen = set()
    for step in range(4):
        before, raw = state, make_raw_batch(step) | {OBSERVED: PARTLY}
        state, metrics = update(before, raw, jax.random.key(3))
        losses_seen.add(float(metrics["loss/elbo"]))
        for name in NETWORKS:
            count = step + 1 + (50 if name == "generator" else 0)
            decay = min(0.5, count / (count + 10))
            average[name] = jax.tree.map(
                lambda mean, new, d=decay: d * mean + (1 - d) * np.asarray(new),
                average[name],
                state.params[name],
            )
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6),
            state.weights.params,
            average,
        )
    # In raw batches too, missing values are ignored and observed ones are used.
    other = make_raw_batch(99)
    for raw_observed, is_read in ((~PARTLY, False), (PARTLY, True)):
        changed = {
            name: np.where(column.reshape(-1, *[1] * (raw[name].ndim - 1)), other[name], raw[name])
            for name, column in as_mask(private_model, raw_observed).items()
        }
        again, _ = update(before, raw | changed, jax.random.key(3))
        same = jax.tree.map(lambda a, b: (a == b).all(), again.params, state.params)
        assert all(jax.tree.leaves(same)) == (not is_read)
    assert update._cache_size() == 1
    assert len(losses_seen) == 4
    assert int(state.step) == 4


def test_each_step_draws_its_own_noise(tiny_model, state):
    update = jax.jit(make_update(Plan(tiny_model, SETTINGS, Terms(elbo=1.0)), OPTIMISERS))

    def elbo(step, seed):
        at = state._replace(step=jnp.int32(step))
        _, metrics = update(at, make_raw_batch(), jax.random.key(seed))
        return float(metrics["loss/elbo"])

    assert elbo(5, 0) == elbo(5, 0)
    assert len({elbo(5, 0), elbo(6, 0), elbo(5, 1)}) == 3


def test_parts_of_a_batch_are_averaged(tiny_model, state):
    raw, key, count = make_raw_batch(count=8), jax.random.key(3), 2
    plain = {name: optax.scale_by_learning_rate(1.0) for name in NETWORKS}
    fixed = state._replace(optimiser={name: plain[name].init({}) for name in NETWORKS})
    plan = Plan(tiny_model, SETTINGS, EVERYTHING)
    update = make_update(plan, plain, accumulation_steps=count)
    new, metrics = jax.jit(update)(fixed, raw, key)

    def loss(params, key, batch):
        return total_loss(key, params, fixed.weights.base_prior, batch, None, plan)

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    batch = as_batch(tiny_model, raw)
    keys = jax.random.split(jax.random.fold_in(key, fixed.step), count)
    parts = [
        gradient(fixed.params, key, {name: values[i::count] for name, values in batch.items()})
        for i, key in enumerate(keys)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / count, *[part[1] for part in parts])
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / count, *[part[0] for part in parts])
    jax.tree.map(
        lambda new, old, gradient: np.testing.assert_allclose(
            new, old - gradient, rtol=1e-3, atol=1e-4
        ),
        new.params,
        fixed.params,
        mean,
    )


DEVICES_SCRIPT = r"""
import json
import re
import tempfile
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
import numpy as np
from etils import epath
from mmebm_jax.method import train_state
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.plan import Plan
from mmebm_jax.method.update import make_update
from mmebm_jax.runs import checkpoint, sharding
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import feed
from tests import conftest
from tests.method import test_sampling, test_update

BATCH, STEPS = 24, 20
model = conftest.make_model(num_private=2)
create = lambda key: train_state.create(key, model, test_update.OPTIMISERS, 2)
histories, drawn, gathered = {}, [], []

def prepare(count, accumulation_steps=1):
    mesh = sharding.data_mesh(jax.devices()[:count])
    state = jax.jit(create, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    plan = Plan(model, test_update.SETTINGS, test_update.EVERYTHING, sharding.split_batch(mesh))
    update = jax.jit(make_update(plan, test_update.OPTIMISERS, accumulation_steps))
    return mesh, state, update

def run(mesh, state, update, steps):
    key = sharding.replicate(jax.random.key(1), mesh)
    history = []
    for step in steps:
        batch = feed.shard_batch(test_update.make_raw_batch(step, BATCH), mesh)
        assert len(batch["picture"].sharding.device_set) == mesh.size
        state, metrics = update(state, batch, key)
        history.append({name: float(value) for name, value in metrics.items()})
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == mesh.size
    return state, history

def batch_sized_gathers(mesh, state, update):
    batch = feed.shard_batch(test_update.make_raw_batch(0, BATCH), mesh)
    key = sharding.replicate(jax.random.key(1), mesh)
    text = update.lower(state, batch, key).compile().as_text()
    assert "all-reduce" in text
    shapes = re.findall(r"= *[(]?[a-z0-9]+\[([0-9,]*)\][^=]* all-gather", text)
    return [shape for shape in shapes if any(int(n) >= BATCH for n in shape.split(",") if n)]

with tempfile.TemporaryDirectory() as folder:
    for count in (1, 2, 4, 8):
        mesh, state, update = prepare(count)
        sampler = Sampler(model, jax.device_get(state.weights), test_sampling.SETTINGS, mesh)
        drawn.append(sampler.sample(jax.random.key(2), 8))
        assert len(drawn[-1]["picture"].sharding.device_set) == count
        latents = sampler.prior_latents(jax.random.key(2), 8)
        assert latents.shared.sharding.device_set == set(mesh.devices.flat)
        assert latents.shared.sharding.is_fully_replicated == (count == 1)
        state, first = run(mesh, state, update, range(STEPS // 2))
        if count == 8:
            manager = checkpoint.open_manager(epath.Path(folder))
            checkpoint.save(manager, state, {})
            manager.close()
            gathered += batch_sized_gathers(mesh, state, update)
            gathered += batch_sized_gathers(*prepare(8, accumulation_steps=3))
        state, second = run(mesh, state, update, range(STEPS // 2, STEPS))
        histories[count] = first + second
    for other in drawn[1:]:
        for name in drawn[0]:
            np.testing.assert_allclose(drawn[0][name], other[name], atol=1e-4)
    mesh, state, update = prepare(1)
    state, _ = checkpoint.restore(checkpoint.open_manager(epath.Path(folder)), state)
    _, second = run(mesh, state, update, range(STEPS // 2, STEPS))
    histories["8, then 1"] = histories[8][: STEPS // 2] + second
print(json.dumps({"histories": histories, "gathered": gathered}))
"""


@pytest.mark.slow
def test_eight_devices_train_and_sample_as_one():
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    }
    done = subprocess.run(
        [sys.executable, "-c", DEVICES_SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    one = found["histories"].pop("1")
    assert set(found["histories"]) == {"2", "4", "8", "8, then 1"}
    for count, history in found["histories"].items():
        assert len(history) == len(one) == 20
        for step, (left, right) in enumerate(zip(one, history, strict=True)):
            assert left.keys() == right.keys()
            for name in left:
                if name.startswith("loss/"):
                    where = (count, step, name)
                    assert right[name] == pytest.approx(left[name], rel=1e-4, abs=1e-5), where
    # Gradients are summed over devices; examples stay on their device.
    assert found["gathered"] == []
