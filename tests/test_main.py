"""Bad input ends with one line that names the thing, and touches nothing."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath

from configs.polydigits import get_config
from experiments import command_line, main
from mmebm_jax import builders, checkpoint, train_state

ROOT = Path(__file__).parent.parent
SHRINK = {
    "data.num_modalities": 2,
    "data.num_train": 20,
    "data.num_test": 20,
    "model.num_latents": 3,
    "model.width": 2,
    "model.hidden": 8,
    "model.energy_width": 2,
    "model.energy_hidden": 8,
}


def digest(folder):
    """Every path under a folder with its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that was saved at its start."""
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    config = get_config("smoke")
    config.update_from_flattened_dict(SHRINK)
    splits, optimisers = builders.build_data(config), builders.build_optimisers(config)
    model = builders.build_model(config, splits.fields)
    state = jax.jit(
        lambda key: train_state.create(key, model, optimisers, config.prior.num_components),
        compiler_options={"xla_backend_optimization_level": 0},
    )(jax.random.key(0))
    checkpoint.write_config(folder, config, splits)
    manager = checkpoint.open_manager(folder)
    checkpoint.save(manager, state, {})
    manager.wait_until_finished()
    return Path(folder)


@pytest.fixture(scope="module")
def givens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    image = np.zeros([2, 16, 16, 3], np.uint8)
    np.savez(folder / "unknown.npz", sound=image)
    np.savez(folder / "shape.npz", m0=image[:, :8])
    np.savez(folder / "dtype.npz", m0=image.astype(np.int64))
    np.savez(folder / "range.npz", m0=image.astype(np.float32) + 3)
    np.savez(folder / "lengths.npz", m0=image, m1=image[:1])
    np.savez(folder / "objects.npz", m0=np.array([None, {}], object))
    np.savez(folder / "nothing.npz")
    np.save(folder / "array.npz", image)
    (folder / "array.npz.npy").rename(folder / "array.npz")
    (folder / "text.npz").write_text("not an archive")
    return folder


def assert_one_line(stderr, *named):
    assert stderr.startswith("error: "), stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n")
    for name in named:
        assert name in stderr


def run_here(capsys, *arguments):
    """The command in this process: (exit status, stderr)."""

    def command():
        command_line.parse(["main", *arguments])
        command_line.guarded(main.main)

    with flagsaver.flagsaver():
        try:
            with pytest.raises(SystemExit) as caught:
                command()
        finally:
            flags.FLAGS.unparse_flags()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("unknown", ["unknown modality 'sound'", "m0, m1"]),
        ("shape", ["m0", "(2, 8, 16, 3)", "[N, 16, 16, 3]"]),
        ("dtype", ["m0", "int64", "uint8"]),
        ("range", ["m0", "[-1, 1]"]),
        ("lengths", ["lengths.npz", "different numbers of examples"]),
        ("objects", ["objects.npz"]),
        ("nothing", ["nothing.npz", "no named arrays"]),
        ("array", ["array.npz"]),
        ("text", ["text.npz", ".npz of plain arrays"]),
        ("absent", ["absent.npz", "does not exist"]),
    ],
)
def test_given_that_cannot_be_used(capsys, workdir, givens, file, named):
    before = digest(workdir)
    path = givens / f"{file}.npz"
    status, stderr = run_here(capsys, "--mode=sample", f"--workdir={workdir}", f"--given={path}")
    assert status != 0
    assert_one_line(stderr, *named)
    assert digest(workdir) == before


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_a_folder_without_a_run(capsys, tmp_path, mode):
    status, stderr = run_here(capsys, f"--mode={mode}", f"--workdir={tmp_path}")
    assert status != 0
    assert_one_line(stderr, str(tmp_path), "train there first")
    assert not digest(tmp_path)


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_a_run_without_a_checkpoint(capsys, tmp_path, workdir, mode):
    for name in ("config.json", "data.json"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    before = digest(tmp_path)
    status, stderr = run_here(capsys, f"--mode={mode}", f"--workdir={tmp_path}")
    assert status != 0
    assert_one_line(stderr, str(tmp_path), "no checkpoint")
    assert digest(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mode=sample"], ["--workdir is missing"]),
        (["--workdir=somewhere"], ["--config is missing"]),
        (["--mode=dream"], ["mode", "dream"]),
        (["--num_samples=0"], ["num_samples"]),
        (["--workdirr=somewhere"], ["workdirr"]),
    ],
)
def test_missing_and_bad_flags(capsys, arguments, named):
    status, stderr = run_here(capsys, *arguments)
    assert status != 0
    assert_one_line(stderr, *named)
    assert not Path("somewhere").exists()


def run_command(workdir, *arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert not done.stdout
    return done.stderr


POLYDIGITS = "--config=configs/polydigits.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(
            ["--config=configs/polydigit.py"],
            ["configs/polydigit.py", "does not exist"],
        ),
        (["--config=configs/polydigits.py:best"], ["polydigits.py:best", "choose one of full"]),
        ([POLYDIGITS, "--config.energy.lern=False"], ["lern"]),
        ([POLYDIGITS, "--config.batch_size=many"], ["batch_size", "many"]),
        (
            [POLYDIGITS, "--config.data.num_modalities=9"],
            ["config.data.num_modalities is 9", "[1, 5]"],
        ),
        pytest.param(
            [POLYDIGITS, "--config.batch_size=204"],
            ["batch_size is 204", "200 examples"],
        ),
    ],
    ids=["file", "variant", "field", "type", "value", "batch"],
)
def test_configurations_that_cannot_be_used(tmp_path, arguments, named):
    stderr = run_command(tmp_path / "run", *arguments)
    assert_one_line(stderr, *named)
    assert not digest(tmp_path)


def test_a_missing_data_folder(tmp_path):
    if not (ROOT / "configs" / "polymnist.py").exists():
        pytest.skip("configs/polymnist.py is not there yet.")
    stderr = run_command(
        tmp_path / "run",
        "--config=configs/polymnist.py",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        f"--config.data.source_dir={tmp_path / 'absent'}",
    )
    assert_one_line(stderr, str(tmp_path / "absent"), "is missing")
    assert not digest(tmp_path)


def test_the_folder_of_another_run(workdir):
    before = digest(workdir)
    shrunk = [f"--config.{name}={value}" for name, value in SHRINK.items()]
    stderr = run_command(workdir, POLYDIGITS, *shrunk, "--config.model.hidden=9")
    assert_one_line(stderr, "model.hidden = 8, not 9", str(workdir))
    assert digest(workdir) == before
