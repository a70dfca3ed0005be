"""Train a model of the family; resume when the folder holds a checkpoint."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from mmebm_jax import data
from mmebm_jax.data.source import DataSplits, Source
from mmebm_jax.fitting import mixture, tilt
from mmebm_jax.method import train_state
from mmebm_jax.method.model import Model
from mmebm_jax.method.train_state import Optimisers, TrainState, Weights
from mmebm_jax.runs import builders, checkpoint, sharding
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.runs.template import template
from mmebm_jax.storage.files import nearest_existing
from mmebm_jax.storage.validation import brief
from mmebm_jax.training import diagnostics, feed, pictures, processes
from mmebm_jax.training.interruption import Interruption
from mmebm_jax.training.log import Bounds, Explosion, Log, Row, read_events, report, write_event
from mmebm_jax.typing import OBSERVED

FIT_BATCH = 100
# The first fit of a mixture, which training only leans on, takes this share of the last's examples.
FIT_RATIO = 3
# A mixture's smallest standard deviation, in steps of the prior's chain, which diverges below 1/2.
NARROWEST = 0.6
# A full disk, a quota that is used up, a file that may not grow.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOGGER = logging.getLogger("mmebm_jax")


class Run(NamedTuple):
    """What a configuration builds."""

    config: ConfigDict
    workdir: epath.Path
    splits: DataSplits  # complete
    train_source: Source  # what training sees of the training split
    model: Model
    mesh: jax.sharding.Mesh


class Progress(NamedTuple):
    """Where a run stands; saved with each checkpoint."""

    elapsed_seconds: float = 0.0  # of training, without set-up
    fitted: bool = False  # whether the base prior was fitted on the way
    fit_position: float = 0.0  # where on the schedule it was
    fit_begin: float = 0.0  # in seconds of training
    fit_end: float = 0.0
    finished: bool = False  # whether the schedule's end was reached
    pending: Sequence[Row] = ()  # metrics that no row of metrics.jsonl holds yet


def prepare(config: ConfigDict, workdir: epath.Path, *, prepare_data: bool = True) -> Run:
    """Build everything and check it, before anything is compiled or written.

    Of a data set that is built once, on disk, what is missing is built, if it may be.

    Raises:
      ValueError, FileNotFoundError: one line that names the thing and the mend.
    """
    _check_workdir(workdir)
    builders.validate(config)
    checkpoint.check_config(workdir, config)
    mesh = sharding.data_mesh()
    sharding.check_batch_size(
        config.batch_size // config.revision_stride // config.accumulation_steps, mesh
    )
    # One process alone builds what is missing of the data set.
    if not processes.is_first():
        processes.wait_for_all("data set built")
    splits = builders.build_data(config, prepare=prepare_data)
    if processes.is_first():
        processes.wait_for_all("data set built")
    if config.batch_size > len(splits.train):
        raise ValueError(
            f"config.batch_size is {config.batch_size}, but the training set holds "
            f"{len(splits.train)} examples: lower it."
        )
    if 2 * config.prior.num_components > len(splits.train):
        raise ValueError(
            f"config.prior.num_components is {config.prior.num_components}, but the training set "
            f"holds {len(splits.train)} examples, fewer than two for each: lower it."
        )
    model = builders.build_model(config, splits.fields)
    template(model, config.prior.num_components)  # refuses an absurd size
    return Run(config, workdir, splits, builders.build_train_source(config, splits), model, mesh)


def _check_workdir(workdir: epath.Path) -> None:
    if "://" in str(workdir):  # Only writing tells whether a bucket may be written to.
        return
    there = nearest_existing(workdir)
    if not there.is_dir():
        raise ValueError(f"{there} is a file: name a folder with --workdir.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there} cannot be written to: name another folder with --workdir.")


def train(run: Run) -> tuple[TrainState, float]:
    """Run the schedule to its end, from the newest checkpoint if there is one.

    When numbers explode, the run goes on from the newest checkpoint with other keys and, with
    `guard.halve_energy_rate`, half the learning rate of the energies. If that explodes before a
    newer checkpoint, the newest may hold what is about to: it is set aside for the one before. On
    SIGTERM or SIGINT the run ends the step, saves, and leaves by `SystemExit`.

    Returns:
      The final state, which is also saved, and the seconds of training: compilation, pictures and
      the base prior's fits included, set-up not.

    Raises:
      FloatingPointError: the numbers exploded once more than `guard.retries` times before a newer
        checkpoint; the line names the step and the network, and `explosion.json` tells the rest.
      ValueError: the folder's checkpoints cannot be read.
      OSError: the disk is full; what is there stays whole.
    """
    tries, farthest = 0, -1
    with sole_writer(run.workdir), Interruption() as interruption:
        if processes.is_first():
            # Another run may have begun and ended here since this one was prepared.
            checkpoint.check_config(run.workdir, run.config)
            checkpoint.write_config(run.workdir, run.config, run.splits)
        # All processes must know of the same explosions, and one of them writes of them.
        num_explosions = int(processes.from_first(len(read_events(run.workdir, "explosion"))))
        while True:
            try:
                with checkpoint.open_manager(run.workdir, run.config.keep_checkpoints) as manager:
                    return _train(run, manager, interruption, num_explosions)
            except Explosion as explosion:
                newest = checkpoint.newest_step(run.workdir) or 0
                tries = 1 if newest > farthest else tries + 1
                farthest, num_explosions = max(farthest, newest), num_explosions + 1
                if 1 < tries <= run.config.guard.retries:
                    with checkpoint.open_manager(run.workdir) as manager:
                        newest = checkpoint.set_newest_aside(manager)
                write_event(run.workdir, "explosion", explosion.facts | {"resumed_from": newest})
                if tries > run.config.guard.retries:
                    path = report(run.workdir, explosion)
                    raise FloatingPointError(f"{explosion} See {path}.") from explosion
                LOGGER.warning("%s Going on from step %d with other keys.", explosion, newest)
            except (OSError, ValueError) as error:
                if not _is_full(error):
                    raise
                raise OSError(
                    f"{run.workdir} takes no more ({_reason(error)}): free some space and run the "
                    "same command again, which goes on from the newest checkpoint."
                ) from error


def _is_full(error: OSError | ValueError) -> bool:
    # TensorStore tells of a write that failed by a ValueError.
    return getattr(error, "errno", None) in FULL or "Error writing" in str(error)


def _reason(error: OSError | ValueError) -> str:
    return brief(getattr(error, "strerror", None) or str(error))


@contextlib.contextmanager
def sole_writer(workdir: epath.Path) -> Iterator[None]:
    """Keep other processes from training in a folder; a bucket knows no locks.

    Raises:
      ValueError: another one does.
    """
    if "://" in str(workdir) or not processes.is_first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        # Held by the process, not by the file: a killed run leaves nothing to clean up.
        with filelock.FileLock(workdir / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise ValueError(
            f"another process trains in {workdir}: wait for it, or choose another --workdir."
        ) from error


def _train(
    run: Run, manager: ocp.CheckpointManager, interruption: Interruption, num_explosions: int
) -> tuple[TrainState, float]:
    config, workdir, model, mesh = run.config, run.workdir, run.model, run.mesh
    slower = 0.5**num_explosions if config.guard.halve_energy_rate else 1.0
    optimisers = builders.build_optimisers(config, energy_scale=slower)
    init_key, run_key, fit_key, picture_key = jax.random.split(jax.random.key(config.seed), 4)
    if num_explosions:
        run_key = jax.random.fold_in(run_key, num_explosions)
    run_key = sharding.replicate(run_key, mesh)

    state, progress = _start(run, manager, optimisers, init_key)
    step = resumed_at = int(state.step)
    batches = feed.batches(
        run.train_source,
        mesh,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=step,
        device_resident=config.input.device_resident,
    )
    bounds = Bounds(config.guard.energy_gap, config.guard.gradient_norm)
    updates: dict[Any, Any] = {}
    begin = time.monotonic() - progress.elapsed_seconds

    def position() -> float:
        return _position(config, progress, step, time.monotonic() - begin)

    def save() -> None:
        elapsed = time.monotonic() - begin
        now = progress._replace(elapsed_seconds=elapsed, pending=log.pending())
        checkpoint.save(manager, state, now._asdict(), last=progress.finished)

    def draw() -> None:
        if not processes.is_first():
            return
        sampler = make_sampler(run, state.weights, checkpoint.trained_networks(state))
        key = jax.random.fold_in(picture_key, step)
        pictures.write(workdir, run.splits, sampler, key, step)
        if not progress.finished:
            log.diagnose(step, *diagnostics.measure(key, sampler, run.splits.test))

    def stop_if_asked() -> None:
        status = interruption.exit_status(step)
        if status is not None:
            save()
            manager.wait_until_finished()
            LOGGER.info("asked to stop: saved step %d of %s.", step, workdir)
            raise SystemExit(status)

    with (
        contextlib.closing(Log(workdir, step, progress.pending, bounds)) as log,
        tqdm(
            total=config.num_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not processes.is_first(),
        ) as bar,
    ):
        while not progress.finished and (now := position()) < config.num_steps:
            # At the top, so that the last step is saved once, below, with its final base prior.
            if step % config.checkpoint_every == 0 and step != resumed_at:
                save()
            if config.prior.fit_mixture and not progress.fitted and now >= config.prior.fit_step:
                log.flush(config.batch_size)
                fit_begin = time.monotonic() - begin
                state = fit_base_prior(run, state, jax.random.fold_in(fit_key, 0), last=False)
                fit_end = time.monotonic() - begin
                progress = progress._replace(
                    fitted=True, fit_position=now, fit_begin=fit_begin, fit_end=fit_end
                )
            terms = builders.terms_at(config, int(now))
            if terms not in updates:
                plan = builders.build_plan(config, model, terms, sharding.split_batch(mesh))
                update = builders.build_update(config, plan, optimisers)
                updates[terms] = builders.jitted(update, sharding.replicated(mesh))
            state, metrics = updates[terms](state, next(batches), run_key)
            step += 1
            bar.n = min(int(position()), config.num_steps)
            log.add(step, metrics)
            if step % config.log_every == 0:
                log.flush(config.batch_size)
                bar.set_postfix(log.brief(), refresh=True)
            if step % config.picture_every == 0:
                draw()
            stop_if_asked()
        log.flush(config.batch_size)
        if not progress.finished:
            if config.prior.fit_mixture:
                key = jax.random.fold_in(fit_key, 1)
                state = fit_base_prior(run, state, key, again=progress.fitted)
            progress = progress._replace(finished=True)
            save()
        seconds = time.monotonic() - begin
        draw()
        if processes.is_first():
            log.draw()
    return state, seconds


def _start(
    run: Run, manager: ocp.CheckpointManager, optimisers: Optimisers, key: jax.Array
) -> tuple[TrainState, Progress]:
    """The newest checkpoint's state and progress, or fresh ones."""
    state = jax.jit(
        lambda key: train_state.create(key, run.model, optimisers, run.config.prior.num_components),
        out_shardings=sharding.replicated(run.mesh),
    )(key)
    restored = checkpoint.restore(manager, state)
    if restored is None:
        overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        LOGGER.info("%s", overview)
        return state, Progress()
    LOGGER.info("resuming %s at step %d.", run.workdir, int(restored[0].step))
    return restored[0], Progress(**restored[1])


def _position(config: ConfigDict, progress: Progress, step: int, elapsed: float) -> float:
    """Where on the schedule a run stands, in steps; `elapsed` is in seconds of training."""
    if config.budget_seconds <= 0:
        return float(step)
    if not progress.fitted:
        return elapsed / config.budget_seconds * config.num_steps
    # The rest of the schedule in what is left beside the last fit.
    end = config.budget_seconds - FIT_RATIO * (progress.fit_end - progress.fit_begin)
    share = (elapsed - progress.fit_end) / max(end - progress.fit_end, 1e-3)
    return progress.fit_position + share * (config.num_steps - progress.fit_position)


def make_sampler(run: Run, weights: Weights, trained: Collection[str]) -> Sampler:
    """The sampler of a run's weights, under those energies that were trained."""
    settings = builders.build_sampler_settings(run.config, trained)
    mesh = sharding.data_mesh(jax.local_devices())
    return Sampler(run.model, sharding.local(weights), settings, mesh)


def restore_sampler(run: Run, latest: int | None = None) -> tuple[Sampler, int]:
    """The sampler of a run's newest checkpoint, up to a step where one is given, and its step.

    Raises:
      FileNotFoundError: it has none.
    """
    shapes = template(run.model, run.config.prior.num_components)
    weights, step, trained = checkpoint.restore_weights(run.workdir, shapes, latest)
    return make_sampler(run, weights, trained), step


def revised_latents(run: Run, weights: Weights, key: jax.Array, num_examples: int) -> np.ndarray:
    """Shared latents of training examples, `[num_examples, Z]`: revised where the run revises."""
    raw = data.whole(run.train_source, num_examples)
    revises = run.config.posterior.generator_weight > 0
    method = "revised" if revises else "sample"
    sampler = make_sampler(run, weights, trained=())  # the base prior alone, without its tilt
    parts = []
    for start in range(0, len(raw["label"]), FIT_BATCH):
        part = {name: values[start : start + FIT_BATCH] for name, values in raw.items()}
        given = sampler.as_batch({m.name: part[m.name] for m in sampler.modalities})
        mask = None
        if OBSERVED in part:
            mask = dict(zip(given, part[OBSERVED].T, strict=True))
        part_key = jax.random.fold_in(key, start)
        parts.append(sampler.infer(part_key, given, method=method, mask=mask).shared)
    return np.concatenate([np.asarray(part) for part in parts])


def fit_base_prior(
    run: Run, state: TrainState, key: jax.Array, *, again: bool = False, last: bool = True
) -> TrainState:
    """The state with its base prior fitted to the training data, and then its latent energy.

    With `again` the mixture is the state's own, brought up to date. The energy is fitted the last
    time alone, where the configuration asks for `prior.fit_steps`: until then training moves it.
    """
    settings = run.config.prior
    fits_energy = last and settings.learn and settings.fit_steps
    base_prior, params = sharding.local((state.weights.base_prior, state.params["prior"]))
    if processes.is_first():
        latent_key, energy_key = jax.random.split(key)
        num_examples = settings.num_fit_examples
        if not last:
            num_examples = max(num_examples // FIT_RATIO, 2 * settings.num_components)
        latents = revised_latents(run, state.weights, latent_key, num_examples)
        base_prior = mixture.fit_mixture(
            latents,
            settings.num_components,
            run.config.seed,
            start=jax.device_get(base_prior) if again else None,
            max_iterations=50 if last else 10,
            smallest_scale=NARROWEST * settings.chain.step_size,
        )
        LOGGER.info(
            "fitted the base prior to %d latents (standard deviation %.2f).",
            len(latents),
            latents.std(),
        )
        if fits_energy:
            params, gap = tilt.fit_latent_energy(
                energy_key,
                run.model,
                params,
                latents,
                base_prior,
                num_steps=settings.fit_steps,
                learning_rate=settings.fit_learning_rate,
            )
            LOGGER.info("fitted the latent energy: %.2f nats between prior and data.", float(gap))
    base_prior, params = sharding.replicate(processes.from_first((base_prior, params)), run.mesh)
    weights = state.weights._replace(base_prior=base_prior)
    state = state._replace(weights=weights)
    if not fits_energy:
        return state
    return state._replace(
        params=state.params | {"prior": params},
        num_updates=state.num_updates
        | {"prior": state.num_updates["prior"] + np.int32(settings.fit_steps)},
        weights=weights._replace(params=weights.params | {"prior": jax.tree.map(jnp.copy, params)}),
    )
