"""The benchmarked workload: a model, a batch of noise and the update, at the sizes of a config."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import polymnist
from mmebm_jax import cpu
from mmebm_jax.data.source import Field
from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method import langevin, prior, train_state
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.model import Model
from mmebm_jax.method.plan import Plan, Terms, UpdateSettings
from mmebm_jax.method.posterior_energy import posterior_energy
from mmebm_jax.method.train_state import TrainState
from mmebm_jax.method.update import Update
from mmebm_jax.modalities.modality import from_raw
from mmebm_jax.runs import builders
from mmebm_jax.typing import EnergyFn, Latents


class Shape(NamedTuple):
    """The sizes that determine the cost."""

    num_modalities: int = 5
    image_size: int = 28
    batch_size: int = 64
    num_steps: int = 10  # of both the posterior and the data chain


PAPER = Shape()
SMALL = Shape(num_modalities=2, image_size=16, batch_size=8, num_steps=2)


@dataclass(frozen=True)
class Workload:
    """A state, a batch and the update, with random parameters."""

    config: ConfigDict
    model: Model
    settings: UpdateSettings
    terms: Terms
    shape: Shape
    state: TrainState
    raw: dict[str, jax.Array]  # name → uint8 `[B, H, W, 3]`, or int32 tokens `[B, L]`

    @property
    def plan(self) -> Plan:
        """What the update is compiled for."""
        return Plan(self.model, self.settings, self.terms)

    @property
    def batch(self) -> dict[str, jax.Array]:
        """The batch in model range."""
        return {m.name: from_raw(m, self.raw[m.name]) for m in self.model.modalities}

    @property
    def latents(self) -> Latents:
        """Standard normal latents of one batch."""
        count = self.shape.batch_size
        private = {
            name: jax.random.normal(jax.random.key(5), (count, self.model.num_private))
            for name in self.model.private_names
        }
        shape = (count, self.model.num_latents)
        return Latents(jax.random.normal(jax.random.key(6), shape), private)

    @property
    def function(self) -> Update:
        """The update, built as in training."""
        optimisers = builders.build_optimisers(self.config)
        return builders.build_update(self.config, self.plan, optimisers)

    @cached_property
    def lowered(self) -> jax.stages.Lowered:
        """The update's lowered program, with its state donated as in training."""
        return jitted_update(self).lower(self.state, self.raw, jax.random.key(0))

    @cached_property
    def update(self) -> jax.stages.Compiled:
        """The compiled update: (state, raw, key) → (state, metrics)."""
        return self.lowered.compile()


def build(
    variant: str,
    shape: Shape,
    *,
    quick: bool = False,
    arithmetic: str = "float32",
    networks: str = "small",
) -> Workload:
    """The update of a variant of configs/polymnist.py with all of its terms active.

    The last two workloads are cached with their compiled updates.

    Args:
      variant: the variant, as after the colon in --config.
      shape: sizes; those of the networks come from the config.
      quick: use networks an eighth as wide.
      arithmetic: arithmetic of the networks, float32 or bfloat16.
      networks: choice of networks, as in `config.model.networks`.
    """
    return _build(variant, shape, quick, arithmetic, networks)


def bound_alone(shape: Shape, *, quick: bool = False) -> Workload:
    """The update of `private_full` before its freezing step, which trains only the bound."""
    settled = build("private_full", shape, quick=quick)
    return replace(settled, terms=builders.terms_at(settled.config, 0))


@lru_cache(maxsize=2)
def _build(variant: str, shape: Shape, quick: bool, arithmetic: str, networks: str) -> Workload:
    config = polymnist.get_config(variant)
    config.model.arithmetic, config.model.networks = arithmetic, networks
    if quick:
        for name in ("width", "hidden", "energy_width", "energy_hidden", "prior_hidden"):
            config.model[name] //= 8
        config.prior.num_components = 4
    size = shape.image_size
    names = [f"m{index}" for index in range(shape.num_modalities)]
    return of_fields(config, {name: Field("image", (size, size, 3)) for name in names}, shape)


def of_fields(config: ConfigDict, fields: dict[str, Field], shape: Shape) -> Workload:
    """The update of a configuration on images and text of any shape.

    Args:
      config: its batch size and chain lengths are replaced by those of `shape`.
      fields: the modalities.
      shape: provides the batch size and the number of chain steps.
    """
    config.batch_size = shape.batch_size
    config.posterior.chain.num_steps = config.energy.chain.num_steps = shape.num_steps
    model = builders.build_model(config, fields)
    rng = np.random.default_rng(0)
    raw = {}
    for name, field in fields.items():
        lengths, largest, dtype = (
            (field.shape[:1], field.shape[1], np.int32)
            if field.kind == "text"
            else (field.shape, 256, np.uint8)
        )
        raw[name] = jnp.asarray(rng.integers(0, largest, (shape.batch_size, *lengths), dtype))
    return Workload(
        config=config,
        model=model,
        settings=builders.build_settings(config),
        terms=builders.terms_at(config, config.num_steps),
        shape=shape,
        state=_random_state(config, model, rng),
        raw=raw,
    )


def _random_state(config: ConfigDict, model: Model, rng: np.random.Generator) -> TrainState:
    """Like `train_state.create`, but random and without compiling anything."""
    components = config.prior.num_components
    shapes = jax.eval_shape(
        lambda key: train_state.create(key, model, builders.build_optimisers(config), components),
        jax.random.key(0),
    )
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # Off centre, because if a kernel's largest singular value is not separated from the next,
    # rounding decides the gradient of its norm and no two implementations would agree.
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0.01, 0.03, x.shape), x.dtype), shapes.params
    )
    base_prior = standard(components, model.num_latents, model.prior_family)
    return state._replace(
        params=params, weights=train_state.Weights(jax.tree.map(jnp.array, params), base_prior)
    )


def stepper(work: Workload) -> Callable[[], dict[str, jax.Array]]:
    """A function that runs one update after another, as in training, and returns the metrics."""
    state, key = jax.tree.map(jnp.array, work.state), jax.random.key(1)

    def step() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = work.update(state, work.raw, key)
        return metrics

    return step


def jitted_update(work: Workload) -> jax.stages.Wrapped:
    """The jitted update, to be traced anew."""
    return builders.jitted(work.function)


def jitted(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """`jax.jit` with the compiler options of the update."""
    return jax.jit(function, compiler_options=cpu.compiler_options())


class Revision(NamedTuple):
    """A chain as the update runs it; arrays are arguments, so that none becomes a constant."""

    arrays: Any  # parameters and data that the energy reads
    start: Any  # a position
    energy: Callable[[Any, Any], jax.Array]  # (arrays, position) → `[B]`
    chain: Chain

    def step(self, arrays: Any, key: jax.Array, position: Any) -> Any:
        """The position after one step."""
        size, temperature = self.chain.step_size, self.chain.temperature
        return langevin.step(key, position, partial(self.energy, arrays), size, temperature)[0]

    def run(self, unroll: int, arrays: Any, key: jax.Array, position: Any) -> Any:
        """The position after the whole chain."""
        energy_fn = partial(self.energy, arrays)
        return langevin.run(key, position, energy_fn, self.chain, unroll=unroll).position


def revisions(work: Workload) -> dict[str, Revision]:
    """The active chains by name: "posterior", "prior", "data"."""
    model, terms, settings = work.model, work.terms, work.settings
    params, base_prior = work.state.params, work.state.weights.base_prior

    def latent_energy(params: Any) -> EnergyFn | None:
        return partial(model.latent_energy, params["prior"]) if terms.learn_prior else None

    def posterior(arrays: Any, latents: Latents) -> jax.Array:
        params, base_prior, batch = arrays
        fitted = None if terms.standard_prior else base_prior
        return posterior_energy(
            batch,
            modalities=model.modalities,
            decode=partial(model.decode, params["generator"]),
            prior_energy=prior.latents_energy(fitted, latent_energy(params), model.prior_family),
        )(latents)

    def tilted(arrays: Any, latents: jax.Array) -> jax.Array:
        params, base_prior = arrays
        return prior.tilted_energy(base_prior, latent_energy(params))(latents)

    found = {}
    if terms.posterior_generator or terms.posterior_inference:
        arrays = params, base_prior, work.batch
        found["posterior"] = Revision(arrays, work.latents, posterior, settings.chains.posterior)
    if terms.learn_prior:
        shared = work.latents.shared
        found["prior"] = Revision((params, base_prior), shared, tilted, settings.chains.prior)
    if terms.learn_energy:
        normalised = jax.jit(model.normalised)(params["energy"])
        found["data"] = Revision(normalised, work.batch, model.data_energy, settings.chains.data)
    return found
