"""The user-facing sampler, returned by `mmebm_jax.load`."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mmebm_jax.distributions.base_prior import tempered
from mmebm_jax.method import sampling
from mmebm_jax.method.langevin import LangevinResult
from mmebm_jax.method.model import Model
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.modality import Modality, to_raw
from mmebm_jax.runs import (
    arguments,
    builders,
    checkpoint,
    exports,
    folders,
    hub,
    sentences,
    sharding,
)
from mmebm_jax.runs.schema import MOST_TIME
from mmebm_jax.runs.template import template
from mmebm_jax.typing import Alphabet, Latents

# Models and settings are hashable, so samplers of equal models share compiled functions.
_STATIC = ("model", "settings")
_CHAINS = ("posterior", "prior", "data")
# Chains of samples from which the usual range of energies is measured.
NUM_REFERENCE = 256
# Share of samples that may end outside this range without a warning.
MOST_OUTSIDE = 0.05


def _jitted(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """Jit a function of `sampling` as (key, weights, *arrays, model=, settings=, **options)."""

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


def _sample_latents(
    key: jax.Array, trained: Trained, num_samples: int, use_energy: bool, placement: Any
) -> Latents:
    latents = sampling.sample_latents(key, trained, num_samples, use_energy=use_energy)
    if placement is None:
        return latents
    # Constrained inside, so that the work is divided too: no input has a sharding to follow.
    return jax.lax.with_sharding_constraint(latents, placement)


_latents = _jitted(_sample_latents, "num_samples", "use_energy", "placement")
_infer = _jitted(sampling.infer_latents, "method")
# Separate, so that the private latents of missing modalities, which are not needed, are not drawn.
_encode = _jitted(
    lambda key, trained, given: sampling.infer_latents(key, trained, given, method="mean").shared
)
_prior_chain = _jitted(
    lambda key, trained, num_samples: trained.networks().revise_prior(key, num_samples),
    "num_samples",
)
_posterior_chain = _jitted(sampling.revise_latents)
_generate = _jitted(lambda _, trained, latents: sampling.generate(trained, latents))
_refine = _jitted(sampling.refine, "num_steps", "keep_trajectory")
_choose = _jitted(sampling.choose)
_first = jax.jit(  # along a separate axis, so that every device keeps its rows
    lambda tree, candidates: jax.tree.map(
        lambda values: values.reshape(-1, candidates, *values.shape[1:])[:, 0], tree
    ),
    static_argnames="candidates",
)
_are_finite = jax.jit(partial(jax.tree.map, lambda values: jax.numpy.isfinite(values).all()))
_energy = jax.jit(
    lambda weights, batch, *, model: model.data_energy(
        model.normalised(weights.params["energy"]), batch
    ),
    static_argnames="model",
)


class Stages(NamedTuple):
    """Stages of sampling, name → `[B, *shape]`; a stage that a model lacks repeats the previous."""

    generated: dict[str, jax.Array]  # the generator's means, and the given modalities
    refined: dict[str, jax.Array]  # after the data energy's chain
    chosen: dict[str, jax.Array]  # one of each sample's candidates, as `Sampler.sample` returns


class Sampler:
    """A model with its weights and chains.

    Batches are dicts, name → `[B, *shape]` in model range: images and vectors in [-1, 1], which
    refinement may exceed by 0.05, and sequences one-hot or, in samples, probabilities. `as_batch`
    makes them from uint8 images, texts or their int tokens, and float vectors; `as_raw` and
    `as_sentences` convert samples back.

    `sample`, `encode` and `energy` accept raw values as well as values in model range, and raise an
    error for values in neither range; `check_values=False` skips this check.
    """

    def __init__(
        self,
        model: Model,
        weights: Weights,
        settings: SamplerSettings,
        mesh: jax.sharding.Mesh | None = None,
        alphabet: Alphabet = "",
    ) -> None:
        """Wrap a model; batches whose size the devices of a mesh divide are sharded over them.

        The alphabet is what tokens of a text stand for; without it, texts must be given as tokens.
        """
        self.model = model
        self.settings = settings
        self.mesh = mesh
        self.alphabet = alphabet
        self.weights = weights if mesh is None else sharding.replicate(weights, mesh)
        self._static: dict[str, Any] = {"model": model, "settings": settings}
        self._usual_energies: tuple[float, float] | None = None

    def with_weights(self, weights: Weights, settings: SamplerSettings) -> "Sampler":
        """The same model with other weights and settings, on the same devices."""
        return Sampler(self.model, weights, settings, self.mesh, self.alphabet)

    def with_chains(self, **changed: Any) -> "Sampler":
        """The same model with other chains, each a `Chain` by its name in `Chains`.

        Args:
          changed: any of posterior, prior and data. `sample(given=…)` takes as many posterior steps
            as before; see `with_posterior_steps`.

        Raises:
          TypeError: a value is not a `Chain`, or one of its fields is not a number.
          ValueError: an unknown name, or a field out of range.
        """
        for name in changed:
            if name not in _CHAINS:
                raise ValueError(f"unknown chain {name!r}: choose from {', '.join(_CHAINS)}.")
        checked: dict[str, Any] = {
            name: arguments.chain(name, chain) for name, chain in changed.items()
        }
        chains = self.settings.chains._replace(**checked)
        return self.with_weights(self.weights, self.settings._replace(chains=chains))

    def with_posterior_steps(self, num_steps: int) -> "Sampler":
        """The same model with this number of posterior steps, in `sample(given=…)` too.

        There, 0 steps give a draw from the inference model, and further steps revise this draw,
        even if the run's configuration sets none (`posterior.conditional_steps`).

        Raises:
          TypeError: not a whole number.
          ValueError: it is out of range.
        """
        num_steps = arguments.whole_number("num_steps", num_steps, 0, arguments.MOST_STEPS)
        chain = self.settings.chains.posterior._replace(num_steps=num_steps)
        settings = self.settings._replace(conditional_steps=num_steps)
        return self.with_weights(self.weights, settings).with_chains(posterior=chain)

    def with_sampling_time(self, time: float) -> "Sampler":
        """The same model with a data chain that takes this time, steps · s²/2, in as many steps.

        Raises:
          TypeError: the time is not a number.
          ValueError: it is not finite, not above 0 or too large, or the chain has no steps.
        """
        time = arguments.number("time", time, 0, MOST_TIME, open_low=True)
        chain = self.settings.chains.data
        if not chain.num_steps:
            raise ValueError("the data chain has no steps: set some with with_chains.")
        return self.with_chains(data=builders.in_time(chain, time))

    def __repr__(self) -> str:
        """The modalities, and which energies were learned."""
        shapes = ", ".join(f"{m.name} {m.kind} {list(m.shape)}" for m in self.modalities)
        energies = {"data": self.settings.data_energy, "latent": self.settings.prior_energy}
        learned = " and ".join(name for name, is_there in energies.items() if is_there)
        return f"Sampler({shapes}; {learned or 'no'} energy)"

    @property
    def completing(self) -> "Sampler":
        """The sampler that infers latents for completions, with p_0(w_m | z) tempered for them."""
        temperature = self.settings.private_temperature
        if temperature == 1.0:
            return self
        base_prior = tempered(self.weights.base_prior, private=temperature)
        return self.with_weights(self.weights._replace(base_prior=base_prior), self.settings)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities' specs."""
        return self.model.modalities

    def sample(
        self,
        key: jax.Array,
        num_samples: int | None = None,
        given: Mapping[str, Any] | None = None,
        *,
        num_steps: int | None = None,
        check_values: bool = True,
    ) -> dict[str, jax.Array]:
        """Samples of all modalities, in model range.

        Args:
          key: typed PRNG key.
          num_samples: how many; one when None. With `given`, how many for each given example.
          given: observed modalities, name → `[N, *shape]`, raw or in model range; they are returned
            unchanged, and the others are generated.
          num_steps: steps of refinement under the joint energy: 0 for the generator alone, None for
            the configured chain. The step size does not depend on this number.
          check_values: whether the given values are checked, see `as_batch`.

        Returns:
          Name → array for every modality: `[num_samples, *shape]` without `given`; with it,
          `[N, *shape]` when `num_samples` is None and `[N, num_samples, *shape]` otherwise, even
          for 1. Given modalities are repeated along the second axis.

        Raises:
          TypeError: the key is not a typed one, a number is not whole, or `given` is not a dict.
          ValueError: a number is out of range, a given modality is unknown or has the wrong shape,
            type or range, or steps are requested from a run without a trained data energy.
          FloatingPointError: a chain has diverged, so that samples hold NaN or infinity; the call
            waits for the samples to check this.

        Warns:
          RuntimeWarning: a longer chain has left the energy range of the configured one.
        """
        arguments.check_key(key)
        draws = arguments.whole_number(
            "num_samples", 1 if num_samples is None else num_samples, 1, arguments.MOST_SAMPLES
        )
        num_steps = self._num_steps(num_steps)
        batch = {}
        if given is not None:
            arguments.check_some("given", given, self.modalities)
            batch = self._batch(given, check_values)
        count = draws
        if batch:
            count = draws * len(next(iter(batch.values())))
            if count > arguments.MOST_SAMPLES:
                raise ValueError(
                    f"num_samples is {draws} for each of {count // draws} examples: draw at most "
                    f"{arguments.MOST_SAMPLES} in all at a time."
                )
        samples = self._stages(key, count, batch, num_steps).chosen
        _check_finite(samples)
        if not batch or num_samples is None:
            return samples
        return {
            name: values.reshape(count // draws, draws, *values.shape[1:])
            for name, values in samples.items()
        }

    def stages(self, key: jax.Array, num_samples: int, *, num_steps: int | None = None) -> Stages:
        """The samples that `sample(key, num_samples)` returns, and the stages before them.

        The earlier stages show the first candidate of each sample, whichever one was chosen.

        Args:
          key: typed PRNG key.
          num_samples: B.
          num_steps: steps of refinement under the joint energy, as for `sample`.

        Raises:
          TypeError, ValueError, FloatingPointError: as for `sample`.
        """
        arguments.check_key(key)
        count = arguments.whole_number("num_samples", num_samples, 1, arguments.MOST_SAMPLES)
        stages = self._stages(key, count, {}, self._num_steps(num_steps))
        _check_finite(stages.chosen)
        return stages

    def encode(self, batch: Mapping[str, Any], *, check_values: bool = True) -> jax.Array:
        """The posterior mean of the shared latent given any subset of the modalities, `[B, Z]`.

        Raises:
          TypeError: the batch is not a dict.
          ValueError: see `as_batch`; or no modalities, or modalities of different lengths.
        """
        arguments.check_some("batch", batch, self.modalities)
        given = self._split(self._batch(batch, check_values))
        return _encode(jax.random.key(0), self.weights, given, **self._static)

    def energy(self, batch: Mapping[str, Any], *, check_values: bool = True) -> jax.Array:
        """The joint energy of examples with every modality, `[B]`; lower is more likely.

        Raises:
          TypeError: the batch is not a dict.
          ValueError: see `as_batch`; or no data energy was trained, or a modality is missing.
        """
        if not self.settings.data_energy:
            raise ValueError(
                "this run learned no data energy: energy.learn is False, or the run ended before "
                "the step from which it learns."
            )
        batch = self._batch(batch, check_values)
        arguments.check_complete("the joint energy", batch, self.modalities)
        return _energy(self.weights, self._split(batch), model=self.model)

    def refines(self, num_steps: int | None = None) -> bool:
        """Whether a data chain of `num_steps` (None: as configured) refines samples."""
        return self.settings.data_energy and num_steps != 0

    def usual_energies(self) -> tuple[float, float]:
        """The lowest and the highest energy along sample chains of the configured length.

        Measured at the first call, on chains from the generator's own samples; no data are needed.

        Raises:
          ValueError: no data energy was trained.
        """
        if self._usual_energies is None:
            latent_key, chain_key = jax.random.split(jax.random.key(0))
            samples = self.generate(self.prior_latents(latent_key, NUM_REFERENCE))
            chain = self.refine(chain_key, samples)
            ends = self.energy(samples | chain.position, check_values=False)
            energies = np.concatenate([np.ravel(chain.info.energy), np.asarray(ends)])
            self._usual_energies = float(energies.min()), float(energies.max())
        return self._usual_energies

    def energy_warning(self, energies: Any, num_steps: int, seen: Any = ()) -> str:
        """A warning if samples have energies that the configured chain never reaches.

        A longer chain may reach regions where the energy is low only because no sample went there
        in training.

        Args:
          energies: energies of the refined samples, `[B]`.
          num_steps: length of their chains.
          seen: further energies that count as reached, for instance those of data.

        Returns:
          One line if more than a twentieth of the samples lie outside this range; otherwise "".
        """
        configured = self.settings.chains.data.num_steps
        if num_steps <= configured:
            return ""
        bounds = np.concatenate([np.asarray(self.usual_energies()), np.ravel(seen)])
        low, high = float(bounds.min()), float(bounds.max())
        energies = np.asarray(energies)
        outside = float(np.mean(~((energies >= low) & (energies <= high))))
        if outside <= MOST_OUTSIDE:
            return ""
        return (
            f"refinement of {num_steps} steps left the energies of the configured chain: "
            f"{outside:.0%} of the samples end outside {low:.4g} to {high:.4g}, at "
            f"{energies.mean():.4g} in the mean: use the configured {configured} steps."
        )

    def prior_latents(
        self, key: jax.Array, num_samples: int, *, use_energy: bool = True
    ) -> Latents:
        """Latents drawn from the prior; see `sampling.sample_latents`."""
        arguments.check_key(key)
        num_samples = arguments.whole_number("num_samples", num_samples, 1, arguments.MOST_SAMPLES)
        return _latents(
            key,
            self.weights,
            num_samples=num_samples,
            use_energy=use_energy,
            placement=self._placement(num_samples),
            **self._static,
        )

    def infer(
        self,
        key: jax.Array,
        given: Mapping[str, Any],
        *,
        method: str,
        mask: Mapping[str, Any] | None = None,
    ) -> Latents:
        """Latents given some modalities in model range; see `sampling.infer_latents`.

        Raises:
          TypeError: the key is not a typed one, or `given` or the mask is not a dict.
          ValueError: an unknown method; no modality, or one that is unknown, not an array or of the
            wrong shape or range; or a mask that does not fit the modalities.
        """
        arguments.check_key(key)
        arguments.check_method(method)
        self._check_given(given)
        if mask is not None:
            count = len(next(iter(given.values())))
            arguments.check_mask(mask, count, self.modalities)
        placed = self._split(dict(mask)) if mask else None
        given = self._split(given)
        return _infer(key, self.weights, given, mask=placed, method=method, **self._static)

    def prior_chain(self, key: jax.Array, num_samples: int) -> LangevinResult:
        """The prior chain, started at draws from the base prior; see `Networks.revise_prior`."""
        arguments.check_key(key)
        num_samples = arguments.whole_number("num_samples", num_samples, 1, arguments.MOST_SAMPLES)
        return _prior_chain(key, self.weights, num_samples=num_samples, **self._static)

    def posterior_chain(
        self, key: jax.Array, latents: Latents, given: Mapping[str, Any]
    ) -> LangevinResult:
        """The chain under the generator's posterior; see `sampling.revise_latents`.

        Raises:
          TypeError: the key is not a typed one, `latents` is not `Latents`, or `given` not a dict.
          ValueError: as for `infer`.
        """
        arguments.check_key(key)
        arguments.check_latents(latents)
        self._check_given(given)
        return _posterior_chain(
            key, self.weights, self._split(latents), self._split(given), **self._static
        )

    def generate(self, latents: Latents) -> dict[str, jax.Array]:
        """The generator's means, name → `[B, *shape]`.

        Raises:
          TypeError: `latents` is not `Latents`.
        """
        arguments.check_latents(latents)
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
        """Samples in model range refined under the joint energy; see `sampling.refine`.

        Raises:
          TypeError: the key is not a typed one, the number of steps not whole, or `samples` or
            `given` not a dict.
          ValueError: a modality that is unknown, not an array or of the wrong shape or range; one
            that is in neither dict; nothing to refine; or steps as for `sample`.
        """
        arguments.check_key(key)
        arguments.check_some("samples", samples, self.modalities)
        if given is not None:
            arguments.check_mapping("given", given, self.modalities)
        both = {**samples, **(given or {})}
        arguments.check_in_model_range(both, self.modalities)
        arguments.check_complete("refinement", both, self.modalities)
        num_steps = self._num_steps(num_steps)
        free = {name: values for name, values in samples.items() if name not in (given or {})}
        if not free:
            raise ValueError("given holds every modality of samples: leave out what is refined.")
        return _refine(
            key,
            self.weights,
            self._split(free),
            given=self._split(dict(given)) if given else None,
            num_steps=num_steps,
            keep_trajectory=keep_trajectory,
            **self._static,
        )

    def as_batch(
        self, values: Mapping[str, Any], *, check_values: bool = True
    ) -> dict[str, jax.Array]:
        """Check modalities and bring raw ones (uint8 images, texts) to model range.

        Args:
          values: name → `[N, *shape]`, NumPy or JAX arrays; a text may be N strings or int tokens
            `[N, L]`.
          check_values: whether values are checked, not only names, types and shapes. Use False for
            correct images that look like another range: floats without a value below 0 look like
            [0, 1]. Inside a JAX transformation values cannot be checked.

        Raises:
          TypeError: the values are not a dict.
          ValueError: a modality is unknown, has the wrong shape, type or range, is not finite, or
            holds a word that the model never saw; the message says what it should be.
        """
        arguments.check_mapping("batch", values, self.modalities)
        return {
            name: arguments.as_model_range(
                self._tokens(name, array), name, self.modalities, check_values=check_values
            )
            for name, array in values.items()
        }

    def check_form(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Check a modality's name, shape and type before any of its values are read.

        Raises:
          ValueError: an unknown name, or the wrong shape or type.
        """
        arguments.check_form(name, shape, dtype, self.modalities)

    def as_raw(self, samples: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Samples as uint8 images, int32 tokens and float32 vectors.

        Raises:
          TypeError: the samples are not a dict.
        """
        arguments.check_mapping("samples", samples, self.modalities)
        return {m.name: to_raw(m, samples[m.name]) for m in self.modalities if m.name in samples}

    def as_sentences(self, samples: Mapping[str, Any]) -> dict[str, sentences.Spelled]:
        """The texts of samples: name → N lines, or N lists of lines where each has several draws.

        Characters are read up to the end of the line; a word outside the vocabulary is `<unk>`.

        Args:
          samples: as `sample` or `as_raw` return them; modalities other than text are ignored.

        Raises:
          TypeError: the samples are not a dict.
          ValueError: they have the wrong shape, or the run does not know what its tokens stand for.
        """
        arguments.check_mapping("samples", samples, self.modalities)
        return {
            m.name: sentences.to_lines(np.asarray(samples[m.name]), m, self.alphabet)
            for m in self.modalities
            if m.kind == "text" and m.name in samples
        }

    def _tokens(self, name: str, values: Any) -> Any:
        """The tokens of texts given as strings; all other values unchanged."""
        modality = {m.name: m for m in self.modalities}.get(name)
        if modality is None or modality.kind != "text" or not sentences.are_sentences(values):
            return values
        try:
            return sentences.to_tokens(list(map(str, values)), modality, self.alphabet)
        except ValueError as error:
            raise ValueError(f"modality {name!r}: {error}.") from error

    def _batch(self, values: Mapping[str, Any], check_values: bool) -> dict[str, jax.Array]:
        batch = self.as_batch(values, check_values=check_values)
        arguments.check_equal_counts(batch)
        return batch

    def _check_given(self, given: Any) -> None:
        arguments.check_some("given", given, self.modalities)
        arguments.check_in_model_range(given, self.modalities)

    def _num_steps(self, num_steps: int | None) -> int | None:
        if num_steps is None:
            return None
        num_steps = arguments.whole_number("num_steps", num_steps, 0, arguments.MOST_STEPS)
        if num_steps and not self.settings.data_energy:
            raise ValueError(
                f"num_steps is {num_steps}, but this run learned no data energy to refine "
                "samples under: leave it out."
            )
        return num_steps

    def _stages(
        self, key: jax.Array, count: int, batch: dict[str, jax.Array], num_steps: int | None
    ) -> Stages:
        """`count` samples in all, equally many for each example of `batch`; see `sample`."""
        latent_key, chain_key, choice_key = jax.random.split(key, 3)
        is_free = len(batch) < len(self.modalities)
        is_refined = self.refines(num_steps) and is_free
        candidates = self.settings.candidates if is_refined else 1
        if count * candidates > arguments.MOST_SAMPLES:
            most = arguments.MOST_SAMPLES // candidates
            raise ValueError(
                f"num_samples is {count} in all, each chosen among {candidates}: draw at most "
                f"{most} at a time."
            )
        batch = {
            name: jax.numpy.repeat(values, count * candidates // len(values), 0)
            for name, values in batch.items()
        }
        latents = (
            self._latents_given(latent_key, batch)
            if batch
            else self.prior_latents(latent_key, count * candidates)
        )
        generated = self.generate(latents) | batch
        if not is_refined:
            return Stages(generated, generated, generated)
        chain = self.refine(chain_key, generated, given=batch, num_steps=num_steps)
        refined = generated | chain.position
        configured = self.settings.chains.data.num_steps
        if num_steps is not None and num_steps > configured:
            ends = self.energy(refined, check_values=False)
            # Its first steps are those of the configured chain, for any given modalities.
            seen = chain.info.energy[: configured + 1]
            if line := self.energy_warning(ends, num_steps, seen):
                warnings.warn(line, RuntimeWarning, stacklevel=3)
        if candidates == 1:
            return Stages(generated, refined, refined)
        settings = self.settings
        temperature = settings.completion_temperature if batch else settings.candidate_temperature
        chosen = _choose(choice_key, self.weights, refined, temperature, **self._static)
        generated, refined = _first((generated, refined), candidates=candidates)
        return Stages(generated, refined, chosen)

    def _latents_given(self, key: jax.Array, batch: dict[str, jax.Array]) -> Latents:
        """Latents of conditional samples, revised by a chain if the settings say so."""
        steps, sampler = self.settings.conditional_steps, self.completing
        if not steps:
            return sampler.infer(key, batch, method="sample")
        return sampler.with_posterior_steps(steps).infer(key, batch, method="revised")

    def _split(self, tree: Any) -> Any:
        if self.mesh is None:
            return tree
        return jax.device_put(tree, self._placement(len(jax.tree.leaves(tree)[0])))

    def _placement(self, count: int) -> jax.sharding.Sharding | None:
        """The sharding of a batch of `count` examples; None without a mesh."""
        if self.mesh is None:
            return None
        place = sharding.split_batch if count % self.mesh.size == 0 else sharding.replicated
        return place(self.mesh)


def _check_finite(samples: Mapping[str, jax.Array]) -> None:
    """Check that samples are finite; inside a JAX transformation this is not possible.

    Raises:
      FloatingPointError: they are not; the message names the modalities.
    """
    if any(isinstance(values, jax.core.Tracer) for values in samples.values()):
        return
    found = jax.device_get(_are_finite(dict(samples)))
    if broken := [name for name, is_finite in found.items() if not is_finite]:
        raise FloatingPointError(
            f"samples of {', '.join(broken)} hold NaN or infinity: a chain has diverged. Take "
            "fewer or smaller steps of the posterior's and the data chain."
        )


def load(path: epath.PathLike) -> Sampler:
    """Load the sampler of a trained model; only sampling weights are read, never optimisers.

    Args:
      path: a run folder, local or remote; an export, see `mmebm_jax.export`; or an export on the
        Hugging Face Hub, `hf://user/name@revision`.

    Raises:
      FileNotFoundError: there is no run, checkpoint or export.
      ValueError: one of its files is damaged, does not fit this version or claims absurd sizes; the
        extra `hub` is not installed; or the address is not supported.
      TypeError: `path` is not a path.
      ConnectionError: the hub cannot be reached.
    """
    folder = hub.folder_of(path)
    is_export = folders.is_export(folder)
    config = (exports if is_export else checkpoint).read_config(folder)
    try:
        builders.validate(config)
        data = checkpoint.read_data_facts(folder)
        model = builders.build_model(config, data.fields)
        shapes = template(model, config.prior.num_components)
    except ValueError as error:
        line = str(error)
        raise ValueError(line if str(folder) in line else f"{folder}: {line}") from error
    if is_export:
        facts = exports.read_facts(folder)
        weights = exports.read_weights(folder, facts, model, shapes)
        settings = builders.build_sampler_settings(config, facts.trained)
    else:
        weights, _, trained, time = checkpoint.restore_weights(folder, shapes)
        settings = builders.build_sampler_settings(config, trained, time)
    return Sampler(model, weights, settings, sharding.data_mesh(), data.alphabet)
