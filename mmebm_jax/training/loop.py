"""The training loop: train a model, or resume from the run folder's newest checkpoint."""

import contextlib
import errno
import logging
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from clu import parameter_overview
from tqdm import tqdm

from mmebm_jax.method import train_state
from mmebm_jax.method.train_state import Optimisers, TrainState
from mmebm_jax.runs import builders, checkpoint, sharding
from mmebm_jax.storage.validation import brief
from mmebm_jax.training import diagnostics, feed, pictures, processes, writers
from mmebm_jax.training.compiled_update import Updates, compiled_update
from mmebm_jax.training.interruption import Interruption
from mmebm_jax.training.log import Bounds, Explosion, Log, Row, read_events, report, write_event
from mmebm_jax.training.prior_fitting import fit_base_prior
from mmebm_jax.training.run import Run, sole_writer
from mmebm_jax.training.sampler_of_run import make_sampler
from mmebm_jax.training.sampling_time import fit_sampling_time
from mmebm_jax.training.schedule import learning_rates

# Error numbers of a full disk, an exhausted quota, and a file-size limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOGGER = logging.getLogger("mmebm_jax")


class Progress(NamedTuple):
    """Where a run stands; saved with each checkpoint."""

    elapsed_seconds: float = 0.0  # training time without set-up; see `train`
    fitted: bool = False  # whether the base prior has been fitted during training
    frozen: bool = False  # whether it has had its last fit, as the networks under it are frozen
    finished: bool = False  # whether the end of the schedule has been reached
    sampling_time: float = 0.0  # of the data chain, fitted after the last step; 0 for none
    pending: Sequence[Row] = ()  # metrics that are in no row of metrics.jsonl yet


def train(
    run: Run, updates: Updates | None = None, *, draw: bool = True
) -> tuple[TrainState, float]:
    """Run the schedule to its end, from the newest checkpoint if there is one.

    When metrics explode, the run resumes from the newest checkpoint with other keys and, with
    `guard.halve_energy_rate`, half the learning rate of the energies. If it explodes again before a
    newer checkpoint, the newest one may already be about to explode: it is moved aside, and the one
    before it is used. On SIGTERM or SIGINT the run finishes its step, saves, and ends by
    `SystemExit`.

    A run whose configuration now has more `num_steps` than before is continued. Schedules are
    functions of `num_steps`, so learning rates rise from the end of the old schedule to the values
    of the new one. config.json is rewritten, and metrics.jsonl gets an event "extension".

    Args:
      run: from `prepare`.
      updates: steps of this run that are already compiled; others are added.
      draw: whether pictures and diagnostics of samples are made; losses are always logged.

    Returns:
      The final state, which is also saved, and the seconds of training over all resumptions,
      including compilation, pictures and all fits, but not set-up.

    Raises:
      FloatingPointError: metrics exploded more than `guard.retries` times before a newer
        checkpoint; the line names the step and the network, and `explosion.json` has the details.
      ValueError: the folder's checkpoints cannot be read, or belong to a run that cannot resume.
      OSError: the disk is full; everything written so far stays intact.
    """
    checkpoint.check_resumable(run.workdir)
    tries, farthest = 0, -1
    with sole_writer(run.workdir), Interruption() as interruption:
        if processes.is_first():
            _write_config(run)
        # All processes must agree on the number of explosions, which only the first one records.
        num_explosions = int(processes.from_first(len(read_events(run.workdir, "explosion"))))
        while True:
            try:
                with checkpoint.open_manager(run.workdir, run.config.keep_checkpoints) as manager:
                    attempt = _Attempt(run, manager, interruption, num_explosions, updates, draw)
                    return attempt.run_to_end()
            except Explosion as explosion:
                updates = None  # The compiled steps may be what exploded.
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
                LOGGER.warning("%s Resuming from step %d with other keys.", explosion, newest)
            except (OSError, ValueError) as error:
                if not _is_full(error):
                    raise
                raise OSError(
                    f"{run.workdir} takes no more ({_reason(error)}): free some space and run the "
                    "same command again, which resumes from the newest checkpoint."
                ) from error


def _write_config(run: Run) -> None:
    """Save the configuration; if it continues a run for more steps, record this."""
    # Another process may have started and finished a run here since this one was prepared.
    checkpoint.check_config(run.workdir, run.config, may_extend=True)
    before = checkpoint.write_config(run.workdir, run.config, run.splits)
    if before is not None:
        facts = {"step": before, "num_steps": run.config.num_steps}
        write_event(run.workdir, "extension", facts)
        LOGGER.info(
            "continuing a run of %d steps to %d: learning rates follow the schedule of %d steps.",
            before,
            run.config.num_steps,
            run.config.num_steps,
        )


def _is_full(error: OSError | ValueError) -> bool:
    # TensorStore reports a failed write as a ValueError.
    return getattr(error, "errno", None) in FULL or "Error writing" in str(error)


def _reason(error: OSError | ValueError) -> str:
    return brief(getattr(error, "strerror", None) or str(error))


class _Attempt:
    """One attempt to run from the newest checkpoint to the end of the schedule."""

    def __init__(
        self,
        run: Run,
        manager: ocp.CheckpointManager,
        interruption: Interruption,
        num_explosions: int,
        updates: Updates | None,
        draws: bool,
    ) -> None:
        """Restore the newest checkpoint, or initialise."""
        self.run, self.manager, self.interruption = run, manager, interruption
        self.updates: Updates = {} if updates is None else updates
        self.draws = draws
        config = run.config
        keys = jax.random.split(jax.random.key(config.seed), 4)
        init_key, self.run_key, self.fit_key, self.picture_key = keys
        if num_explosions:
            self.run_key = jax.random.fold_in(self.run_key, num_explosions)
        self.run_key = sharding.replicate(self.run_key, run.mesh)
        self.optimisers = builders.build_optimisers(config)
        self.state, self.progress = _start(run, manager, self.optimisers, init_key)
        self.step = int(self.state.step)
        halvings = num_explosions if config.guard.halve_energy_rate else 0
        self.rates = learning_rates(config, self.step, energy_scale=0.5**halvings)
        self.begin = time.monotonic() - self.progress.elapsed_seconds

    def run_to_end(self) -> tuple[TrainState, float]:
        """The final state and the seconds of training."""
        config, start = self.run.config, self.step
        LOGGER.info("training on %s.", sharding.describe(self.run.mesh))
        if warning := sharding.lacking_accelerator(self.run.mesh):
            LOGGER.warning("warning: %s", warning)
        batches = feed.batches(
            self.run.train_source,
            self.run.mesh,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            device_resident=config.input.device_resident,
        )
        with self._open_log(), _progress_bar(config.num_steps, start) as bar:
            while not self.progress.finished and self.step < config.num_steps:
                # At the top, so that the last step is saved once, by `_finish`, with its final
                # base prior.
                if self.step % config.checkpoint_every == 0 and self.step != start:
                    self._save()
                self._fit_where_frozen()
                self._fit_during_training()
                self._take_step(next(batches))
                bar.update()
                if self.step % config.log_every == 0:
                    self.log.flush(config.batch_size)
                    bar.set_postfix(self.log.brief(), refresh=True)
                if self.step % config.picture_every == 0:
                    self._draw()
                self._stop_if_asked()
            self.log.flush(config.batch_size)
            seconds = self._finish()
        return self.state, seconds

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[None]:
        guard = self.run.config.guard
        bounds = Bounds(guard.energy_gap, guard.gradient_norm)
        workdir = self.run.workdir
        writer = writers.open_writer(workdir, self.step, self.run.config)
        self.log = Log(workdir, self.step, self.progress.pending, bounds, writer)
        with contextlib.closing(self.log):
            yield

    def _take_step(self, batch: feed.Batch) -> None:
        terms = builders.terms_at(self.run.config, self.step)
        if terms not in self.updates:
            self.updates[terms] = compiled_update(self.run, self.optimisers, terms)
        update = self.updates[terms]
        self.state, metrics = update(self.state, batch, next(self.rates), self.run_key)
        self.step += 1
        self.log.add(self.step, metrics)

    def _fit_during_training(self) -> None:
        settings, progress = self.run.config.prior, self.progress
        done = progress.fitted or progress.frozen
        if not settings.fit_mixture or done or self.step < settings.fit_step:
            return
        self.log.flush(self.run.config.batch_size)
        key = jax.random.fold_in(self.fit_key, 0)
        self.state = fit_base_prior(self.run, self.state, key, final=False)
        self.progress = self.progress._replace(fitted=True)

    def _fit_where_frozen(self) -> None:
        freeze_step = self.run.config.schedule.freeze_step
        if self.progress.frozen or not 0 < freeze_step <= self.step:
            return
        self.log.flush(self.run.config.batch_size)
        self._fit_at_last()
        self.progress = self.progress._replace(frozen=True)

    def _fit_at_last(self) -> None:
        if self.run.config.prior.fit_mixture:
            key = jax.random.fold_in(self.fit_key, 1)
            warm_start = self.progress.fitted
            self.state = fit_base_prior(self.run, self.state, key, warm_start=warm_start)

    def _fit_sampling_time(self) -> float:
        if not self.run.config.energy.fit_sampling_time:
            return 0.0
        fitted = 0.0
        if processes.is_first():
            trained = checkpoint.trained_networks(self.state)
            sampler = make_sampler(self.run, self.state.weights, trained)
            if sampler.refines():
                LOGGER.info("choosing the time of the data chain by its samples' distance.")
                key = jax.random.fold_in(self.fit_key, 2)
                curve = fit_sampling_time(key, sampler, self.run.train_source)
                write_event(
                    self.run.workdir, "sampling_time", {"step": self.step, **curve._asdict()}
                )
                fitted = curve.time
                if curve.problem:
                    LOGGER.warning("no sampling time was fitted: %s.", curve.problem)
                else:
                    LOGGER.info("samples are refined for a time of %.4g.", fitted)
        return float(processes.from_first(fitted))

    def _finish(self) -> float:
        """Make the last fits, save and draw; returns the seconds of training."""
        resumed_at_end = self.progress.finished
        if not resumed_at_end:
            if not self.progress.frozen:
                self._fit_at_last()
            fitted = self._fit_sampling_time()
            self.progress = self.progress._replace(finished=True, sampling_time=fitted)
            self._save()
        self._draw()
        if self.draws and processes.is_first():
            self.log.draw()
        return self.progress.elapsed_seconds if resumed_at_end else self._elapsed()

    def _save(self) -> None:
        now = self.progress._replace(elapsed_seconds=self._elapsed(), pending=self.log.pending())
        checkpoint.save(self.manager, self.state, now._asdict(), last=self.progress.finished)

    def _draw(self) -> None:
        if not (self.draws and processes.is_first()):
            return
        trained = checkpoint.trained_networks(self.state)
        sampler = make_sampler(self.run, self.state.weights, trained, self.progress.sampling_time)
        key = jax.random.fold_in(self.picture_key, self.step)
        pictures.write(self.run.workdir, self.run.splits, sampler, key, self.step)
        if not self.progress.finished:
            numbers = diagnostics.measure(key, sampler, self.run.splits.test)
            self.log.diagnose(self.step, *numbers)

    def _stop_if_asked(self) -> None:
        status = self.interruption.exit_status(self.step)
        if status is not None:
            self._save()
            self.manager.wait_until_finished()
            LOGGER.info("asked to stop: saved step %d of %s.", self.step, self.run.workdir)
            raise SystemExit(status)

    def _elapsed(self) -> float:
        return time.monotonic() - self.begin


def _progress_bar(num_steps: int, step: int) -> tqdm:
    return tqdm(
        total=num_steps,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        disable=not processes.is_first(),
    )


def _start(
    run: Run, manager: ocp.CheckpointManager, optimisers: Optimisers, key: jax.Array
) -> tuple[TrainState, Progress]:
    """The newest checkpoint's state and progress, or fresh ones.

    Raises:
      ValueError: the run is unfinished and was scheduled by wall clock in an earlier version.
    """
    config = run.config
    state = jax.jit(
        lambda key: train_state.create(key, run.model, optimisers, config.prior.num_components),
        out_shardings=sharding.replicated(run.mesh),
    )(key)
    restored = checkpoint.restore(manager, state)
    if restored is None:
        overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        LOGGER.info("%s", overview)
        return state, Progress()
    state, meta = restored
    step = int(state.step)
    progress = Progress(**{name: meta[name] for name in Progress._fields if name in meta})
    if not progress.finished and checkpoint.wall_clock_seconds(run.workdir):
        raise ValueError(
            f"{run.workdir} holds an unfinished run that an earlier version scheduled by wall "
            "clock (budget_seconds): sample or evaluate it, or set budget_seconds to 0 in its "
            "config.json to go on by steps."
        )
    LOGGER.info("resuming %s at step %d.", run.workdir, step)
    if step < config.num_steps:  # A time fitted at an earlier end belongs to other networks.
        progress = progress._replace(finished=False, sampling_time=0.0)
    return state, progress
