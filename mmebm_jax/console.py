"""The console command `mmebm`: the modes of `experiments.main`, wherever the library is installed.

mmebm train --config=configs/polydigits.py:smoke --workdir=runs/smoke
mmebm sample --workdir=runs/smoke --num_samples=16

A config that is not found from here is looked for among those that come with the library.
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
    """Run the command of this process's arguments."""
    _run(sys.argv[1:])


def bundle() -> Path:
    """The folder that holds `configs` and `experiments`: the checkout, or one inside the wheel."""
    here = Path(__file__).parent
    return inside if (inside := here / "bundled").is_dir() else here.parent


def arguments(given: Sequence[str], place: Path) -> list[str]:
    """What `experiments.main` is given for arguments of `mmebm`.

    Args:
      given: a mode and flags.
      place: `bundle`.
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
    # Of processes that this one starts, too.
    sys.path.insert(0, str(place))
    paths = [str(place), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # Flags of a config's fields are made from sys.argv.
    sys.argv = ["mmebm", *arguments(given, place)]
    # By name: the commands stand above the library, and only this file reaches up.
    command_line = importlib.import_module("experiments.command_line")
    command_line.run(importlib.import_module("experiments.main").main)


def _with_config(argument: str, place: Path) -> str:
    name, equals, value = argument.partition("=")
    path, colon, variant = value.partition(":")
    if name not in ("-config", "--config") or not equals or Path(path).exists():
        return argument
    inside = next((p for p in (place / path, place / "configs" / path) if p.is_file()), None)
    return argument if inside is None or not path else f"{name}={inside}{colon}{variant}"
