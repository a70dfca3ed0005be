"""The wheel, installed into a separate folder, trains, samples and finds its configs."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.commands import SHRINK
from tests.test_structure import ROOT

pytestmark = pytest.mark.slow
OLD = ROOT / "tests" / "runs" / "old_exports" / "format1"
SOURCES = ("mmebm_jax", "experiments", "configs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What pip installs from a wheel; dependencies come from the tests' own environment."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "source"  # Building leaves files next to the sources.
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    for command in (
        ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(copy)],
        ["install", "--no-deps", "--no-compile", f"--target={folder / 'site'}"],
    ):
        wheel = [str(path) for path in folder.glob("*.whl")]
        subprocess.run([*pip, *command, *wheel], check=True, capture_output=True, cwd=folder)
    return folder / "site"


def run(site, cwd, *arguments):
    """Run the installed console command, away from the checkout."""
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(
        [sys.executable, site / "bin" / "mmebm", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_is_in_it_and_nothing_else(site):
    def modules(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*.py")}

    inside = site / "mmebm_jax" / "bundled"
    assert {p.name for p in site.iterdir() if "dist-info" not in p.name} == {"mmebm_jax", "bin"}
    for name in ("experiments", "configs"):
        assert modules(inside / name) == modules(ROOT / name)
    library = {name for name in modules(site / "mmebm_jax") if not name.startswith("bundled")}
    assert library == modules(ROOT / "mmebm_jax")
    assert (inside / "experiments" / "report" / "templates" / "report.html").exists()


def test_it_samples_an_export(site, tmp_path):
    model = shutil.copytree(OLD, tmp_path / "model")
    done = run(site, tmp_path, "sample", f"--workdir={model}", "--num_samples=2")
    assert done.returncode == 0, done.stderr
    with np.load(model / "samples.npz") as samples:
        assert samples["m0"].shape == (2, 16, 16, 3)


def test_it_trains_the_smoke_config(site, tmp_path):
    flags = [f"--config.{name}={value}" for name, value in SHRINK.items()]
    flags += [
        "--config.num_steps=2",
        "--config.prior.fit_steps=1",
        "--config.prior.num_components=2",
    ]
    done = run(site, tmp_path, "train", "--config=polydigits.py:smoke", "--workdir=run", *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "config.json").exists()
    program = (
        "import jax, mmebm_jax; print(mmebm_jax.__file__); "
        "print(mmebm_jax.load('run').sample(jax.random.key(0), 2, num_steps=0)['m0'].shape)"
    )
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == [
        str(site / "mmebm_jax" / "__init__.py"),
        "(2, 16, 16, 3)",
    ]
