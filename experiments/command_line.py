"""What every command shares: its flags, and errors that end with one line."""

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import absl.logging
import jax
from absl import app, flags
from etils import epath

from mmebm_jax.training import processes

WORKDIR = flags.DEFINE_string("workdir", None, "Folder to work in.")
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache", None, "Folder in which compiled programs are kept between runs."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the whole traceback of an error.")

USAGE_ERROR = 2
# What libraries raise for bad input; any other exception is a defect and keeps its traceback.
EXPECTED = (ValueError, OSError, FloatingPointError)
# A config is Python: what a user's mistake in it, or in a flag that sets a field of it, raises.
CONFIG_ERRORS = (
    *(flags.Error, OSError, ImportError, SyntaxError),
    *(AttributeError, KeyError, TypeError, ValueError),
)


def fail(message: object) -> NoReturn:
    """End with one line."""
    line = " ".join(str(message).split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def run(main: Callable[[], None]) -> None:
    """Parse the command line, set up, and call `main`; bad input ends with one line."""
    app.run(lambda _: guarded(main), flags_parser=parse)


def guarded(main: Callable[[], None]) -> None:
    """Set up and call `main`; bad input ends with one line."""
    _set_up()
    if _TRACEBACK.value:
        processes.connect()
        main()
        return
    try:
        processes.connect()
        main()
    except EXPECTED as error:
        fail(error)
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def shared_flags() -> list[str]:
    """The flags of this command, but for the folder, that one it starts should get too."""
    return [f"--compilation_cache={_COMPILATION_CACHE.value}"] if _COMPILATION_CACHE.value else []


def parse(arguments: Sequence[str]) -> list[str]:
    """Parse flags; a bad one, a missing config file or a misspelt field ends with one line."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.lstrip("-") == "config" and not epath.Path(value.partition(":")[0]).exists():
            fail(f"config file {value} does not exist: see the files in configs/.")
    try:
        rest = flags.FLAGS(list(arguments))
        # Reads the config now, so that whatever else is wrong with it shows here.
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
        if config is not None:
            config.keys()
    except CONFIG_ERRORS as error:
        fail(error)
    return rest


def _set_up() -> None:
    # Orbax and TFDS tell of every file, and of an error that they raise as well.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logger = logging.getLogger("mmebm_jax")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    if _COMPILATION_CACHE.value:
        jax.config.update("jax_compilation_cache_dir", _COMPILATION_CACHE.value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
