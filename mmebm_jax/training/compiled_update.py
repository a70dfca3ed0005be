"""The compiled training steps of a run, one for each choice of loss terms."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.data import whole
from mmebm_jax.method import train_state
from mmebm_jax.method.losses import Metrics
from mmebm_jax.method.model import NETWORKS
from mmebm_jax.method.plan import Plan, Terms
from mmebm_jax.method.train_state import Optimisers, TrainState
from mmebm_jax.runs import builders, sharding
from mmebm_jax.training.run import Run
from mmebm_jax.typing import Batch

Updates = dict[Terms, jax.stages.Wrapped]
Vary = Callable[[Plan, Any], Plan]


def compiled_update(
    run: Run, optimisers: Optimisers, terms: Terms, vary: Vary | None = None
) -> jax.stages.Wrapped:
    """The jitted update: (state, raw batch, learning rates by network, run key) → (state, metrics).

    Learning rates are arguments, so the numbers of a schedule are not part of the program: runs of
    any length, and the measurement before a run under a budget, share it in the compilation cache.

    Args:
      run: from `prepare`.
      optimisers: by network.
      terms: the losses to use.
      vary: (plan, values) → the plan to use. The update then takes `values`, a pytree, as its last
        argument, so runs that differ only in these numbers, e.g. step sizes, share the program.
    """
    plan = builders.build_plan(run.config, run.model, terms, sharding.split_batch(run.mesh))

    def update(
        state: TrainState,
        raw_batch: Batch,
        rates: dict[str, jax.Array],
        run_key: jax.Array,
        values: Any = (),
    ) -> tuple[TrainState, Metrics]:
        at_rates = {name: _at_rate(optimisers[name], rate) for name, rate in rates.items()}
        acting = plan if vary is None else vary(plan, values)
        return builders.build_update(run.config, acting, at_rates)(state, raw_batch, run_key)

    return builders.jitted(update, sharding.replicated(run.mesh))


def abstract_arguments(run: Run, optimisers: Optimisers) -> tuple[Any, ...]:
    """Shapes of an update's arguments, on the run's devices: state, batch, rates and key."""
    config = run.config
    replicated, split = sharding.replicated(run.mesh), sharding.split_batch(run.mesh)
    state = jax.eval_shape(
        lambda: train_state.create(
            jax.random.key(0), run.model, optimisers, config.prior.num_components
        )
    )
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), state
    )
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *values.shape[1:]), values.dtype, sharding=split
        )
        for name, values in whole(run.train_source, 1).items()
    }
    rates = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in NETWORKS}
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated)
    return state, batch, rates, key


def _at_rate(
    optimiser: optax.GradientTransformation, rate: jax.Array
) -> optax.GradientTransformation:
    return optax.GradientTransformation(
        optimiser.init, partial(optimiser.update, learning_rate=rate)
    )
