import jax
import numpy as np
import pytest
from etils import epath

from mmebm_jax import training
from mmebm_jax.method import train_state
from mmebm_jax.runs import builders, sharding
from mmebm_jax.training import feed
from mmebm_jax.training.compiled_update import compiled_update
from mmebm_jax.training.schedule import scaled
from tests.training.test_loop import make_config

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.slow]


def test_rates_given_from_outside_are_those_of_the_optimisers_own_schedules(tmp_path):
    """One program serves schedules of any length and computes what each one's own would."""
    base = make_config()
    run = training.prepare(base, epath.Path(tmp_path))
    terms = builders.terms_at(base, base.num_steps - 1)
    shared = compiled_update(run, builders.build_optimisers(base), terms)
    for num_steps in (4, 40):
        config = scaled(base, num_steps)
        optimisers = builders.build_optimisers(config)
        plan = builders.build_plan(config, run.model, terms, sharding.split_batch(run.mesh))
        own = builders.jitted(
            builders.build_update(config, plan, optimisers), sharding.replicated(run.mesh)
        )
        create = jax.jit(
            lambda key, optimisers=optimisers: train_state.create(key, run.model, optimisers, 2),
            out_shardings=sharding.replicated(run.mesh),
        )
        batches = feed.batches(
            run.train_source, run.mesh, batch_size=4, seed=0, start_step=0, device_resident=False
        )
        key = sharding.replicate(jax.random.key(1), run.mesh)
        one, other = create(key), create(key)
        schedules = builders.build_schedules(config)
        for _ in range(3):
            batch = next(batches)
            rates = {name: np.float32(rate(int(one.step))) for name, rate in schedules.items()}
            one, _ = own(one, batch, key)
            other, _ = shared(other, batch, rates, key)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            one.params,
            other.params,
        )
        assert int(one.step) == int(other.step) == 3
        jax.tree.map(np.testing.assert_array_equal, one.num_updates, other.num_updates)
    assert shared._cache_size() == 1
