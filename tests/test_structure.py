"""The library's own rules: imports go one way, and the method can be read in an hour."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments.command_line import EXTRA_OF

ROOT = Path(__file__).parents[1]
# Package → those it may import, including itself. `method` knows neither data nor runs.
GROUND = {"typing", "storage", "batching", "cpu"}
NETWORKS = {"typing", "cpu", "networks"}
MODALITIES = NETWORKS | {"batching", "modalities"}
METHOD = MODALITIES | {"batching", "distributions", "method"}
FITTING = METHOD | {"fitting"}
DATA = GROUND | MODALITIES | {"data"}
DIFFUSION = NETWORKS | {"diffusion"}
METRICS = DATA | FITTING | {"metrics"}
RUNS = DATA | FITTING | {"version", "runs"}
TRAINING = RUNS | METRICS | DIFFUSION | {"training"}
MAY_IMPORT = {
    "typing": {"typing"},
    "version": {"version"},
    "console": {"console"},  # calls commands by name
    "storage": {"storage"},
    "batching": {"typing", "batching"},
    "cpu": {"cpu"},
    "networks": NETWORKS,
    "modalities": MODALITIES,
    "distributions": {"typing", "batching", "distributions"},
    "method": METHOD,
    "fitting": FITTING,
    "diffusion": DIFFUSION,
    "data": DATA,
    "metrics": METRICS,
    "runs": RUNS,
    "training": TRAINING,
    "experiments": TRAINING | {"configs", "experiments"},
    "configs": RUNS | {"configs"},  # uses the schema
    "__init__": {"version"} | RUNS | TRAINING | {"__init__"},  # imported on demand
}
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("mmebm_jax", "experiments", "configs")
    for path in (ROOT / folder).rglob("*.py")
)
METHOD_FILES = [path for path in FILES if path.parts[:2] == ("mmebm_jax", "method")]
MOST_LINES, MOST_OF_A_FUNCTION, MOST_PARAMETERS = 1800, 60, 7


def parse(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def room_of(parts):
    """The top-level package of a module, given its dotted name in parts."""
    return parts[0] if parts[0] != "mmebm_jax" else (*parts, "__init__")[1]


def imported_rooms(tree):
    """The top-level packages of this repository that a file imports anywhere, with line numbers."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in ("mmebm_jax", "experiments", "configs", "tests"):
                yield room_of(parts), node.lineno


def test_rooms_are_found():
    rooms = {room_of(path.with_suffix("").parts) for path in FILES}
    assert rooms == set(MAY_IMPORT)


def test_the_order_has_no_circle():
    for room, below in MAY_IMPORT.items():
        for other in below - {room, "__init__"}:
            assert room not in MAY_IMPORT[other], f"{room} and {other} may import each other"
            assert MAY_IMPORT[other] <= below | GROUND, f"{room} may import {other}, not its own"
    assert not MAY_IMPORT["method"] & {"data", "metrics", "runs", "training", "experiments"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path):
    room = room_of(path.with_suffix("").parts)
    wrong = {
        f"line {line}: {other}"
        for other, line in imported_rooms(parse(path))
        if other not in MAY_IMPORT[room]
    }
    assert not wrong


def test_an_import_upwards_is_seen():
    tree = ast.parse("def f():\n    from mmebm_jax import data\nimport mmebm_jax.runs.sampler")
    assert set(imported_rooms(tree)) == {("data", 2), ("runs", 3)}


def test_the_method_needs_no_more_than_flax_and_optax():
    heavy = ("orbax", "sklearn", "tensorflow_datasets", "matplotlib", "grain", "pydantic")
    program = (
        "import sys\n"
        "import mmebm_jax.method.update, mmebm_jax.method.sampling\n"
        f"print([name for name in {heavy} if name in sys.modules], 'flax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[] True"


def test_a_sampler_needs_no_more_than_the_base_install():
    """Without any module of the extras, a model still loads and samples.

    So do the commands that sample; a command that trains names the missing extra.
    """
    absent = sorted(set(EXTRA_OF))
    program = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({absent})\n"
        "import jax, mmebm_jax\n"
        "model = mmebm_jax.load('tests/runs/old_exports/format1')\n"
        "print(model.prior_latents(jax.random.key(0), 2).shared.shape)\n"
        "import experiments.sample\n"
        "from experiments import command_line\n"
        "sys.argv = ['x', '--traceback=false']\n"
        "def train():\n"
        "    from mmebm_jax.training import train\n"
        "command_line.run(train)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "(2, 8)", result.stderr
    assert result.returncode == 2
    assert re.search(
        r"error: this command needs \w+: pip install 'mmebm_jax\[train\]'", result.stderr
    )


def test_every_extra_is_told_by_what_it_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRA_OF.values()) <= project["optional-dependencies"].keys()
    base = " ".join(project["dependencies"])
    assert not [name for name in ("scikit", "tensorflow", "matplotlib", "grain") if name in base]


def test_the_method_is_short():
    lines = {
        path.name: len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in METHOD_FILES
    }
    assert 0 < sum(lines.values()) <= MOST_LINES, lines


def functions(tree):
    """Name, number of lines and of parameters of every function, without `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            listed = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            listed += [one for one in (given.vararg, given.kwarg) if one is not None]
            count = sum(one.arg not in ("self", "cls") for one in listed)
            yield node.name, node.end_lineno - node.lineno + 1, count


@pytest.mark.parametrize("path", METHOD_FILES, ids=str)
def test_functions_of_the_method_are_short(path):
    found = list(functions(parse(path)))
    long = [(name, lines) for name, lines, _ in found if lines > MOST_OF_A_FUNCTION]
    wide = [(name, count) for name, _, count in found if count > MOST_PARAMETERS]
    assert not long
    assert not wide
