"""Make one of the papers' figures, or all: runs, a file of results, a picture.

    python -m experiments.figures energy_loss --workdir=runs/figures --seeds=0,1,2 --minutes=3
    python -m experiments.figures all --workdir=runs/smoke --smoke

NAME.json and NAME.png are written to docs/results/figures or, with --smoke, to the folder of the
runs; `python -m experiments.render` then renders docs/figures.md. Runs already trained and measured
in the folder are reused, so an interrupted call can be repeated to continue.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from etils import epath

from configs.polydigits import SMOKE
from experiments import command_line, shards
from experiments.figures import figure, registry
from experiments.figures.runs import Settings
from mmebm_jax.storage.files import check_folder
from mmebm_jax.storage.places import place

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "figures"
WORKDIR = "runs/figures"

# `experiments.compare` defines the same flags, and tests import both modules.
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.", allow_override=True)
_MINUTES = flags.DEFINE_float("minutes", 3.0, "Training time of each run.")
_STEPS = flags.DEFINE_integer("steps", None, "Training steps of each run, in place of --minutes.")
_SET = flags.DEFINE_multi_string(
    "set", [], "FIELD=VALUE of every run, as evaluation.num_samples=500."
)
_METHODS = flags.DEFINE_list("methods", [], "Of quality_coherence: variants in place of its own.")
_SMOKE = flags.DEFINE_bool("smoke", False, "A few steps of everything, to see that it runs.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Runs at a time, each on its share of the cores.", 1, allow_override=True
)
_SHARD = flags.DEFINE_string(
    "shard", None, "i/n, of a process that --jobs starts.", allow_override=True
)
_RESULTS = flags.DEFINE_string(
    "results", None, "Folder of NAME.json and NAME.png.", allow_override=True
)
_REDRAW = flags.DEFINE_bool("redraw", False, "Draw again from NAME.json; nothing is run.")
_PARTIAL = flags.DEFINE_bool(
    "partial", False, "Make it of the runs that are finished, as a preview."
)


def parse(arguments: Sequence[str]) -> list[str]:
    """Parse the figure's name, which precedes all flags; bad input exits with a one-line error."""
    names = [a for a in arguments[1:2] if not a.startswith("-")]
    rest = command_line.parse([arguments[0], *arguments[1 + len(names) :]])
    known = ", ".join(registry.FIGURES)
    if not names:
        command_line.fail(f"name a figure first: {known}, or all.")
    if names[0] not in (*registry.FIGURES, "all"):
        command_line.fail(f"there is no figure {names[0]}: choose {known}, or all.")
    return [rest[0], *names]


def changes() -> dict[str, Any]:
    """The fields of --set, with values parsed as JSON if possible, else kept as text."""
    found: dict[str, Any] = {}
    for entry in _SET.value:
        name, equals, value = entry.partition("=")
        if not equals:
            command_line.fail(f"--set={entry}: give FIELD=VALUE.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def settings() -> Settings:
    """The settings that the flags give for all runs."""
    for flag in (_MINUTES, _STEPS):
        if flag.value is not None and flag.value <= 0:
            command_line.fail(f"--{flag.name}={flag.value} must be more than 0.")
    if _JOBS.value > (num_cores := len(os.sched_getaffinity(0))):
        command_line.fail(f"--jobs={_JOBS.value}, but there are {num_cores} cores: lower it.")
    by_steps = _STEPS.value is not None or _SMOKE.value
    return Settings(
        workdir=place(command_line.WORKDIR.value or WORKDIR),
        seeds=command_line.seeds(_SEEDS),
        minutes=None if by_steps else _MINUTES.value,
        num_steps=_STEPS.value,
        changes=(SMOKE if _SMOKE.value else {}) | changes(),
        methods=tuple(_METHODS.value),
    )


def command(name: str) -> str:
    """The command line of this call, for the file of results."""
    given = [f"--seeds={','.join(_SEEDS.value)}"]
    if _SMOKE.value:
        given.append("--smoke")
    elif _STEPS.value is None:
        given.append(f"--minutes={_MINUTES.value:g}")
    if _STEPS.value is not None:
        given.append(f"--steps={_STEPS.value}")
    given += [f"--set={entry}" for entry in _SET.value]
    given += [f"--methods={','.join(_METHODS.value)}"] if _METHODS.value else []
    given += ["--partial"] if _PARTIAL.value else []
    given += [f"--jobs={_JOBS.value}"] if _JOBS.value > 1 else []
    return " ".join(["python -m experiments.figures", name, *given])


def make(name: str, folder: epath.Path) -> None:
    """Make one figure, or measure a shard of its runs."""
    one = registry.FIGURES[name]
    if _REDRAW.value:
        figure.redraw(name, one, folder)
        return
    shard = shards.parse(_SHARD.value) if _SHARD.value is not None else None
    asked = settings()
    if _PARTIAL.value and not figure.finished(name, one).trials(asked):
        command_line.fail(f"no run of {name} in {asked.workdir} is finished.")
    given = figure.settled(one, asked)
    if shard is not None:
        figure.rows_of(name, figure.own(one, shard), given)
        return
    given.workdir.mkdir(parents=True, exist_ok=True)
    if _JOBS.value > 1 and not _PARTIAL.value:
        parts = ["-m", "experiments.figures", name, f"--workdir={given.workdir}"]
        parts += [f"--seeds={','.join(_SEEDS.value)}", *(["--smoke"] if _SMOKE.value else [])]
        parts += [f"--minutes={_MINUTES.value}"]
        parts += [f"--steps={given.num_steps}"] if given.num_steps is not None else []
        parts += [f"--set={entry}" for entry in _SET.value]
        parts += [f"--methods={','.join(_METHODS.value)}"]
        figure.measure_in_shards(one, given, [*parts, *command_line.shared_flags()], _JOBS.value)
    if _PARTIAL.value:
        one = figure.finished(name, one)
    rows = figure.rows_of(name, one, given)
    figure.write(name, one, folder, command(name), rows)
    print(f"{folder / name}.png: {one.sentence(rows)}", flush=True)


def main(names: Sequence[str]) -> None:
    """Make the figures."""
    usual = command_line.WORKDIR.value or WORKDIR if _SMOKE.value else FOLDER
    folder = place(_RESULTS.value or usual)
    check_folder(folder, "--results")
    check_folder(place(command_line.WORKDIR.value or WORKDIR), "--workdir")
    for name in registry.FIGURES if names == ["all"] else names:
        make(name, folder)


if __name__ == "__main__":
    app.run(lambda arguments: command_line.guarded(lambda: main(arguments[1:])), flags_parser=parse)
