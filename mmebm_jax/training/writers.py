"""Writers of training metrics in addition to `metrics.jsonl`: TensorBoard, W&B, MLflow.

A writer has the methods of `clu.metric_writers.MetricWriter`, whose package is not imported because
it needs TensorFlow. A run's identity at a tracker is kept in `tracker.json`, so that a resumed run
continues there.
"""

import importlib.util
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
import tensorboardX
from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.validation import brief

IDENTITY = "tracker.json"
PROJECT = "mmebm_jax"
# MLflow's limits on the parameters of one call and on the length of a value.
MOST_PARAMETERS, MOST_CHARACTERS = 100, 500
# Tracker → the package that it needs, which is also the name of our extra.
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
LOGGER = logging.getLogger("mmebm_jax")


class Writer(Protocol):
    """The interface of all writers."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of a step, by name."""

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write histograms of the arrays of a step, by name."""

    def flush(self) -> None:
        """Send everything written so far."""

    def close(self) -> None:
        """Close the writer; no other call may follow."""


class TensorBoard:
    """Event files in the run folder, written only by the first process."""

    def __init__(self, workdir: epath.Path, step: int) -> None:
        """Open a new file; TensorBoard then hides what earlier files have after `step`."""
        self._writer = tensorboardX.SummaryWriter(
            str(workdir), purge_step=step, write_to_disk=jax.process_index() == 0
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Writer`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """See `Writer`."""
        for name, values in arrays.items():
            self._writer.add_histogram(name, values, step)

    def flush(self) -> None:
        """See `Writer`."""
        self._writer.flush()

    def close(self) -> None:
        """See `Writer`."""
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases; WANDB_MODE, WANDB_PROJECT and so on have their usual effect.

    When a resumed run repeats steps, W&B keeps the values that it received first.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict) -> None:
        """Start a run, or continue the folder's.

        Raises:
          ValueError: the run cannot be started.
        """
        import wandb

        self._histogram = wandb.Histogram
        identity = _read_identity(workdir, "wandb") or secrets.token_hex(4)
        try:
            self._run = wandb.init(
                id=identity,
                resume="allow",
                name=workdir.name,
                project=None if "WANDB_PROJECT" in os.environ else PROJECT,
                dir=None if "://" in str(workdir) else str(workdir),
                config=config.to_dict(),
                settings=wandb.Settings(console="off"),
            )
        except Exception as error:  # wandb and its HTTP client raise many kinds.
            raise ValueError(
                f"Weights & Biases cannot be reached ({brief(str(error))}): log in by wandb login, "
                "set WANDB_MODE=offline, or config.tracker to none."
            ) from error
        _write_identity(workdir, "wandb", identity)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Writer`."""
        self._run.log(dict(scalars), step=step)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """See `Writer`."""
        made = {name: self._histogram(np.ravel(values).tolist()) for name, values in arrays.items()}
        self._run.log(made, step=step)

    def flush(self) -> None:
        """Nothing to do: W&B sends by itself."""

    def close(self) -> None:
        """See `Writer`."""
        self._run.finish()


class MLflow:
    """A run at the server of MLFLOW_TRACKING_URI or, without one, in `mlflow.db` of the run folder.

    MLflow has no histograms. If it stops answering, this is logged once and training goes on;
    `metrics.jsonl` has all metrics.
    """

    def __init__(self, workdir: epath.Path, config: ConfigDict) -> None:
        """Start a run, or continue the folder's.

        Raises:
          ValueError: the run cannot be started.
        """
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._failed = Metric, False
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri and "://" in str(workdir):
            raise ValueError(f"{workdir} is no local folder: set MLFLOW_TRACKING_URI to a server.")
        try:
            self._client = MlflowClient(uri or f"sqlite:///{workdir.absolute() / 'mlflow.db'}")
            known = _read_identity(workdir, "mlflow")
            if known is not None:
                self._identity = known
                self._client.update_run(known, status="RUNNING")
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            run = self._client.create_run(experiment, run_name=workdir.name)
            self._identity = run.info.run_id
            flat = checkpoint.flatten(config.to_dict())
            values = [Param(name, str(value)[:MOST_CHARACTERS]) for name, value in flat.items()]
            for first in range(0, len(values), MOST_PARAMETERS):
                self._client.log_batch(
                    self._identity, params=values[first : first + MOST_PARAMETERS]
                )
        except Exception as error:  # MLflow, its database and its HTTP client raise many kinds.
            raise ValueError(
                f"MLflow cannot be reached ({brief(str(error))}): correct MLFLOW_TRACKING_URI, or "
                "set config.tracker to none."
            ) from error
        _write_identity(workdir, "mlflow", self._identity)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Writer`."""
        now = round(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in scalars.items()]
        try:
            self._client.log_batch(self._identity, metrics=metrics)
        except Exception as error:
            self._tell(error)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing to do: MLflow has no histograms."""

    def flush(self) -> None:
        """Nothing to do: each step is sent at once."""

    def close(self) -> None:
        """See `Writer`."""
        try:
            self._client.set_terminated(self._identity)
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._failed:
            LOGGER.warning(
                "warning: MLflow does not answer (%s): metrics.jsonl has all.", brief(str(error))
            )
        self._failed = True


class Several:
    """A writer that passes all calls on to several writers."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        """Pass calls on to `writers`, in this order."""
        self._writers = list(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.write_histograms(step, arrays)

    def flush(self) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.close()


def check(tracker: str) -> None:
    """Check that a tracker's package is installed.

    Raises:
      ValueError: it is not; the message says what to install.
    """
    package = PACKAGES.get(tracker)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"config.tracker is {tracker}: pip install 'mmebm_jax[{package}]'.")


def open_writer(workdir: epath.Path, step: int, config: ConfigDict) -> Writer:
    """Open TensorBoard's writer and that of the tracker named by `config.tracker`.

    Args:
      workdir: the run folder.
      step: the step at which the run starts or resumes.
      config: the run's configuration, which trackers store with the run.

    Raises:
      ValueError: the tracker cannot be reached.
    """
    writers: list[Writer] = [TensorBoard(workdir, step)]
    if jax.process_index() == 0:
        if config.tracker == "wandb":
            writers.append(WeightsAndBiases(workdir, config))
        elif config.tracker == "mlflow":
            writers.append(MLflow(workdir, config))
    return Several(writers)


def _read_identity(workdir: epath.Path, tracker: str) -> str | None:
    path = workdir / IDENTITY
    found = checkpoint.read_json(path).get(tracker) if path.exists() else None
    return found if isinstance(found, str) else None


def _write_identity(workdir: epath.Path, tracker: str, identity: str) -> None:
    path = workdir / IDENTITY
    known = checkpoint.read_json(path) if path.exists() else {}
    write_whole(path, json.dumps(known | {tracker: identity}, indent=2) + "\n")
