"""User-facing sampler: what `mmebm_jax.load` returns."""

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

# Models and settings are hashable, so samplers of equal models share what is compiled.
_STATIC = ("model", "settings")
_CHAINS = ("posterior", "prior", "data")
# Samples' chains from which the energies are measured that they pass through.
NUM_REFERENCE = 256
# Share of the samples that may end outside those energies before it is said.
MOST_OUTSIDE = 0.05


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


def _sample_latents(
    key: jax.Array, trained: Trained, num_samples: int, use_energy: bool, placement: Any
) -> Latents:
    latents = sampling.sample_latents(key, trained, num_samples, use_energy=use_energy)
    if placement is None:
        return latents
    # Said inside, so that the work too is divided: there is no input whose place says so.
    return jax.lax.with_sharding_constraint(latents, placement)


_latents = _jitted(_sample_latents, "num_samples", "use_energy", "placement")
_infer = _jitted(sampling.infer_latents, "method")
# Alone, so that private latents of what is not given, which no code needs, are not drawn.
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
_first = jax.jit(  # along an axis of its own, so that every device keeps its rows
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
    """Samples on their way, name → `[B, *shape]`; a stage that a model lacks is the one before."""

    generated: dict[str, jax.Array]  # the generator's means, beside what was given
    refined: dict[str, jax.Array]  # after the data energy's chain
    chosen: dict[str, jax.Array]  # one of each sample's candidates, as `Sampler.sample` returns


class Sampler:
    """A model with its weights and chains.

    Batches are dicts, name → `[B, *shape]` in model range: images and vectors in [-1, 1], which
    refinement may leave by 0.05, and sequences one-hot or, in samples, probabilities. `as_batch`
    makes them of uint8 images, texts or their int tokens, and float vectors; `as_raw` and
    `as_sentences` turn samples back.

    `sample`, `encode` and `energy` take raw values as well as values in model range, and refuse
    what is in neither; `check_values=False` skips that for the caller who knows better.
    """

    def __init__(
        self,
        model: Model,
        weights: Weights,
        settings: SamplerSettings,
        mesh: jax.sharding.Mesh | None = None,
        alphabet: Alphabet = "",
    ) -> None:
        """Hold a model; with a mesh, batches whose size its devices divide are split over them.

        The alphabet is what tokens of a text stand for; without one it cannot be given as written.
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
          changed: of posterior, prior and data. `sample(given=…)` takes as many posterior steps as
            before; see `with_posterior_steps`.

        Raises:
          TypeError: what is given is no `Chain`, or a field of it no number.
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
        """The same model with a posterior chain of so many steps, in `sample(given=…)` too.

        There 0 steps are a draw of the inference model, and more revise it, also in a run whose
        configuration sets none (`posterior.conditional_steps`).

        Raises:
          TypeError: not a whole number.
          ValueError: it is out of range.
        """
        num_steps = arguments.whole_number("num_steps", num_steps, 0, arguments.MOST_STEPS)
        chain = self.settings.chains.posterior._replace(num_steps=num_steps)
        settings = self.settings._replace(conditional_steps=num_steps)
        return self.with_weights(self.weights, settings).with_chains(posterior=chain)

    def with_sampling_time(self, time: float) -> "Sampler":
        """The same model with a data chain of such a time, steps · s²/2, in as many steps.

        Raises:
          TypeError: the time is no number.
          ValueError: it is not finite, not above 0 or absurd, or the chain has no steps.
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
        """The sampler by which completions infer latents: p_0(w_m | z) at their temperature."""
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
          given: observed modalities, name → `[N, *shape]`, raw or in model range; returned
            unchanged beside the others, which are generated.
          num_steps: refinement under the joint energy: 0 for the generator alone, None for the
            chain that the configuration sets for samples. More steps have the same size.
          check_values: whether the values given are checked, see `as_batch`.

        Returns:
          Name → array of every modality: `[num_samples, *shape]` without `given`; with it,
          `[N, *shape]` when `num_samples` is None and `[N, num_samples, *shape]` when it is given,
          be it 1. What was given is repeated along the second axis.

        Raises:
          TypeError: the key is not a typed one, a number is not whole, or `given` is not a dict.
          ValueError: a number is out of range, a given modality is unknown or has another shape,
            type or range, or steps are asked of a run that learned no data energy.
          FloatingPointError: a chain has diverged, so that samples hold NaN or infinity; to know,
            the call waits for them.

        Warns:
          RuntimeWarning: a longer chain has left the energies of the configured one.
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
        """What `sample(key, num_samples)` returns, and what it was made from.

        Of a sample's candidates the first stands in the earlier stages, whichever was chosen.

        Args:
          key: typed PRNG key.
          num_samples: B.
          num_steps: refinement under the joint energy, as for `sample`.

        Raises:
          TypeError, ValueError, FloatingPointError: as for `sample`.
        """
        arguments.check_key(key)
        count = arguments.whole_number("num_samples", num_samples, 1, arguments.MOST_SAMPLES)
        stages = self._stages(key, count, {}, self._num_steps(num_steps))
        _check_finite(stages.chosen)
        return stages

    def encode(self, batch: Mapping[str, Any], *, check_values: bool = True) -> jax.Array:
        """Mean of the posterior over the shared latent given any subset, `[B, Z]`.

        Raises:
          TypeError: the batch is not a dict.
          ValueError: see `as_batch`, or modalities of different lengths, or none.
        """
        arguments.check_some("batch", batch, self.modalities)
        given = self._split(self._batch(batch, check_values))
        return _encode(jax.random.key(0), self.weights, given, **self._static)

    def energy(self, batch: Mapping[str, Any], *, check_values: bool = True) -> jax.Array:
        """The joint energy of examples with every modality, `[B]`; lower is more likely.

        Raises:
          TypeError: the batch is not a dict.
          ValueError: see `as_batch`; no data energy was learned, or a modality is missing.
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
        """Whether samples are refined by a data chain of `num_steps` (None: as configured)."""
        return self.settings.data_energy and num_steps != 0

    def usual_energies(self) -> tuple[float, float]:
        """Lowest and highest energy that samples' chains of the configured length pass through.

        Measured at the first call, on chains from the generator's own samples: it needs no data.

        Raises:
          ValueError: no data energy was learned.
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
        """What to say of samples whose energies the configured chain never reaches, or nothing.

        A longer chain may run on to where the energy is low only because no sample ever went
        there.

        Args:
          energies: of the refined samples, `[B]`.
          num_steps: of their chains.
          seen: more energies that count as reached, of data for instance.

        Returns:
          One line when more than a twentieth of the samples lie outside what was seen.
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
        """Latents of the prior; see `sampling.sample_latents`."""
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
          ValueError: an unknown method; no modality, or one that is unknown, no array or of another
            shape or range; or a mask that does not fit them.
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
        """The chain from draws of the base prior; see `Networks.revise_prior`."""
        arguments.check_key(key)
        num_samples = arguments.whole_number("num_samples", num_samples, 1, arguments.MOST_SAMPLES)
        return _prior_chain(key, self.weights, num_samples=num_samples, **self._static)

    def posterior_chain(
        self, key: jax.Array, latents: Latents, given: Mapping[str, Any]
    ) -> LangevinResult:
        """The chain under the generator's posterior; see `sampling.revise_latents`.

        Raises:
          TypeError: the key is not a typed one, the latents are none, or `given` is not a dict.
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
          TypeError: the latents are none.
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
          ValueError: a modality that is unknown, no array or of another shape or range; one that is
            in neither; nothing to refine; or steps as for `sample`.
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
          check_values: whether values are checked beside names, types and shapes. False is for
            images that are meant although they look like another range: floats none of which is
            below 0 look like [0, 1]. Inside a JAX transformation values cannot be checked.

        Raises:
          TypeError: the values are not a dict.
          ValueError: one line that names the modality and what it should be: unknown, of another
            shape, type or range, not finite, a word that the model never saw.
        """
        arguments.check_mapping("batch", values, self.modalities)
        return {
            name: arguments.as_model_range(
                self._tokens(name, array), name, self.modalities, check_values=check_values
            )
            for name, array in values.items()
        }

    def check_form(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Check a modality of which no value has been read yet.

        Raises:
          ValueError: an unknown name, or another shape or type; one line that names it.
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

        Characters are read up to the end of the line, and a word beyond the vocabulary is `<unk>`.

        Args:
          samples: as `sample` or `as_raw` return them; other modalities are passed over.

        Raises:
          TypeError: the samples are not a dict.
          ValueError: they have another shape, or the run does not know what its tokens stand for.
        """
        arguments.check_mapping("samples", samples, self.modalities)
        return {
            m.name: sentences.to_lines(np.asarray(samples[m.name]), m, self.alphabet)
            for m in self.modalities
            if m.kind == "text" and m.name in samples
        }

    def _tokens(self, name: str, values: Any) -> Any:
        """Texts that are given as written, as tokens; all else as it is."""
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
            # Up to here this chain is the configured one, whatever was given.
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
        """Latents of conditional samples: revised where the settings ask for it."""
        steps, sampler = self.settings.conditional_steps, self.completing
        if not steps:
            return sampler.infer(key, batch, method="sample")
        return sampler.with_posterior_steps(steps).infer(key, batch, method="revised")

    def _split(self, tree: Any) -> Any:
        if self.mesh is None:
            return tree
        return jax.device_put(tree, self._placement(len(jax.tree.leaves(tree)[0])))

    def _placement(self, count: int) -> jax.sharding.Sharding | None:
        """Where a batch of so many examples lies; None without a mesh."""
        if self.mesh is None:
            return None
        place = sharding.split_batch if count % self.mesh.size == 0 else sharding.replicated
        return place(self.mesh)


def _check_finite(samples: Mapping[str, jax.Array]) -> None:
    """Refuse samples that are none; inside a JAX transformation values cannot be checked.

    Raises:
      FloatingPointError: one line that names the modalities.
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
    """The sampler of a trained model; only sampling weights are read, never optimisers.

    Args:
      path: a run's folder, local or remote; an export, see `mmebm_jax.export`; or an export on the
        Hugging Face Hub, `hf://user/name@revision`.

    Raises:
      FileNotFoundError: no run, no checkpoint or no export is there.
      ValueError: a file of it is damaged, does not fit this version or claims absurd sizes, or the
        extra `hub` is not installed; or no such address is read.
      TypeError: the path is no path.
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
