"""Conversion of a wall-clock budget into a schedule in steps.

Before a run under a budget starts, `prepare_for` measures the cost of each part on this machine and
rescales the schedule (`schedule.scaled`) so that everything fits: the measurement itself including
compilation, the steps, the fits of prior and sampling time, pictures and diagnostics. Importing,
building the data, initialising, and evaluation afterwards are not counted. From then on the run is
like any other: its number of steps is in config.json, and it resumes bitwise.

The measurement and the resulting schedule are kept as `budget.json` in the run folder.
"""

import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.distributions.base_prior import BasePrior
from mmebm_jax.fitting import latent_energy
from mmebm_jax.fitting.base_prior import fit_mixture, fit_private
from mmebm_jax.method import train_state
from mmebm_jax.method.plan import Terms
from mmebm_jax.method.train_state import Optimisers, TrainState
from mmebm_jax.runs import builders, checkpoint, sharding
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.places import place
from mmebm_jax.training import diagnostics, feed, pictures, prior_fitting
from mmebm_jax.training.compiled_update import Updates, compiled_update
from mmebm_jax.training.run import Run, prepare
from mmebm_jax.training.sampler_of_run import make_sampler
from mmebm_jax.training.sampling_time import NUM_SAMPLES, PART, fit_sampling_time
from mmebm_jax.training.schedule import Phase, learning_rates, phases, scaled
from mmebm_jax.typing import Latents

FILE = "budget.json"
WARM_UP_STEPS = 2
TIMED_STEPS = 5  # timed together, since an accelerator overlaps the dispatch of steps
TIMED_SECONDS = 2.0  # minimum for each phase
# EM iterations of the final fit, which starts from the first mixture.
TYPICAL_LAST_ITERATIONS = 15
TYPICAL_LOOKS = 20  # measurements of the distance in the fit of the sampling time
LOGGER = logging.getLogger("mmebm_jax")


class Costs(NamedTuple):
    """Seconds that each part of a run takes on this machine once it is compiled."""

    measuring: float  # everything that `measure` did, including compilation
    step: dict[Terms, float]  # one step with each phase's losses
    first_fit: float  # the base prior's fit during training; 0 if there is none
    last_fit: float  # the final fits of the base prior, its latent energy and the sampling time
    drawing: float  # one set of pictures and diagnostics


class Budgeted(NamedTuple):
    """A run whose schedule fits a budget."""

    run: Run
    updates: Updates  # its compiled steps, for `loop.train`
    measuring_seconds: float  # counts towards the budget in addition to training


def prepare_for(config: ConfigDict, workdir: epath.PathLike, seconds: float) -> Budgeted:
    """Prepare a run whose schedule takes this long; replaces `run.prepare`.

    A run that is already in the folder keeps the schedule that was computed first.

    Args:
      config: its `num_steps` only determines the proportions of the schedule.
      workdir: the run folder.
      seconds: the budget.

    Raises:
      ValueError: the budget is too short, the folder holds a run under another one, or there are
        several processes; or as `run.prepare`.
    """
    if jax.process_count() > 1:
        raise ValueError("a budget of minutes works in one process alone: give a number of steps.")
    workdir = place(workdir)
    record = _read(workdir)
    config = resumed_schedule(config, workdir, seconds)
    if (workdir / "config.json").exists():
        return Budgeted(prepare(config, workdir), {}, record["measuring_seconds"])
    run = prepare(config, workdir)
    updates: Updates = {}
    costs = _costs_from(record, config)
    if costs is None:
        costs, updates = measure(run)
    config = fitted_schedule(config, costs, seconds)
    LOGGER.info(
        "measured for %.0f s: a schedule of %d steps takes %.0f of the %.0f s.",
        costs.measuring,
        config.num_steps,
        predicted(config, costs),
        seconds,
    )
    _write(workdir, run.config, config, costs, seconds)
    return Budgeted(run._replace(config=config), updates, costs.measuring)


def resumed_schedule(config: ConfigDict, workdir: epath.Path, seconds: float) -> ConfigDict:
    """The configuration with the schedule of the folder's run; unchanged if there is none.

    Raises:
      ValueError: the run in the folder is not under this budget.
    """
    if not (workdir / "config.json").exists():
        return config
    asked = _read(workdir).get("budget_seconds")
    if asked != seconds:
        under = "without a budget" if asked is None else f"under a budget of {asked:g} s"
        raise ValueError(
            f"{workdir} holds a run {under}, not of {seconds:g} s: choose another --workdir."
        )
    return scaled(config, checkpoint.read_config(workdir).num_steps)


def checked(config: ConfigDict, workdir: epath.Path, seconds: float | None) -> ConfigDict:
    """The configuration; under a budget, with the schedule of the folder's run.

    Raises:
      ValueError: the folder holds a run with another configuration or budget; the message names
        what differs.
    """
    if seconds is not None:
        config = resumed_schedule(config, workdir, seconds)
    checkpoint.check_config(workdir, config)
    return config


def measure(run: Run) -> tuple[Costs, Updates]:
    """Measure the costs of a run by doing a little of each part; returns the compiled steps too.

    The costs do not depend on what the networks have learned, so their weights are arbitrary. The
    run in this process reuses what jit has compiled, and so do later ones with a compilation cache.
    """
    begin = time.monotonic()
    optimisers = builders.build_optimisers(run.config)
    state, updates, step = _arbitrary_state(run, optimisers), {}, {}
    weights = jax.tree.map(jnp.copy, state.weights)  # A step donates the state's buffers.
    for phase in phases(run.config):
        updates[phase.terms] = compiled_update(run, optimisers, phase.terms)
        state, step[phase.terms] = _time_steps(run, state, updates[phase.terms])
    first_fit, last_fit = _time_fits(run, weights)
    last_fit += _time_sampling_time(run, weights)
    drawing = _time_drawing(run, weights)
    costs = Costs(time.monotonic() - begin, step, first_fit, last_fit, drawing)
    return costs, updates


def predicted(config: ConfigDict, costs: Costs) -> float:
    """Seconds of a whole run with this schedule, including the measurement before it."""
    total = costs.measuring + costs.last_fit
    for phase in phases(config):
        total += (phase.stop - phase.start) * costs.step[phase.terms]
    if config.prior.fit_step < (config.schedule.freeze_step or config.num_steps):
        total += costs.first_fit
    return total + (config.num_steps // config.picture_every + 1) * costs.drawing


def fitted_schedule(config: ConfigDict, costs: Costs, seconds: float) -> ConfigDict:
    """The longest schedule with the same proportions that takes at most `seconds`.

    Raises:
      ValueError: even the shortest one, with at least one step of each phase, takes longer.
    """

    def fits(num_steps: int) -> bool:
        return predicted(scaled(config, num_steps), costs) <= seconds

    shortest = config.num_steps // min(p.stop - p.start for p in phases(config)) + 1
    if not fits(shortest):
        needed = predicted(scaled(config, shortest), costs)
        raise ValueError(
            f"a budget of {seconds:.0f} s is too short: measuring took {costs.measuring:.0f} s, "
            f"most of them for compilation, and the shortest run would end after {needed:.0f} s: "
            "raise --budget_minutes, or run the same again with --compilation_cache=FOLDER."
        )
    low, high = shortest, 2 * shortest
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return scaled(config, low)


def machine_facts() -> dict[str, Any]:
    """The facts that a measurement depends on, in addition to the configuration."""
    devices = jax.devices()
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "jax": jax.__version__,
    }


def _arbitrary_state(run: Run, optimisers: Optimisers) -> TrainState:
    """A state with small random weights, made without compiling the networks' initialisers."""
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        return np.asarray(rng.normal(0, 0.05, leaf.shape), leaf.dtype)

    num_components = run.config.prior.num_components
    shapes = jax.eval_shape(
        lambda key: train_state.create(key, run.model, optimisers, num_components),
        jax.random.key(0),
    )
    params = jax.tree.map(fill, shapes.params)
    usual = run.model.standard_prior(num_components)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimiser=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.optimiser),
        num_updates=jax.tree.map(fill, shapes.num_updates),
        weights=train_state.Weights(jax.tree.map(np.copy, params), usual),
    )
    return sharding.replicate(state, run.mesh)


def _time_steps(
    run: Run, state: TrainState, update: jax.stages.Wrapped
) -> tuple[TrainState, float]:
    """The state after some steps, and the seconds per compiled step."""
    config = run.config
    batches = feed.batches(
        run.train_source,
        run.mesh,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=0,
        device_resident=config.input.device_resident,
    )
    rates = learning_rates(config, 0)
    key = sharding.replicate(jax.random.key(config.seed), run.mesh)
    for _ in range(WARM_UP_STEPS):
        state, metrics = update(state, next(batches), next(rates), key)
    jax.block_until_ready(metrics)
    looks = [time.monotonic()]
    while looks[-1] - looks[0] < TIMED_SECONDS:
        for _ in range(TIMED_STEPS):
            state, metrics = update(state, next(batches), next(rates), key)
        jax.block_until_ready(metrics)
        looks.append(time.monotonic())
    # The median, since first steps take longer and other work on the machine disturbs some.
    return state, float(np.median(np.diff(looks))) / TIMED_STEPS


def _time_fits(run: Run, weights: train_state.Weights) -> tuple[float, float]:
    """Seconds of the base prior's two fits; zeros if none is fitted."""
    settings = run.config.prior
    if not settings.fit_mixture:
        return 0.0, 0.0
    key, num_examples = jax.random.key(0), prior_fitting.num_first_examples(run)

    def infer() -> Latents:
        return prior_fitting.revised_latents(run, weights, key, prior_fitting.FIT_BATCH)

    latents = infer()
    inferring = _seconds_of(infer) / prior_fitting.FIT_BATCH
    points = _scattered(latents, num_examples)

    def fit(max_iterations: int) -> BasePrior:
        return fit_mixture(points.shared, settings.num_components, 0, max_iterations=max_iterations)

    def fit_both() -> BasePrior:
        return fit_private(fit(1), *points, settings.num_private_components)

    one = _seconds_of(lambda: fit(1))
    iteration = max(0.0, _seconds_of(lambda: fit(2)) - one) or one / 2
    first = num_examples * inferring + one + (prior_fitting.FIRST_ITERATIONS - 1) * iteration
    ratio = settings.num_fit_examples / num_examples
    last = settings.num_fit_examples * inferring + ratio * TYPICAL_LAST_ITERATIONS * iteration
    fits_private = settings.num_private_components and points.private
    if fits_private:
        of_private = max(0.0, _seconds_of(fit_both) - one)
        first, last = first + of_private, last + ratio * of_private
    if settings.learn and settings.fit_steps:
        last += _seconds_of(
            lambda: latent_energy.fit_latent_energy(
                key,
                run.model,
                weights.params["prior"],
                _scattered(latents, settings.num_fit_examples),
                fit_both() if fits_private else fit(1),
                num_steps=settings.fit_steps,
                learning_rate=settings.fit_learning_rate,
                weight_decay=settings.fit_weight_decay,
            )
        )
        if fits_private:
            last += settings.num_fit_examples * inferring * prior_fitting.NUM_DRAWS
    return first, last


def _time_sampling_time(run: Run, weights: train_state.Weights) -> float:
    """Seconds of the fit of the sampling time; zero if there is none."""
    if not run.config.energy.fit_sampling_time:
        return 0.0
    sampler = make_sampler(run, weights, _learned(run))
    if not sampler.refines():
        return 0.0

    def follow(farthest: float) -> tuple[float, int]:
        begin, key = time.monotonic(), jax.random.key(0)
        fitted = fit_sampling_time(key, sampler, run.train_source, num_samples=1, farthest=farthest)
        return time.monotonic() - begin, len(fitted.times)

    follow(0.2)  # compiles
    (short, few), (long, many) = follow(0.2), follow(1.0)
    look = max(0.0, long - short) / max(1, many - few)  # one measurement on one part of the samples
    num_parts = math.ceil(NUM_SAMPLES * sampler.settings.candidates / PART)
    return short + (num_parts * TYPICAL_LOOKS - few) * look


def _scattered(latents: Latents, count: int) -> Latents:
    """`count` noisy copies of latents; the cost of a fit does not depend on where points lie."""
    rng = np.random.default_rng(0)

    def scatter(values: np.ndarray) -> np.ndarray:
        repeated = np.resize(values, (count, values.shape[1]))
        return repeated + rng.standard_normal(repeated.shape, np.float32)

    return jax.tree.map(scatter, latents)


def _learned(run: Run) -> set[str]:
    """The networks that are trained by the end of the run."""
    trained = (name for phase in phases(run.config) for name in phase.terms.trained)
    return {"inference", "generator", *trained}


def _time_drawing(run: Run, weights: train_state.Weights) -> float:
    """Seconds of one set of pictures and diagnostics, with all energies that the run learns."""
    sampler = make_sampler(run, weights, _learned(run))

    def draw() -> None:
        with tempfile.TemporaryDirectory() as folder:
            pictures.write(epath.Path(folder), run.splits, sampler, jax.random.key(0), 0)
        diagnostics.measure(jax.random.key(0), sampler, run.splits.test)

    draw()
    return _seconds_of(draw)


def _seconds_of(work: Callable[[], Any]) -> float:
    begin = time.monotonic()
    jax.block_until_ready(work())
    return time.monotonic() - begin


def _read(workdir: epath.Path) -> dict[str, Any]:
    path = workdir / FILE
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: remove it to measure again.") from error


def _costs_from(record: dict[str, Any], config: ConfigDict) -> Costs | None:
    """The costs in a record, or None if it is for another machine or configuration."""
    if not record or record["facts"] != machine_facts() or record["config"] != _plain(config):
        return None
    return Costs(
        record["measuring_seconds"],
        {Terms(**phase["terms"]): phase["seconds_per_step"] for phase in record["phases"]},
        record["first_fit_seconds"],
        record["last_fit_seconds"],
        record["drawing_seconds"],
    )


def _write(
    workdir: epath.Path, base: ConfigDict, config: ConfigDict, costs: Costs, seconds: float
) -> None:
    def row(phase: Phase) -> dict[str, Any]:
        count, each = phase.stop - phase.start, costs.step[phase.terms]
        total = {"num_steps": count, "seconds_per_step": each, "seconds": count * each}
        return {"start": phase.start, **total, "terms": phase.terms._asdict()}

    record = {
        "budget_seconds": seconds,
        "predicted_seconds": predicted(config, costs),
        "measuring_seconds": costs.measuring,
        "num_steps": config.num_steps,
        "phases": [row(phase) for phase in phases(config)],
        "first_fit_seconds": costs.first_fit,
        "last_fit_seconds": costs.last_fit,
        "drawing_seconds": costs.drawing,
        "facts": machine_facts(),
        "config": _plain(base),
    }
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / FILE, json.dumps(record, indent=2) + "\n")


def _plain(config: ConfigDict) -> Any:
    return json.loads(config.to_json_best_effort())
