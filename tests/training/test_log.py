import json

import numpy as np
import pytest
from etils import epath

from mmebm_jax.training.log import (
    Bounds,
    Explosion,
    Log,
    read_events,
    read_rows,
    report,
    write_event,
)


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "examples_per_second"} for x in lines]


def metrics(value, **more):
    return {"loss/elbo": np.float32(value), **more}


def test_a_row_holds_the_means_since_the_row_before(workdir):
    log = Log(workdir, 0)
    for step, value in enumerate((1, 2, 4, 8), start=1):
        log.add(step, metrics(value))
        if step % 2 == 0:
            log.flush(4)
    log.flush(4)
    assert rows(workdir) == [{"step": 2, "loss/elbo": 1.5}, {"step": 4, "loss/elbo": 6.0}]


def test_what_was_pending_goes_into_the_resumed_run_s_row(workdir):
    log = Log(workdir, 0)
    values = np.random.default_rng(0).normal(size=5).astype(np.float32)
    for step, value in enumerate(values, start=1):
        log.add(step, metrics(value))
        if step == 3:
            pending = json.loads(json.dumps(log.pending()))
    log.flush(4)
    straight = rows(workdir)
    resumed = Log(workdir, 3, pending)
    assert rows(workdir) == []
    for step, value in enumerate(values[3:], start=4):
        resumed.add(step, metrics(value))
    resumed.flush(4)
    assert rows(workdir) == straight


def test_a_row_that_holds_what_a_checkpoint_kept_is_written_once(workdir):
    log = Log(workdir, 0)
    log.add(1, metrics(1))
    log.add(2, metrics(2))
    pending = log.pending()
    # After the checkpoint, but before the run was killed.
    log.flush(4)
    assert [row["step"] for row in rows(workdir)] == [2]
    resumed = Log(workdir, 2, pending)
    resumed.flush(4)
    assert rows(workdir) == [{"step": 2, "loss/elbo": 1.5}]


def test_diagnostics_are_records_of_their_own_that_a_resumed_run_repeats(workdir):
    log = Log(workdir, 0)
    log.diagnose(3, {"chain/data_r_hat": 1.5}, {"energy/data": np.arange(4.0)})
    record = {"event": "diagnostics", "step": 3, "chain/data_r_hat": 1.5}
    assert read_events(workdir, "diagnostics") == [record]
    Log(workdir, 3)
    assert rows(workdir) == [record]
    Log(workdir, 2)
    assert rows(workdir) == []


def test_a_resumed_run_drops_the_rows_it_repeats_but_no_event(workdir):
    lines = ['{"step": 2}', '{"event": "explosion", "step": 9}', '{"step": 4}', '{"step": 6', ""]
    (workdir / "metrics.jsonl").write_text("\n".join(lines))
    assert read_rows(workdir) == [{"step": 2}, {"step": 4}]  # without the truncated line
    Log(workdir, 3)
    assert rows(workdir) == [{"step": 2}, {"event": "explosion", "step": 9}]
    assert read_events(workdir, "explosion") == [{"event": "explosion", "step": 9}]
    write_event(workdir, "explosion", {"step": 3})
    assert read_events(workdir, "explosion")[1:] == [{"event": "explosion", "step": 3}]


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({"loss/energy": np.inf}, "loss/energy"),
        ({"loss/energy": np.nan, "gradient_norm/energy": np.nan}, "gradient_norm/energy"),
        ({"energy_gap": -11.0}, "energy_gap"),
        ({"prior_gap": 11.0}, "prior_gap"),
        ({"gradient_norm/generator": 101.0}, "gradient_norm/generator"),
    ],
)
def test_what_breaks_is_named_with_its_step(workdir, found, name):
    log = Log(workdir, 0, bounds=Bounds(energy_gap=10.0, gradient_norm=100.0))
    log.add(6, metrics(1, energy_gap=np.float32(9), **{"gradient_norm/energy": np.float32(99)}))
    log.add(7, metrics(1, **{key: np.float32(value) for key, value in found.items()}))
    with pytest.raises(Explosion, match=rf"{name} is .* at step 7, with {len(found) - 1} more"):
        log.flush(4)
    assert not (workdir / "metrics.jsonl").exists()


def test_without_bounds_only_what_is_not_finite_breaks(workdir):
    log = Log(workdir, 0)
    log.add(1, {"energy_gap": np.float32(1e30), "gradient_norm/energy": np.float32(1e30)})
    log.flush(4)
    assert len(rows(workdir)) == 1


def test_a_report_tells_the_last_steps(workdir):
    log = Log(workdir, 0)
    for step in range(1, 61):
        log.add(step, {"gradient_norm/energy": np.float32(step if step < 60 else np.nan)})
    with pytest.raises(Explosion) as caught:
        log.pending()
    found = json.loads(report(workdir, caught.value).read_text())
    assert (found["step"], found["metric"]) == (60, "gradient_norm/energy")
    assert found["value"] == "nan"
    assert [row["step"] for row in found["recent"]] == list(range(11, 61))
    assert (workdir / "images" / "explosion.png").stat().length > 0
