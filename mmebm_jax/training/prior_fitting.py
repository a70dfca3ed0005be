"""Fitting the base prior p_0, and the latent energy that tilts it, to latents of training data.

Within a run, `loop` calls `fit_base_prior` when the schedule says so. For any trained model,
`fit_prior` does the same afterwards, which is known as ex-post density estimation (Ghosh et al.
2020, arXiv:1903.12436, section 4): it gives a prior that fits the aggregate posterior, if the
model's own does not. The fits themselves are in `fitting.base_prior` and `fitting.latent_energy`.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax import data
from mmebm_jax.distributions.base_prior import BasePrior, tempered
from mmebm_jax.fitting import latent_energy
from mmebm_jax.fitting.base_prior import fit_mixture, fit_private
from mmebm_jax.method.sampling import METHODS
from mmebm_jax.method.train_state import TrainState, Weights
from mmebm_jax.modalities.modality import mask_of
from mmebm_jax.runs import sharding
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import processes
from mmebm_jax.training.run import Run
from mmebm_jax.training.sampler_of_run import make_sampler
from mmebm_jax.typing import OBSERVED, Latents, Params

FIT_BATCH = 100
# The fit during training uses this many times fewer examples than the final one.
FIT_RATIO = 3
FIRST_ITERATIONS = 10  # maximum of EM iterations in the fit during training
LAST_ITERATIONS = 50  # maximum of EM iterations in the final fit
LEARNING_RATE = 1e-3  # of a latent energy that is fitted after training
WEIGHT_DECAY = 0.1  # of this fit
# Draws of each example's latents from which energies of private latents learn; with only one they
# overfit.
NUM_DRAWS = 4
# A mixture's smallest standard deviation, in units of the prior chain's step size; the chain
# diverges below 1/2.
NARROWEST = 0.6
# What a data source holds in addition to the modalities.
NOT_MODALITIES = ("label", OBSERVED)
LOGGER = logging.getLogger("mmebm_jax")


def fit_prior(
    model: Sampler,
    examples: Mapping[str, Any],
    *,
    num_components: int,
    num_private_components: int = 0,
    private_temperature: float = 1.0,
    key: jax.Array | None = None,
    method: str = "sample",
    energy_steps: int = 0,
) -> Sampler:
    """The model with a prior fitted to the latents of examples: ex-post density estimation.

        model = mmebm_jax.load(workdir)
        model = mmebm_jax.training.fit_prior(model, examples, num_components=60)
        samples = model.sample(jax.random.key(0), 16)

    A mixture of full-covariance Gaussians is fitted to one latent of each example. A latent energy
    that the model has learned belongs to its former base prior: it is replaced by a new one if
    `energy_steps` is positive, and dropped otherwise. The other networks and the given model are
    not changed, and nothing is written.

    Args:
      model: from `mmebm_jax.load` or `make_sampler`.
      examples: training examples, name → `[N, *shape]`, as for `Sampler.as_batch`, or as
        `data.whole` reads them from a source: its labels are not used, and its "observed",
        `bool[N, M]`, says which example has which modality. Any subset of the modalities works.
      num_components: number of components of the mixture; at most N / 2.
      num_private_components: number of components of p_0(w_m | z) for each of these, which a
        latent energy then tilts too; 0 leaves private latents standard.
      private_temperature: factor on the covariances of p_0(w_m | z) after all fits; below 1, draws
        are less diverse and more coherent.
      key: for the draws of latents and the mixture's initial guess; `jax.random.key(0)` if None.
      method: how latents are inferred, as in `Sampler.infer`: "sample", "mean" or "revised". A run
        with posterior revision fits its own prior to "revised" ones.
      energy_steps: Adam steps that fit a latent energy to tilt the mixture; 0 for only the mixture.

    Raises:
      ValueError: the model has no shared latents, examples do not fit it or are too few, or an
        argument is out of its range.
    """
    if not model.model.num_latents:
        raise ValueError("this model has no shared latents that a prior could be fitted to.")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {METHODS}.")
    if num_components < 1 or energy_steps < 0:
        raise ValueError(
            f"num_components={num_components}, energy_steps={energy_steps}: give at least 1 and 0."
        )
    if not private_temperature > 0:
        raise ValueError(f"private_temperature={private_temperature}: give a number above 0.")
    if num_private_components < 0 or (num_private_components and not model.model.num_private):
        raise ValueError(
            f"num_private_components={num_private_components}: give at least 0, and 0 for a model "
            "without private latents."
        )
    key = jax.random.key(0) if key is None else key
    without_energy = model.settings._replace(prior_energy=False)
    model = _with_private_components(model, key, num_private_components)
    model = model.with_weights(model.weights, without_energy)
    settings = _FitSettings(
        num_components=num_components,
        num_private_components=num_private_components,
        private_temperature=private_temperature,
        seed=int(jax.random.key_data(key).ravel()[-1]) % 2**31,
        smallest_scale=NARROWEST * model.settings.chains.prior.step_size,
        max_iterations=LAST_ITERATIONS,
        energy_steps=energy_steps,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
    )
    params = model.weights.params
    base_prior, energy = _fit(key, model, params["prior"], examples, method, settings)
    weights = model.weights._replace(base_prior=base_prior, params=params | {"prior": energy})
    return model.with_weights(weights, without_energy._replace(prior_energy=bool(energy_steps)))


def _with_private_components(model: Sampler, key: jax.Array, num_components: int) -> Sampler:
    """The model whose latent energy has a term for each private latent, or for none."""
    before = model.model
    names = before.private_names if num_components else ()
    energy = before.prior.clone(private_names=names)
    after = before._replace(prior=energy, num_private_components=num_components)
    weights = model.weights
    if names != before.prior.private_names:
        params = jax.jit(lambda key: after.init(key)["prior"])(key)  # computes only the prior's
        weights = weights._replace(params=weights.params | {"prior": params})
    return Sampler(after, weights, model.settings, model.mesh, model.alphabet)


class _FitSettings(NamedTuple):
    """How a prior is fitted."""

    num_components: int  # of p_0(z)
    num_private_components: int  # of p_0(w_m | z) for each of these; 0 for none
    seed: int
    smallest_scale: float  # see `fit_mixture`
    max_iterations: int  # of EM
    private_temperature: float  # of p_0(w_m | z) after all fits; see `tempered`
    energy_steps: int  # of the latent energy's fit; 0 for none
    learning_rate: float
    weight_decay: float
    start: BasePrior | None = None  # initial mixture


def _fit(
    key: jax.Array,
    sampler: Sampler,
    params: Params,
    examples: Mapping[str, Any],
    method: str,
    settings: _FitSettings,
) -> tuple[BasePrior, Params]:
    """Fit the mixtures, then the latent energy starting from `params`; see `fit_prior`."""
    latent_key, energy_key = jax.random.split(key)
    latents = infer_in_parts(sampler, examples, latent_key, method)
    base_prior = fit_mixture(
        latents.shared,
        settings.num_components,
        settings.seed,
        start=settings.start,
        max_iterations=settings.max_iterations,
        smallest_scale=settings.smallest_scale,
    )
    LOGGER.info(
        "fitted the base prior to %d latents (standard deviation %.2f).",
        len(latents.shared),
        latents.shared.std(),
    )
    if settings.num_private_components and latents.private:
        base_prior = fit_private(
            base_prior,
            *latents,
            settings.num_private_components,
            settings.seed,
            settings.smallest_scale,
            mask_of(sampler.modalities, examples),
        )
    tempered_prior = tempered(base_prior, private=settings.private_temperature)
    if not settings.energy_steps:
        return tempered_prior, params
    if base_prior.private:
        # Private latents of missing modalities are now drawn from the new base prior itself, so no
        # energy can tell them from it.
        fitted = sampler.with_weights(
            sampler.weights._replace(base_prior=base_prior), sampler.settings
        )
        latents = draws_in_parts(fitted, examples, latent_key, method)
    params, worth = latent_energy.fit_latent_energy(
        energy_key,
        sampler.model,
        params,
        latents,
        base_prior,
        num_steps=settings.energy_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    LOGGER.info(
        "fitted the latent energy: %.2f nats between base prior and data, %.2f held out.",
        float(worth.training),
        float(worth.held_out),
    )
    return tempered_prior, params


def infer_in_parts(
    sampler: Sampler, examples: Mapping[str, Any], key: jax.Array, method: str
) -> Latents:
    """Latents of examples, leaves `[N, ...]` on the host, inferred in small batches.

    Args:
      sampler: the model.
      examples: see `fit_prior`.
      key: PRNG key.
      method: see `Sampler.infer`.

    Raises:
      ValueError: no examples, or modalities with different numbers of examples.
    """
    counts = {name: len(values) for name, values in examples.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise ValueError(f"give each modality as many examples, at least one; got {counts}.")
    parts = []
    for start in range(0, min(counts.values()), FIT_BATCH):
        part = {name: values[start : start + FIT_BATCH] for name, values in examples.items()}
        given = sampler.as_batch(
            {n: values for n, values in part.items() if n not in NOT_MODALITIES}
        )
        mask = mask_of(sampler.modalities, part)
        part_key = jax.random.fold_in(key, start)
        parts.append(jax.device_get(sampler.infer(part_key, given, method=method, mask=mask)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def draws_in_parts(
    sampler: Sampler, examples: Mapping[str, Any], key: jax.Array, method: str
) -> Latents:
    """Several draws of each example's latents in adjacent rows; see `infer_in_parts`."""
    keys = jax.random.split(key, NUM_DRAWS)
    draws = [infer_in_parts(sampler, examples, k, method) for k in keys]
    return jax.tree.map(
        lambda *leaves: np.stack(leaves, 1).reshape(-1, leaves[0].shape[-1]), *draws
    )


def revised_latents(run: Run, weights: Weights, key: jax.Array, num_examples: int) -> Latents:
    """Latents of training examples, leaves `[num_examples, ...]`, revised if the run revises."""
    raw = data.whole(run.train_source, num_examples)
    sampler = make_sampler(run, weights, trained=())  # only the base prior, without its energy
    return infer_in_parts(sampler, raw, key, inference_method(run))


def inference_method(run: Run) -> str:
    """The method that infers the latents for fitting the prior; see `Sampler.infer`."""
    return "revised" if run.config.posterior.generator_weight > 0 else "sample"


def num_first_examples(run: Run) -> int:
    """The number of examples for the fit during training."""
    settings = run.config.prior
    return max(settings.num_fit_examples // FIT_RATIO, 2 * settings.num_components)


def fit_base_prior(
    run: Run, state: TrainState, key: jax.Array, *, warm_start: bool = False, final: bool = True
) -> TrainState:
    """The state with its base prior, and then its latent energy, fitted to the training data.

    With `warm_start` the mixture starts from the state's own. The energy is fitted only in the
    `final` fit, if `prior.fit_steps` is positive; until then it is updated by training.
    """
    settings = run.config.prior
    fits_energy = final and settings.learn and settings.fit_steps
    base_prior, params = sharding.local((state.weights.base_prior, state.params["prior"]))
    if processes.is_first():
        num_examples = settings.num_fit_examples if final else num_first_examples(run)
        LOGGER.info("fitting the prior to latents of %d training examples.", num_examples)
        base_prior, params = _fit(
            key,
            make_sampler(run, state.weights, trained=()),  # without the latent energy
            params,
            data.whole(run.train_source, num_examples),
            inference_method(run),
            _FitSettings(
                num_components=settings.num_components,
                num_private_components=settings.num_private_components,
                private_temperature=settings.private_temperature,
                seed=run.config.seed,
                smallest_scale=NARROWEST * settings.chain.step_size,
                max_iterations=LAST_ITERATIONS if final else FIRST_ITERATIONS,
                energy_steps=settings.fit_steps if fits_energy else 0,
                learning_rate=settings.fit_learning_rate,
                weight_decay=settings.fit_weight_decay,
                start=jax.device_get(base_prior) if warm_start else None,
            ),
        )
    base_prior, params = sharding.replicate(processes.from_first((base_prior, params)), run.mesh)
    return _with_prior(state, base_prior, params if fits_energy else None, settings.fit_steps)


def _with_prior(state: TrainState, base_prior: Any, params: Any, num_updates: int) -> TrainState:
    weights = state.weights._replace(base_prior=base_prior)
    if params is None:
        return state._replace(weights=weights)
    count = state.num_updates["prior"] + np.int32(num_updates)
    return state._replace(
        params=state.params | {"prior": params},
        num_updates=state.num_updates | {"prior": count},
        weights=weights._replace(params=weights.params | {"prior": jax.tree.map(jnp.copy, params)}),
    )
