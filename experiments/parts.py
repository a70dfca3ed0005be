"""Ablate a trained run at sampling time: what each part contributes, and how its chains behave.

    python -m experiments.parts --runs=runs/a/seed1/private_full,runs/a/seed2/private_full \\
        --num_samples=2000 --results=docs/results/parts_polydigits.json
    python -m experiments.parts --change=chains --runs=...
    python -m experiments.parts --runs=runs/shipped --weights=pretrained/polymnist

The last command measures an export, in a folder where `experiments.main --mode=evaluate --weights`
has already been run.

The networks stay fixed. The sampler drops one part at a time or, with `--change=chains`, changes
its chains: the posterior chain takes half or twice the number or size of steps; the data chain
takes a different number of steps for the same time, or half or twice the time in the same number;
the candidates get another temperature or number. Parts that act only in training need runs of their
own, see `experiments.compare`. The classifiers are the run's own.
"""

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from etils import epath

from experiments import command_line, results
from experiments.evaluate import evaluate, prepared, restored
from experiments.measures import MAIN, lack
from experiments.measures.subject import at_temperatures
from mmebm_jax.distributions.base_prior import BasePrior, Mixture, tempered
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.places import place

LOGGER = logging.getLogger("mmebm_jax")
NUM_SAMPLES = 2000
Changed = Callable[[Sampler], Sampler]

_RUNS = flags.DEFINE_list("runs", [], "Folders of trained runs.")
_CHANGE = flags.DEFINE_enum("change", "parts", ["parts", "chains"], "What rows differ in.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Export whose model is measured, with its own settings, on the data of the configuration.",
    allow_override=True,
)
_RESULTS = flags.DEFINE_string(
    "results", None, "File to write, as docs/results/NAME.json.", allow_override=True
)


def without_conditional_chain(sampler: Sampler) -> Sampler:
    """Draw completions from the inference model alone."""
    return sampler.with_weights(sampler.weights, sampler.settings._replace(conditional_steps=0))


def without_candidates(sampler: Sampler) -> Sampler:
    """Refine each sample once, so that the data energy has no candidates to choose among."""
    return sampler.with_weights(sampler.weights, sampler.settings._replace(candidates=1))


def without_data_energy(sampler: Sampler) -> Sampler:
    """Return the generator's samples, with neither a chain nor a choice among candidates."""
    return sampler.with_weights(sampler.weights, sampler.settings._replace(data_energy=False))


def without_latent_energies(sampler: Sampler) -> Sampler:
    """Use the base prior alone."""
    return sampler.with_weights(sampler.weights, sampler.settings._replace(prior_energy=False))


def without_private_priors(sampler: Sampler) -> Sampler:
    """Make private latents standard normal; drop the energies learned jointly with p_0(w | z)."""
    return _with_base(sampler, sampler.weights.base_prior._replace(private={}))


def without_clusters(sampler: Sampler) -> Sampler:
    """Replace each mixture by one Gaussian with its mean and covariance; drop latent energies.

    Without clusters, p_0(w | z) does not depend on z.
    """
    return _with_base(sampler, one_gaussian(sampler.weights.base_prior))


def one_gaussian(base: BasePrior) -> BasePrior:
    """Every mixture of a base prior merged into one Gaussian, in arrays of the same shapes."""
    whole = merged(Mixture(base.log_weight, base.mean, base.whitening))
    count = len(base.log_weight)
    private = {}
    for name, mixture in base.private.items():
        each = len(mixture.log_weight) // count
        weight = mixture.log_weight + jnp.repeat(base.log_weight, each)
        private[name] = merged(mixture._replace(log_weight=weight))
    return base._replace(mean=whole.mean, whitening=whole.whitening, private=private)


def at_private_temperature_one(sampler: Sampler, temperature: float) -> Sampler:
    """p_0(w | z) as fitted, before `prior.private_temperature` is applied."""
    base = tempered(sampler.weights.base_prior, private=1 / temperature)
    return sampler.with_weights(sampler.weights._replace(base_prior=base), sampler.settings)


def merged(mixture: Mixture) -> Mixture:
    """Replace all N Gaussians of a mixture by the one with its mean and covariance."""
    weight = jnp.exp(mixture.log_weight - jnp.max(mixture.log_weight))
    weight = weight / weight.sum()
    mean = weight @ mixture.mean
    root = jnp.linalg.inv(mixture.whitening)  # covariance = root rootᵀ
    away = mixture.mean - mean[None]
    covariance = jnp.einsum("n,nij,nkj->ik", weight, root, root)
    covariance += jnp.einsum("n,ni,nk->ik", weight, away, away)
    whitening = jnp.linalg.inv(jnp.linalg.cholesky(covariance))
    count = len(mixture.log_weight)
    return mixture._replace(
        mean=jnp.tile(mean, [count, 1]), whitening=jnp.tile(whitening, [count, 1, 1])
    )


def _with_base(sampler: Sampler, base: BasePrior) -> Sampler:
    return sampler.with_weights(
        sampler.weights._replace(base_prior=base), sampler.settings._replace(prior_energy=False)
    )


def variants(temperature: float) -> dict[str, Changed]:
    """Row name → function that removes that part from a sampler."""
    return {
        "all parts": lambda sampler: sampler,
        "without the posterior chain": without_conditional_chain,
        "without candidates": without_candidates,
        "without the data energy": without_data_energy,
        "without latent energies": without_latent_energies,
        "shared temperature 1": partial(at_temperatures, shared_temperature=1.0),
        "token temperature 1": partial(at_temperatures, token_temperature=1.0),
        "private temperature 1": partial(at_private_temperature_one, temperature=temperature),
        "standard private priors": without_private_priors,
        "one Gaussian in place of clusters": without_clusters,
    }


def changed_chains() -> dict[str, Changed]:
    """Row name → function that changes a sampler's chains or its choice among candidates."""
    rows: dict[str, Changed] = {"as configured": lambda sampler: sampler}
    half_and_twice = {"half": 0.5, "twice": 2.0}
    for word, factor in half_and_twice.items():
        rows[f"posterior chain, {word} the step size"] = partial(
            with_chain, name="posterior", size=factor
        )
        rows[f"posterior chain, {word} the steps"] = partial(
            with_chain, name="posterior", number=factor
        )
    for word, factor in ({"a quarter of": 0.25} | half_and_twice | {"four times": 4.0}).items():
        rows[f"data chain, same time in {word} the steps"] = partial(in_equal_time, factor=factor)
    for word, factor in half_and_twice.items():
        rows[f"data chain, {word} the time"] = partial(
            with_chain, name="data", size=math.sqrt(factor)
        )
    for word, factor in half_and_twice.items():
        rows[f"candidates, {word} the temperature"] = partial(with_choice, temperature=factor)
        rows[f"candidates, {word} the number"] = partial(with_choice, number=factor)
    return rows


def with_choice(sampler: Sampler, temperature: float = 1.0, number: float = 1.0) -> Sampler:
    """A sampler with its candidate temperature and number of candidates scaled by these factors."""
    settings = sampler.settings
    settings = settings._replace(
        candidates=max(1, round(settings.candidates * number)),
        candidate_temperature=settings.candidate_temperature * temperature,
        completion_temperature=settings.completion_temperature * temperature,
    )
    return sampler.with_weights(sampler.weights, settings)


def with_chain(sampler: Sampler, name: str, size: float = 1.0, number: float = 1.0) -> Sampler:
    """A sampler with the step size and number of steps of one chain scaled by these factors.

    The posterior chain here is the one that draws completions; its length is `conditional_steps`.
    """
    settings = sampler.settings
    chain = getattr(settings.chains, name)
    chain = chain._replace(
        step_size=chain.step_size * size, num_steps=round(chain.num_steps * number)
    )
    if name == "posterior":
        steps = round(settings.conditional_steps * number)
        settings = settings._replace(conditional_steps=steps)
    return sampler.with_weights(sampler.weights, settings).with_chains(**{name: chain})


def in_equal_time(sampler: Sampler, factor: float) -> Sampler:
    """A sampler whose data chain takes `factor` times as many steps in the same total time."""
    steps = sampler.settings.chains.data.num_steps
    if not steps:
        return sampler
    number = max(1, round(steps * factor)) / steps
    return with_chain(sampler, "data", size=number**-0.5, number=number)


def is_the_same(one: Sampler, other: Sampler) -> bool:
    """Whether two samplers of a run are identical, so that the run lacked the removed part."""
    return one.settings == other.settings and one.weights is other.weights


def rows_of(
    workdir: epath.Path, num_samples: int, table: str, weights: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one run, or of the export `weights`, each as soon as it is measured.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: see `evaluate.sampler_of`.
    """
    run, sampler, step, classifiers = restored(workdir, num_samples, weights)
    parts = variants(run.config.prior.private_temperature)
    changes = parts if table == "parts" else changed_chains()
    for number, (name, change) in enumerate(changes.items()):
        changed = change(sampler)
        if number and is_the_same(changed, sampler):
            LOGGER.info("%s has nothing to do %s", workdir, name)
            continue
        LOGGER.info("%s: %s", workdir, name)
        measured = evaluate(run, changed, step, classifiers, only=MAIN)
        yield {"method": name, "seed": int(run.config.seed), **measured}
        # Every row compiles its own programs, and each of them uses several of the memory maps that
        # Linux allows a process: after about nine rows XLA would kill the process.
        jax.clear_caches()


def check(workdir: epath.Path, num_samples: int, weights: str | None = None) -> None:
    """Refuse a run whose rows cannot be measured, before its classifiers are trained.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: there are too few samples, or the data lack what the measures need.
    """
    run = prepared(workdir, num_samples, weights)
    for measure in MAIN:
        if problem := lack(measure, run):
            raise ValueError(
                f"--num_samples={num_samples} of {workdir}: {measure.__name__} cannot be measured, "
                f"since {problem}."
            )


def main() -> None:
    """Measure and write the file of results."""
    if not _RUNS.value:
        command_line.fail("--runs is empty: name folders of trained runs.")
    num_samples = command_line.NUM_SAMPLES.value or NUM_SAMPLES
    folders, table = [place(name) for name in _RUNS.value], _CHANGE.value
    command = f"python -m experiments.parts --change={table} --runs={','.join(_RUNS.value)}"
    command += f" --num_samples={num_samples}"
    weights = _WEIGHTS.value
    if weights and len(folders) > 1:
        command_line.fail(f"--weights={weights} is one model: give one folder by --runs.")
    command += f" --weights={weights}" if weights else ""
    command_line.check_output(_RESULTS)
    for folder in folders:
        check(folder, num_samples, weights)
    rows = []
    for row in (r for folder in folders for r in rows_of(folder, num_samples, table, weights)):
        rows.append(row)
        if _RESULTS.value:
            results.write(_RESULTS.value, command, rows)
        shown = (row.get(name, "absent") for name in ("joint_coherence", "frechet"))
        print(row["seed"], row["method"], *shown, flush=True)


if __name__ == "__main__":
    command_line.run(main)
