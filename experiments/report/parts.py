"""Components shared by several sections of the page."""

import shlex
from typing import NamedTuple

from experiments.report import presets
from experiments.report.collect import Evaluation, Run


class Key(NamedTuple):
    """An entry of a legend."""

    label: str
    colour: int


class Panel(NamedTuple):
    """A figure with its title and, if it has one of its own, its legend."""

    title: str
    svg: str
    legend: tuple[Key, ...] = ()


class Missing(NamedTuple):
    """Something that a section lacks, and the command that creates it, if there is one."""

    line: str
    command: str = ""


def command(run: Run, mode: str) -> str:
    """The command that creates a part of a run folder."""
    folder = shlex.quote(str(run.folder))
    options = _config(run) if mode == "train" else f"--mode={mode}"
    return f"python -m experiments.main {options} --workdir={folder}"


def _config(run: Run) -> str:
    """A run's configuration as flags: the closest preset and what differs from it."""
    preset = None if run.config is None else presets.closest(run.config)
    if preset is None:
        return "--config=configs/NAME.py"
    fields = {name: value for name, (value, _) in preset.differences.items()}
    fields |= {"seed": run.seed} if run.seed else {}
    flags = [f"--config.{name}={shlex.quote(str(value))}" for name, value in fields.items()]
    return " ".join([f"--config={preset.name}", *flags])


def evaluation_name(evaluation: Evaluation) -> str:
    """The method, and the seed if there is one."""
    if evaluation.seed is None:
        return evaluation.method
    return f"{evaluation.method}, seed {evaluation.seed}"
