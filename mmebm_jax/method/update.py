"""The training update. Read this file first: it is the method.

    batch ─ experts ─ z⁰ ─ posterior revision ─ ũ ──────────────┐
                                                                ├─ losses ─ Optax ─ new state
    prior ─ prior revision ─ u_p ─ generator ─ x⁰ ─ data revision ─ x̃ ┘

Every target is gradient-stopped where its chain ends, so one gradient of the summed losses gives
each network its own loss's gradient and nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.cpu import noise
from mmebm_jax.cpu.norms import global_norm
from mmebm_jax.data.source import OBSERVED
from mmebm_jax.method import bounds as elbo
from mmebm_jax.method import inference, prior, revision
from mmebm_jax.method import losses as objectives
from mmebm_jax.method.bounds import Bound
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.method.prior import BasePrior
from mmebm_jax.method.train_state import Optimisers, TrainState, Weights
from mmebm_jax.modalities.modality import from_raw, means
from mmebm_jax.typing import Mask, Params

Metrics = dict[str, jax.Array]
Update = Callable[..., tuple[TrainState, Metrics]]


class Terms(NamedTuple):
    """Which losses act, and how strongly.

    False, and 0 for a whole group of terms, leave it out of the compiled update.
    """

    elbo: float = 0.0  # a bound of `elbo`: inference and generator
    elbo_learned_prior: bool = False  # the bound's prior is exp(−E_γ(z)) p_0(z), not standard
    posterior_generator: float = 0.0  # −log p(x | ũ)
    posterior_inference: float = 0.0  # −log q(ũ | x)
    learn_prior: bool = False  # the latent energy, from z̃ against prior samples
    learn_energy: bool = False  # the data-space energy, from data against x̃
    synthesis_generator: float = 0.0  # λ_s: −log p(x̃ | u_p)
    synthesis_inference: float = 0.0  # λ_i: −log q(u_p | x̃)
    standard_prior: bool = False  # p_0 is known to be standard still, which is cheaper

    @property
    def trained(self) -> tuple[str, ...]:
        """Networks that these terms move, in the order of `NETWORKS`."""
        synthesis = self.learn_energy
        moved = {
            "inference": self.elbo
            or self.posterior_inference
            or (synthesis and self.synthesis_inference),
            "generator": self.elbo
            or self.posterior_generator
            or (synthesis and self.synthesis_generator),
            "prior": self.learn_prior,
            "energy": self.learn_energy,
        }
        return tuple(name for name in NETWORKS if moved[name])


class UpdateSettings(NamedTuple):
    """Plain values that the update takes from the configuration."""

    posterior_chain: Chain
    prior_chain: Chain
    data_chain: Chain
    bound: Bound  # of the VAE family
    prior_candidates: int  # draws from p_0 for each start of the prior chain
    prior_penalty: float  # of squared latent energies
    energy_penalty: float  # of squared data energies
    data_noise: float  # standard deviation of noise on data that the energy sees
    data_start: str  # of the data chain: "generator", or "noise" in an ablation
    independent_inference: bool  # each expert learns from ũ by itself
    revision_stride: int  # one in so many examples of a batch is revised
    averaging: float  # decay of the moving average, in [0, 1)


def losses(
    key: jax.Array,
    params: Mapping[str, Params],
    base_prior: BasePrior,
    batch: Mapping[str, jax.Array],
    *,
    model: Model,
    settings: UpdateSettings,
    terms: Terms,
    mask: Mask | None = None,
    batch_sharding: jax.sharding.Sharding | None = None,
) -> tuple[jax.Array, Metrics]:
    """The sum of all mean losses at `params`, and each by name.

    Args:
      key: the step's key.
      params: by network; gradients are taken with respect to these.
      base_prior: p_0.
      batch: in model range, name → `[B, *shape]`.
      model: the networks.
      settings: chains and weights.
      terms: which losses act.
      mask: which examples have which modality; what is missing has no influence.
      batch_sharding: see `make_update`.
    """
    elbo_key, start_key, posterior_key, prior_key, data_key, noise_key = jax.random.split(key, 6)
    frozen = jax.lax.stop_gradient(params)
    modalities = model.modalities
    parts: Metrics = {}
    diagnostics: Metrics = {}

    def latent_energy(latents: jax.Array) -> jax.Array:
        return model.latent_energy(frozen["prior"], latents)

    prior_energy_fn = latent_energy if terms.learn_prior else None
    fitted_prior = None if terms.standard_prior else base_prior
    if mask is not None:
        zeros = {m.name: jnp.zeros_like(batch[m.name]) for m in modalities}
        batch = revision.where_observed(mask, batch, zeros)

    # A bound costs a fraction of a chain: it may see more examples in the same time.
    stride = settings.revision_stride
    if not terms.elbo:
        batch, mask = _strided(batch, stride), mask and _strided(mask, stride)
    encoding = model.encode(params["inference"], batch, mask)
    if terms.elbo:
        setting = elbo.Setting(
            modalities=modalities,
            decode=lambda u, names=None: model.decode(params["generator"], u, names),
            prior_family=model.prior_family,
            prior_energy=prior.relative_energy(fitted_prior, prior_energy_fn, model.prior_family)
            if terms.elbo_learned_prior
            else None,
            correlation=model.correlation,
        )
        bounds = elbo.negative_bound(elbo_key, encoding, batch, settings.bound, setting, mask)
        parts["elbo"] = terms.elbo * bounds.mean()

        if stride > 1:
            batch, mask = _strided(batch, stride), mask and _strided(mask, stride)
            encoding = inference.strided(encoding, stride)
    num_examples = len(next(iter(batch.values())))

    # ũ: latents of the data, refined under the generator's posterior.
    start = jax.lax.stop_gradient(inference.infer(start_key, encoding, model.prior_family, mask))
    revised = start
    if terms.posterior_generator or terms.posterior_inference:
        result = revision.revise_posterior(
            posterior_key,
            start,
            batch,
            modalities=modalities,
            decode=lambda u: model.decode(frozen["generator"], u),
            prior_energy=prior.joint_energy(fitted_prior, prior_energy_fn, model.prior_family),
            chain=settings.posterior_chain,
            mask=mask,
        )
        revised = result.position
        diagnostics["posterior_displacement"] = _distance(revised, start)
        reconstruction = objectives.generator_loss(
            model.decode(params["generator"], revised), batch, modalities=modalities, mask=mask
        )
        parts["posterior_generator"] = terms.posterior_generator * reconstruction.mean()
        amortised = objectives.inference_loss(
            encoding, revised, mask, independent=settings.independent_inference
        )
        parts["posterior_inference"] = terms.posterior_inference * amortised.mean()

    # u_p: latents to generate from.
    if terms.learn_prior or terms.learn_energy:
        prior_latents = model.sample_prior(
            prior_key,
            base_prior,
            prior_energy_fn,
            num_examples,
            settings.prior_chain,
            settings.prior_candidates,
        )
        if batch_sharding is not None:
            prior_latents = jax.lax.with_sharding_constraint(prior_latents, batch_sharding)
    if terms.learn_prior:
        of_data = model.latent_energy(params["prior"], revised.shared)
        of_samples = model.latent_energy(params["prior"], prior_latents.shared)
        contrast = objectives.contrast_loss(of_data, of_samples, settings.prior_penalty)
        parts["prior"] = contrast.mean()
        diagnostics["prior_gap"] = (of_data - of_samples).mean()

    # x̃: generated data, refined under the joint energy.
    if terms.learn_energy:
        chain_key, start_key, complete_key = jax.random.split(data_key, 3)
        energy_params = model.normalised(params["energy"])
        frozen_energy = jax.lax.stop_gradient(energy_params)
        outputs = model.decode(params["generator"], prior_latents)

        def refine(
            key: jax.Array, start: dict[str, jax.Array], mask: Mask | None = None
        ) -> dict[str, jax.Array]:
            return revision.revise_data(
                key,
                start,
                modalities=modalities,
                energy_fn=lambda x: model.data_energy(frozen_energy, x),
                chain=settings.data_chain,
                mask=mask,
            ).position

        generated = means(modalities, outputs)
        if settings.data_start == "noise":
            generated = revision.noise_start(start_key, modalities, generated)
        refined = refine(chain_key, generated)
        data = batch
        if mask is not None:
            # The data's side of the likelihood's gradient is an expectation over what is missing,
            # given what is observed: the same chain, with the observed held fixed.
            imputed = means(modalities, model.decode(frozen["generator"], revised))
            completed = revision.where_observed(mask, batch, imputed)
            data = refine(complete_key, completed, mask)
        both = {}
        for m, k in zip(modalities, jax.random.split(noise_key, len(modalities)), strict=True):
            values = noise.rows(data[m.name])
            noisy = values + settings.data_noise * noise.normal(k, values.shape, values.dtype)
            # Clipped as the chain is: what leaves the range would tell data from samples.
            noisy = jnp.clip(noisy, *m.bounds)
            # One pass for both, interleaved: so they stay where a sharded batch lies.
            pairs = jnp.stack([noisy, noise.rows(refined[m.name])], axis=1)
            both[m.name] = pairs.reshape(-1, *m.shape)
        of_data, of_samples = model.data_energy(energy_params, both).reshape(-1, 2).T
        contrast = objectives.contrast_loss(of_data, of_samples, settings.energy_penalty)
        parts["energy"] = contrast.mean()
        diagnostics["energy_gap"] = (of_data - of_samples).mean()
        diagnostics["energy_of_data"] = of_data.mean()
        diagnostics["data_displacement"] = _distance(refined, generated)
        if terms.synthesis_generator:
            amortised = objectives.generator_loss(outputs, refined, modalities=modalities)
            parts["synthesis_generator"] = terms.synthesis_generator * amortised.mean()
        if terms.synthesis_inference:
            seen = model.encode(params["inference"], refined)
            parts["synthesis_inference"] = (
                terms.synthesis_inference * objectives.inference_loss(seen, prior_latents).mean()
            )

    total = sum(parts.values(), start=jnp.zeros(()))
    return total, {f"loss/{name}": value for name, value in parts.items()} | diagnostics


def make_update(
    model: Model,
    optimisers: Optimisers,
    schedules: Mapping[str, optax.Schedule],
    settings: UpdateSettings,
    terms: Terms,
    batch_sharding: jax.sharding.NamedSharding | None = None,
    accumulation_steps: int = 1,
) -> Update:
    """The update for one choice of terms, to be jitted with its state donated.

    Args:
      model: the networks.
      optimisers: Optax transformations at unit learning rate, by network.
      schedules: learning rates, by network.
      settings: chains and weights.
      terms: which losses act.
      batch_sharding: how a batch lies on the devices, so that generated examples lie likewise.
      accumulation_steps: parts of the batch that are worked on one after the other, in as much less
        memory; each part has chains of its own, and gradients and metrics are their means.

    Returns:
      update(state, raw_batch, position, run_key) → (new state, metrics): `raw_batch` holds uint8
      images and int32 tokens, and where data are incomplete "observed", `bool[B, M]` in the order
      of the model's modalities; `position` is where on the learning-rate schedules the run stands,
      in steps, and metrics are scalars.
    """

    def update(
        state: TrainState,
        raw_batch: Mapping[str, jax.Array],
        position: jax.Array,
        run_key: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(run_key, state.step)
        trained = {name: state.params[name] for name in terms.trained}

        def gradients_of(
            key: jax.Array, raw_batch: Mapping[str, jax.Array]
        ) -> tuple[dict[str, Params], Metrics]:
            batch = {m.name: from_raw(m, raw_batch[m.name]) for m in model.modalities}
            observed = raw_batch.get(OBSERVED)
            mask = (
                None
                if observed is None
                else {m.name: c for m, c in zip(model.modalities, observed.T, strict=True)}
            )

            def loss(params: dict[str, Params]) -> tuple[jax.Array, Metrics]:
                return losses(
                    key,
                    state.params | params,
                    state.weights.base_prior,
                    batch,
                    model=model,
                    settings=settings,
                    terms=terms,
                    mask=mask,
                    batch_sharding=batch_sharding,
                )

            return jax.grad(loss, has_aux=True)(trained)

        if accumulation_steps == 1:
            gradients, metrics = gradients_of(key, raw_batch)
        else:
            parts = _parts(raw_batch, accumulation_steps, batch_sharding)
            keys = jax.random.split(key, accumulation_steps)
            gradients, metrics = _mean_over(gradients_of, keys, parts)

        params, optimiser = dict(state.params), dict(state.optimiser)
        num_updates, average = dict(state.num_updates), dict(state.weights.params)
        for name in trained:
            step, optimiser[name] = optimisers[name].update(
                gradients[name], optimiser[name], params[name]
            )
            rate = schedules[name](position)
            metrics[f"gradient_norm/{name}"] = global_norm(gradients[name])
            metrics[f"update_norm/{name}"] = rate * global_norm(step)
            step = jax.tree.map(lambda u, rate=rate: -rate * u, step)
            params[name] = optax.apply_updates(params[name], step)
            metrics[f"parameter_norm/{name}"] = global_norm(params[name])
            # A network that begins late must not be averaged with its random start.
            count = num_updates[name] = num_updates[name] + 1
            decay = jnp.minimum(settings.averaging, count / (count + 10.0))
            average[name] = optax.incremental_update(params[name], average[name], 1.0 - decay)
        return TrainState(
            step=state.step + 1,
            params=params,
            optimiser=optimiser,
            num_updates=num_updates,
            weights=Weights(average, state.weights.base_prior),
        ), metrics

    return update


def _parts(
    batch: Mapping[str, jax.Array], count: int, sharding: jax.sharding.NamedSharding | None
) -> dict[str, jax.Array]:
    """A batch `[B, ...]` as `[count, B / count, ...]`, every device's examples dealt out evenly."""

    def divide(values: jax.Array) -> jax.Array:
        parts = values.reshape(-1, count, *values.shape[1:]).swapaxes(0, 1)
        if sharding is None:
            return parts
        spec = jax.sharding.PartitionSpec(None, *sharding.spec)
        return jax.lax.with_sharding_constraint(
            parts, jax.sharding.NamedSharding(sharding.mesh, spec)
        )

    return {name: divide(values) for name, values in batch.items()}


def _mean_over(function: Callable[..., Any], keys: jax.Array, parts: Any) -> Any:
    """The mean of function(key, part), in the memory of one."""

    def add(total: Any, inputs: tuple[jax.Array, Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*inputs)), None

    first = jax.tree.map(lambda values: values[0], (keys, parts))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *first)
    )
    total, _ = jax.lax.scan(add, zeros, (keys, parts))
    return jax.tree.map(lambda leaf: leaf / len(keys), total)


def _strided(arrays: Mapping[str, jax.Array], stride: int) -> dict[str, jax.Array]:
    return {name: values[::stride] for name, values in arrays.items()}


def _distance(new: Any, old: Any) -> jax.Array:
    """Root mean square of the difference of two pytrees, over all their numbers."""
    squares = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), new, old)
    count = sum(leaf.size for leaf in jax.tree.leaves(new))
    return jnp.sqrt(sum(jax.tree.leaves(squares)) / count)
