"""Sharing a trained model: export, load, the hub's cache, and damaged files."""

import hashlib
import importlib
import json
import logging
import shutil
import socket
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

import mmebm_jax
from mmebm_jax.runs import cards, checkpoint, exports, tensors
from tests.commands import save_run, small_config

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Made by version 0.2.0 from a run of 60 steps, in float16: it must always load.
OLD = Path(__file__).parent / "old_exports" / "format1"
EVALUATION = {
    "step": 8,
    "num_samples": 100,
    "joint_coherence": {"generator": 0.5, "energy": 0.75},
    "cross_coherence": {"mean": 0.9},
    "diversity": {"conditional": 0.25},
    "frechet": {"generator": 81.0, "energy": 79.23, "floor": 6.8},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, small_config())
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    mmebm_jax.export(run, folder, licence="Apache-2.0")
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """An export to damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def one_line(kind, *named):
    """`pytest.raises` for an error of a single line that contains these."""
    return pytest.raises(kind, match=r"(?s)^(?!.*\n)" + "".join(f"(?=.*{n})" for n in named))


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def leaves(sampler, *networks):
    return jax.tree.leaves(({n: sampler.weights.params[n] for n in networks}, sampler.weights[1]))


def test_an_export_gives_the_runs_samples_bit_for_bit(run, exported):
    ours, theirs = mmebm_jax.load(run), mmebm_jax.load(exported)
    assert theirs.model == ours.model
    assert theirs.settings == ours.settings
    for one, other in zip(
        *(leaves(s, "generator", "inference") for s in (ours, theirs)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    samples = [s.sample(jax.random.key(0), 2) for s in (ours, theirs)]
    for name in samples[0]:
        np.testing.assert_array_equal(samples[0][name], samples[1][name])


def test_float16_is_half_as_large_and_nearly_the_same(run, exported, tmp_path):
    mmebm_jax.export(run, tmp_path / "half", dtype="float16")
    sizes = [(f / "model.safetensors").stat().st_size for f in (exported, tmp_path / "half")]
    assert sizes[1] < 0.75 * sizes[0]  # tensor names and the base prior are unchanged
    half, full = mmebm_jax.load(tmp_path / "half"), mmebm_jax.load(exported)
    for one, other in zip(
        *(leaves(s, "generator", "inference") for s in (half, full)), strict=True
    ):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("dtype", ["int8", "int6"])
def test_few_bits_are_smaller_and_near(run, exported, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(tensors, "SMALLEST_KERNEL", 64)  # kernels in tests are small
    mmebm_jax.export(run, tmp_path / "few", dtype=dtype)
    formats = [json.loads((f / "export.json").read_text()) for f in (exported, tmp_path / "few")]
    assert [facts["format"] for facts in formats] == [1, 2]  # older versions can read the first
    found = safetensors.numpy.load_file(tmp_path / "few" / "model.safetensors")
    assert found["params/generator/m0/Dense_1/kernel"].dtype == np.uint8
    few, full = mmebm_jax.load(tmp_path / "few"), mmebm_jax.load(exported)
    assert few.settings == full.settings
    for one, other in zip(*(leaves(s, "generator", "inference") for s in (few, full)), strict=True):
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        step = 2 * np.abs(other).max() / (2 ** tensors.num_bits(dtype) - 2)
        assert np.abs(one - other).mean() <= step / 2
    # The checksum is valid, but one scale is missing.
    path = tmp_path / "few" / "model.safetensors"
    del found["params/generator/m0/Dense_1/kernel.scale"]
    safetensors.numpy.save_file(found, path)
    change(tmp_path / "few" / "export.json", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with one_line(ValueError, "does not fit model.safetensors", "kernel.scale is missing"):
        mmebm_jax.load(tmp_path / "few")


def test_what_never_learned_is_not_stored(exported):
    names = safetensors.numpy.load_file(exported / "model.safetensors")
    assert {name.split("/")[1] for name in names if name.startswith("params/")} == {
        "generator",
        "inference",
    }
    shapes = jax.tree.map(np.shape, mmebm_jax.load(exported).weights.params["energy"])
    assert len(jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))) > 4


def test_the_card_holds_the_table_with_its_company(exported):
    card = (exported / "README.md").read_text()
    assert "| joint coherence | cross coherence | conditional diversity | Fréchet" in card
    assert "| 0.750 | 0.900 | 0.250 | 79.2 | 6.8 |" in card
    assert "one seed (0)" in card
    assert "license: apache-2.0" in card
    assert "CC BY 4.0" in card  # the licence of the digits


def test_a_damaged_evaluation_is_no_obstacle(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for content in ("[]", "{", '{"step": "x"}', '{"step": 1, "num_samples": 2, "frechet": 3}'):
        (folder / "evaluation.json").write_text(content)
        assert cards.scores(folder, 0) == "Its evaluation.json could not be read."
    (folder / "evaluation.json").unlink()
    mmebm_jax.export(folder, tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert "Not evaluated" in card
    assert "None is stated" in card


def test_nothing_of_this_machine_is_told(run, exported):
    config = json.loads((exported / "config.json").read_text())
    assert "evaluation" not in config
    assert config["data"]["name"] == "polydigits"
    assert str(run) not in "".join(
        p.read_text() for p in exported.iterdir() if p.suffix != ".safetensors"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int4"}, "dtype is 'int4': choose one of float32, float16, int8, int6"),
        ({"licence": "mine, ask me"}, "licence is mine, ask me: give an SPDX"),
        ({"licence": 3}, "licence is 3: give an SPDX"),
        ({"licence": None}, "licence is None: give an SPDX"),
    ],
)
def test_bad_arguments_leave_nothing_behind(run, tmp_path, arguments, message):
    with one_line(ValueError, message):
        mmebm_jax.export(run, tmp_path / "new", **arguments)
    assert not any((tmp_path / "new").glob("*"))


def test_nothing_is_overwritten(run, exported, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for target in (tmp_path, tmp_path / "mine", exported):
        with one_line(ValueError, "is there already"):
            mmebm_jax.export(run, target)
    with one_line(ValueError, "is an export already"):
        mmebm_jax.export(exported, tmp_path / "again")
    with one_line(FileNotFoundError, "holds no run"):
        mmebm_jax.export(tmp_path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_weights_that_float16_cannot_hold_are_refused(run, tmp_path, monkeypatch):
    restore = checkpoint.restore_weights

    def larger(*arguments):
        restored = restore(*arguments)
        params = jax.tree.map(lambda w: w + 1e6, restored.weights.params)
        return restored._replace(weights=restored.weights._replace(params=params))

    monkeypatch.setattr(checkpoint, "restore_weights", larger)
    with (
        np.errstate(over="ignore"),
        one_line(ValueError, "params/.*values that float16 cannot.*float32"),
    ):
        mmebm_jax.export(run, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


# --- damage and other versions ----------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 8, 100, -1])
def test_a_damaged_tensor_file_is_one_line(copy, place):
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    with one_line(ValueError, "model.safetensors is damaged", "fetch"):
        mmebm_jax.load(copy)


@pytest.mark.parametrize("size", [0, 4, 64, 2000])
def test_half_a_tensor_file_is_one_line(copy, size):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with one_line(ValueError, "model.safetensors is damaged"):
        mmebm_jax.load(copy)
    path.unlink()
    with one_line(FileNotFoundError, "model.safetensors is missing"):
        mmebm_jax.load(copy)


def test_tensors_of_another_model_are_one_line(copy):
    """The checksum is valid, but the tensors do not fit the configuration."""
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config["model"]["hidden"] *= 2
    path.write_text(json.dumps(config))
    with one_line(ValueError, "copy/config.json .*does not fit model.safetensors", r"float32\["):
        mmebm_jax.load(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 3, "library": "9.0"}, "format 3, made by mmebm_jax 9.0, and this is"),
        ({"format": 0}, "export.format is 0"),
        ({"format": "1"}, "export.format is '1'"),
        ({"trained": ["discriminator"]}, "export.trained"),
        ({"dtype": "int4"}, "export.dtype is 'int4'"),
        ({"extra": 1}, "export.extra is unknown"),
    ],
)
def test_an_export_of_another_version_is_one_line(copy, fields, message):
    change(copy / "export.json", **fields)
    with one_line(ValueError, message):
        mmebm_jax.load(copy)


def test_a_field_that_this_version_lacks_is_one_line(copy):
    change(copy / "config.json", quantum=True)
    with one_line(ValueError, "of another version: config.quantum is unknown"):
        mmebm_jax.load(copy)


def test_a_field_that_the_export_lacks_has_its_default(copy, exported):
    path = copy / "config.json"
    config = json.loads(path.read_text())
    del config["model"]["rematerialise"], config["posterior"]["scaled"], config["data"]
    path.write_text(json.dumps(config))
    assert mmebm_jax.load(copy).settings == mmebm_jax.load(exported).settings


def test_an_export_without_its_data_facts_is_one_line(copy):
    (copy / "data.json").unlink()
    with one_line(FileNotFoundError, "data.json is missing: fetch the export anew"):
        mmebm_jax.load(copy)


def test_an_export_without_its_facts_is_one_line(copy):
    (copy / "export.json").unlink()
    with one_line(FileNotFoundError, "export.json is missing: fetch the export anew"):
        mmebm_jax.load(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "config.json is damaged .config.model is missing.: fetch it anew"),
        ('{"model": {}}', "config.json is damaged .config.prior is missing.: fetch it anew"),
        ('{"model": {}, "prior": {}}', "config.json .*does not fit model.safetensors"),
        ("[]", "config.json is damaged .it holds no JSON object.: fetch the export anew"),
    ],
)
def test_an_export_of_an_emptied_configuration_is_one_line(copy, content, message):
    (copy / "config.json").write_text(content)
    with one_line(ValueError, message):
        mmebm_jax.load(copy)


@pytest.mark.parametrize("lost", ["", "export.json", "model.safetensors"])
def test_an_export_is_no_run(copy, lost):
    """Whatever is missing from it, the error names this folder and asks for one of a run."""
    if lost:
        (copy / lost).unlink()
    for use in (
        lambda folder: checkpoint.read_config(folder),
        lambda folder: checkpoint.check_config(folder, small_config()),
        lambda folder: mmebm_jax.training.prepare(small_config(), folder),
    ):
        with one_line(ValueError, "copy is an export, not a run", "name the folder of a run"):
            use(epath.Path(copy))


def test_loading_old_exports():
    """The samples equal those of version 0.2.0: defaults of new fields change nothing."""
    model = mmebm_jax.load(OLD)
    expected = np.load(OLD.parent / "format1_samples.npz")
    samples = model.sample(jax.random.key(0), 4, num_steps=0)
    assert sorted(samples) == sorted(expected.files)
    for name, values in samples.items():
        np.testing.assert_allclose(values, expected[name], atol=2e-3)
    assert np.isfinite(model.energy(samples, check_values=False)).all()


# --- the hub ----------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(exported, tmp_path, monkeypatch):
    """The hub's local cache with one repository, and no network."""
    folder = tmp_path / "models--ada--digits"
    shutil.copytree(exported, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    hub = pytest.importorskip("huggingface_hub")
    constants = importlib.import_module("huggingface_hub.constants")

    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, value in {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": True}.items():
        monkeypatch.setattr(constants, name, value)
    fetch = hub.snapshot_download
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *a, **k: fetch(*a, cache_dir=tmp_path, **k)
    )


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_model_of_the_hub(cache, exported, revision, caplog):
    logger = logging.getLogger("mmebm_jax")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "mmebm_jax"):
        model = mmebm_jax.load(f"hf://ada/digits{revision}")
    logger.removeHandler(caplog.handler)
    assert model.model == mmebm_jax.load(exported).model
    # A revision that may move is reported with the commit it points to.
    pinned = f"hf://ada/digits@{COMMIT} now"
    assert (pinned in caplog.text) == (COMMIT not in revision)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://ada/letters@main", "hf://ada/letters@main cannot be fetched"),
        ("hf://ada/digits@v9", "hf://ada/digits@v9 cannot be fetched"),
    ],
)
def test_no_network_is_one_line(cache, address, message):
    with one_line(ConnectionError, message, "check the network"):
        mmebm_jax.load(address)


@pytest.mark.parametrize("address", ["hf://", "hf://ada", "hf://a/b/c", "hf:///b", "hf://a/--b@x"])
def test_no_address_is_one_line(cache, address):
    with one_line(ValueError, "is no address: give hf://user/name@revision"):
        mmebm_jax.load(address)


READ = "give a local path, gs://, s3://, az://, or hf:// to load a model"
WRITTEN = "is read only, to load models from: give a local path, gs://, s3://"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://huggingface.co/ada/digits", "is a web page: give hf://ada/digits to load it"),
        ("http://www.huggingface.co/ada/digits/", "is a web page: give hf://ada/digits to"),
        ("https://hf.co/ada/digits/tree/v1", "is a web page: give hf://ada/digits@v1 to load it"),
        ("https://huggingface.co/ada", READ),
        ("https://a.org/x", READ),
        ("file:///tmp/x", READ),
        ("C://x", READ),
        ("gs://bucket/x", "gs://bucket/x needs gcsfs: pip install gcsfs"),
        ("s3://bucket/x", "s3://bucket/x needs s3fs: pip install s3fs"),
    ],
)
def test_an_address_that_cannot_be_opened_is_one_line(run, tmp_path, monkeypatch, address, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for use in (
        mmebm_jax.load,
        lambda folder: mmebm_jax.export(run, folder),
        lambda folder: mmebm_jax.export(folder, tmp_path / "new"),
        lambda folder: mmebm_jax.training.prepare(small_config(), folder),
    ):
        with one_line(ValueError, message):
            use(address)


def test_the_hub_is_read_only(run):
    for use in (
        lambda folder: mmebm_jax.export(run, folder),
        lambda folder: mmebm_jax.training.prepare(small_config(), folder),
    ):
        with one_line(ValueError, WRITTEN):
            use("hf://ada/digits")


@pytest.mark.parametrize("path", [None, 3, ["runs"]])
def test_what_is_no_path_is_one_line(path):
    with one_line(TypeError, "is no path: give a text, as 'runs/demo'"):
        mmebm_jax.load(path)


def test_without_the_extra_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with one_line(ValueError, r"needs huggingface_hub: pip install 'mmebm_jax\[hub\]'"):
        mmebm_jax.load("hf://ada/digits")


def test_what_only_training_reads_may_be_of_any_version(tmp_path):
    folder = epath.Path(shutil.copytree(OLD, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["optimiser"]["inference"]["of_another_version"] = 1.0
    config["tracker"] = "another"
    (folder / "config.json").write_text(json.dumps(config))
    assert exports.read_config(folder) == exports.read_config(epath.Path(OLD))
