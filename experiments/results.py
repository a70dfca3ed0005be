"""Files of results, `docs/results/NAME.json`: numbers with the command, version and machine.

{"command", "version", "method_revision", "machine", "date", and, if words are needed, "note",
 "rows": [{"method", "seed", "minutes", "passes", …metrics as in evaluation.json}]}
"""

import contextlib
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from mmebm_jax import method
from mmebm_jax.storage.files import read_object, write_whole
from mmebm_jax.storage.places import place
from mmebm_jax.storage.validation import brief
from mmebm_jax.version import VERSION

REQUIRED = ("command", "version", "method_revision", "machine", "date", "rows")
MEND = "make it again by its command"


def write(
    path: epath.PathLike,
    command: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    made: Mapping[str, str] | None = None,
    note: str = "",
) -> None:
    """Write rows together with how they were made.

    Args:
      path: the file; its folder is created if absent.
      command: command that makes these rows again.
      rows: one per run, "method" and "seed" first.
      made: version, machine and date as from `made_now`; None for now.
      note: a sentence to append to the table's caption.
    """
    result = {
        "command": command,
        **(made or made_now()),
        "method_revision": method.REVISION,
        **({"note": note} if note else {}),
        "rows": list(rows),
    }
    file = place(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def made_now() -> dict[str, str]:
    """The current version, machine and date."""
    return {
        "version": version(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def read(path: epath.PathLike) -> dict[str, Any]:
    """Read a file of results.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged or lacks a part; one line that names it.
    """
    file = place(path)
    if not file.exists():
        raise FileNotFoundError(f"{path} does not exist: write it by the command of its table.")
    result = read_object(file, MEND)
    missing = [name for name in REQUIRED if name not in result]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: {MEND}.")
    rows = result["rows"]
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "method" in r for r in rows):
        raise ValueError(f"{path} has rows without a method: {MEND}.")
    return result


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
    """Name the file in errors about missing or malformed entries of its rows.

    Raises:
      ValueError: one line.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = brief(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path} has rows of other columns ({reason}): {MEND}.") from error


def lookup(result: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """The first of the named entries that a result has, or None.

    Args:
      result: a row, in the format of evaluation.json.
      path: an entry, or a section followed by its entries in order of preference.
    """
    entry = result.get(path[0])
    if len(path) == 1 or entry is None:
        return entry
    return next((entry[name] for name in path[1:] if name in entry), None)


def version() -> str:
    """The commit of the checkout, with "-dirty" if files have changed; else the package version."""
    if not (Path(__file__).parents[1] / ".git").exists():
        return VERSION
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """The processor, its number of available cores, and JAX's device."""
    names = [
        line.partition(":")[2].strip()
        for line in _lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.processor() or platform.machine()
    device = jax.devices()[0].device_kind
    on = "" if device == "cpu" else f", {len(jax.devices())} x {device}"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''} of {processor}{on}; JAX {jax.__version__}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
