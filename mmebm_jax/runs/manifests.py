"""Checks of checkpoint files before Orbax parses them, since its parsers trust what they read."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import absl.logging
import pydantic
from etils import epath

from mmebm_jax.method.model import NETWORKS
from mmebm_jax.storage.validation import OneOf, Record, parse

ITEMS = ("state", "weights", "meta")
# Messages of reads that end only after the restore that they belong to has failed.
LATE_READS = ("Event loop is closed", "Encountered error while reading array index")
MOST_MANIFEST_BYTES = 64 * 2**20
# Files that Orbax parses before any array, in the folders of a checkpoint and of each item.
MANIFESTS = ("_CHECKPOINT_METADATA", "_METADATA", "_sharding", "manifest.ocdbt", "metadata")

_Seconds = Annotated[float, pydantic.Field(ge=0, le=1e12)]
_Step = Annotated[int, pydantic.Field(ge=0, le=2**31)]
_Metric = Annotated[float, pydantic.Field(allow_inf_nan=True)]
# JSON has no tuples, only lists.
_Row = Annotated[tuple[_Step, dict[str, _Metric]], pydantic.Strict(False)]


RETIRED = ("fit_position", "fit_begin", "fit_end")


class Progress(Record):
    """The progress of a run at a checkpoint, as far as it is not in the arrays."""

    elapsed_seconds: _Seconds = 0.0
    fitted: bool = False
    frozen: bool = False
    finished: bool = False
    sampling_time: _Seconds = 0.0
    pending: list[_Row] = pydantic.Field([], description="Rows of metrics not written yet.")
    # `RETIRED`: from earlier versions, which could schedule a run by wall clock; no longer read.
    fit_position: _Seconds = 0.0
    fit_begin: _Seconds = 0.0
    fit_end: _Seconds = 0.0


class Meta(Record):
    """The item "meta" of a checkpoint."""

    trained: list[Annotated[str, OneOf(NETWORKS)]]
    progress: Progress


def check_manifests(folder: epath.Path) -> None:
    """Check that no file in a step's folder that Orbax parses is absurdly large.

    Raises:
      ValueError: one is; the message has its name.
    """
    for name in MANIFESTS:
        for path in (folder / name, *(folder / item / name for item in ITEMS)):
            if path.exists():
                check_size(path)


def check_size(path: epath.Path) -> None:
    """Check that a file to be parsed is not absurdly large.

    Raises:
      ValueError: it is; the message has its name.
    """
    if path.stat().length > MOST_MANIFEST_BYTES:
        raise ValueError(f"{path.name} is larger than {MOST_MANIFEST_BYTES >> 20} MiB")


def check_meta(meta: Any) -> None:
    """Check that a checkpoint's item "meta" has the form in which training writes it.

    Raises:
      ValueError: it does not; the message says what differs.
    """
    parse(Meta, meta, "meta")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress all output about a damaged checkpoint except the one line that is raised.

    Orbax logs errors, and reads that are pending when the first one fails end in a closed event
    loop, about which Python prints messages on stderr.
    """
    hook, verbosity = sys.unraisablehook, absl.logging.get_verbosity()
    sys.unraisablehook = lambda _: None
    logging.getLogger("asyncio").addFilter(_is_no_late_read)
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)
        # The last reads may end at any later time; the logger's filter therefore stays too.
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
