"""Evaluate every checkpoint of a run: coherence over training.

Writes `curve.jsonl` (one line per checkpoint, as soon as it is evaluated), `curve.md` and
`curve.png`. Checkpoints already in `curve.jsonl` are not evaluated again, so that interrupted calls
and continued runs add to it. A sampling time is fitted only at the end of a run: samples of earlier
checkpoints are refined for the time used in training.
"""

import json
import logging
from typing import Any

from etils import epath
from tabulate import tabulate

from experiments.classifiers import Classifiers
from experiments.evaluate import FEWEST_SAMPLES, evaluate
from experiments.measures import Measure, coherence, lack, samples
from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.files import write_whole
from mmebm_jax.training import Run, plotting, restore_sampler

NUM_SAMPLES = 2000
LOGGER = logging.getLogger("mmebm_jax")

COLUMNS = {
    "joint coherence, refined": ("joint_coherence", "energy"),
    "joint coherence, generator": ("joint_coherence", "generator"),
    "cross coherence": ("cross_coherence", "mean"),
    "Fréchet, refined": ("frechet", "energy"),
    "Fréchet, generator": ("frechet", "generator"),
}


def row_of(result: dict[str, Any], examples_per_step: int, num_train: int) -> dict[str, float]:
    """One row of the curve: step, epochs so far, and those of `COLUMNS` that the model has."""
    row = {name: result[name] for name in ("step", "num_samples")}
    row["epoch"] = result["step"] * examples_per_step / num_train
    for name, (group, key) in COLUMNS.items():
        if key in result.get(group, {}):
            row[name] = result[group][key]
    return row


def _measures(run: Run) -> list[Measure]:
    """The measures that `COLUMNS` are read from."""
    return [m for m in (samples.joint_samples, coherence.cross_samples) if not lack(m, run)]


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The rows written by an earlier call; empty if there is no file.

    Raises:
      ValueError: a line is not JSON.
    """
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): move it away to evaluate anew.") from error


def draw(run: Run, classifiers: epath.Path, num_samples: int | None = None) -> str:
    """Evaluate the missing checkpoints, write the three files and return the table.

    Args:
      run: run with its checkpoints; `keep_checkpoints` sets how many it has.
      classifiers: folder of the evaluation's classifiers.
      num_samples: number of samples of each kind, as `evaluation.num_samples`; None for 2,000.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the data have no classes, no checkpoint can be read, there are fewer than 2
        samples, or `curve.jsonl` is damaged or has another number of samples.
    """
    path = run.workdir / "curve.jsonl"
    rows, num_samples = read(path), num_samples or NUM_SAMPLES
    if num_samples < FEWEST_SAMPLES:
        raise ValueError(f"--num_samples={num_samples}: a curve takes {FEWEST_SAMPLES} or more.")
    if any(row["num_samples"] != num_samples for row in rows):
        raise ValueError(f"{path} has another --num_samples than {num_samples}: move it away.")
    if problem := lack(samples.joint_samples, run):
        raise ValueError(f"--mode=curve draws coherence and distances, but {problem}.")
    steps = checkpoint.all_steps(run.workdir)
    if not steps:
        raise FileNotFoundError(f"{run.workdir} holds no checkpoint: train there first.")
    run.config.evaluation.num_samples = num_samples
    run.config.evaluation.classifier_seeds = 1
    trained_classifiers = Classifiers(run, classifiers)
    for wanted in sorted(set(steps) - {row["step"] for row in rows}):
        try:
            sampler, step = restore_sampler(run, wanted)
        except ValueError as error:  # This one and all before it are damaged.
            LOGGER.warning("%s", error)
            continue
        if step < wanted:  # damaged and already logged
            continue
        result = evaluate(run, sampler, step, trained_classifiers, only=_measures(run))
        for name, why in result.get("absent", {}).items():
            LOGGER.warning("step %d: not measured: %s: %s", step, name, why)
        rows.append(row_of(result, run.config.batch_size, len(run.splits.train)))
        rows.sort(key=lambda row: row["step"])
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    if not rows:
        raise ValueError(f"no checkpoint of {run.workdir} can be read: train in another folder.")
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    table = tabulate(
        [[row["step"], row["epoch"], *(row.get(name) for name in names)] for row in rows],
        ["step", "epoch", *names],
        tablefmt="github",
        floatfmt=("", ".1f", *(".1f" if "Fréchet" in name else ".3f" for name in names)),
        missingval="–",
    )
    write_whole(run.workdir / "curve.md", table + "\n")
    plotting.save_curves(run.workdir / "curve.png", rows, names)
    return table
