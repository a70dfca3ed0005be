"""Read run folders into plain data; nothing is recomputed and nothing is written."""

import datetime
import json
import math
import re
from typing import Any, NamedTuple

from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from experiments.control import CONTROL, CONTROL_FOLDER
from mmebm_jax.runs import checkpoint

# Where runs may be below a folder, the nearest first.
PLACES = ("config.json", "*/config.json", "*/*/config.json")
SEED_FOLDER = re.compile(r"seed\d+")


class Evaluation(NamedTuple):
    """An `evaluation.json`."""

    method: str
    seed: int | None
    numbers: dict[str, float]  # by path such as "frechet.floor"; finite values only
    words: dict[str, str]  # by path
    warnings: tuple[str, ...]
    date: str  # modification date of the file


class Run(NamedTuple):
    """The contents of a run folder; missing or damaged parts are empty and listed in `problems`."""

    folder: epath.Path
    method: str
    seed: int | None
    config: ConfigDict | None
    evaluations: tuple[Evaluation, ...]  # its own, then its control's
    rows: tuple[dict[str, float], ...]  # of metrics.jsonl
    diagnostics: tuple[dict[str, float], ...]
    num_explosions: int
    checkpoints: tuple[int, ...]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The method, and the seed if there is one."""
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"


def find_runs(workdir: epath.Path) -> list[epath.Path]:
    """The folder itself if it holds a run, else the runs below it.

    Raises:
      FileNotFoundError: there is none.
    """
    for place in PLACES:
        if found := sorted(path.parent for path in workdir.glob(place)):
            return found
    raise FileNotFoundError(
        f"{workdir} holds no run (no {' or '.join(PLACES)}): train there first, or name a run's "
        "folder or that of a comparison."
    )


def collect(workdir: epath.Path) -> list[Run]:
    """Read every run in a folder.

    Raises:
      FileNotFoundError: there is none.
    """
    return [read_run(folder, workdir) for folder in find_runs(workdir)]


def read_run(folder: epath.Path, workdir: epath.Path) -> Run:
    """Read a run folder.

    Args:
      folder: run folder.
      workdir: folder of the report; a run is named by its path relative to it.
    """
    problems: list[str] = []
    config = None
    try:
        config = checkpoint.read_config(folder)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    method = _method(folder, workdir)
    seed = None if config is None else int(config.seed)
    rows, diagnostics, num_explosions = _read_metrics(folder / "metrics.jsonl")
    evaluations = []
    for path, name in ((folder, method), (folder / CONTROL_FOLDER, method + CONTROL)):
        try:
            if (path / "evaluation.json").exists():
                evaluations.append(read_evaluation(path / "evaluation.json", name, seed))
        except ValueError as error:
            problems.append(str(error))
    try:
        steps = checkpoint.all_steps(folder) if (folder / "checkpoints").exists() else []
    except (ValueError, OSError) as error:
        steps = []
        problems.append(str(error))
    return Run(
        folder=folder,
        method=method,
        seed=seed,
        config=config,
        evaluations=tuple(evaluations),
        rows=rows,
        diagnostics=diagnostics,
        num_explosions=num_explosions,
        checkpoints=tuple(steps),
        problems=tuple(problems),
    )


def read_evaluation(path: epath.Path, method: str, seed: int | None) -> Evaluation:
    """Read an `evaluation.json` and flatten it.

    Raises:
      ValueError: it is not a JSON object; one line that names the file.
    """
    tree = _parse(path.read_text())
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is damaged (no JSON object): evaluate the run again.")
    lines = tree.pop("warnings", ())
    numbers, words = {}, {}
    for name, value in traverse_util.flatten_dict(tree, sep=".").items():
        if isinstance(value, str):
            words[name] = value
        elif _is_number(value):
            numbers[name] = float(value)
    date = datetime.date.fromtimestamp(path.stat().mtime).isoformat()
    given = lines if isinstance(lines, list) else ()
    return Evaluation(method, seed, numbers, words, tuple(map(str, given)), date)


def _method(folder: epath.Path, workdir: epath.Path) -> str:
    """A run's path relative to the report's folder, without seed folders."""
    parts = folder.relative_to(workdir).parts
    named = [part for part in parts if not SEED_FOLDER.fullmatch(part)]
    return "/".join(named) or folder.absolute().name


def _read_metrics(
    path: epath.Path,
) -> tuple[tuple[dict[str, float], ...], tuple[dict[str, float], ...], int]:
    """Metrics, diagnostics and the number of explosions; damaged lines are skipped."""
    rows: list[dict[str, float]] = []
    diagnostics: list[dict[str, float]] = []
    num_explosions = 0
    for line in path.read_text().splitlines() if path.exists() else ():
        record = _parse(line)
        if not isinstance(record, dict):
            continue
        numbers = {name: float(v) for name, v in record.items() if _is_number(v)}
        event = record.get("event")
        num_explosions += event == "explosion"
        if "step" in numbers and event in (None, "diagnostics"):
            (rows if event is None else diagnostics).append(numbers)
    return tuple(rows), tuple(diagnostics), num_explosions


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
