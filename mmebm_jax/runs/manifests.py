"""What is checked of a checkpoint around Orbax, whose parsers trust what they read."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import absl.logging
from etils import epath

from mmebm_jax.method.model import NETWORKS
from mmebm_jax.storage.validation import Rule, Rules, check, real, shown, switch, whole

ITEMS = ("state", "weights", "meta")
# What Python says of a read that ends after the restoring that it belonged to has failed.
LATE_READS = ("Event loop is closed", "Encountered error while reading array index")
MOST_MANIFEST_BYTES = 64 * 2**20
# What Orbax parses before it reads any array, in a checkpoint's folder and in each item's.
MANIFESTS = ("_CHECKPOINT_METADATA", "_METADATA", "_sharding", "manifest.ocdbt", "metadata")
_SECONDS = real(0, 1e12).optional
PROGRESS: Rules = {
    "elapsed_seconds": _SECONDS,
    "fitted": switch().optional,
    "fit_position": _SECONDS,
    "fit_begin": _SECONDS,
    "fit_end": _SECONDS,
    "finished": switch().optional,
    "pending": Rule(list, required=False),
}


def check_manifests(folder: epath.Path) -> None:
    """Refuse a step's folder in which a file that Orbax parses is absurdly large.

    Raises:
      ValueError: with its name.
    """
    for name in MANIFESTS:
        for path in (folder / name, *(folder / item / name for item in ITEMS)):
            if path.exists():
                check_size(path)


def check_size(path: epath.Path) -> None:
    """Refuse a file to be parsed that is absurdly large.

    Raises:
      ValueError: with its name.
    """
    if path.stat().length > MOST_MANIFEST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_MANIFEST_BYTES >> 20} MiB")


def check_meta(meta: Any) -> None:
    """Refuse a checkpoint's own record, item "meta", unless it is what training writes.

    Raises:
      ValueError: with what differs.
    """
    check(meta, {"trained": Rule(list), "progress": PROGRESS}, "meta")
    if any(name not in NETWORKS for name in meta["trained"]):
        raise ValueError(f"meta.trained is {shown(meta['trained'])}")
    for row in meta["progress"].get("pending", []):
        step, metrics = row
        if not (whole(0, 2**31).allows(step) and isinstance(metrics, dict)):
            raise ValueError(f"meta.progress.pending holds {shown(row)}")
        if not all(isinstance(value, float | int) for value in metrics.values()):
            raise ValueError(f"meta.progress.pending holds {shown(row)}")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Leave what a damaged checkpoint is like to the one line that is raised of it.

    Orbax logs, and the reads that are under way when the first one fails end in an event loop that
    is closed, of which Python tells on stderr.
    """
    hook, verbosity = sys.unraisablehook, absl.logging.get_verbosity()
    sys.unraisablehook = lambda _: None
    logging.getLogger("asyncio").addFilter(_is_no_late_read)
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)
        # The last reads may end any time later, of which the logger's filter keeps silent too.
        sys.unraisablehook = _without_late_reads(hook)


def _is_no_late_read(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return "OCDBT" not in str(error) and not record.getMessage().startswith(LATE_READS)


def _without_late_reads(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if getattr(hook, "drops_late_reads", False):
        return hook

    def filtered(unraisable: Any) -> None:
        if not str(unraisable.exc_value).startswith(LATE_READS):
            hook(unraisable)

    filtered.drops_late_reads = True  # type: ignore[attr-defined]
    return filtered
