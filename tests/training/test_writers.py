"""Trackers in addition to TensorBoard: the real packages, without network access."""

import importlib
import json
import struct

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from mmebm_jax.training import loop, writers
from mmebm_jax.training.log import Log
from tests.commands import small_config


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "run").mkdir()
    return epath.Path(tmp_path / "run")


@pytest.fixture
def without_network(monkeypatch):
    """W&B writes files, and MLflow a database, in the run folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def config_of(tracker):
    return ConfigDict({"tracker": tracker, "optimiser": {"rate": 0.5}})


class Recorder:
    """A writer that records its calls."""

    def __init__(self):
        self.calls = []

    def write_scalars(self, step, scalars):
        self.calls.append(("scalars", step, dict(scalars)))

    def write_histograms(self, step, arrays):
        self.calls.append(("histograms", step, sorted(arrays)))

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


def test_a_log_writes_its_rows_and_diagnostics_to_all_writers(workdir):
    first, second = Recorder(), Recorder()
    log = Log(workdir, 0, writer=writers.Several([first, second]))
    log.add(1, {"loss/elbo": np.float32(2)})
    log.add(2, {"loss/elbo": np.float32(4)})
    log.flush(4)
    log.diagnose(2, {"chain/r_hat": 1.5}, {"energy/data": np.arange(3.0)})
    log.close()
    kind, step, row = first.calls[0]
    assert (kind, step, row["loss/elbo"]) == ("scalars", 2, 3.0)
    assert first.calls[1:] == [
        "flush",
        ("scalars", 2, {"chain/r_hat": 1.5}),
        ("histograms", 2, ["energy/data"]),
        "flush",
        "close",
    ]
    assert second.calls == first.calls


def write(workdir, tracker, rows):
    """Write the rows of one start of a run."""
    writer = writers.open_writer(workdir, rows[0][0] - 1, config_of(tracker))
    for step, value in rows:
        writer.write_scalars(step, {"loss/elbo": value})
    writer.write_histograms(rows[-1][0], {"energy/data": np.arange(3.0)})
    writer.flush()
    writer.close()


@pytest.mark.slow
@pytest.mark.usefixtures("without_network")
@pytest.mark.filterwarnings("ignore")  # from the packages themselves
def test_mlflow_has_every_step_of_a_resumed_run(workdir):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    write(workdir, "mlflow", [(1, 0.5), (2, 0.25)])
    client = mlflow.MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(writers.PROJECT).experiment_id
    write(workdir, "mlflow", [(3, 0.125)])
    (run,) = client.search_runs([experiment])
    history = client.get_metric_history(run.info.run_id, "loss/elbo")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimiser.rate"] == "0.5"
    assert json.loads((workdir / "tracker.json").read_text()) == {"mlflow": run.info.run_id}


@pytest.mark.slow
@pytest.mark.usefixtures("without_network")
@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_that_fails_is_told_once_and_training_goes_on(workdir, caplog):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    writer = writers.MLflow(workdir, config_of("mlflow"))

    def fail(*_, **__):
        raise OSError("no connection")

    writer._client.log_batch = writer._client.set_terminated = fail
    caplog.set_level("WARNING", logger="mmebm_jax")
    for step in (1, 2):
        writer.write_scalars(step, {"loss/elbo": 1.0})
    writer.close()
    assert [r.getMessage() for r in caplog.records if r.name == "mmebm_jax"] == [
        "warning: MLflow does not answer (no connection): metrics.jsonl has all."
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("without_network")
@pytest.mark.filterwarnings("ignore")
def test_wandb_goes_on_with_the_same_run(workdir):
    wandb = pytest.importorskip("wandb", reason="W&B is not installed")
    write(workdir, "wandb", [(1, 0.5), (2, 0.25)])
    identity = json.loads((workdir / "tracker.json").read_text())["wandb"]
    write(workdir, "wandb", [(3, 0.125)])
    wandb.teardown()  # waits until its process has written everything
    files = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{identity}.wandb"] * len(files)
    rows = [row for file in files for row in history(file)]
    scalars = [(row["_step"], row["loss/elbo"]) for row in rows]
    assert scalars == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert [row.get("energy/data._type") for row in rows] == [None, "histogram", "histogram"]


def history(file):
    """The rows in one of W&B's files: LevelDB log records, never split in such a small file."""
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    content, place = file.read_bytes(), 7
    assert len(content) < 2**15  # one block; records are split only at its end
    while place < len(content):
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        assert kind == 1
        record = messages.Record()
        record.ParseFromString(content[place + 7 : place + 7 + size])
        place += 7 + size
        if record.WhichOneof("record_type") == "history":
            yield {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }


@pytest.mark.usefixtures("without_network")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tracker", "opener", "said"),
    [
        ("mlflow", "MlflowClient", r"MLflow cannot be reached \(no connection\)"),
        ("wandb", "init", r"Weights & Biases cannot be reached \(no connection\)"),
    ],
)
def test_a_tracker_that_cannot_be_reached_is_one_line(workdir, monkeypatch, tracker, opener, said):
    library = pytest.importorskip(tracker, reason=f"{tracker} is not installed")

    def fail(*_, **__):
        raise OSError("no\nconnection")

    monkeypatch.setattr(library, opener, fail)
    with pytest.raises(ValueError, match=said) as caught:
        writers.open_writer(workdir, 0, config_of(tracker))
    assert "\n" not in str(caught.value)
    assert not (workdir / "tracker.json").exists()


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_told_before_anything(tmp_path, monkeypatch, tracker):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    from mmebm_jax import training

    with pytest.raises(ValueError, match=rf"pip install 'mmebm_jax\[{tracker}\]'"):
        training.prepare(small_config(tracker=tracker), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_training_opens_the_tracker_of_its_configuration(tmp_path, monkeypatch):
    from mmebm_jax import training

    opened = []

    def open_writer(workdir, step, config):
        opened.append((workdir.name, step, config.tracker, Recorder()))
        return opened[-1][-1]

    monkeypatch.setattr(loop.writers, "open_writer", open_writer)
    config = small_config(num_steps=2, tracker="mlflow")
    config.update_from_flattened_dict({"prior.fit_steps": 1, "prior.num_components": 2})
    training.train(training.prepare(config, tmp_path / "run"), draw=False)
    ((name, step, tracker, recorder),) = opened
    assert (name, step, tracker) == ("run", 0, "mlflow")
    steps = [call[1] for call in recorder.calls if call[0] == "scalars"]
    assert steps[-1] == 2
    assert recorder.calls[-1] == "close"
