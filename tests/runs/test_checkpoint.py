import functools
import gc
import json
import logging
import operator
import shutil
import sys
from pathlib import Path

import chex
import jax
import pytest
from etils import epath

from mmebm_jax.runs import builders, checkpoint, manifests
from mmebm_jax.training.loop import Progress
from tests.commands import digest, first_files, save_run, small_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints at steps 0 and 1, and its state."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, save_run(folder, small_config(), steps=(0, 1))


@pytest.fixture
def run(saved, tmp_path):
    """A copy of that run for a test to damage, and the weights."""
    return Path(shutil.copytree(saved[0], tmp_path / "run")), saved[1].weights


def test_all_that_training_keeps_of_its_progress_has_a_rule():
    known = set(manifests.Progress.model_fields) - set(manifests.RETIRED)
    assert known == set(Progress._fields)
    meta = {"trained": ["energy"], "progress": Progress(pending=[(3, {"loss": 0.5})])._asdict()}
    manifests.check_meta(json.loads(json.dumps(meta)))


def own_lines(caplog):
    # A logger that has been set up emits each record twice, itself and through its parent.
    records = {id(record): record for record in caplog.records}.values()
    return [record.getMessage() for record in records if record.name == "mmebm_jax"]


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 10**5,
        {"trained": []},
        {"trained": ["everything"], "progress": {}},
        {"trained": [[]], "progress": {}},
        {"trained": [], "progress": {"elapsed_seconds": "long"}},
        {"trained": [], "progress": {"elapsed_seconds": float("nan")}},
        {"trained": [], "progress": {"fitted": 1}},
        {"trained": [], "progress": {"started": True}},
        {"trained": [], "progress": {"pending": [3]}},
        {"trained": [], "progress": {"pending": [[0.5, {}]]}},
        {"trained": [], "progress": {"pending": [[3, {"loss": "x"}]]}},
    ],
)
def test_a_checkpoint_whose_record_is_damaged_is_passed_over(run, monkeypatch, caplog, meta):
    folder, weights = run
    monkeypatch.setattr(logging.getLogger("mmebm_jax"), "propagate", True)
    assert checkpoint.restore_weights(epath.Path(folder), weights)[1] == 1
    assert not own_lines(caplog)
    content = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    (folder / "checkpoints" / "1" / "meta" / "metadata").write_bytes(content)
    before = digest(folder)
    assert checkpoint.restore_weights(epath.Path(folder), weights)[1] == 0
    (line,) = own_lines(caplog)
    assert line.startswith("checkpoint 1 is damaged (")
    assert line.endswith("taking step 0.")
    assert "\n" not in line
    assert digest(folder) == before


def test_large_arrays_are_written_in_files_that_travel(tmp_path, saved):
    incompressible = {"kernel": jax.random.bits(jax.random.key(0), (31360, 256))}
    state = saved[1]._replace(params=saved[1].params | {"energy": incompressible})
    with checkpoint.open_manager(epath.Path(tmp_path)) as manager:
        checkpoint.save(manager, state, Progress()._asdict())
        manager.wait_until_finished()
        restored, _ = checkpoint.restore(manager, state)
    chex.assert_trees_all_equal(restored, state)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) > incompressible["kernel"].nbytes
    assert max(sizes) <= 15e6


def test_a_manifest_of_absurd_size_is_not_read(run):
    folder, weights = run
    path = folder / "checkpoints" / "1" / "weights" / "_METADATA"
    with path.open("r+b") as file:
        file.truncate(manifests.MOST_MANIFEST_BYTES + 1)
    assert checkpoint.restore_weights(epath.Path(folder), weights)[1] == 0


@pytest.mark.parametrize("is_large", [False, True])
def test_a_step_that_hides_the_others_is_told_in_one_line(run, is_large):
    folder, weights = run
    path = folder / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    path.write_bytes(b"[" * 10**5)
    if is_large:
        with path.open("r+b") as file:
            file.truncate(manifests.MOST_MANIFEST_BYTES + 1)
    with pytest.raises(ValueError, match=r"checkpoints cannot be listed \(.*: move the") as caught:
        checkpoint.restore_weights(epath.Path(folder), weights)
    assert "\n" not in str(caught.value)
    assert ("larger than 64 MiB" in str(caught.value)) == is_large


def test_arrays_of_other_shapes_are_refused(run):
    folder, weights = run
    wider = weights.base_prior.mean.repeat(2, axis=0)
    other = weights._replace(base_prior=weights.base_prior._replace(mean=wider))
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read \(step 1: ") as caught:
        checkpoint.restore_weights(epath.Path(folder), other)
    assert "\n" not in str(caught.value)


def test_nothing_is_told_of_damaged_arrays_but_the_one_line(run, monkeypatch, capfd):
    """Orbax abandons reads, which would otherwise report errors whenever they end."""
    folder, weights = run
    for path in first_files(folder / "checkpoints", "ocdbt.process_0/d/*"):
        path.write_bytes(path.read_bytes()[:1000])
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    capfd.readouterr()
    with pytest.raises(ValueError, match="no checkpoint of"):
        checkpoint.restore_weights(epath.Path(folder), weights)
    gc.collect()
    assert not told
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_on_another_version_of_its_data_set_is_refused(tmp_path):
    config = small_config()
    splits = builders.build_data(config)
    folder = epath.Path(tmp_path)
    checkpoint.check_data(folder, splits)
    checkpoint.write_config(folder, config, splits)
    checkpoint.check_data(folder, splits)
    newer = splits._replace(version="2.0.0")
    with pytest.raises(ValueError, match=r"on version '1\.0\.0' of this data set, which is now 2"):
        checkpoint.check_data(folder, newer)
    # A run from before versions were recorded counts as made with the first.
    facts = json.loads((folder / "data.json").read_text())
    del facts["version"]
    (folder / "data.json").write_text(json.dumps(facts))
    checkpoint.check_data(folder, splits)
    with pytest.raises(ValueError, match="which is now 2"):
        checkpoint.check_data(folder, newer)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_what_a_run_lost_is_written_again_and_nothing_else(tmp_path, name):
    config, folder = small_config(), epath.Path(tmp_path)
    splits = builders.build_data(config)
    checkpoint.write_config(folder, config, splits)
    before = digest(tmp_path)
    kept = ({"config.json", "data.json"} - {name}).pop()
    inode = (tmp_path / kept).stat().st_ino
    (tmp_path / name).unlink()
    assert checkpoint.write_config(folder, config, splits) is None
    assert digest(tmp_path) == before
    assert name == "config.json" or (tmp_path / kept).stat().st_ino == inode


def test_a_run_of_before_0_2_is_sampled_from_and_not_trained_on(tmp_path):
    config = small_config(data__word=True)
    save_run(tmp_path, config)
    folder = epath.Path(tmp_path)
    checkpoint.check_resumable(folder)
    saved = json.loads((folder / "config.json").read_text())
    saved["likelihood"]["sequence"] = saved["likelihood"].pop("text")
    for section, fields in checkpoint.ADDED_SINCE.items():
        place = functools.reduce(operator.getitem, section.split("."), saved)
        for name, value in fields.items():
            assert place.pop(name) == value  # the behaviour before there was a choice
    for name, value in checkpoint.ADDED_AT_TOP.items():
        assert saved.pop(name) == value
    (folder / "config.json").write_text(json.dumps(saved))
    facts = json.loads((folder / "data.json").read_text())
    del facts["version"]
    facts["fields"]["word"]["kind"] = "sequence"
    (folder / "data.json").write_text(json.dumps(facts))
    assert checkpoint.read_config(folder) == config
    assert checkpoint.read_data_facts(folder).fields["word"].kind == "text"
    checkpoint.check_config(folder, config)
    with pytest.raises(ValueError, match=r"before 0\.2, whose optimisers cannot be read: sample"):
        checkpoint.check_resumable(folder)


def test_completions_of_an_older_run_are_chosen_as_its_samples_were(tmp_path):
    config = small_config(energy__candidate_temperature=2.0)
    save_run(tmp_path, config)
    path = epath.Path(tmp_path) / "config.json"
    saved = json.loads(path.read_text())
    del saved["energy"]["completion_temperature"]
    path.write_text(json.dumps(saved))
    assert checkpoint.read_config(epath.Path(tmp_path)).energy.completion_temperature == 2.0
