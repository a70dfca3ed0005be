"""Builds the objects of a run from its configuration, which `mmebm_jax.method` never sees."""

import math
from collections.abc import Collection
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from mmebm_jax import cpu
from mmebm_jax.data import load_data
from mmebm_jax.data.checks import checked
from mmebm_jax.data.source import DataSplits, Field, Source, with_missing
from mmebm_jax.distributions.aggregators import Aggregation
from mmebm_jax.method.bounds import Bound
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.plan import Plan, Terms, UpdateSettings
from mmebm_jax.method.sampling import SamplerSettings
from mmebm_jax.method.train_state import Optimisers
from mmebm_jax.method.update import Update, make_update
from mmebm_jax.modalities.kind import KindNetworks
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.networks.joint import Generator, Inference, JointEnergy, LatentEnergy
from mmebm_jax.networks.parts import Part, Sizes
from mmebm_jax.runs import schema


def validate(config: ConfigDict) -> None:
    """Check that every field holds a valid value; see `schema.parse`.

    Raises:
      ValueError: a value is invalid; the message names the field, the value and what is allowed.
    """
    schema.parse(config)


def build_data(config: ConfigDict, *, prepare: bool = True) -> DataSplits:
    """The data set named by `config.data`, checked against the fields that it declares.

    Without `prepare` nothing is written, and a data set that is not on disk yet is an error.

    Raises:
      ValueError, FileNotFoundError: one line that names the field or the missing file.
    """
    try:
        return checked(load_data(**config.data.to_dict(), prepare=prepare))
    except ValueError as error:
        line = str(error)
        raise ValueError(line if "config.data" in line else f"config.data: {line}") from error


def build_train_source(config: ConfigDict, splits: DataSplits) -> Source:
    """The training split, with `config.missing_ratio` of its modalities hidden."""
    if not config.missing_ratio:
        return splits.train
    return with_missing(splits.train, tuple(splits.fields), config.missing_ratio, config.seed)


def build_modalities(config: ConfigDict, fields: dict[str, Field]) -> tuple[Modality, ...]:
    """One modality for each field of the data, with the likelihood configured for its kind."""
    modalities = []
    for name, field in fields.items():
        settings = config.likelihood[field.kind]
        modalities.append(
            Modality(
                name, field.kind, tuple(field.shape), settings.name, settings.scale, settings.weight
            )
        )
    return tuple(modalities)


def build_model(config: ConfigDict, fields: dict[str, Field]) -> Model:
    """The four networks for these fields.

    Raises:
      ValueError: a modality that is not supported, or whose kind lacks the configured networks, or
        settings that do not apply to these modalities.
    """
    modalities, sizes = build_modalities(config, fields), config.model
    if config.energy.tokens == "given" and len({m.is_of_tokens for m in modalities}) < 2:
        raise ValueError(
            'config.energy.tokens is "given": that is for data with text or categories, and others '
            f'beside them, not {", ".join(fields)}; set it to "relaxed" or "held".'
        )
    networks = {m.name: _networks(m, sizes.networks) for m in modalities}

    def parts(role: str, width: int, hidden: int) -> tuple[Part, ...]:
        return tuple(
            Part(m.name, getattr(networks[m.name], role)(m.shape, Sizes(width, hidden)))
            for m in modalities
        )

    plain_decoders = parts("decoder", sizes.width, sizes.hidden)
    return Model(
        modalities=modalities,
        num_latents=sizes.num_latents,
        num_private=sizes.num_private,
        posterior_family=sizes.posterior,
        prior_family=config.prior.family,
        aggregation=Aggregation(**{name: sizes[name] for name in Aggregation._fields}),
        inference=Inference(
            parts("expert", sizes.width, sizes.hidden),
            sizes.num_latents,
            sizes.num_private,
            sizes.rematerialise,
            has_joint=sizes.aggregator == "joint_expert",
        ),
        generator=Generator(
            tuple(
                Part(m.name, m.of_likelihood.decoder(part.network, m.shape))
                for m, part in zip(modalities, plain_decoders, strict=True)
            ),
            sizes.rematerialise,
            config.prior.num_components if config.prior.learn_clusters else 0,
        ),
        prior=LatentEnergy(
            sizes.prior_hidden,
            sizes.prior_bound,
            tuple(m.name for m in modalities)
            if sizes.num_private and config.prior.num_private_components
            else (),
        ),
        energy=JointEnergy(
            parts("trunk", sizes.energy_width, sizes.energy_hidden),
            sizes.energy_hidden,
            sizes.rematerialise,
        ),
        spectral_gain=sizes.spectral_gain,
        num_private_components=config.prior.num_private_components,
        arithmetic=sizes.arithmetic,
    )


def _networks(modality: Modality, name: str) -> KindNetworks:
    """The set of networks of a modality's kind."""
    choices = modality.of_kind.networks
    if name not in choices:
        raise ValueError(
            f"config.model.networks is {name!r}, but kind {modality.kind!r} of modality "
            f"{modality.name} has no such networks: choose one of {', '.join(choices)}."
        )
    return choices[name]


def build_chain(settings: ConfigDict) -> Chain:
    """A chain with the configured num_steps, step_size, temperature and gradient_clip."""
    return Chain(
        num_steps=settings.num_steps,
        step_size=settings.step_size,
        temperature=settings.temperature,
        gradient_clip=settings.gradient_clip,
    )


def build_chains(config: ConfigDict) -> Chains:
    """The three chains."""
    return Chains(
        posterior=build_chain(config.posterior.chain),
        prior=build_chain(config.prior.chain),
        data=build_chain(config.energy.chain),
        prior_candidates=config.prior.num_candidates,
        shared_temperature=config.prior.shared_temperature,
        token_temperature=config.prior.token_temperature,
        data_start=config.energy.start,
        gap_share=config.energy.gap_share,
        tokens=config.energy.tokens,
        scaled_posterior=config.posterior.scaled,
    )


def build_settings(config: ConfigDict) -> UpdateSettings:
    """The chains, the bound and the weights that the update uses."""
    return UpdateSettings(
        chains=build_chains(config),
        bound=Bound(**{name: config.elbo[name] for name in Bound._fields}),
        prior_penalty=config.prior.penalty,
        energy_penalty=config.energy.penalty,
        data_noise=config.energy.data_noise,
        noisy_samples=config.energy.noisy_samples,
        independent_inference=config.posterior.independent_inference,
        revision_stride=config.revision_stride,
        averaging=config.averaging,
    )


def build_sampler_settings(
    config: ConfigDict, trained: Collection[str] = NETWORKS, sampling_time: float = 0.0
) -> SamplerSettings:
    """How samples are drawn, using the energies among the `trained` networks.

    The chains are those of training, except that the data chain may run for a different time: the
    fitted `sampling_time` or, if that is 0, `energy.sampling_time`.
    """
    chains = build_chains(config)
    if time := sampling_time or config.energy.sampling_time:
        chains = chains._replace(data=in_time(chains.data, time))
    return SamplerSettings(
        chains=chains,
        prior_energy=config.prior.learn and "prior" in trained,
        data_energy=config.energy.learn and "energy" in trained,
        conditional_steps=config.posterior.conditional_steps,
        private_temperature=config.posterior.private_temperature,
        candidates=config.energy.num_candidates,
        candidate_temperature=config.energy.candidate_temperature,
        completion_temperature=config.energy.completion_temperature,
    )


def in_time(chain: Chain, time: float) -> Chain:
    """The chain with its step size s set so that all steps together take `time`, s²/2 each."""
    return chain._replace(step_size=math.sqrt(2 * time / chain.num_steps))


def terms_at(config: ConfigDict, step: int) -> Terms:
    """The losses that act at a step of the schedule."""
    if 0 < config.schedule.freeze_step <= step:
        tilted = config.prior.learn and config.prior.fit_mixture and config.prior.fit_steps > 0
        return Terms(learn_energy=True, fitted_energy=tilted)
    clusters = config.prior.learn_clusters
    if step < config.warmup_steps:
        return Terms(elbo=config.elbo.warmup_weight, elbo_learned_prior=clusters)
    fitted = config.prior.fit_mixture and step >= config.prior.fit_step
    learn_prior = config.prior.learn and step >= config.prior.start_step
    energy = config.energy.learn and step >= config.energy.start_step
    return Terms(
        elbo=config.elbo.weight,
        elbo_learned_prior=config.elbo.learned_prior and (learn_prior or fitted or clusters),
        posterior_generator=config.posterior.generator_weight,
        posterior_inference=config.posterior.inference_weight,
        learn_prior=learn_prior,
        learn_energy=energy,
        synthesis_generator=config.energy.synthesis_generator if energy else 0.0,
        synthesis_inference=config.energy.synthesis_inference if energy else 0.0,
        standard_prior=not (fitted or clusters),
    )


def build_optimisers(config: ConfigDict) -> Optimisers:
    """One Optax transformation per network: clipping, AdamW, and the rate of `build_schedules`.

    The extra argument `learning_rate` of an update replaces the scheduled rate.
    """
    schedules, built = build_schedules(config), {}
    for name in NETWORKS:
        settings = config.optimiser[name]
        # Without decay the chain has no element for it, so the form of checkpoints is unchanged.
        decay = [optax.add_decayed_weights(settings.weight_decay)] if settings.weight_decay else []
        # Clipping without effect would still read and write every gradient once more.
        clips = settings.gradient_clip < schema.UNCLIPPED
        built[name] = optax.chain(
            optax.clip_by_global_norm(settings.gradient_clip) if clips else optax.identity(),
            optax.scale_by_adam(b1=settings.b1, b2=settings.b2),
            *decay,
            _scale_by_rate(schedules[name]),
        )
    return built


def build_schedules(config: ConfigDict, *, energy_scale: float = 1.0) -> dict[str, optax.Schedule]:
    """The learning rate of each network as a function of the number of its updates so far.

    Each rate warms up from the step at which its network begins to learn, then decays by a cosine
    until the end of the run. Those of the generator and the inference network decay until
    `schedule.settle_step` or, without it, `schedule.freeze_step`, if one of these is set.
    The energies' rates are multiplied by `energy_scale`.
    """
    starts = {
        "inference": 0,
        "generator": 0,
        "prior": config.prior.start_step if config.prior.learn else 0,
        "energy": _energy_start(config),
    }
    schedules = {}
    for name in NETWORKS:
        end = config.num_steps
        if name in ("generator", "inference"):
            end = config.schedule.settle_step or config.schedule.freeze_step or end
        peak, length = config.optimiser[name].learning_rate, end - starts[name]
        if name in ("prior", "energy"):
            peak = energy_scale * peak
        warmup = max(1, min(config.schedule.warmup_steps, length // 2))
        cosine = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=max(length, warmup + 1),
            end_value=peak * config.schedule.final_fraction,
        )
        # One step further, so that the first update does not have a rate of zero.
        schedules[name] = _advanced(cosine, first_update(config, name) - starts[name] + 1)
    return schedules


def build_plan(
    config: ConfigDict,
    model: Model,
    terms: Terms,
    batch_sharding: jax.sharding.NamedSharding | None = None,
) -> Plan:
    """The plan that the update for one choice of terms is compiled from."""
    return Plan(model, build_settings(config), terms, batch_sharding)


def build_update(config: ConfigDict, plan: Plan, optimisers: Optimisers) -> Update:
    """The update for one plan; see `update.make_update`."""
    return make_update(plan, optimisers, config.accumulation_steps)


def jitted(update: Update, out_sharding: jax.sharding.Sharding | None = None) -> jax.stages.Wrapped:
    """The update as a jitted function that donates its input state.

    Args:
      update: from `build_update`, or a wrapper with the same arguments.
      out_sharding: sharding of the new state and the metrics.
    """
    return jax.jit(
        update,
        donate_argnums=0,
        out_shardings=out_sharding,
        compiler_options=cpu.compiler_options(),
    )


def first_update(config: ConfigDict, name: str) -> int:
    """The step of a network's first update, 0 if there is none.

    A latent energy whose start step lies within the bound's warm start begins at the end of it.
    """
    changes = {0, config.warmup_steps, config.prior.start_step, config.energy.start_step}
    changes |= {config.schedule.freeze_step}
    return next((s for s in sorted(changes) if name in terms_at(config, s).trained), 0)


def _energy_start(config: ConfigDict) -> int:
    if not config.energy.learn:
        return 0
    return min(config.energy.start_step, config.schedule.freeze_step or config.energy.start_step)


def _scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_learning_rate`, with an optional argument that replaces the rate."""
    scheduled = optax.scale_by_learning_rate(schedule)

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        new, state = scheduled.update(updates, state, params)
        if learning_rate is None:
            return new, state
        return jax.tree.map(lambda leaf: -learning_rate * leaf, updates), state

    return optax.GradientTransformationExtraArgs(scheduled.init, update)


def _advanced(schedule: optax.Schedule, by: int) -> optax.Schedule:
    return lambda count: schedule(count + by)
