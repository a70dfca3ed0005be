"""Logging of a run's progress: `metrics.jsonl`, its writers, and the report of an explosion."""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mmebm_jax.storage.files import write_whole
from mmebm_jax.training import plotting
from mmebm_jax.training.writers import TensorBoard, Writer

Row = tuple[int, dict[str, float]]  # a step and its metrics
NUM_RECENT = 50
# Events that stay in the log when a resumed run repeats their steps.
LASTING = ("explosion", "extension")


class Bounds(NamedTuple):
    """Bounds on the metrics of a healthy run; 0 means no bound."""

    energy_gap: float = 0.0  # |mean energy of data − mean energy of samples|
    gradient_norm: float = 0.0  # of each network


class Explosion(FloatingPointError):
    """The metrics of a step are out of their bounds or not finite.

    Attributes:
      step: the first such step.
      name: name of the metric that best tells where it began.
      value: value of this metric.
      recent: the rows up to this step.
    """

    def __init__(self, name: str, value: float, num_others: int, recent: Sequence[Row]) -> None:
        """Describe the explosion; `num_others` counts the other broken metrics of the step."""
        self.step, self.name, self.value, self.recent = recent[-1][0], name, value, list(recent)
        super().__init__(
            f"{name} is {value:.4g} at step {self.step}, with {num_others} more: lower that "
            "network's learning rate or its chain's step size in a new --workdir."
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for a JSON file, which cannot hold numbers that are not finite."""
        return {"step": self.step, "metric": self.name, "value": f"{self.value:.6g}"}


class Log:
    """The log of metrics, which stay on the device and are fetched for many steps at a time.

    A row of `metrics.jsonl` holds the means since the previous row. A checkpoint between two rows
    keeps the metrics so far (`pending`), so that a resumed run writes the same rows as one that was
    never stopped.
    """

    def __init__(
        self,
        workdir: epath.Path,
        step: int,
        pending: Sequence[Row] = (),
        bounds: Bounds | None = None,
        writer: Writer | None = None,
    ) -> None:
        """Open the files, dropping rows that a run that resumes at `step` will write again.

        Args:
          workdir: the run folder.
          step: the step at which the run starts or resumes.
          pending: metrics kept by the checkpoint; see the class.
          bounds: metrics outside these bounds are an explosion.
          writer: also receives the rows; TensorBoard's writer if None.
        """
        self._path = workdir / "metrics.jsonl"
        # Pending steps may already be in a row that was written after the checkpoint.
        written = pending[0][0] - 1 if pending else step
        if self._path.exists() and jax.process_index() == 0:
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _stays(line, step, written)]
            write_whole(self._path, "".join(line + "\n" for line in kept))
        self._writer = TensorBoard(workdir, step) if writer is None else writer
        self._bounds = bounds or Bounds()
        self._on_device: list[tuple[int, dict[str, jax.Array]]] = []
        self._fetched: list[Row] = [(step, dict(metrics)) for step, metrics in pending]
        self._recent: deque[Row] = deque(self._fetched, maxlen=NUM_RECENT)
        self._since, self._num_since = time.monotonic(), 0
        self._last: dict[str, float] = {}

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Keep a step's metrics until they are fetched."""
        self._on_device.append((step, metrics))

    def pending(self) -> list[Row]:
        """The metrics that are in no row yet, fetched and checked.

        Raises:
          Explosion: a metric is not finite or out of its bounds.
        """
        self._fetch()
        return list(self._fetched)

    def flush(self, batch_size: int) -> None:
        """Fetch, check and write the means since the last row.

        Raises:
          Explosion: a metric is not finite or out of its bounds.
        """
        self._fetch()
        if not self._fetched:
            return
        step, latest = self._fetched[-1]
        means = {
            name: float(np.mean([m[name] for _, m in self._fetched if name in m]))
            for name in latest
        }
        seconds = time.monotonic() - self._since
        means["examples_per_second"] = batch_size * self._num_since / seconds
        _append(self._path, {"step": step, **means})
        self._writer.write_scalars(step, means)
        self._writer.flush()
        self._fetched, self._last = [], means
        self._since, self._num_since = time.monotonic(), 0

    def diagnose(
        self, step: int, numbers: Mapping[str, float], histograms: Mapping[str, np.ndarray]
    ) -> None:
        """Write diagnostics of a step as a separate record; histograms go only to the writer."""
        _append(self._path, {"event": "diagnostics", "step": step, **numbers})
        self._writer.write_scalars(step, numbers)
        self._writer.write_histograms(step, histograms)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()

    def draw(self) -> None:
        """Draw the run's losses as `images/curves.png`."""
        records = [json.loads(line) for line in self._path.read_text().splitlines()]
        rows = [record for record in records if "event" not in record]
        names = sorted({name for row in rows for name in row if "loss/" in name})
        plotting.save_curves(self._path.parent / "images" / "curves.png", rows, names)

    def brief(self) -> dict[str, str]:
        """The losses and the speed, for a progress bar."""
        shown = {
            name.removeprefix("loss/"): f"{value:.3g}"
            for name, value in self._last.items()
            if name.startswith("loss/")
        }
        return shown | {"examples/s": f"{self._last.get('examples_per_second', 0):.0f}"}

    def _fetch(self) -> None:
        fetched = jax.device_get(self._on_device)
        self._on_device, self._num_since = [], self._num_since + len(fetched)
        for step, metrics in fetched:
            row = (step, {name: float(value) for name, value in metrics.items()})
            self._recent.append(row)
            self._check(row[1])
            self._fetched.append(row)

    def _check(self, metrics: Mapping[str, float]) -> None:
        def is_broken(name: str, value: float) -> bool:
            kind = name.partition("/")[0]
            bound = self._bounds.gradient_norm if kind == "gradient_norm" else 0.0
            bound = self._bounds.energy_gap if name in ("energy_gap", "prior_gap") else bound
            return not np.isfinite(value) or abs(value) > bound > 0

        broken = [name for name, value in metrics.items() if is_broken(name, value)]
        if broken:
            # A network's gradient tells better where it began than metrics that it spread to.
            name = min(broken, key=lambda name: not name.startswith("gradient_norm/"))
            raise Explosion(name, metrics[name], len(broken) - 1, self._recent)


def write_event(workdir: epath.Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Write an event to metrics.jsonl; `LASTING` ones stay when a resumed run repeats steps."""
    _append(workdir / "metrics.jsonl", {"event": kind, **facts})


def read_rows(workdir: epath.Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics in order, without events.

    Raises:
      FileNotFoundError: the run has logged nothing.
    """
    return [record for record in _records(workdir) if record and "event" not in record]


def read_events(workdir: epath.Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind that a run recorded, in order."""
    if not (workdir / "metrics.jsonl").exists():
        return []
    return [record for record in _records(workdir) if record.get("event") == kind]


def _records(workdir: epath.Path) -> list[dict[str, Any]]:
    return [_parse(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def report(workdir: epath.Path, explosion: Explosion) -> epath.Path:
    """Write `explosion.json` and `images/explosion.png`: network, step, and the norms before it."""
    path = workdir / "explosion.json"
    rows = [{"step": step, **metrics} for step, metrics in explosion.recent]
    # Strict JSON cannot hold numbers that are not finite.
    strict = [{k: v if np.isfinite(v) else str(v) for k, v in row.items()} for row in rows]
    facts = explosion.facts | {"recent": strict}
    write_whole(path, json.dumps(facts, indent=2, allow_nan=False) + "\n")
    names = sorted({name for row in rows for name in row if "norm/" in name or "_gap" in name})
    if names:
        plotting.save_curves(workdir / "images" / "explosion.png", rows, names)
    return path


def _append(path: epath.Path, record: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _parse(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError:  # a line that was being written when the run was killed
        return {}


def _stays(line: str, step: int, written: int) -> bool:
    record = _parse(line)
    if "event" in record:
        return record["event"] in LASTING or record["step"] <= step
    return bool(record) and record["step"] <= written
