"""Train the presets for a GPU or TPU in slices of a few minutes of machine time.

    python -m experiments.published --store=carried --minutes=9 --set=data.source_dir=data/mnist
    python -m experiments.published --store=carried --status
    python -m experiments.published --self_check

Each call takes the first unfinished preset, restores its run from the store, trains it, packs the
newest checkpoint every two minutes and at the end, and evaluates the run once its schedule has
ended; then it moves on to the next preset. The store outlasts the machine: if the machine is lost,
only the minutes since the last pack are lost with it. Files in the store have at most 15 MB each,
with checksums, and a pack is verified before the previous one is removed. Compiled programs are
kept there too. `--status` verifies the whole store and prints the progress of each run.
`--self_check` carries a tiny run over two machines that are lost and compares its weights with
those of an undisturbed run.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from tabulate import tabulate

from experiments import command_line, packs

ROOT = Path(__file__).parents[1]
PRESETS = tuple(
    f"configs/polymnist.py:{name}_published"
    for name in ("paper_b", "paper_a", "mmvae_plus", "cmvae", "mopoe", "mvtcae")
)
SAVE_SECONDS = 45.0  # allowed for the last checkpoint and pack
POLL_SECONDS = 0.2
MEGABYTE = 10**6
# The run of the self-check.
CHECKED, CHECKED_STEPS = "configs/polydigits.py:mmvae", 60
CHECKED_FIELDS = {
    "num_steps": CHECKED_STEPS,
    "batch_size": 8,
    "checkpoint_every": 5,
    "picture_every": 1000,
    "data.num_modalities": 2,
    "data.num_train": 100,
    "data.num_test": 100,
    "model.num_latents": 3,
    "model.width": 2,
    "model.hidden": 8,
    "model.energy_width": 2,
    "model.energy_hidden": 8,
    "prior.num_components": 4,
    "evaluation.measures": "joint_samples",
    "evaluation.num_samples": 100,
    "evaluation.classifier_seeds": 1,
    "evaluation.classifier_steps": 20,
}
CHECKED_BYTES = 50_000  # per file, so that the tiny run needs several

_STORE = flags.DEFINE_string("store", None, "Folder that outlasts the machine.")
_SCRATCH = flags.DEFINE_string("scratch", "runs/published", "Folder on the machine.")
_PRESETS = flags.DEFINE_list("presets", list(PRESETS), "Configs, in the order of their turn.")
_MINUTES = flags.DEFINE_float("minutes", 9.0, "Of this call.", 0.0, allow_override=True)
_SET = flags.DEFINE_multi_string(
    "set", [], "FIELD=VALUE of every preset, as num_steps=36000.", allow_override=True
)
_MOST = flags.DEFINE_integer("most_bytes", packs.MOST_BYTES, "Of a file in the store.", 1000)
_SELF_CHECK = flags.DEFINE_bool("self_check", False, "Check the carrying itself, in minutes.")
_STATUS = flags.DEFINE_bool("status", False, "Verify the store and print how far the runs are.")


class Slice(NamedTuple):
    """One call: the folders it works in and its time limit."""

    store: Path
    scratch: Path
    compiled: Path  # JAX's compilation cache on the machine
    changes: Sequence[str]  # FIELD=VALUE
    end: float  # on the clock of `time.monotonic`
    most_bytes: int = packs.MOST_BYTES
    pack_seconds: float = 120.0  # between packs while a run trains
    # For the self-check: after a checkpoint of this step is packed, the machine is ended by this
    # signal.
    ends_at: tuple[int, signal.Signals] | None = None

    def left(self) -> float:
        """The seconds that are left."""
        return self.end - time.monotonic()


def name_of(preset: str) -> str:
    """The name of a preset's folders: "configs/polymnist.py:mopoe" → "polymnist_mopoe"."""
    path, _, variant = preset.partition(":")
    return "_".join(part for part in (Path(path).stem, variant) if part)


def advance(preset: str, work: Slice) -> str:
    """Advance one preset's run as far as time allows; returns a few words on what happened.

    Raises:
      ValueError: the command that trains or evaluates failed (with its last line of output), or all
        packs of the run are damaged.
    """
    store, run = work.store / name_of(preset), work.scratch / name_of(preset)
    known = packs.newest_index(store)
    if known and known.facts.get("evaluated"):
        return "done"
    if not run.exists():
        packs.read(store, run)
    before = packs.newest_checkpoint(run) or 0
    facts = _facts(run)
    if not facts["finished"]:
        changes = [f"--config.{change}" for change in work.changes]
        _watch([f"--config={preset}", f"--workdir={run}", *changes], preset, run, work)
        facts = _facts(run)
        after = packs.newest_checkpoint(run) or 0
        if not facts["finished"]:
            if after > before:
                return f"{after - before} steps"
            return "no step: give more minutes, or compile once with --minutes=20"
    if not facts["evaluated"]:
        _watch([f"--workdir={run}", "--mode=evaluate"], preset, run, work)
    return "done" if _facts(run)["evaluated"] else "trained; its evaluation takes more minutes"


def status(presets: Sequence[str], store: Path, most_bytes: int) -> tuple[str, list[str]]:
    """A table of all runs, and a list of problems with the store."""
    rows, problems = [], []
    for preset in presets:
        folder = store / name_of(preset)
        index = packs.newest_index(folder)
        found = {pack.name: packs.damage(pack) for pack in sorted(folder.glob("[0-9]*"))}
        problems += [f"{preset}: pack {pack}: {bad}" for pack, bad in found.items() if bad]
        facts = index.facts if index else {}
        share = f"{index.step} of {facts.get('num_steps', '?')}" if index else "not begun"
        minutes = f"{facts.get('seconds', 0) / 60:.1f}" if index else ""
        state = "evaluated" if facts.get("evaluated") else ""
        rows.append([preset, share, minutes, state or ("trained" if facts.get("finished") else "")])
    for path in store.rglob("*"):
        if path.is_file() and path.stat().st_size > most_bytes:
            problems.append(f"{path} has more than {most_bytes / MEGABYTE:.0f} MB")
    return tabulate(rows, ["preset", "steps", "minutes", ""]), problems


def _watch(arguments: Sequence[str], preset: str, run: Path, work: Slice) -> None:
    """Run `experiments.main` until it ends or time is up, packing its checkpoints meanwhile."""
    store, cache = work.store / name_of(preset), work.compiled
    command = [sys.executable, "-m", "experiments.main", *arguments]
    log_path = work.scratch / f"{name_of(preset)}.log"
    packed, last, ending = packs.newest_checkpoint(run), time.monotonic(), signal.SIGTERM
    with log_path.open("w") as log:
        child = subprocess.Popen(
            [*command, f"--compilation_cache={cache}"], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            while child.poll() is None and work.left() > SAVE_SECONDS:
                time.sleep(POLL_SECONDS)
                newest = packs.newest_checkpoint(run)
                if newest != packed and time.monotonic() - last > work.pack_seconds:
                    # The run may be removing an older checkpoint: try again later.
                    with contextlib.suppress(FileNotFoundError):
                        packs.write(run, store, _facts(run), work.most_bytes)
                        packed, last = newest, time.monotonic()
                if work.ends_at and packed is not None and packed >= work.ends_at[0]:
                    ending = work.ends_at[1]
                    break
        finally:
            # Training saves on SIGTERM; an evaluation just ends and starts over in the next slice.
            child.send_signal(ending)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(1.0, work.left() - SAVE_SECONDS / 3))
            child.kill()
            code = child.wait()
    if ending == signal.SIGKILL:
        return
    if code not in (0, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL):
        lines = log_path.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise ValueError(f"{preset}: {lines[-1].removeprefix('error: ')}")
    packs.write(run, store, _facts(run), work.most_bytes)


def _facts(run: Path) -> dict[str, Any]:
    """Length of a run's schedule and its progress, from its folder."""
    step = packs.newest_checkpoint(run)
    num_steps, seconds, finished = 0, 0.0, False
    if step is not None:
        config = json.loads((run / "config.json").read_text())
        meta = json.loads((run / "checkpoints" / str(step) / "meta" / "metadata").read_text())
        progress, num_steps = meta["progress"], config["num_steps"]
        seconds = progress["elapsed_seconds"]
        finished = bool(progress["finished"]) and step >= num_steps
    return {
        "num_steps": num_steps,
        "seconds": round(seconds, 1),
        "finished": finished,
        "evaluated": finished and (run / "evaluation.json").exists(),
    }


def _carry_compiled(work: Slice, *, back: bool) -> None:
    """Copy compiled programs from the store to the machine, or new ones back to the store."""
    source, target = work.store / "compiled", work.compiled
    if back:
        source, target = target, source
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*"):
        if path.stat().st_size <= work.most_bytes and not (target / path.name).exists():
            shutil.copy(path, target / path.name)


def self_check(folder: Path) -> str:
    """Carry a tiny run over machines that are lost; returns one line with the result.

    The first machine is killed after a pack, the second is stopped by the clock, and the third
    finishes and evaluates the run; a fourth trains the same run undisturbed.

    Raises:
      ValueError: weights differ, a file is too large, or no run was interrupted.
    """
    changes = [f"{name}={value}" for name, value in CHECKED_FIELDS.items()]
    machines = [
        ("store", (5, signal.SIGKILL)),
        ("store", (20, signal.SIGTERM)),
        ("store", None),
        ("undisturbed", None),
    ]
    steps = []
    for number, (store, ends_at) in enumerate(machines):
        work = Slice(
            folder / store,
            folder / f"machine{number}",
            folder / "compiled",
            changes,
            time.monotonic() + 3600,
            CHECKED_BYTES,
            0.0,
            ends_at,
        )
        work.scratch.mkdir(parents=True)
        print(f"machine {number + 1}: {advance(CHECKED, work)}", flush=True)
        index = packs.newest_index(work.store / name_of(CHECKED))
        steps.append(index.step if index else 0)
    _, problems = status([CHECKED], folder / "store", CHECKED_BYTES)
    if not 0 < steps[0] < steps[1] < CHECKED_STEPS:
        problems.append(f"machines ended at steps {steps}, not before the last")
    if steps[2:] != 2 * [CHECKED_STEPS]:
        problems.append(f"runs ended at steps {steps[2:]}, not at {CHECKED_STEPS}")
    ours, theirs = (folder / f"machine{number}" / name_of(CHECKED) for number in (2, 3))
    if different := _different_weights(ours, theirs):
        problems.append(f"weights differ: {', '.join(different)}")
    if not (ours / "evaluation.json").exists():
        problems.append("the carried run was not evaluated")
    if problems:
        raise ValueError("; ".join(problems))
    return (
        f"self-check: a run carried over machines lost at steps {steps[0]} and {steps[1]} of "
        f"{CHECKED_STEPS} has the weights of one that was not, and files of at most "
        f"{CHECKED_BYTES / 1000:.0f} kB."
    )


def _different_weights(ours: Path, theirs: Path) -> list[str]:
    """Names of sampling weights that differ between two runs: bitwise on CPUs, else by 1 %."""
    import jax
    import numpy as np

    from mmebm_jax.runs import sampler

    tolerance = 0.0 if jax.default_backend() == "cpu" else 0.01
    one, other = (sampler.load(folder).weights for folder in (ours, theirs))
    return [
        jax.tree_util.keystr(place)
        for (place, a), b in zip(
            jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
        )
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance)
    ]


def main() -> None:
    """Run one slice, print the store's status, or run the self-check."""
    if _SELF_CHECK.value:
        with tempfile.TemporaryDirectory() as folder:
            print(self_check(Path(folder)))
        return
    if not _STORE.value:
        command_line.fail("--store is missing: name a folder that outlasts the machine.")
    store, scratch = Path(_STORE.value).absolute(), Path(_SCRATCH.value).absolute()
    if not _STATUS.value:
        end = time.monotonic() + 60 * _MINUTES.value
        work = Slice(store, scratch, scratch / "compiled", _SET.value, end, _MOST.value)
        scratch.mkdir(parents=True, exist_ok=True)
        _carry_compiled(work, back=False)
        try:
            for preset in _PRESETS.value:
                if work.left() > SAVE_SECONDS:
                    print(f"{preset}: {advance(preset, work)}", flush=True)
        finally:
            _carry_compiled(work, back=True)
    text, problems = status(_PRESETS.value, store, _MOST.value)
    print(text)
    if problems:
        command_line.fail("; ".join(problems))


if __name__ == "__main__":
    command_line.run(main)
