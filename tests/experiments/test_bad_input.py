"""Bad input gives a one-line error that names the problem, and changes nothing."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import mmebm_jax
from experiments import page
from mmebm_jax.data import load_data
from mmebm_jax.data.sets import polymnist
from mmebm_jax.data.source import ArraySource, DataSplits, Field
from mmebm_jax.runs import builders
from mmebm_jax.training import loop
from mmebm_jax.training.run import sole_writer
from tests.commands import (
    SHRINK,
    assert_one_line,
    digest,
    first_files,
    run_here,
    save_run,
    small_config,
)

POLYDIGITS = "--config=configs/polydigits.py:smoke"
SMALL = [POLYDIGITS, *[f"--config.{name}={value}" for name, value in SHRINK.items()]]
IMAGE = np.zeros([2, 16, 16, 3], np.uint8)
SHIPPED = Path(__file__).parents[2] / "pretrained" / "polymnist"


@pytest.fixture(scope="session")
def saved_run(tmp_path_factory):
    """A run saved at its start, at two steps."""
    folder = tmp_path_factory.mktemp("saved")
    save_run(folder, small_config(), steps=(0, 1))
    (folder / ".lock").touch()  # Training leaves this file behind.
    return folder


@pytest.fixture(scope="session")
def loaded_run(saved_run):
    return mmebm_jax.load(saved_run)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """Forty training digits and twenty test digits, and the data set prepared from them."""
    folder = tmp_path_factory.mktemp("mnist")
    (folder / "source").mkdir()
    for prefix, count in (("train", 40), ("t10k", 20)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (folder / "source" / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / "source" / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    folders = {"data_dir": str(folder / "prepared"), "source_dir": str(folder / "source")}
    load_data("polymnist", **folders, check_source=False)
    return folder


class Place:
    """Where a case runs: `folder` is watched, and `run` inside it is a copy of the saved run."""

    def __init__(self, folder, saved_run, mnist, patch, stack):
        self.folder, self._saved, self._mnist = folder, saved_run, mnist
        self.patch, self.stack = patch, stack

    @property
    def run(self):
        if not (self.folder / "run").exists():
            shutil.copytree(self._saved, self.folder / "run")
        return self.folder / "run"

    @property
    def mnist(self):
        if not (self.folder / "mnist").exists():
            shutil.copytree(self._mnist, self.folder / "mnist")
        return self.folder / "mnist"

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


# --- flags ------------------------------------------------------------------------------------

CASES = {
    "no workdir": (lambda place: ["--mode=sample"], ["--workdir is missing"]),
    "no config": (lambda place: [f"--workdir={place.folder / 'x'}"], ["--config is missing"]),
    "unknown mode": (lambda place: ["--mode=dream"], ["mode", "dream"]),
    "misspelt flag": (lambda place: ["--workdirr=x"], ["workdirr"]),
    "no samples": (lambda place: ["--num_samples=0"], ["num_samples"]),
    "fewer than no samples": (lambda place: ["--num_samples=-3"], ["num_samples"]),
    "too many samples": (lambda place: [f"--num_samples={10**12}"], ["num_samples"]),
    "samples without number": (lambda place: ["--num_samples=few"], ["num_samples", "few"]),
    "seed without number": (lambda place: ["--seed=x"], ["seed", "x"]),
    "negative seed": (lambda place: ["--seed=-1"], ["seed", "-1"]),
    "word for a mode": (lambda place: ["sample", f"--workdir={place.run}"], ["sample", "--mode"]),
    "given in training": (
        lambda place: [f"--workdir={place.folder / 'x'}", *SMALL, "--given=x.npz"],
        ["--given does not act in --mode=train", "sample"],
    ),
    "seed in training": (
        lambda place: [f"--workdir={place.folder / 'x'}", *SMALL, "--seed=3"],
        ["--seed does not act in --mode=train", "config.seed"],
    ),
    "samples in evaluation": (
        lambda place: [f"--workdir={place.run}", "--mode=evaluate", "--num_samples=3"],
        ["--num_samples does not act in --mode=evaluate", "sample and curve"],
    ),
    "empty workdir": (lambda place: ["--workdir=", *SMALL], ["--workdir is empty"]),
    "empty given": (
        lambda place: ["--mode=sample", f"--workdir={place.run}", "--given="],
        ["--given is empty", "leave it out"],
    ),
    "negative refinement": (lambda place: ["--refinement_steps=-1"], ["refinement_steps"]),
}


# --- configurations ---------------------------------------------------------------------------


def setting(*flags, base=SMALL):
    return lambda place: [f"--workdir={place.folder / 'new'}", *base, *flags]


def config_file(body):
    """A config file that modifies the smoke variant."""
    lines = "from configs import polydigits\ndef get_config():\n"
    lines += "    config = polydigits.get_config('smoke')\n" + f"    {body}\n    return config\n"
    return lambda place: [
        f"--workdir={place.folder / 'new'}",
        f"--config={place.file('own.py', lines)}",
    ]


CASES |= {
    "config file missing": (
        setting(base=["--config=configs/polydigit.py"]),
        ["configs/polydigit.py", "does not exist"],
    ),
    "config file broken": (config_file("config ="), ["own.py"]),
    "unknown variant": (
        setting(base=["--config=configs/polydigits.py:best"]),
        ["polydigits.py:best", "choose one of full"],
    ),
    "unknown variant behind a space": (
        setting(base=["--config", "configs/polydigits.py:best"]),
        ["error: configs/polydigits.py:best: choose one of full"],
    ),
    "variant of a file without any": (
        lambda place: [
            f"--workdir={place.folder / 'new'}",
            f"--config={place.file('own.py', 'def get_config():' + chr(10) + '    return 3')}:x",
        ],
        ["own.py:x: TypeError", "get_config()"],
    ),
    "config of another type": (
        lambda place: [
            f"--workdir={place.folder / 'new'}",
            f"--config={place.file('own.py', 'def get_config():' + chr(10) + '    return 3')}",
        ],
        ["own.py: get_config returns int, not a ConfigDict"],
    ),
    "config file that raises": (
        config_file("config.model.lock(); config.model.num_latnts = 3"),
        ["own.py: AttributeError", "num_latnts"],
    ),
    "config without a name": (setting(base=["--config="]), ["config file '' has no name"]),
    "config folder": (setting(base=["--config=configs"]), ["configs is a folder"]),
    "field without a config": (setting(base=["--config.batch_size=3"]), ["--config is missing"]),
    "unknown field of a run": (
        lambda place: [f"--workdir={place.run}", "--config.batch_sise=3"],
        ["config.batch_sise is unknown", "did you mean config.batch_size?"],
    ),
    "field before the config": (
        setting(base=["--config.batch_size=3", POLYDIGITS]),
        ["--config.batch_size=3", "give --config first"],
    ),
    "unknown field": (
        setting("--config.energy.lern=False"),
        ["config.energy.lern is unknown", "did you mean config.energy.learn?"],
    ),
    "field of another section": (
        setting("--config.learning_rate=1"),
        ["config.learning_rate is unknown", "config.optimiser.energy.learning_rate"],
    ),
    "field like no other": (
        setting("--config.qqqq=1"),
        ["config.qqqq is unknown: known are", "batch_size"],
    ),
    "section of a value": (
        setting("--config.batch_size.x=1"),
        ["config.batch_size.x is unknown: config.batch_size is a value"],
    ),
    "value for a section": (
        setting("--config.data=3"),
        ["config.data is a section", "--config.data.name"],
    ),
    "text for a number": (setting("--config.batch_size=many"), ["batch_size", "many"]),
    "text for a switch": (setting("--config.energy.learn=maybe"), ["energy.learn", "maybe"]),
    "fraction for a whole number": (
        config_file(
            "config.prior.update(dict(num_candidates=None)); config.prior.num_candidates = 2.5"
        ),
        ["num_candidates"],
    ),
    "nothing for a number": (config_file("config.seed = None"), ["config.seed is None"]),
    "switch for a number": (
        config_file("config.seed = None; config.seed = True"),
        ["config.seed is True", "a whole number"],
    ),
    "own unknown field": (
        config_file("config.model.num_latent = 3"),
        ["config.model.num_latent is unknown", "did you mean num_latents?"],
    ),
    "own unknown section": (
        config_file("config.optimiser.energies = config.optimiser.energy"),
        ["config.optimiser.energies is unknown", "did you mean energy?"],
    ),
    "missing section": (config_file("del config.guard"), ["config.guard is missing"]),
    "missing field": (config_file("del config.elbo.beta"), ["config.elbo.beta is missing"]),
    "a number for a section": (
        config_file("config.guard = None; config.guard = 3"),
        ["config.guard is 3", "section"],
    ),
    "impossible value": (setting("--config.batch_size=0"), ["config.batch_size is 0"]),
    "not a number": (setting("--config.prior.penalty=nan"), ["config.prior.penalty is nan"]),
    "infinite": (setting("--config.elbo.beta=inf"), ["config.elbo.beta is inf"]),
    "unknown name": (
        setting("--config.model.aggregator=sum"),
        ["config.model.aggregator is 'sum'", "mixture"],
    ),
    "momentum of one": (setting("--config.optimiser.prior.b1=1.0"), ["optimiser.prior.b1 is 1.0"]),
    "absurd width": (setting("--config.model.width=100000"), ["config.model.width is 100000"]),
    "absurd model": (
        setting("--config.model.energy_hidden=65536", "--config.model.hidden=65536"),
        ["GiB", "energy", "config.model"],
    ),
    "batch that the stride does not divide": (
        setting("--config.batch_size=9"),
        ["config.revision_stride is 4", "divide", "9"],
    ),
    "batch larger than the data": (
        setting("--config.batch_size=24"),
        ["config.batch_size is 24", "20 examples"],
    ),
    "bound without its aggregator": (
        setting("--config.elbo.objective=mvae"),
        ["config.elbo.objective 'mvae' needs", "product_with_prior"],
    ),
    "unknown data set": (setting("--config.data.name=cifar"), ["config.data.name is 'cifar'"]),
    "too many modalities": (
        setting("--config.data.num_modalities=9"),
        ["config.data.num_modalities is 9", "[1, 5]"],
    ),
    "option of another data set": (
        config_file("config.data.sigma = 0.1"),
        ["config.data.sigma is unknown"],
    ),
}


# --- folders ----------------------------------------------------------------------------------


def locked(place):
    place.stack.enter_context(sole_writer(epath.Path(place.run)))
    return [f"--workdir={place.run}", *SMALL]


def lose(pattern):
    """Remove files from the run."""

    def arguments(place):
        for path in first_files(place.run, pattern):
            path.unlink()
        return [f"--workdir={place.run}"]

    return arguments


def in_run(*flags, mode):
    return lambda place: [f"--mode={mode}", f"--workdir={place.run}", *flags]


def cut_checkpoints(mode, *flags):
    def arguments(place):
        for path in first_files(place.run / "checkpoints", "*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return [f"--mode={mode}", f"--workdir={place.run}", *flags]

    return arguments


def without_checkpoints(mode):
    def arguments(place):
        shutil.rmtree(place.run / "checkpoints")
        return [f"--mode={mode}", f"--workdir={place.run}"]

    return arguments


def empty_checkpoints(place):
    shutil.rmtree(place.run / "checkpoints")
    (place.run / "checkpoints").mkdir()
    return ["--mode=sample", f"--workdir={place.run}"]


def edited(name, change, mode="sample", *flags):
    """Change a file of the run, by a function of its JSON or with new content."""

    def arguments(place):
        path = place.run / name
        if callable(change):
            tree = json.loads(path.read_text())
            change(tree)
            path.write_text(json.dumps(tree))
        else:
            path.write_bytes(change)
        return [f"--mode={mode}", f"--workdir={place.run}", *flags]

    return arguments


def exported(place):
    return shutil.copytree(SHIPPED, place.folder / "export")


def damaged_classifiers(place):
    (place.run / "classifiers").mkdir()
    (place.run / "classifiers" / "classifiers.npz").write_bytes(b"PK\x03\x04")
    return ["--mode=evaluate", f"--workdir={place.run}"]


def set_field(*path, value):
    def change(tree):
        for name in path[:-1]:
            tree = tree[name]
        tree[path[-1]] = value

    return change


def instead(path_of, make, mode="train"):
    """Put something else in place of a file or folder of the run."""

    def arguments(place):
        path = path_of(place)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)
        return [f"--mode={mode}", f"--workdir={place.run}", *(SMALL if mode == "train" else [])]

    return arguments


ON_HUB = "hf://a/b is read only, to load models from: give a local path, gs://"
A_PAGE = "https://huggingface.co/a/b is a web page: give hf://a/b to load it."


CASES |= {
    **{
        f"workdir on the hub: {mode}": (
            lambda place, mode=mode: ["--workdir=hf://a/b", *SMALL, f"--mode={mode}"],
            [ON_HUB],
        )
        for mode in ("train", "check", "evaluate", "curve", "sample", "report")
    },
    "workdir is a web page": (
        lambda place: ["--workdir=https://huggingface.co/a/b", "--mode=sample"],
        [A_PAGE],
    ),
    "workdir is a web page, trained in": (
        lambda place: ["--workdir=https://a.org/b", *SMALL],
        ["https://a.org/b cannot be opened: give a local path, gs://"],
    ),
    "classifiers at a web page": (
        in_run("--classifiers=https://a.org/b", mode="evaluate"),
        ["https://a.org/b cannot be opened"],
    ),
    "data at a web page": (
        lambda place: [
            *(f"--workdir={place.folder / 'new'}", "--config=configs/polymnist.py:smoke"),
            "--config.data.data_dir=https://a.org/b",
        ],
        ["https://a.org/b cannot be opened"],
    ),
    "training in an export": (
        lambda place: [f"--workdir={exported(place)}", *SMALL],
        ["export is an export, not a run", "not trained on"],
    ),
    "evaluation of an export": (
        lambda place: [f"--workdir={exported(place)}", "--mode=evaluate"],
        ["export is an export, not a run", "measured (by --weights)"],
    ),
    "workdir is a file": (
        lambda place: [f"--workdir={place.file('taken', '')}", *SMALL],
        ["taken", "is a file"],
    ),
    "workdir below a file": (
        lambda place: [f"--workdir={place.file('taken', '') / 'run'}", *SMALL],
        ["taken", "is a file"],
    ),
    "workdir that nobody can make": (
        lambda place: ["--workdir=/proc/mmebm", *SMALL],
        ["/proc cannot be written to", "--workdir"],
    ),
    "checkpoints that are a file": (
        instead(lambda place: place.run / "checkpoints", lambda path: path.touch()),
        ["run/checkpoints is a file", "move it away"],
    ),
    "config.json that is a folder": (
        instead(lambda place: place.run / "config.json", Path.mkdir),
        ["run/config.json is a folder", "move it away"],
    ),
    "config.json that is a folder, sampled": (
        instead(lambda place: place.run / "config.json", Path.mkdir, mode="sample"),
        ["config.json is damaged (it is a folder)"],
    ),
    "workdir of another config": (
        in_run(*SMALL, "--config.model.hidden=9", mode="train"),
        ["holds a run with model.hidden = 8, not 9", "as by --config.model.hidden=8."],
    ),
    "fewer steps than a run was to take": (
        in_run(*SMALL, "--config.num_steps=7", mode="train"),
        ["holds a run with num_steps = 8, not 7"],
    ),
    "sample with another config": (
        in_run(*SMALL, "--config.prior.chain.num_steps=3", mode="sample"),
        ["holds a run with prior.chain.num_steps = 20, not 3"],
    ),
    "refinement without an energy": (
        in_run("--refinement_steps=3", mode="sample"),
        ["num_steps is 3", "no data energy"],
    ),
    "refinement without an energy, evaluated": (
        in_run("--refinement_steps=3", mode="evaluate"),
        ["--refinement_steps=3", "no data energy"],
    ),
    "workdir that another process trains in": (locked, ["another process trains in"]),
    "sample without a run": (
        lambda place: ["--mode=sample", f"--workdir={place.folder}"],
        ["holds no run", "train there first"],
    ),
    "evaluate without a run": (
        lambda place: ["--mode=evaluate", f"--workdir={place.folder / 'absent'}"],
        ["absent", "train there first"],
    ),
    "sample before a checkpoint": (without_checkpoints("sample"), ["no checkpoint"]),
    "evaluate before a checkpoint": (without_checkpoints("evaluate"), ["no checkpoint"]),
    "empty folder of checkpoints": (empty_checkpoints, ["no checkpoint"]),
    "sample from damaged checkpoints": (cut_checkpoints("sample"), ["no checkpoint of", "read"]),
    "evaluate damaged checkpoints": (cut_checkpoints("evaluate"), ["no checkpoint of", "read"]),
    "resume from damaged checkpoints": (
        cut_checkpoints("train", *SMALL),
        ["no checkpoint of", "read"],
    ),
    "checkpoint of other shapes": (
        edited("config.json", set_field("model", "hidden", value=9)),
        ["no checkpoint of", "read"],
    ),
    "config.json cut short": (edited("config.json", b'{"seed": 0,'), ["config.json is damaged"]),
    "config.json cut short, resumed": (
        edited("config.json", b'{"seed": 0,', "train", *SMALL),
        ["config.json is damaged"],
    ),
    "config.json of an older version": (
        edited("config.json", lambda tree: tree.pop("guard")),
        ["config.json does not fit this version", "config.guard is missing"],
    ),
    "config.json of absurd size": (
        edited("config.json", set_field("prior", "num_components", value=10**15)),
        ["config.json", "config.prior.num_components is 1000000000000000"],
    ),
    "config.json of an absurd mixture": (
        edited(
            "config.json",
            lambda tree: (
                tree["model"].update(num_latents=65536),
                tree["prior"].update(num_components=65536, num_fit_examples=10**6),
            ),
        ),
        ["GiB", "config.prior.num_components"],
    ),
    "data.json missing": (
        lambda place: ["--mode=sample", *lose("data.json")(place)],
        ["no data.json"],
    ),
    "data.json damaged": (edited("data.json", b"\xff\xfe"), ["data.json is damaged"]),
    "data.json of absurd shape": (
        edited("data.json", set_field("fields", "m0", "shape", value=[2**40, 4, 3])),
        ["data.json is damaged", "modality 'm0' has shape"],
    ),
    "data.json of an unknown kind": (
        edited("data.json", set_field("fields", "m0", "kind", value="sound")),
        ["data.json is damaged", "m0.kind is 'sound'", "image"],
    ),
    "damaged classifiers": (damaged_classifiers, ["classifiers.npz is damaged"]),
}


# --- --given ----------------------------------------------------------------------------------


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def members(*pairs):
    """A zip archive with these (name, content) members."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # A name may occur twice.
        for name, content in pairs:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(shape, content=b"", descr="|u1"):
    """An array file with a header that may lie."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def saved_array(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def longer_than_declared():
    """An archive whose member is longer than both of its headers declare."""
    content = saved_array(IMAGE)
    archive = bytearray(members(("m0.npy", content + bytes(10**6))))
    declared, claimed = (struct.pack("<I", len(content) + n) for n in (10**6, 0))
    assert archive.count(declared) == 2
    return bytes(archive.replace(declared, claimed))


def bomb():
    """A few kilobytes whose archive directory declares three gigabytes of zeros."""
    archive = bytearray(members(("m0.npy", npy((3 * 2**30, 16, 16, 3)))))
    at = archive.index(b"PK\x01\x02")
    archive[at + 24 : at + 28] = struct.pack("<I", 3 * 2**30)
    return bytes(archive)


GIVEN = {
    "empty": (b"", ["cannot be read"]),
    "text": (b"not an archive", ["cannot be read"]),
    "cut short": (packed(m0=IMAGE)[:-30], ["cannot be read"]),
    "array": (saved_array(IMAGE), ["cannot be read"]),
    "no arrays": (members(), ["no named arrays"]),
    "another member": (members(("m0.txt", b"")), ["'m0.txt' is no plain array"]),
    "objects": (packed(m0=np.array([None, {}], object)), ["m0", "dtype", "plain numbers"]),
    "unknown": (packed(sound=IMAGE), ["unknown modality 'sound'", "m0, m1"]),
    "twice": (members(*[("m0.npy", saved_array(IMAGE))] * 2), ["holds 'm0' twice"]),
    "shape": (packed(m0=IMAGE[:, :8]), ["m0", "(2, 8, 16, 3)", "[N, 16, 16, 3]"]),
    "dtype": (packed(m0=IMAGE.astype(np.int64)), ["m0", "int64", "uint8"]),
    "range": (packed(m0=IMAGE.astype(np.float32) + 3), ["m0", "[-1, 1]"]),
    "nan": (packed(m0=IMAGE + np.float32(np.nan)), ["m0", "holds NaN", "[-1, 1]"]),
    "infinite": (packed(m0=IMAGE - np.float32(np.inf)), ["m0", "infinite", "[-1, 1]"]),
    "unit range": (packed(m0=IMAGE + np.float32(0.5)), ["m0", "looks like [0, 1]", "uint8"]),
    "unit range in bytes": (packed(m0=IMAGE + np.uint8(1)), ["m0", "looks like [0, 1]", "255"]),
    "lengths": (packed(m0=IMAGE, m1=IMAGE[:1]), ["different numbers of examples"]),
    "no example": (packed(m0=IMAGE[:0]), ["m0", "no example"]),
    "too many": (
        packed(m0=np.zeros([70_000, 16, 16, 3], bool).view(np.uint8)),
        ["m0", "70000 examples", "at most 65536"],
    ),
    "lying header": (members(("m0.npy", npy((10**15, 16, 16, 3)))), ["m0", "claims shape"]),
    "negative header": (members(("m0.npy", npy((-2, 16, 16, 3)))), ["m0", "claims shape"]),
    "bomb": (bomb(), ["more than 2 GiB"]),
    "longer than declared": (longer_than_declared(), ["cannot be read"]),
}  # fmt: skip


def given(content):
    return lambda place: [
        *("--mode=sample", f"--workdir={place.run}"),
        f"--given={place.file('given.npz', content)}",
    ]


CASES |= {f"given: {n}": (given(c), ["given.npz", *named]) for n, (c, named) in GIVEN.items()}
CASES |= {
    "given: absent": (in_run("--given=absent.npz", mode="sample"), ["absent.npz", "not exist"]),
    "given: too many draws": (
        lambda place: [
            *in_run(mode="sample")(place),
            f"--given={place.file('given.npz', packed(m0=IMAGE))}",
            "--num_samples=65536",
        ],
        ["--num_samples=65536 for each of 2 given examples", "at most 65536"],
    ),
    "given: folder": (
        lambda place: [*in_run(mode="sample")(place), f"--given={place.folder}"],
        ["is a folder"],
    ),
}


# --- data -------------------------------------------------------------------------------------


def polymnist_run(change, *flags):
    """Train on prepared PolyMNIST after a change to its files."""

    def arguments(place):
        change(place.mnist)
        return [
            *(f"--workdir={place.folder / 'new'}", "--config=configs/polymnist.py:smoke"),
            f"--config.data.data_dir={place.mnist / 'prepared'}",
            f"--config.data.source_dir={place.mnist / 'source'}",
            *("--config.prior.num_components=2", "--config.evaluation.num_samples=20"),
            *(flags or ["--config.data.check_source=False"]),
        ]

    return arguments


def lose_everything(folder):
    shutil.rmtree(folder / "prepared")
    shutil.rmtree(folder / "source")


def cut_idx(folder):
    shutil.rmtree(folder / "prepared")
    path = folder / "source" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])


def write_pngs(**options):
    """A small official release, with one picture saved in a different format."""

    def change(folder):
        for split in ("train", "test"):
            for index, name in enumerate(("m0", "m1", "m2", "m3", "m4")):
                place = folder / "source" / split / name
                place.mkdir(parents=True)
                for number in range(4):
                    is_odd = (split, index, number) == ("test", 2, 3)
                    if is_odd and "mode" not in options:
                        continue
                    image = Image.new(options["mode"] if is_odd else "RGB", (28, 28))
                    image.save(place / f"{number}.{number}.png")

    return change


def permuted_labels(place):
    """Files that would pass for MNIST's, except for the order of some labels."""
    files = sorted((place.mnist / "source").iterdir())
    contents = {path: gzip.decompress(path.read_bytes()) for path in files}
    digests = {path.name: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    place.patch.setattr(polymnist, "_MNIST_DIGESTS", digests)
    path = place.mnist / "source" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(idx(np.frombuffer(contents[path][8:], np.uint8)[::-1]))
    return polymnist_run(lambda folder: None, "--config.data.check_source=True")(place)


def damage_records(folder):
    for path in first_files(folder / "prepared", "*array_record*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 2000] = bytes(2000)
        path.write_bytes(content)


def own_data(fields=None, num_classes=10, **changes):
    """Train on the user's own arrays."""

    def load(**options):
        arrays = {
            "picture": np.zeros([20, 8, 8, 1], np.uint8),
            "text": np.zeros([20, 3], np.int32),
            "vector": np.zeros([20, 2], np.float32),
            "label": np.zeros(20, np.int32),
        }
        known = {
            "picture": Field("image", (8, 8, 1)),
            "text": Field("text", (3, 4)),
            "vector": Field("vector", (2,)),
        }
        good = ArraySource(arrays)
        changed = {n: v for n, v in (arrays | changes).items() if v is not None}
        return DataSplits(good, ArraySource(changed), known | (fields or {}), num_classes, "abcd")

    def arguments(place):
        place.patch.setattr(builders, "load_data", load)
        return [f"--workdir={place.folder / 'new'}", *SMALL]

    return arguments


def with_one(shape, dtype, value):
    array = np.zeros(shape, dtype)
    array[7] = value
    return array


CASES |= {
    "data: sources missing": (polymnist_run(lose_everything), ["source", "is missing"]),
    "data: truncated IDX file": (
        polymnist_run(cut_idx),
        ["train-images-idx3-ubyte.gz", "download it again"],
    ),
    "data: not MNIST's": (
        polymnist_run(lambda folder: None, "--config.data.check_source=True"),
        ["train-images-idx3-ubyte.gz", "is not MNIST's file", "check_source to False"],
    ),
    "data: MNIST with permuted labels": (
        permuted_labels,
        ["t10k-labels-idx1-ubyte.gz is not MNIST's file", "check_source to False"],
    ),
    "data: a tuple without a modality": (
        polymnist_run(write_pngs(), "--config.data.variant=official_png"),
        ["m2/3.3.png is missing", "from every modality"],
    ),
    "data: palette": (
        polymnist_run(write_pngs(mode="P"), "--config.data.variant=official_png"),
        ["m2/3.3.png is 1-bit palette", "convert it to 8-bit RGB"],
    ),
    "data: transparency": (
        polymnist_run(write_pngs(mode="RGBA"), "--config.data.variant=official_png"),
        ["m2/3.3.png is 8-bit RGBA", "convert it to 8-bit RGB"],
    ),
    "data: grey with alpha": (
        polymnist_run(write_pngs(mode="LA"), "--config.data.variant=official_png"),
        ["m2/3.3.png is 8-bit grey with alpha", "convert it to 8-bit RGB"],
    ),
    "data: 16 bits": (
        polymnist_run(write_pngs(mode="I;16"), "--config.data.variant=official_png"),
        ["m2/3.3.png is 16-bit grey", "convert it to 8-bit RGB"],
    ),
    "data: damaged record": (polymnist_run(damage_records), ["example", "prepared"]),
    "data: dtype": (
        own_data(picture=np.zeros([20, 8, 8, 1], np.float32)),
        ["test split's 'picture' is float32", "uint8 [N, 8, 8, 1]"],
    ),
    "data: rank": (
        own_data(picture=np.zeros([20, 8, 8], np.uint8)),
        ["'picture'", "[20, 8, 8]", "[N, 8, 8, 1]"],
    ),
    "data: lengths": (own_data(text=np.zeros([19, 3], np.int32)), ["differ in length"]),
    "data: tokens": (
        own_data(text=with_one([20, 3], np.int32, 4)),
        ["example 7 of the test split", "'text'", "0..3"],
    ),
    "data: labels": (
        own_data(label=with_one([20], np.int32, 10)),
        ["example 7 of the test split", "'label'", "0..9"],
    ),
    "data: vectors": (
        own_data(vector=with_one([20, 2], np.float32, np.nan)),
        ["example 7 of the test split", "'vector'"],
    ),
    "data: absent modality": (own_data(vector=None), ["test split", "add 'vector'"]),
    "data: unknown kind": (
        own_data(fields={"vector": Field("sound", (2,))}),
        ["'vector'", "'sound'", "image, text, vector"],
    ),
    "data: impossible shape": (
        own_data(fields={"picture": Field("image", (8, 8))}),
        ["'picture'", "(8, 8)"],
    ),
    "data: name that a network uses": (
        own_data(fields={"energy": Field("vector", (2,))}),
        ["'energy'", "name"],
    ),
    "data: fewer classes than none": (own_data(num_classes=-1), ["num_classes is -1"]),
}


# --- evaluation -------------------------------------------------------------------------------


def evaluating(*flags, base=SMALL):
    """Evaluate a run that need not exist: the requested measures are checked first."""
    return lambda place: [*setting(*flags, base=base)(place), "--mode=evaluate"]


def weights(field, name, content, *flags):
    """Evaluate with a file of weights."""

    def arguments(place):
        path = place.folder / name
        if content is not None:
            place.file(name, content)
        return evaluating(f"--config.evaluation.{field}={path}", *flags)(place)

    return arguments


def unlabelled(place):
    own_data(num_classes=1)(place)
    return evaluating("--config.evaluation.measures=class_balance")(place)


def published_elsewhere(place):
    """PolyMNIST, with a folder that lacks its classifiers."""
    arguments = polymnist_run(lambda folder: None)(place)
    return [
        *arguments,
        "--mode=evaluate",
        f"--config.evaluation.polymnist_classifiers={place.folder}",
    ]


MANY = [f"--config.data.num_{split}=2100" for split in ("train", "test")]
MANY += [f"--config.evaluation.num_{kind}=2100" for kind in ("samples", "sources")]
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
CASES |= {
    "evaluation: unknown measure": (
        evaluating("--config.evaluation.measures=joint_samples,beauty"),
        ["config.evaluation.measures names 'beauty'", "all", "log_likelihood"],
    ),
    "evaluation: unknown measure, trained": (
        setting("--config.evaluation.measures=beauty"),
        ["config.evaluation.measures names 'beauty'"],
    ),
    "evaluation: unknown measure, checked": (
        setting("--config.evaluation.measures=beauty", "--mode=check"),
        ["config.evaluation.measures names 'beauty'"],
    ),
    "evaluation: a file for the classifiers": (
        lambda place: [*evaluating()(place), f"--classifiers={place.file('taken', '')}"],
        ["taken is a file", "--classifiers"],
    ),
    "evaluation: no measure": (
        evaluating("--config.evaluation.measures="),
        ["config.evaluation.measures is ''", "1 to 4096"],
    ),
    "evaluation: one modality": (
        evaluating("--config.evaluation.measures=cross_samples", "--config.data.num_modalities=1"),
        ["asks for cross_samples, but the data have one modality"],
    ),
    "evaluation: no labels": (
        unlabelled,
        ["asks for class_balance, but the data have no labels of two classes"],
    ),
    "evaluation: fewer samples than features": (
        evaluating("--config.evaluation.measures=fidelity"),
        ["asks for fidelity", "64 features takes at least 65 samples, and there are 20"],
    ),
    "evaluation: fewer samples than FID takes": (
        weights("inception_weights", INCEPTION, b"none"),
        ["inception_weights asks for fid", "takes at least 2049 samples, and there are 20"],
    ),
    "evaluation: FID without weights": (
        evaluating("--config.evaluation.measures=fid"),
        ["asks for fid", "get https://", "config.evaluation.inception_weights"],
    ),
    "evaluation: other weights than FID's": (
        weights("inception_weights", INCEPTION, b"none", *MANY),
        [f"SHA-256 {hashlib.sha256(b'none').hexdigest()[:8]}", f"is not {INCEPTION}", "replace it"],
    ),
    "evaluation: FID's weights absent": (
        weights("inception_weights", INCEPTION, None, *MANY),
        [INCEPTION, "does not exist", "get https://"],
    ),
    "evaluation: other weights than MobileNet's": (
        weights("mobilenet_weights", "w.npz", packed(a=np.zeros(3)), *MANY),
        ["w.npz", "conv0/w", f"SHA-256 {hashlib.sha256(packed(a=np.zeros(3))).hexdigest()[:8]}"],
    ),
    "evaluation: weights of a run that is no export": (
        lambda place: [*evaluating()(place), f"--weights={place.run}"],
        ["--weights=", "is no export", "mmebm_jax.export", "leave it out"],
    ),
    "evaluation: an export of other data": (
        lambda place: [*evaluating(*MANY)(place), f"--weights={SHIPPED}"],
        ["--weights=", "m4", "but the data are", "--config"],
    ),
    "evaluation: an export in the folder of a trained run": (
        lambda place: ["--mode=evaluate", f"--workdir={place.run}", f"--weights={SHIPPED}"],
        ["run holds a trained run", "--weights=", "--workdir of its own"],
    ),
    "evaluation: an export without a configuration": (
        lambda place: [
            *("--mode=evaluate", f"--workdir={place.folder / 'new'}", f"--weights={SHIPPED}")
        ],
        ["--weights=", "name the configuration of its data by --config"],
    ),
    "training from an export's weights": (
        lambda place: [*setting()(place), f"--weights={SHIPPED}"],
        ["--weights does not act in --mode=train", "evaluate", "leave it out"],
    ),
    "evaluation: PolyMNIST's classifiers for other data": (
        evaluating("--config.evaluation.polymnist_classifiers=folder"),
        ["config.evaluation.polymnist_classifiers is 'folder'", "polydigits", "leave it empty"],
    ),
    "evaluation: PolyMNIST's classifiers absent": (
        published_elsewhere,
        ["pretrained_img_to_digit_clf_m0 does not exist", "give the folder"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_one_line_and_touches_nothing(
    capsys, tmp_path, monkeypatch, saved_run, mnist, case
):
    def refuse(*arguments):
        raise AssertionError("training began")

    prepare_case, named = CASES[case]
    if "resume" not in case:
        monkeypatch.setattr(loop, "_Attempt", refuse)
    with contextlib.ExitStack() as stack:
        place = Place(tmp_path, saved_run, mnist, monkeypatch, stack)
        arguments = prepare_case(place)
        before = digest(tmp_path)
        status, stderr = run_here(capsys, *arguments)
        after = digest(tmp_path)
    assert status != 0
    assert_one_line(stderr, *named)
    assert after == before


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/proc/x.png", "/proc cannot be written to: name another folder with --picture"),
        ("configs", "configs is a folder: name a file with --picture"),
    ],
)
def test_a_page_that_cannot_be_written_is_not_drawn(capsys, monkeypatch, saved_run, path, named):
    def refuse(*arguments):
        raise AssertionError("the page was drawn")

    monkeypatch.setattr(page, "draw", refuse)
    _, stderr = run_here(capsys, f"--workdir={saved_run}", f"--picture={path}", program=page)
    assert_one_line(stderr, named)


# Arguments of `sample` of a loaded run, and what the error message must contain.
CALLS = {
    "no samples": ({"num_samples": 0}, "num_samples is 0: give 1 to"),
    "fewer than no steps": ({"num_steps": -1}, "num_steps is -1: give 0 to"),
    "nothing given": ({"given": {}}, "given holds no modality: give any of m0, m1"),
    "unit range": ({"given": {"m0": IMAGE + 0.5}}, "'m0' has no value below 0 and looks like"),
    "nan": ({"given": {"m0": IMAGE + np.nan}}, "'m0' holds NaN: give finite values"),
    "infinite": ({"given": {"m0": IMAGE + np.inf}}, "'m0' holds infinite values: give finite"),
    "unknown": ({"given": {"sound": IMAGE}}, "unknown modality 'sound': this model has m0, m1"),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_arguments_of_a_loaded_run_end_with_one_line(loaded_run, case):
    options, named = CALLS[case]
    with pytest.raises(ValueError) as caught:
        loaded_run.sample(jax.random.key(0), **options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_child_process_ends_likewise(tmp_path):
    """No output from the libraries' start-up comes first."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", f"--workdir={tmp_path}", "--mode=sample"],
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert not done.stdout
    assert_one_line(done.stderr, str(tmp_path), "train there first")
    assert not digest(tmp_path)
