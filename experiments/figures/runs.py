"""The runs that figures are made of: configured, trained without pictures, kept in folders.

A run stands in `WORKDIR/<name>/seed<n>` and serves every figure that asks for the same one. What a
figure measured of it stands beside its checkpoints, as `figure_<name>.json`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from configs import methods, polydigits
from experiments.classifiers import Classifiers
from experiments.measures import Subject, lack
from experiments.measures.distances import distance_floor
from mmebm_jax import method, training
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.files import read_object, write_whole
from mmebm_jax.training import Run, budget
from mmebm_jax.training.compiled_update import Updates
from mmebm_jax.training.log import read_rows
from mmebm_jax.training.schedule import scaled

Row = dict[str, Any]
RECORD = "trained.json"
NUM_POINTS = 100  # of a curve in a file of results
# In paper B every network learns from the beginning. Here the bound alone makes a generator first,
# in the first quarter, so that the energy does not learn from noise.
ENERGY_EARLY = {"warmup_steps": 1500, "energy.start_step": 1500}


class Settings(NamedTuple):
    """What all runs of a call share."""

    workdir: epath.Path
    seeds: tuple[int, ...] = (0,)
    minutes: float | None = None  # training time of each run
    num_steps: int | None = None  # training steps of each run; None for the configuration's
    changes: Mapping[str, Any] = MappingProxyType({})  # fields of every configuration
    methods: tuple[str, ...] = ()  # of the figure that compares methods; all when empty


class Trial(NamedTuple):
    """One run of a figure."""

    method: str  # as the figure calls it
    seed: int
    config: ConfigDict
    folder: epath.Path
    facts: Mapping[str, Any] = MappingProxyType({})  # what the figure varies, for its rows


class Finished(NamedTuple):
    """A trained run."""

    run: Run
    sampler: Sampler
    step: int
    seconds: float  # of training


def trial(
    settings: Settings, name: str, seed: int, differences: Mapping[str, Any], *, method: str = ""
) -> Trial:
    """A run of a variant of PolyDigits.

    Args:
      settings: of the call.
      name: of the run's folder, one for each choice of `differences`.
      seed: of the run.
      differences: field → value, where the run differs from the schema's defaults.
      method: as the figure calls it; the name when empty.

    Raises:
      ValueError: a field has another type.
    """
    config = methods.build("experiments/figures", {name: dict(differences)}, name)
    for field, value in settings.changes.items():
        try:
            config.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"--set={field}: {value!r} is of another type: {error}") from error
    config.seed = seed
    if settings.num_steps is not None:
        config = scaled(config, settings.num_steps)
        config.log_every = max(1, settings.num_steps // NUM_POINTS)
    return Trial(method or name, seed, config, settings.workdir / name / f"seed{seed}")


def refuse_changes(settings: Settings, varied: Iterable[str]) -> None:
    """Refuse a change of every run where the figure varies that field from run to run.

    Raises:
      ValueError: one line that names the field.
    """
    if clash := [name for name in varied if name in settings.changes]:
        raise ValueError(f"--set={clash[0]}: this figure varies it from run to run: leave it out.")


def variant(name: str) -> dict[str, Any]:
    """What a method of the family changes, as configs/polydigits.py has it."""
    return dict(polydigits.METHODS[name])


def steps_of_budget(one: Trial, settings: Settings) -> Settings:
    """Settings in which every run takes the steps that this run's budget of minutes gives.

    Curves and grids are compared at equal steps; a budget for each run would measure the machine
    anew every time.
    """
    if settings.minutes is None:
        return settings
    folder = settings.workdir / "budgets" / one.folder.parent.name
    found = budget.prepare_for(one.config, folder, 60 * settings.minutes)
    return settings._replace(minutes=None, num_steps=found.run.config.num_steps)


def trained(
    one: Trial, settings: Settings, updates_for: Callable[[Run], Updates] | None = None
) -> Finished:
    """Train a run, or resume it, or read it if it is finished.

    Args:
      one: the run.
      settings: of the call.
      updates_for: gives the run's compiled steps, where several runs share them.

    Raises:
      FloatingPointError: the run exploded.
      ValueError: the folder holds another run, or one that another revision of the method made.
    """
    _check_folder(one, settings)
    record = read_record(one.folder)
    if settings.minutes is None:
        run, updates, used = training.prepare(one.config, one.folder), None, 0.0
    else:
        run, updates, used = budget.prepare_for(one.config, one.folder, 60 * settings.minutes)
    if record is not None:
        sampler, step = training.restore_sampler(run)
        return Finished(run, sampler, step, record["seconds"])
    if updates_for is not None:
        updates = updates_for(run)
    state, training_seconds = training.train(run, updates=updates, draw=False)
    step, used = int(state.step), used + training_seconds
    write_record(one.folder, {"step": step, "seconds": round(used, 1)})
    return Finished(run, training.restore_sampler(run)[0], step, used)


def kept_path(one: Trial, name: str) -> epath.Path:
    """Where what a figure measured of a run is kept."""
    return one.folder / f"figure_{name}.json"


def kept(
    one: Trial,
    name: str,
    settings: Settings,
    measure: Callable[[Trial, Settings], Sequence[Row]],
) -> list[Row]:
    """The rows that a figure measured of a run before, or measures now.

    Raises:
      ValueError: the folder holds another run, or one that another revision of the method made, or
        what was measured by another protocol.
    """
    path, protocol = kept_path(one, name), one.config.evaluation.to_dict()
    if path.exists():
        _check_folder(one, settings)
        found = read_object(path, "move it away to measure anew")
        if (before := found.get("evaluation")) != protocol:
            raise ValueError(
                f"{path} was measured with evaluation = {before}, not {protocol}: "
                "choose another --workdir, or move it away to measure anew."
            )
        return found["rows"]
    rows = [
        {"method": one.method, "seed": one.seed, **one.facts, **row}
        for row in measure(one, settings)
    ]
    found = {"evaluation": protocol, "rows": rows}
    write_whole(path, json.dumps(found, allow_nan=False) + "\n")
    return rows


def _check_folder(one: Trial, settings: Settings) -> None:
    """Refuse a folder of another run, or of another revision of the method."""
    read_record(one.folder)
    seconds = None if settings.minutes is None else 60 * settings.minutes
    budget.checked(one.config, one.folder, seconds)


def read_record(folder: epath.Path) -> Row | None:
    """What was written of a finished run; None of one that is not.

    Raises:
      ValueError: another revision of the method made it.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = read_object(path, "move it away to train anew")
    if (revision := record.get("method_revision")) != method.REVISION:
        raise ValueError(
            f"{folder} was made by revision {revision} of the method, which is "
            f"now {method.REVISION}: choose another --workdir."
        )
    return record


def write_record(folder: epath.Path, facts: Row) -> None:
    """Write that a run is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"method_revision": method.REVISION, **facts}
    write_whole(folder / RECORD, json.dumps(record) + "\n")


def classifiers(run: Run, settings: Settings) -> Classifiers:
    """The classifiers of all runs of a call; trained once."""
    folder = settings.workdir / "classifiers"
    folder.mkdir(parents=True, exist_ok=True)
    return Classifiers(run, folder)


def floor(subject: Subject) -> Row:
    """The Fréchet distance that as many training examples have, where there are enough."""
    return {} if lack(distance_floor, subject.run) else distance_floor(subject)["frechet"]


def curve(folder: epath.Path, names: Sequence[str]) -> dict[str, list[float]]:
    """The logged quantities of a run that has one of these names, and their steps.

    Of at most `NUM_POINTS` points, each the mean of rows that follow each other. Rows that lack
    one of the names, as those before the energy learns, are left out.
    """
    rows = [row for row in read_rows(folder) if all(name in row for name in names)]
    parts = np.array_split(np.arange(len(rows)), min(NUM_POINTS, len(rows) or 1))
    found: dict[str, list[float]] = {"step": [rows[p[-1]]["step"] for p in parts if len(p)]}
    for name in names:
        means = [np.mean([rows[i][name] for i in p]) for p in parts if len(p)]
        found[name] = [float(f"{mean:.5g}") for mean in means]
    return found


def last_quarter(values: Sequence[float]) -> list[float]:
    """The last quarter of a curve, at least one value."""
    return list(values[-max(1, len(values) // 4) :])
