"""The runs behind the figures: configured, trained without pictures, stored in folders.

A run is stored in `WORKDIR/<name>/seed<n>` and shared by all figures that ask for it. What a figure
measures on it is stored next to its checkpoints, as `figure_<name>.json`.
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
NUM_POINTS = 100  # per curve in a file of results
# In paper B every network learns from the start. Here the first quarter trains a generator with the
# bound alone, so that the energy does not learn from noise.
ENERGY_EARLY = {"warmup_steps": 1500, "energy.start_step": 1500}


class Settings(NamedTuple):
    """Settings shared by all runs of a call."""

    workdir: epath.Path
    seeds: tuple[int, ...] = (0,)
    minutes: float | None = None  # training time of each run
    num_steps: int | None = None  # training steps of each run; None for the configuration's
    changes: Mapping[str, Any] = MappingProxyType({})  # fields changed in every configuration
    methods: tuple[str, ...] = ()  # for the figure that compares methods; all if empty


class Trial(NamedTuple):
    """One run of a figure."""

    method: str  # the name used in the figure
    seed: int
    config: ConfigDict
    folder: epath.Path
    facts: Mapping[str, Any] = MappingProxyType({})  # what the figure varies, copied to its rows


class Finished(NamedTuple):
    """A trained run."""

    run: Run
    sampler: Sampler
    step: int
    seconds: float  # training time


def trial(
    settings: Settings, name: str, seed: int, differences: Mapping[str, Any], *, method: str = ""
) -> Trial:
    """A run of a variant on PolyDigits.

    Args:
      settings: settings of the call.
      name: name of the run folder, unique to the choice of `differences`.
      seed: seed of the run.
      differences: field → value, where the run differs from the schema's defaults.
      method: the name used in the figure; `name` if empty.

    Raises:
      ValueError: a value has the wrong type for its field.
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
    """Refuse to set a field for all runs if the figure varies it from run to run.

    Raises:
      ValueError: one line that names the field.
    """
    if clash := [name for name in varied if name in settings.changes]:
        raise ValueError(f"--set={clash[0]}: this figure varies it from run to run: leave it out.")


def variant(name: str) -> dict[str, Any]:
    """The fields that a method of the family changes, as in configs/polydigits.py."""
    return dict(polydigits.METHODS[name])


def steps_of_budget(one: Trial, settings: Settings) -> Settings:
    """Settings in which all runs take as many steps as this run's budget of minutes allows.

    Curves and grids are compared at equal steps; a budget per run would measure the machine anew
    each time.
    """
    if settings.minutes is None:
        return settings
    folder = settings.workdir / "budgets" / one.folder.parent.name
    found = budget.prepare_for(one.config, folder, 60 * settings.minutes)
    return settings._replace(minutes=None, num_steps=found.run.config.num_steps)


def trained(
    one: Trial, settings: Settings, updates_for: Callable[[Run], Updates] | None = None
) -> Finished:
    """Train a run, resume it, or load it if it is finished.

    Args:
      one: the run.
      settings: settings of the call.
      updates_for: returns the compiled steps of a run, if several runs share them.

    Raises:
      FloatingPointError: the run exploded.
      ValueError: the folder holds another run, or one made by another revision of the method.
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
    """The file that stores what a figure measured on a run."""
    return one.folder / f"figure_{name}.json"


def kept(
    one: Trial,
    name: str,
    settings: Settings,
    measure: Callable[[Trial, Settings], Sequence[Row]],
) -> list[Row]:
    """The rows that a figure measured on a run, read from their file or measured now.

    Raises:
      ValueError: the folder holds another run, a run made by another revision of the method, or
        measurements made with another protocol.
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
    """Refuse a folder with another run, or with one made by another revision of the method."""
    read_record(one.folder)
    seconds = None if settings.minutes is None else 60 * settings.minutes
    budget.checked(one.config, one.folder, seconds)


def read_record(folder: epath.Path) -> Row | None:
    """The record of a finished run; None if the run is not finished.

    Raises:
      ValueError: the run was made by another revision of the method.
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
    """Record that a run is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"method_revision": method.REVISION, **facts}
    write_whole(folder / RECORD, json.dumps(record) + "\n")


def classifiers(run: Run, settings: Settings) -> Classifiers:
    """The classifiers shared by all runs of a call, trained once."""
    folder = settings.workdir / "classifiers"
    folder.mkdir(parents=True, exist_ok=True)
    return Classifiers(run, folder)


def floor(subject: Subject) -> Row:
    """The Fréchet distance of as many training examples, if there are enough."""
    return {} if lack(distance_floor, subject.run) else distance_floor(subject)["frechet"]


def curve(folder: epath.Path, names: Sequence[str]) -> dict[str, list[float]]:
    """Steps and values of logged quantities over training.

    Has at most `NUM_POINTS` points, each the mean over consecutive rows. Rows without one of these
    quantities, such as those before the energy learns, are left out.
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
