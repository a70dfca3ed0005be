"""From a configuration to the objects of a run. Configuration objects stop here."""

from collections.abc import Collection
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from mmebm_jax.data import load_data
from mmebm_jax.data.source import DataSplits, Field
from mmebm_jax.langevin import Chain
from mmebm_jax.modality import Modality
from mmebm_jax.model import NETWORKS, Model
from mmebm_jax.networks.convolution import convolution_for
from mmebm_jax.networks.joint import Generator, Inference, JointEnergy, LatentEnergy
from mmebm_jax.sampling import SamplerSettings
from mmebm_jax.update import Terms, UpdateSettings

POSITIVE_IN_OPTIMISER = ("learning_rate", "gradient_clip")


def validate(config: ConfigDict) -> None:
    """Refuse values with which no run can work.

    Raises:
      ValueError: with the field, its value and what is allowed.
    """
    at_least = {
        "num_steps": 1,
        "batch_size": 1,
        "warmup_steps": 0,
        "budget_seconds": 0,
        "log_every": 1,
        "picture_every": 1,
        "checkpoint_every": 1,
        "keep_checkpoints": 1,
        "model.num_latents": 1,
        "model.width": 1,
        "model.hidden": 1,
        "prior.num_components": 1,
        "prior.start_step": 0,
        "energy.start_step": 0,
        "evaluation.num_samples": 2,
        "model.spectral_gain": 0,
        "prior.penalty": 0,
        "energy.penalty": 0,
        "energy.data_noise": 0,
        "evaluation.classifier_steps": 1,
    }
    positive = ["model.prior_hidden", "model.prior_bound"]
    positive += ["model.energy_width", "model.energy_hidden"]
    positive += [f"optimiser.{name}.{x}" for name in NETWORKS for x in POSITIVE_IN_OPTIMISER]
    at_least |= {
        f"{name}.chain.{field}": 0
        for name in ("posterior", "prior", "energy")
        for field in ("num_steps", "step_size", "temperature", "gradient_clip")
    }
    for name, lowest in at_least.items():
        value = _field(config, name)
        if not value >= lowest:
            raise ValueError(f"config.{name} is {value}: it must be at least {lowest}.")
    for name in positive:
        value = _field(config, name)
        if not value > 0:
            raise ValueError(f"config.{name} is {value}: it must be more than 0.")
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"config.seed is {config.seed}: it must be in [0, 2**31).")
    if config.prior.num_fit_examples < 2 * config.prior.num_components:
        raise ValueError(
            f"config.prior.num_fit_examples is {config.prior.num_fit_examples}: it must be at "
            f"least twice config.prior.num_components, {config.prior.num_components}."
        )
    if not 0 <= config.averaging < 1:
        raise ValueError(f"config.averaging is {config.averaging}: it must be in [0, 1).")
    if config.budget_seconds and jax.process_count() > 1:
        raise ValueError(
            "config.budget_seconds works on one host only, since clocks differ: set num_steps."
        )


def _field(config: ConfigDict, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        if part not in value:
            raise ValueError(
                f"config.{name} is missing: see configs/polydigits.py for every field."
            )
        value = value[part]
    return value


def build_data(config: ConfigDict) -> DataSplits:
    """The data set named by `config.data`.

    Raises:
      ValueError, FileNotFoundError: one line that names the field or the missing file.
    """
    return load_data(**config.data.to_dict())


def build_modalities(config: ConfigDict, fields: dict[str, Field]) -> tuple[Modality, ...]:
    """Each field of the data with the likelihood of its kind."""
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
    """The four networks for these fields, with the convolution that suits this backend."""
    convolution = convolution_for(jax.default_backend())
    modalities, sizes = build_modalities(config, fields), config.model
    return Model(
        modalities=modalities,
        num_latents=sizes.num_latents,
        inference=Inference(modalities, sizes.num_latents, sizes.width, sizes.hidden, convolution),
        generator=Generator(modalities, sizes.width, sizes.hidden, convolution),
        prior=LatentEnergy(sizes.prior_hidden, sizes.prior_bound),
        energy=JointEnergy(modalities, sizes.energy_width, sizes.energy_hidden, convolution),
        spectral_gain=sizes.spectral_gain,
    )


def build_chain(settings: ConfigDict) -> Chain:
    """A chain from the fields num_steps, step_size, temperature, gradient_clip."""
    return Chain(
        num_steps=settings.num_steps,
        step_size=settings.step_size,
        temperature=settings.temperature,
        gradient_clip=settings.gradient_clip,
    )


def build_settings(config: ConfigDict) -> UpdateSettings:
    """Chains and weights of the update."""
    return UpdateSettings(
        posterior_chain=build_chain(config.posterior.chain),
        prior_chain=build_chain(config.prior.chain),
        data_chain=build_chain(config.energy.chain),
        beta=config.elbo.beta,
        prior_penalty=config.prior.penalty,
        energy_penalty=config.energy.penalty,
        data_noise=config.energy.data_noise,
        averaging=config.averaging,
    )


def build_sampler_settings(
    config: ConfigDict, trained: Collection[str] = NETWORKS
) -> SamplerSettings:
    """How samples are drawn: the chains of training, under those energies that were `trained`."""
    return SamplerSettings(
        prior_chain=build_chain(config.prior.chain),
        posterior_chain=build_chain(config.posterior.chain),
        data_chain=build_chain(config.energy.chain),
        prior_energy=config.prior.learn and "prior" in trained,
        data_energy=config.energy.learn and "energy" in trained,
    )


def terms_at(config: ConfigDict, position: float) -> Terms:
    """The losses that act at a position on the schedule, in steps."""
    if position < config.warmup_steps:
        return Terms(elbo=config.elbo.warmup_weight)
    energy = config.energy.learn and position >= config.energy.start_step
    return Terms(
        elbo=config.elbo.weight,
        posterior_generator=config.posterior.generator_weight,
        posterior_inference=config.posterior.inference_weight,
        learn_prior=config.prior.learn and position >= config.prior.start_step,
        learn_energy=energy,
        synthesis_generator=config.energy.synthesis_generator if energy else 0.0,
        synthesis_inference=config.energy.synthesis_inference if energy else 0.0,
    )


def build_optimisers(config: ConfigDict) -> dict[str, optax.GradientTransformation]:
    """One Optax transformation a network, at unit learning rate (see `build_schedules`)."""
    return {
        name: optax.chain(
            optax.clip_by_global_norm(config.optimiser[name].gradient_clip),
            optax.scale_by_adam(b1=config.optimiser[name].b1, b2=config.optimiser[name].b2),
        )
        for name in NETWORKS
    }


def build_schedules(config: ConfigDict) -> dict[str, optax.Schedule]:
    """Network → position on the schedule, in steps → learning rate.

    Each network warms up from the step at which it begins to learn and then decays by a cosine to
    the run's end.
    """
    starts = {
        "inference": 0,
        "generator": 0,
        "prior": config.prior.start_step if config.prior.learn else 0,
        "energy": config.energy.start_step if config.energy.learn else 0,
    }
    schedules = {}
    for name in NETWORKS:
        peak, length = config.optimiser[name].learning_rate, config.num_steps - starts[name]
        warmup = max(1, min(config.schedule.warmup_steps, length // 2))
        cosine = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=max(length, warmup + 1),
            end_value=peak * config.schedule.final_fraction,
        )
        # One step on: the very first update should not be lost to a rate of zero.
        schedules[name] = _delayed(cosine, starts[name] - 1)
    return schedules


def _delayed(schedule: optax.Schedule, start: int) -> optax.Schedule:
    return lambda position: schedule(position - start)
