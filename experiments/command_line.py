"""What every command shares: common flags, and errors reported as a single line."""

import difflib
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import absl.logging
import jax
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from mmebm_jax.storage.files import check_file
from mmebm_jax.storage.places import place
from mmebm_jax.storage.validation import brief
from mmebm_jax.training import processes

WORKDIR = flags.DEFINE_string("workdir", None, "Folder to work in.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "Of samples: 16 by default, or 1 for each example of --given; for a curve 2000 of each kind.",
    1,
    2**16,
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache", None, "Folder in which compiled programs are kept between runs."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the whole traceback of an error.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Train together with the other hosts of this TPU slice or cluster."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster knows it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many train together.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_CONNECT_SECONDS = flags.DEFINE_integer(
    "connect_seconds", 300, "How long processes wait for each other.", 1
)

STORED = Path(__file__).with_name("stored_config.py")
FIELD = re.compile(r"--?(?:no)?config\.([^=]*)")  # a flag that sets a field
USAGE_ERROR = 2
MOST_SEED = 2**31 - 1
# What libraries raise for bad input; any other exception is a bug and keeps its traceback.
EXPECTED = (ValueError, OSError, FloatingPointError)
# First name of a module that may not be installed → the extra of this package that provides it.
EXTRA_OF = {
    **dict.fromkeys(("array_record", "pooch", "skimage", "tensorflow_datasets"), "data"),
    **dict.fromkeys(("arviz_stats", "clu", "filelock", "grain", "matplotlib", "PIL"), "train"),
    **dict.fromkeys(("sklearn", "tabulate", "tensorboardX", "threadpoolctl", "tqdm"), "train"),
    **{"huggingface_hub": "hub", "jinja2": "report", "gradio": "app"},
}
# A config is Python code: what a user's mistake in it, or in a flag that sets a field, may raise.
CONFIG_ERRORS = (
    *(flags.Error, OSError, ImportError, SyntaxError),
    *(AttributeError, KeyError, TypeError, ValueError),
)


def fail(message: object) -> NoReturn:
    """Exit with a one-line error message."""
    line = " ".join(str(message).split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def run(main: Callable[[], None]) -> None:
    """Parse the command line, set up, and call `main`; bad input exits with a one-line error."""
    app.run(lambda _: guarded(main), flags_parser=parse)


def guarded(main: Callable[[], None]) -> None:
    """Set up and call `main`; bad input exits with a one-line error."""
    _set_up()
    if _TRACEBACK.value:
        _connect()
        main()
        return
    try:
        _connect()
        main()
    except EXPECTED as error:
        fail(error)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA_OF:
            raise
        fail(f"this command needs {name}: pip install 'mmebm_jax[{EXTRA_OF[name]}]'.")
    except RuntimeError as error:
        if "Unable to initialize backend" not in str(error):
            raise
        fail(f"{brief(str(error))} Correct JAX_PLATFORMS, or see docs/hardware.md.")
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def shared_flags() -> list[str]:
    """The flags of this command, except for the folder, to pass on to the commands it starts."""
    return [f"--compilation_cache={_COMPILATION_CACHE.value}"] if _COMPILATION_CACHE.value else []


def parse(arguments: Sequence[str]) -> list[str]:
    """Parse flags; a bad flag, missing config file or misspelt field exits with one line."""
    arguments = _with_stored_config(arguments)
    path = _value_of("config", arguments)
    if path is not None and (problem := _lacks_file(path)):
        fail(problem)
    try:
        rest = flags.FLAGS(list(arguments))
        # Reading the config now makes any remaining error in it show up here.
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
        if config is not None:
            config.keys()
    except CONFIG_ERRORS as error:
        fail(_explanation(error, path, arguments))
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]}: flags begin with --, as --mode=train.")
    # An empty path would mean the current folder, and other empty strings would count as not given.
    for flag in map(flags.FLAGS.__getitem__, flags.FLAGS):
        if flag.value == "" and flag.default is None and flag.flag_type() == "string":
            fail(f"--{flag.name} is empty: give a value, or leave it out.")
    return rest


def whole_numbers(
    flag: flags.FlagHolder[list[str]], most: int, *, least: int = 1, distinct: bool = False
) -> tuple[int, ...]:
    """The numbers in a flag, each from `least` to `most`; anything else exits with an error."""
    given = f"--{flag.name}={','.join(flag.value)}"
    # Python refuses to parse numbers with thousands of digits.
    numbers = [int(v) if v.isdecimal() and len(v) < 20 else -1 for v in flag.value]
    if not numbers or not all(least <= number <= most for number in numbers):
        fail(f"{given}: give whole numbers from {least} to {most}, as {least},{least + 1}.")
    if distinct and len(set(numbers)) < len(numbers):
        fail(f"{given} names a number twice: give each once.")
    return tuple(numbers)


def seeds(flag: flags.FlagHolder[list[str]]) -> tuple[int, ...]:
    """The distinct seeds in a flag; anything else exits with an error."""
    return whole_numbers(flag, MOST_SEED, least=0, distinct=True)


def check_output(flag: flags.FlagHolder[str | None]) -> None:
    """Check that an output file can be written, before any work is done.

    Raises:
      ValueError: one line that names the file.
    """
    if flag.value is not None:
        check_file(place(flag.value), f"--{flag.name}")


def read_config(path: str) -> ConfigDict:
    """The configuration `path/file.py:variant`, without changes from flags.

    Raises:
      FileNotFoundError, ValueError: no such file or variant, or it does not return a config; one
        line.
    """
    if problem := _lacks_file(path):
        raise FileNotFoundError(problem)
    try:
        config = _load_config(path)
    except CONFIG_ERRORS as cause:
        raise ValueError(_cause(cause, path)) from cause
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{path}: get_config returns {type(config).__name__}, not a ConfigDict.")
    return config


def _lacks_file(path: str) -> str:
    """What is wrong with the path of a config file; empty if nothing."""
    name = path.partition(":")[0]
    if not name:
        return f"config file {path!r} has no name: give one of those in configs/."
    if (file := epath.Path(name)).is_file():
        return ""
    problem = "is a folder" if file.exists() else "does not exist"
    return f"config file {path} {problem}: see the files in configs/."


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The last value of a flag, given after "=" or after a space; None if the flag is absent."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in (f"-{flag}", f"--{flag}"):
            found = value if equals else following
    return found


def _with_stored_config(arguments: Sequence[str]) -> Sequence[str]:
    """Add the config of the run in --workdir if fields are set but no --config is given."""
    workdir = _value_of("workdir", arguments)
    sets_fields = any(FIELD.match(argument) for argument in arguments)
    if not sets_fields or not workdir or _value_of("config", arguments) is not None:
        return arguments
    try:
        has_run = (place(workdir) / "config.json").is_file()
    except (OSError, ValueError):  # A bad address is reported where it is used.
        return arguments
    stored = f"--config={STORED}:{workdir}"
    return [arguments[0], stored, *arguments[1:]] if has_run else arguments


def _explanation(error: Exception, path: str | None, arguments: Sequence[str]) -> object:
    """Explain what is wrong with a config file or with the flags that set its fields."""
    names = [match[1] for argument in arguments if (match := FIELD.match(argument))]
    if "in argv before a value for --config" in str(error):
        return f"{error}: give --config first."
    if path is None:
        return f"--config is missing: --config.{names[0]} sets a field of it." if names else error
    try:
        config = read_config(path)
    except (FileNotFoundError, ValueError) as cause:
        return cause
    for name in names:
        if problem := _unknown_field(config, name):
            return problem
    return error


def _load_config(path: str) -> object:
    """The config from a file, without changes from flags."""
    arguments, values = ["", f"--config={path}"], flags.FlagValues()
    # A module of the same name would be re-executed in place and keep its old definitions: a file
    # without a get_config would use that of the file loaded before it.
    sys.modules.pop("config_config", None)
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=arguments, lock_config=False
    )
    values(arguments)
    config = holder.value
    if hasattr(config, "keys"):
        config.keys()  # Raises if the file could not be read.
    return config


def _cause(error: BaseException, path: str) -> str:
    """The exception that a config file raised, without the tracebacks wrapped around it."""
    while "parsing config file" in str(error) and (inner := error.__cause__ or error.__context__):
        error = inner
    path = path.removeprefix(f"{STORED}:")
    line = str(error)
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return line if path in line and not kind else f"{path}: {kind}{line}"


def _unknown_field(config: ConfigDict, name: str) -> str:
    """What is wrong with the name of a field; empty if nothing."""
    section, parts = config, name.split(".")
    for depth, part in enumerate(parts):
        if part not in section:
            return f"config.{name} is unknown: {_suggestion(config, name)}"
        value = section[part]
        if depth + 1 < len(parts) and not isinstance(value, ConfigDict):
            parent = ".".join(parts[: depth + 1])
            return f"config.{name} is unknown: config.{parent} is a value, not a section."
        section = value
    if isinstance(section, ConfigDict):
        return (
            f"config.{name} is a section: set its fields, as --config.{name}.{next(iter(section))}."
        )
    return ""


def _suggestion(config: ConfigDict, name: str) -> str:
    known = list(_field_names(config))
    ending = name.rpartition(".")[2]
    close = [field for field in known if field.rpartition(".")[2] == ending]
    close = close or difflib.get_close_matches(name, known, n=1)
    if not close:
        endings = difflib.get_close_matches(ending, [f.rpartition(".")[2] for f in known], n=1)
        close = [field for field in known if field.rpartition(".")[2] in endings]
    if not close:
        return f"known are {', '.join(config)}."
    return f"did you mean {' or '.join(f'config.{field}' for field in close[:4])}?"


def _field_names(section: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, ConfigDict):
            yield from _field_names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _connect() -> None:
    processes.connect(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        distributed=_DISTRIBUTED.value,
        connect_seconds=_CONNECT_SECONDS.value,
    )


def _set_up() -> None:
    # Orbax and TFDS log every file, and also log errors that they raise anyway.
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
