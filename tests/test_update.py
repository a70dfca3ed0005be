import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmebm_jax import train_state
from mmebm_jax.langevin import Chain
from mmebm_jax.modality import from_raw
from mmebm_jax.model import NETWORKS
from mmebm_jax.update import Terms, UpdateSettings, losses, make_update

SETTINGS = UpdateSettings(
    posterior_chain=Chain(2, 0.1),
    prior_chain=Chain(2, 0.2),
    data_chain=Chain(2, 0.3, temperature=1e-3),
    beta=1.0,
    prior_penalty=0.01,
    energy_penalty=0.05,
    data_noise=0.02,
    averaging=0.5,
)
OPTIMISERS = {
    "inference": optax.scale_by_adam(),
    "generator": optax.identity(),
    "prior": optax.scale_by_adam(),
    "energy": optax.scale_by_adam(),
}
# Each network has its own rate, which falls with the position.
SCHEDULES = {
    name: lambda position, peak=1e-3 * (1 + index): peak / position
    for index, name in enumerate(NETWORKS)
}
EVERYTHING = Terms(1.0, 2.0, 0.1, True, True, 0.1, 0.1)
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
    "everything": (EVERYTHING, NETWORKS),
}


# Tiny programs: compiling them well takes longer than running them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_raw_batch(seed=0, count=4):
    rng = np.random.default_rng(seed)
    return {
        "picture": rng.integers(256, size=(count, 8, 8, 1)).astype(np.uint8),
        "text": rng.integers(4, size=(count, 3)).astype(np.int32),
        "label": rng.integers(10, size=count).astype(np.int32),
    }


@pytest.fixture(scope="module")
def state(tiny_model):
    fresh = jit(lambda key: train_state.create(key, tiny_model, OPTIMISERS, 2))(jax.random.key(0))
    # Biases start at zero and the latent energy nearly so: move everything off its start.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.asarray(0.1 * rng.normal(size=leaf.shape), np.float32), fresh.params
    )
    return fresh._replace(params=params)


@pytest.mark.parametrize(("terms", "reached"), ALONE.values(), ids=ALONE)
def test_each_term_reaches_its_networks_alone(tiny_model, state, terms, reached):
    raw = make_raw_batch()
    batch = {m.name: from_raw(m, jnp.asarray(raw[m.name])) for m in tiny_model.modalities}
    function = partial(losses, model=tiny_model, settings=SETTINGS, terms=terms)
    base_prior = state.weights.base_prior
    gradient, metrics = jit(
        jax.grad(lambda p: function(jax.random.key(1), p, base_prior, batch), has_aux=True)
    )(state.params)
    assert terms.trained == reached
    for name in NETWORKS:
        for leaf in jax.tree.leaves(gradient[name]):
            assert np.isfinite(leaf).all()
            assert (np.asarray(leaf) != 0).any() == (name in reached), name
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


def test_the_total_is_the_sum_of_its_weighted_parts(tiny_model, state):
    raw = make_raw_batch()
    batch = {m.name: from_raw(m, jnp.asarray(raw[m.name])) for m in tiny_model.modalities}

    @partial(jit, static_argnums=0)
    def evaluate(terms):
        return losses(
            jax.random.key(1), state.params, state.weights.base_prior, batch,
            model=tiny_model, settings=SETTINGS, terms=terms,
        )  # fmt: skip

    total, parts = evaluate(EVERYTHING)
    named = {n.removeprefix("loss/"): v for n, v in parts.items() if n.startswith("loss/")}
    assert float(total) == pytest.approx(float(sum(named.values())), rel=1e-5)
    doubled = EVERYTHING._replace(
        elbo=2.0, posterior_generator=4.0, posterior_inference=0.2,
        synthesis_generator=0.2, synthesis_inference=0.2,
    )  # fmt: skip
    _, twice = evaluate(doubled)
    for name, value in named.items():
        factor = 1 if name in ("prior", "energy") else 2
        assert float(twice[f"loss/{name}"]) == pytest.approx(factor * float(value), rel=1e-4)


def test_a_constant_added_to_an_energy_changes_no_loss(tiny_model, state):
    """Data and samples count alike: the constant, as log Z would, cancels in the gradient."""
    raw, settings = make_raw_batch(), SETTINGS._replace(prior_penalty=0.0, energy_penalty=0.0)
    batch = {m.name: from_raw(m, jnp.asarray(raw[m.name])) for m in tiny_model.modalities}
    terms = Terms(learn_prior=True, learn_energy=True)
    gradient = jit(
        jax.grad(
            lambda p: losses(
                jax.random.key(1), state.params | p, state.weights.base_prior, batch,
                model=tiny_model, settings=settings, terms=terms,
            )[0]
        )
    )({name: state.params[name] for name in terms.trained})  # fmt: skip
    constants = [gradient["energy"]["energy"]["bias"], gradient["prior"]["Dense_2"]["bias"]]
    np.testing.assert_allclose(np.concatenate(constants), 0, atol=1e-2)


def test_energies_learn_to_be_low_on_data(tiny_model, state):
    schedules = {name: lambda position: 0.02 for name in NETWORKS}
    terms = Terms(learn_prior=True, learn_energy=True)
    update = jit(make_update(tiny_model, OPTIMISERS, schedules, SETTINGS, terms))
    raw = make_raw_batch(count=32)
    for _ in range(60):
        state, metrics = update(state, raw, np.float32(1), jax.random.key(0))
    assert metrics["energy_gap"] < -0.1
    assert metrics["prior_gap"] < -0.1


def test_an_update_moves_what_it_trains_at_its_rate(tiny_model, state):
    update = jit(make_update(tiny_model, OPTIMISERS, SCHEDULES, SETTINGS, Terms(elbo=1.0)))
    new, metrics = update(state, make_raw_batch(), np.float32(1), jax.random.key(0))
    half, _ = update(state, make_raw_batch(), np.float32(2), jax.random.key(0))
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
    batch = {m.name: from_raw(m, make_raw_batch()[m.name]) for m in tiny_model.modalities}
    gradient = jit(
        jax.grad(
            lambda p: losses(
                jax.random.fold_in(jax.random.key(0), 0), state.params | {"generator": p},
                state.weights.base_prior, batch,
                model=tiny_model, settings=SETTINGS, terms=Terms(elbo=1.0),
            )[0]
        )
    )(state.params["generator"])  # fmt: skip
    jax.tree.map(
        lambda s, g: np.testing.assert_allclose(s, -2e-3 * g, rtol=1e-2, atol=1e-5),
        step,
        gradient,
    )


def test_several_updates_trace_once_and_keep_a_moving_average(tiny_model, state):
    update = jit(make_update(tiny_model, OPTIMISERS, SCHEDULES, SETTINGS, EVERYTHING))
    average = jax.tree.map(np.asarray, state.weights.params)
    # A late step: the decay then is the setting's, which the ramp starts below.
    state = state._replace(num_updates=state.num_updates | {"generator": jnp.int32(50)})
    losses_seen = set()
    for step in range(4):
        position = np.float32(1.5 + step)
        state, metrics = update(state, make_raw_batch(step), position, jax.random.key(3))
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
    assert update._cache_size() == 1
    assert len(losses_seen) == 4
    assert int(state.step) == 4


def test_each_step_draws_its_own_noise(tiny_model, state):
    update = jit(make_update(tiny_model, OPTIMISERS, SCHEDULES, SETTINGS, Terms(elbo=1.0)))

    def elbo(step, seed):
        at = state._replace(step=jnp.int32(step))
        _, metrics = update(at, make_raw_batch(), np.float32(1), jax.random.key(seed))
        return float(metrics["loss/elbo"])

    assert elbo(5, 0) == elbo(5, 0)
    assert len({elbo(5, 0), elbo(6, 0), elbo(5, 1)}) == 3


DEVICES_SCRIPT = """
import json
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
import conftest, test_sampling, test_update
from mmebm_jax import sharding, train_state
from mmebm_jax.sampler import Sampler
from mmebm_jax.update import make_update

model = conftest.tiny_model.__wrapped__()
histories, drawn = [], []
for count in (1, 4):
    mesh = sharding.data_mesh(jax.devices()[:count])
    create = lambda key: train_state.create(key, model, test_update.OPTIMISERS, 2)
    state = jax.jit(create, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    update = test_update.jit(make_update(
        model, test_update.OPTIMISERS, test_update.SCHEDULES, test_update.SETTINGS,
        test_update.EVERYTHING, sharding.split_batch(mesh),
    ))
    sampler = Sampler(model, jax.device_get(state.weights), test_sampling.SETTINGS, mesh)
    drawn.append(sampler.sample(jax.random.key(2), 8))
    assert len(drawn[-1]["picture"].sharding.device_set) == count
    key = sharding.replicate(jax.random.key(1), mesh)
    history = []
    for step in range(10):
        batch = sharding.shard_batch(test_update.make_raw_batch(step, 8), mesh)
        assert len(batch["picture"].sharding.device_set) == count
        state, metrics = update(state, batch, jax.numpy.float32(1 + step), key)
        history.append({name: float(value) for name, value in metrics.items()})
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == count
    histories.append(history)
for name in drawn[0]:
    np.testing.assert_allclose(drawn[0][name], drawn[1][name], atol=1e-4)
print(json.dumps(histories))
"""


def test_four_devices_train_and_sample_as_one():
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])
    }
    done = subprocess.run(
        [sys.executable, "-c", DEVICES_SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    one, four = json.loads(done.stdout.splitlines()[-1])
    assert len(one) == len(four) == 10
    for step, (left, right) in enumerate(zip(one, four, strict=True)):
        assert left.keys() == right.keys()
        for name in left:
            if name.startswith("loss/"):
                assert left[name] == pytest.approx(right[name], rel=1e-4, abs=1e-4), (step, name)
