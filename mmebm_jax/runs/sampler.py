"""A trained model in the hand: what `mmebm_jax.load` returns."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mmebm_jax.method import sampling
from mmebm_jax.method.langevin import LangevinResult
from mmebm_jax.method.model import Model
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.modality import Modality, from_raw, to_raw
from mmebm_jax.runs import builders, checkpoint, sharding
from mmebm_jax.runs.template import template
from mmebm_jax.storage.validation import plain
from mmebm_jax.typing import Latents

# Models and settings are hashable, so samplers of equal models share what is compiled.
_STATIC = ("model", "settings")
_ACCEPTED = {
    "image": "uint8 or float in [-1, 1]",
    "text": "int or float one-hot",
    "vector": "float in [-1, 1]",
}


def _jitted(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """A function of `sampling` as (key, weights, *arrays, model=, settings=, **options), jitted."""

    def of_weights(
        key: jax.Array,
        weights: Weights,
        *arrays: Any,
        model: Model,
        settings: SamplerSettings,
        **options: Any,
    ) -> Any:
        return function(key, Trained(model, settings, weights), *arrays, **options)

    return jax.jit(of_weights, static_argnames=(*_STATIC, *static))


_latents = _jitted(sampling.sample_latents, "num_samples", "use_energy")
_infer = _jitted(sampling.infer_latents, "method")
_prior_chain = _jitted(
    lambda key, trained, num_samples: trained.networks().revise_prior(key, num_samples),
    "num_samples",
)
_posterior_chain = _jitted(
    lambda key, trained, latents, given: trained.networks().revise_posterior(key, latents, given)
)
_generate = _jitted(lambda _, trained, latents: sampling.generate(trained, latents))
_refine = _jitted(sampling.refine, "num_steps", "keep_trajectory")
_energy = jax.jit(
    lambda weights, batch, *, model: model.data_energy(
        model.normalised(weights.params["energy"]), batch
    ),
    static_argnames="model",
)


class Sampler:
    """A model with its weights and chains.

    Batches are dicts, name → `[B, *shape]` in model range: images and vectors in [-1, 1], which
    refinement may leave by 0.05, and sequences one-hot or, in samples, probabilities. `as_batch`
    makes them of uint8 images, int tokens and float vectors, `as_raw` turns samples back.
    """

    def __init__(
        self,
        model: Model,
        weights: Weights,
        settings: SamplerSettings,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        """Hold a model; with a mesh, batches that the devices divide are split over them."""
        self.model = model
        self.settings = settings
        self._mesh = mesh
        self.weights = weights if mesh is None else sharding.replicate(weights, mesh)
        self._static: dict[str, Any] = {"model": model, "settings": settings}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities' specs."""
        return self.model.modalities

    def sample(
        self,
        key: jax.Array,
        num_samples: int = 1,
        given: Mapping[str, Any] | None = None,
        *,
        num_steps: int | None = None,
    ) -> dict[str, jax.Array]:
        """Samples of all modalities, in model range.

        Args:
          key: PRNG key.
          num_samples: how many; not read when something is given.
          given: observed modalities, returned as they are while the others are generated.
          num_steps: refinement under the joint energy: 0 for the generator alone, None for the
            chain of training.

        Raises:
          ValueError: a given modality is unknown or has another shape or type.
        """
        batch = self.as_batch(given or {})
        counts = {name: len(array) for name, array in batch.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"modalities hold different numbers of examples: {counts}.")
        latent_key, chain_key = jax.random.split(key)
        latents = (
            self.infer(latent_key, batch, method="sample")
            if batch
            else self.prior_latents(latent_key, num_samples)
        )
        samples = self.generate(latents) | batch
        if not self.settings.data_energy or num_steps == 0 or len(batch) == len(self.modalities):
            return samples
        chain = self.refine(chain_key, samples, given=batch, num_steps=num_steps)
        return samples | chain.position

    def encode(self, batch: Mapping[str, Any]) -> jax.Array:
        """Mean of the posterior over the shared latent given any subset, `[B, Z]`."""
        return self.infer(jax.random.key(0), self.as_batch(batch), method="mean").shared

    def energy(self, batch: Mapping[str, Any]) -> jax.Array:
        """The joint energy of examples with every modality, `[B]`; lower is more likely.

        Raises:
          ValueError: no data-space energy was learned, or a modality is missing.
        """
        if not self.settings.data_energy:
            raise ValueError("this run learned no data-space energy (energy.learn is False).")
        batch = self.as_batch(batch)
        missing = [m.name for m in self.modalities if m.name not in batch]
        if missing:
            raise ValueError(f"the joint energy needs every modality; missing: {missing}.")
        return _energy(self.weights, self._split(batch), model=self.model)

    def prior_latents(
        self, key: jax.Array, num_samples: int, *, use_energy: bool = True
    ) -> Latents:
        """Latents of the prior; see `sampling.sample_latents`."""
        return self._split(
            _latents(
                key, self.weights, num_samples=num_samples, use_energy=use_energy, **self._static
            )
        )

    def infer(
        self,
        key: jax.Array,
        given: Mapping[str, Any],
        *,
        method: str,
        mask: Mapping[str, Any] | None = None,
    ) -> Latents:
        """Latents given some modalities; see `sampling.infer_latents`."""
        placed = self._split(dict(mask)) if mask else None
        given = self._split(given)
        return _infer(key, self.weights, given, mask=placed, method=method, **self._static)

    def prior_chain(self, key: jax.Array, num_samples: int) -> LangevinResult:
        """The chain from draws of the base prior; see `Networks.revise_prior`."""
        return _prior_chain(key, self.weights, num_samples=num_samples, **self._static)

    def posterior_chain(
        self, key: jax.Array, latents: Latents, given: Mapping[str, Any]
    ) -> LangevinResult:
        """The chain under the generator's posterior; see `Networks.revise_posterior`."""
        return _posterior_chain(
            key, self.weights, self._split(latents), self._split(given), **self._static
        )

    def generate(self, latents: Latents) -> dict[str, jax.Array]:
        """The generator's means, name → `[B, *shape]`."""
        return _generate(None, self.weights, latents, **self._static)

    def refine(
        self,
        key: jax.Array,
        samples: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        num_steps: int | None = None,
        keep_trajectory: bool = False,
    ) -> LangevinResult:
        """Samples refined under the joint energy; see `sampling.refine`."""
        free = {name: values for name, values in samples.items() if name not in (given or {})}
        return _refine(
            key,
            self.weights,
            self._split(free),
            given=self._split(dict(given)) if given else None,
            num_steps=num_steps,
            keep_trajectory=keep_trajectory,
            **self._static,
        )

    def as_batch(self, values: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Check modalities and bring raw ones (uint8 images, int tokens) to model range.

        Raises:
          ValueError: one line that names the modality and what it should be.
        """
        return {name: _checked(array, name, self.modalities) for name, array in values.items()}

    def check_form(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Check a modality of which no value has been read yet.

        Raises:
          ValueError: an unknown name, or another shape or type; one line that names it.
        """
        _check_form(name, shape, dtype, self.modalities)

    def as_raw(self, samples: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Samples as uint8 images, int32 tokens and float32 vectors."""
        return {m.name: to_raw(m, samples[m.name]) for m in self.modalities if m.name in samples}

    def _split(self, tree: Any) -> Any:
        if self._mesh is None:
            return tree
        count = len(jax.tree.leaves(tree)[0])
        place = sharding.split_batch if count % self._mesh.size == 0 else sharding.replicated
        return jax.device_put(tree, place(self._mesh))


def _checked(array: Any, name: str, modalities: tuple[Modality, ...]) -> jax.Array:
    array = array if isinstance(array, jax.Array) else np.asarray(array)
    modality = _check_form(name, array.shape, array.dtype, modalities)
    is_float = np.issubdtype(array.dtype, np.floating)
    if isinstance(array, np.ndarray):
        low, high = modality.bounds
        if is_float and not (array.min() >= low - 1e-3 and array.max() <= high + 1e-3):
            model_range = "[0, 1]" if modality.kind == "text" else "[-1, 1]"
            mend = "scale it" if modality.kind == "vector" else "scale it, or give integers"
            raise ValueError(f"modality {name!r} leaves {model_range}: {mend}.")
        if not is_float and modality.kind == "text":
            size = modality.shape[-1]
            if array.min() < 0 or array.max() >= size:
                raise ValueError(f"modality {name!r} has tokens outside 0..{size - 1}.")
        # JAX knows neither every width of a number nor foreign byte orders.
        array = array.astype(np.float32 if is_float else np.int32, copy=False)
    if is_float:
        return jax.numpy.asarray(array, jax.numpy.float32)
    return from_raw(modality, jax.numpy.asarray(array))


def _check_form(
    name: str, shape: tuple[int, ...], dtype: np.dtype, modalities: tuple[Modality, ...]
) -> Modality:
    by_name = {m.name: m for m in modalities}
    if name not in by_name:
        raise ValueError(f"unknown modality {plain(name)!r}: this model has {', '.join(by_name)}.")
    modality = by_name[name]
    raw_shape = modality.shape[:1] if modality.kind == "text" else modality.shape
    is_float = np.issubdtype(dtype, np.floating)
    is_raw = (modality.kind == "image" and dtype == np.uint8) or (
        modality.kind == "text" and np.issubdtype(dtype, np.integer)
    )
    wanted = modality.shape if is_float else raw_shape
    if not (is_float or is_raw):
        raise ValueError(f"modality {name!r} has dtype {dtype}: give {_ACCEPTED[modality.kind]}.")
    if len(shape) != len(wanted) + 1 or tuple(shape[1:]) != tuple(wanted):
        rows = ", ".join(map(str, wanted))
        raise ValueError(f"modality {name!r} has shape {tuple(shape)}: give [N, {rows}].")
    if not shape[0]:
        raise ValueError(f"modality {name!r} holds no example: give at least one.")
    return modality


def load(workdir: epath.PathLike) -> Sampler:
    """The sampler of a trained run; only the sampling weights of its checkpoint are read.

    Args:
      workdir: a run's folder, local or remote.

    Raises:
      FileNotFoundError: no run or no checkpoint is there.
      ValueError: a file of the run is damaged, does not fit this version or claims absurd sizes.
    """
    folder = epath.Path(workdir)
    config = checkpoint.read_config(folder)
    try:
        builders.validate(config)
        model = builders.build_model(config, checkpoint.read_data_facts(folder).fields)
        shapes = template(model, config.prior.num_components)
    except ValueError as error:
        line = str(error)
        raise ValueError(line if str(folder) in line else f"{folder}: {line}") from error
    weights, _, trained = checkpoint.restore_weights(folder, shapes)
    settings = builders.build_sampler_settings(config, trained)
    return Sampler(model, weights, settings, sharding.data_mesh())
