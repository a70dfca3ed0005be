"""The console command `mmebm`: the modes of `experiments.main`, wherever the library is installed.

mmebm train --config=configs/polydigits.py:smoke --workdir=runs/smoke
mmebm sample --workdir=runs/smoke --num_samples=16

A config that is not found from the working directory is looked up among the library's own.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

MODES = ("train", "evaluate", "curve", "sample", "report", "app", "check")
USAGE = f"usage: mmebm {{{','.join(MODES)}}} --workdir=FOLDER [--config=FILE.py:VARIANT] [flags]"
USAGE_ERROR = 2


def main() -> None:
    """Run the command given by this process's arguments."""
    _run(sys.argv[1:])


def bundle() -> Path:
    """The folder that holds `configs` and `experiments`: the checkout, or one inside the wheel."""
    here = Path(__file__).parent
    return inside if (inside := here / "bundled").is_dir() else here.parent


def arguments(given: Sequence[str], place: Path) -> list[str]:
    """The arguments of `experiments.main` for the arguments of `mmebm`.

    Args:
      given: a mode and flags.
      place: the folder that `bundle` returns.
    """
    mode, *rest = given
    return [f"--mode={mode}", *(_with_config(argument, place) for argument in rest)]


def _run(given: Sequence[str]) -> None:
    if given and given[0] in ("-h", "--help"):
        print(f"{__doc__}\n{USAGE}\nAll flags: mmebm train --help")
        return
    if not given or given[0] not in MODES:
        mode = f"{given[0]!r} is no mode. " if given else ""
        print(f"error: {mode}{USAGE}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    place = bundle()
    # PYTHONPATH does the same for processes that this one starts.
    sys.path.insert(0, str(place))
    paths = [str(place), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # The flags for a config's fields are made from sys.argv.
    sys.argv = ["mmebm", *arguments(given, place)]
    # Imported by name: `experiments` is above the library, and only this file imports upwards.
    command_line = importlib.import_module("experiments.command_line")
    command_line.run(importlib.import_module("experiments.main").main)


def _with_config(argument: str, place: Path) -> str:
    name, equals, value = argument.partition("=")
    path, colon, variant = value.partition(":")
    if name not in ("-config", "--config") or not equals or Path(path).exists():
        return argument
    inside = next((p for p in (place / path, place / "configs" / path) if p.is_file()), None)
    return argument if inside is None or not path else f"{name}={inside}{colon}{variant}"
