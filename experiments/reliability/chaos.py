"""Disturb training at random moments and compare the result with an undisturbed run.

Every round trains `configs/chaos.py` in child processes. Some are killed, asked to stop, denied
disk space, or fed a NaN or an explosion; between them checkpoint files are truncated or deleted.
Then the same command runs until it finishes. Kills, stops, damage and full disks must leave no
trace: parameters, optimisers and metrics must equal those of the undisturbed run bit for bit. After
a NaN or an explosion the run must have recovered: every step exactly once, all numbers finite.

python -m experiments.reliability.chaos --workdir=runs/chaos --rounds=50 --parallel=2
"""

import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from tabulate import tabulate

from configs.chaos import get_config
from experiments import command_line
from experiments.reliability import faults
from mmebm_jax import training as train
from mmebm_jax.method import train_state
from mmebm_jax.method.train_state import TrainState
from mmebm_jax.runs import builders, checkpoint
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.places import place

_ROUNDS = flags.DEFINE_integer("rounds", 50, "Rounds, each with its own seed.", 1)
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Rounds that run side by side.", 1)
_SEED = flags.DEFINE_integer("fault_seed", 0, "Of the faults.", 0)
_FAULTS = flags.DEFINE_list("faults", None, "Kinds to choose from; all by default.")
_PLANT = flags.DEFINE_string("plant", None, "KIND:STEP; train in --workdir with this fault.")
_RETRIES = flags.DEFINE_integer("retries", 3, "Of --plant: how often an explosion is retried.", 0)

# Faults that must leave no trace.
TRACELESS = ("kill", "terminate", "truncate", "delete", "disk")
# Faults that a child process injects into itself.
PLANTED = ("nan_batch", "nan_gradient", "explosion")
KINDS = (*TRACELESS, *PLANTED)
LONGEST_RUN = 600.0  # seconds before a child counts as hanging
MOST_ATTEMPTS = 3  # to finish once the disturbances are over
ASKED_TO_STOP = 128 + signal.SIGTERM

Contents = Mapping[str, np.ndarray]
_READING = threading.Lock()


class Stop(NamedTuple):
    """A run that was asked to stop during training."""

    seconds: float  # until the process had exited
    usable: bool  # whether its newest checkpoint can be read


class Outcome(NamedTuple):
    """The result of a round."""

    round: int
    faults: list[str]
    finished: bool
    each_step_once: bool
    unchanged: bool  # whether the results equal the undisturbed run's bit for bit
    finite: bool
    stops: list[Stop]
    messages: list[str]  # last lines of children that failed

    @property
    def traceless(self) -> bool:
        """Whether all faults of the round must leave no trace."""
        return set(self.faults) <= set(TRACELESS)

    @property
    def passed(self) -> bool:
        """Whether the round ended as it should."""
        kept = self.unchanged if self.traceless else self.finite
        return self.finished and self.each_step_once and kept and all(s.usable for s in self.stops)


class Child:
    """A training process in a run folder."""

    def __init__(
        self, workdir: epath.Path, cache: epath.Path, plant: str = "", file_limit: int = 0
    ) -> None:
        """Start the process, with an injected fault or a size limit in bytes on its files."""
        workdir.parent.mkdir(parents=True, exist_ok=True)
        module = "chaos" if plant else "main"
        command = [sys.executable, "-m", f"experiments.{module}", f"--workdir={workdir}"]
        command += [f"--plant={plant}"] if plant else ["--config=configs/chaos.py"]
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        self._errors = workdir.parent / f"{workdir.name}.log"
        with self._errors.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        if file_limit:
            limits = (file_limit, file_limit)
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, limits)

    def wait(self, seconds: float) -> None:
        """Wait for this many seconds, or until the process exits."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def end(self) -> int:
        """Wait for the exit status, negative for a signal; a process that hangs is killed."""
        self.wait(LONGEST_RUN)
        self._process.kill()
        return self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal; does nothing if the process has exited."""
        self._process.send_signal(number)

    def last_line(self) -> str:
        """The last line of its output."""
        return self._errors.read_text().rstrip().splitlines()[-1]


def main() -> None:
    """Run all rounds, or act as the child process of one."""
    if command_line.WORKDIR.value is None:
        command_line.fail("--workdir is missing: name a folder for the runs.")
    workdir = place(command_line.WORKDIR.value)
    if _PLANT.value is not None:
        train_with(_PLANT.value, workdir)
        return
    kinds = tuple(_FAULTS.value or KINDS)
    if unknown := sorted(set(kinds) - set(KINDS)):
        command_line.fail(f"--faults {', '.join(unknown)}: choose from {', '.join(KINDS)}.")
    if workdir.exists():
        command_line.fail(f"{workdir} exists: name a new folder with --workdir.")

    # The first run compiles, the second shows how long a run takes.
    for name in ("reference", "repeated"):
        begin = time.monotonic()
        child = Child(workdir / name, workdir / "compiled")
        if child.end() != 0:
            command_line.fail(f"the undisturbed run failed: {child.last_line()}")
        duration = time.monotonic() - begin
    expected = contents(workdir / "reference")
    if not same(expected, contents(workdir / "repeated")):
        command_line.fail("two undisturbed runs differ: there is nothing to compare with.")

    def play_and_tell(index: int) -> Outcome:
        outcome = play(workdir, index, kinds, duration, expected)
        verdict = "passed" if outcome.passed else "FAILED"
        print(f"round {index} {verdict}: {', '.join(outcome.faults)}", flush=True)
        return outcome

    with ThreadPoolExecutor(_PARALLEL.value) as pool:
        outcomes = list(pool.map(play_and_tell, range(_ROUNDS.value)))
    report = [
        outcome._asdict() | {"stops": [s._asdict() for s in outcome.stops]} for outcome in outcomes
    ]
    write_whole(workdir / "chaos.json", json.dumps(report, indent=2) + "\n")
    print(table(outcomes))
    if not all(outcome.passed for outcome in outcomes):
        command_line.fail(f"not every round passed: see {workdir / 'chaos.json'}.")


def train_with(plant: str, workdir: epath.Path) -> None:
    """Train with a fault, "KIND:NUMBER", injected at the batch or update of that number."""
    kind, _, number = plant.partition(":")
    if kind not in PLANTED or not number.isdigit():
        command_line.fail(f"--plant={plant}: give one of {', '.join(PLANTED)}, a colon, a number.")
    config = get_config()
    config.guard.retries = _RETRIES.value
    run = train.prepare(config, workdir)
    with contextlib.ExitStack() as stack:
        if kind == "nan_batch":
            run = faults.with_nan_in_batch(run, int(number))
        elif kind == "nan_gradient":
            stack.enter_context(faults.nan_in_gradient(int(number)))
        else:
            stack.enter_context(faults.explosion(int(number)))
        train.train(run)


def play(
    workdir: epath.Path,
    index: int,
    kinds: Sequence[str],
    duration: float,
    expected: Contents,
) -> Outcome:
    """Play one round: one to three faults, then the same command until it finishes."""
    folder, cache = workdir / "rounds" / str(index), workdir / "compiled"
    generator = np.random.default_rng([_SEED.value, index])
    chosen = [str(kind) for kind in generator.choice(kinds, size=generator.integers(1, 4))]
    # A run recovers from an injected fault and trains to its end, so these faults come last: any
    # later fault would find nothing left to disturb.
    chosen.sort(key=lambda kind: kind in PLANTED)
    stops: list[Stop] = []
    messages: list[str] = []
    for fault in chosen:
        begin = None
        if fault in PLANTED:
            # The energies learn only in the last half of the steps.
            most = get_config().num_steps // 2
            child = Child(folder, cache, plant=f"{fault}:{generator.integers(most)}")
        elif fault == "disk":
            child = Child(folder, cache, file_limit=int(10 ** generator.uniform(2.5, 5.5)))
        else:
            child = Child(folder, cache)
            child.wait(generator.uniform(0, duration))
            begin = time.monotonic()
            child.signal(signal.SIGTERM if fault == "terminate" else signal.SIGKILL)
        status = child.end()
        if status == ASKED_TO_STOP and begin is not None:
            stops.append(Stop(time.monotonic() - begin, _is_usable(folder)))
        elif status > 0:
            messages.append(f"{fault}: {child.last_line()}")
        if fault in ("truncate", "delete"):
            damage(folder, generator, delete=fault == "delete")

    finished = False
    for _ in range(MOST_ATTEMPTS):
        child = Child(folder, cache)
        finished = child.end() == 0
        if finished:
            break
        messages.append(f"undisturbed: {child.last_line()}")
    found: Contents = {}
    try:
        if finished:
            found = contents(folder)
    except (ValueError, OSError) as error:
        messages.append(f"results: {error}")
    return Outcome(
        round=index,
        faults=chosen,
        finished=finished,
        each_step_once=np.array_equal(expected["step"], found.get("step", ())),
        unchanged=same(expected, found),
        finite=bool(found) and all(np.isfinite(values).all() for values in found.values()),
        stops=stops,
        messages=messages,
    )


def damage(folder: epath.Path, generator: np.random.Generator, *, delete: bool) -> None:
    """Halve or delete a file of the newest checkpoint, if there is an older one to fall back to."""
    found = Path(folder / "checkpoints").glob("*")
    steps = sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))
    if len(steps) < 2:
        return
    files = sorted(path for path in steps[-1].rglob("*") if path.is_file())
    chosen = files[generator.integers(len(files))]
    if delete:
        chosen.unlink()
    else:
        chosen.write_bytes(chosen.read_bytes()[: chosen.stat().st_size // 2])


def _is_usable(folder: epath.Path) -> bool:
    try:
        restore(folder)
    except (ValueError, OSError):
        return False
    return True


@functools.cache
def _template() -> TrainState:
    """A new training state, as the runs have it."""
    config = get_config()
    model = builders.build_model(config, builders.build_data(config).fields)
    optimisers = builders.build_optimisers(config)
    return train_state.create(jax.random.key(0), model, optimisers, config.prior.num_components)


def restore(folder: epath.Path) -> TrainState:
    """The state from which a run would resume.

    Raises:
      ValueError: the newest checkpoint cannot be read.
    """
    # Restoring changes how the process handles other libraries' messages, so one at a time.
    with _READING, checkpoint.open_manager(folder) as manager:
        newest = manager.latest_step()
        restored = checkpoint.restore(manager, _template())
        if restored is None or manager.latest_step() != newest:
            raise ValueError(f"checkpoint {newest} of {folder} cannot be read.")
    return restored[0]


def contents(folder: epath.Path) -> Contents:
    """Everything a run has learned and written: its newest checkpoint, metrics and events.

    Values that depend on the clock are left out.

    Raises:
      ValueError, OSError: the newest checkpoint or the metrics cannot be read.
    """
    leaves = jax.tree_util.tree_leaves_with_path(restore(folder))
    found = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if record.get("event") != "explosion"]
    rows = [record for record in records if "event" not in record]
    found["step"] = np.asarray([row["step"] for row in rows])
    for number, record in enumerate(records):
        values = [v for k, v in record.items() if k not in ("event", "examples_per_second")]
        found[f"record {number}"] = np.asarray(values)
    return found


def same(left: Contents, right: Contents) -> bool:
    """Whether the results of two runs are identical bit for bit."""
    return left.keys() == right.keys() and all(
        np.array_equal(left[name], right[name]) for name in left
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """How often each kind of fault struck and how those rounds ended, as Markdown."""
    rows = []
    for kind in KINDS:
        struck = [outcome for outcome in outcomes if kind in outcome.faults]
        if struck:
            exact = [outcome for outcome in struck if outcome.traceless]
            rows.append(
                (
                    kind.replace("_", " "),
                    len(struck),
                    sum(outcome.finished for outcome in struck),
                    f"{sum(outcome.unchanged for outcome in exact)} of {len(exact)}",
                    sum(outcome.each_step_once for outcome in struck),
                )
            )
    headers = ("fault", "rounds", "finished", "bitwise as undisturbed", "every step once")
    text = tabulate(rows, headers=headers, tablefmt="github")
    passed = sum(outcome.passed for outcome in outcomes)
    text += f"\n\n{passed} of {len(outcomes)} rounds passed."
    if stops := [stop for outcome in outcomes for stop in outcome.stops]:
        slowest = max(stop.seconds for stop in stops)
        usable = sum(stop.usable for stop in stops)
        text += f" {len(stops)} runs were asked to stop while they trained: the slowest ended in "
        text += f"{slowest:.1f} s, {usable} left a checkpoint that can be read."
    return text


if __name__ == "__main__":
    command_line.run(main)
