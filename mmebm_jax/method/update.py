"""The training update, which computes what this diagram shows.

    batch ─ experts ─ u⁰ ─ posterior revision ─ ũ ──────────────┐
                                                                ├─ losses ─ Optax ─ new state
    prior ─ prior revision ─ u_p ─ generator ─ x⁰ ─ data revision ─ x̃ ┘

Every target is gradient-stopped where its chain ends, so one gradient of the summed losses gives
each network the gradient of its own loss and nothing else. The losses are in `losses`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from mmebm_jax import batching, cpu
from mmebm_jax.distributions.base_prior import BasePrior, with_clusters
from mmebm_jax.method import inference, losses
from mmebm_jax.method.losses import Metrics
from mmebm_jax.method.plan import Plan, bind
from mmebm_jax.method.train_state import Optimisers, TrainState, Weights
from mmebm_jax.modalities.modality import batch_from_raw, hide_missing
from mmebm_jax.typing import Batch, Mask, Params

Update = Callable[..., tuple[TrainState, Metrics]]


def total_loss(
    key: jax.Array,
    params: Mapping[str, Params],
    base_prior: BasePrior,
    batch: Batch,
    mask: Mask | None,
    plan: Plan,
) -> tuple[jax.Array, Metrics]:
    """Compute the sum of all mean losses at `params`, and each of them by name.

    Args:
      key: the step's key.
      params: by network; gradients are taken with respect to these.
      base_prior: p_0.
      batch: data in model range, name → `[B, *shape]`; missing values must be finite.
      mask: which examples have which modality; missing values have no influence.
      plan: networks, chains, and which losses act.
    """
    acting = plan.terms
    networks = bind(plan, params, base_prior)
    if mask is not None:
        batch = hide_missing(batch, mask)
    bound_key, start_key, posterior_key, prior_key, data_key, noise_key = jax.random.split(key, 6)
    metrics: Metrics = {}

    # A bound costs a fraction of a chain, so it may use more examples in the same time.
    stride = plan.settings.revision_stride
    few, few_mask = batching.every_nth((batch, mask), stride)
    if acting.elbo:
        encoding_of_all = networks.encode(batch, mask)
        metrics |= losses.bound_term(bound_key, plan, networks, encoding_of_all, batch, mask)
        encoding = inference.every_nth(encoding_of_all, stride)
    else:
        encoding = networks.encode(few, few_mask)

    start = networks.infer(start_key, encoding, few_mask)
    revised = start
    if acting.revises_posterior:
        revised = networks.revise_posterior(posterior_key, start, few, few_mask, encoding).position
        metrics |= losses.posterior_term(plan, networks, encoding, few, revised, few_mask)
        metrics["posterior_displacement"] = batching.root_mean_square(revised, start)

    if acting.learn_prior or acting.learn_energy:
        prior_latents = networks.sample_prior(prior_key, len(revised.shared))
        prior_latents = batching.placed(prior_latents, plan.batch_sharding)
    if acting.learn_prior:
        metrics |= losses.prior_term(plan, networks, revised, prior_latents)

    if acting.learn_energy:
        synthesis = losses.synthesise(data_key, networks, prior_latents, revised, few, few_mask)
        metrics |= losses.energy_term(noise_key, plan, networks, synthesis)
        metrics |= losses.synthesis_term(plan, networks, synthesis)
    total = sum((v for k, v in metrics.items() if k.startswith("loss/")), start=jnp.zeros(()))
    return total, metrics


def make_update(plan: Plan, optimisers: Optimisers, accumulation_steps: int = 1) -> Update:
    """Build the update for one choice of terms, to be jitted with its state donated.

    Args:
      plan: networks, chains, and which losses act.
      optimisers: Optax transformations, by network.
      accumulation_steps: number of parts into which the batch is split. They are processed in turn,
        which divides memory use by as much; each has its own chains. Gradients and metrics are
        means over the parts.

    Returns:
      update(state, raw_batch, run_key) → (new state, metrics): `raw_batch` holds raw arrays by
      modality and, if data are incomplete, "observed", `bool[B, M]` in the order of the model's
      modalities; metrics are scalars.
    """

    def gradients_of(
        key: jax.Array, raw_batch: Batch, state: TrainState
    ) -> tuple[dict[str, Params], Metrics]:
        batch, mask = batch_from_raw(plan.model.modalities, raw_batch)

        def loss(trained: dict[str, Params]) -> tuple[jax.Array, Metrics]:
            # Networks that are not trained use their averaged weights, as sampling does.
            params = {**state.weights.params, **trained}
            return total_loss(key, params, state.weights.base_prior, batch, mask, plan)

        trained = {name: state.params[name] for name in plan.terms.trained}
        return jax.grad(loss, has_aux=True)(trained)

    def update(
        state: TrainState, raw_batch: Batch, run_key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(run_key, state.step)
        if accumulation_steps == 1:
            gradients, metrics = gradients_of(key, raw_batch, state)
        else:
            parts = batching.in_parts(raw_batch, accumulation_steps, plan.batch_sharding)
            keys = jax.random.split(key, accumulation_steps)
            gradients, metrics = batching.mean_over(
                lambda key, part: gradients_of(key, part, state), keys, parts
            )
        new, norms = _stepped(state, gradients, optimisers, plan.settings.averaging)
        return new, metrics | norms

    return update


def _stepped(
    state: TrainState, gradients: Mapping[str, Params], optimisers: Optimisers, averaging: float
) -> tuple[TrainState, Metrics]:
    """Step the networks that have gradients; return the new state and the norms."""
    params, optimiser = dict(state.params), dict(state.optimiser)
    num_updates, average = dict(state.num_updates), dict(state.weights.params)
    norms: Metrics = {}
    for name, gradient in gradients.items():
        change, optimiser[name] = optimisers[name].update(gradient, optimiser[name], params[name])
        params[name] = optax.apply_updates(params[name], change)
        norms[f"gradient_norm/{name}"] = cpu.gradient_norm(gradient)
        norms[f"parameter_norm/{name}"] = optax.tree.norm(params[name])
        # A network that starts late must not be averaged with its random initial values.
        count = num_updates[name] = num_updates[name] + 1
        decay = jnp.minimum(averaging, count / (count + 10.0))
        average[name] = optax.incremental_update(params[name], average[name], 1.0 - decay)
    weights = Weights(average, with_clusters(state.weights.base_prior, average["generator"]))
    return TrainState(state.step + 1, params, optimiser, num_updates, weights), norms
