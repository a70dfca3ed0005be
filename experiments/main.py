"""Train, evaluate or sample: flags and dispatch only.

python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo
python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo --mode=evaluate
python -m experiments.main --workdir=runs/demo --mode=sample --num_samples=16
"""

import logging
import sys
from collections.abc import Sequence

import absl.logging
import jax
from absl import app, flags
from etils import epath
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file of the run.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample"], "What to do.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 16, "Number of samples to draw.", 1)
_GIVEN = flags.DEFINE_string("given", None, ".npz file of observed modalities.")
_REFINEMENT = flags.DEFINE_integer(
    "refinement_steps", None, "Data-space steps: 0 for the generator alone; default as trained.", 0
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of sampling.")
_CLASSIFIERS = flags.DEFINE_string(
    "classifiers", None, "Folder of the evaluation's classifiers; default WORKDIR/classifiers."
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Start jax.distributed (TPU slices, hosts).")
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache", None, "Folder in which compiled programs are kept between runs."
)

USAGE_ERROR = 2


def fail(message: object) -> None:
    """End with one line."""
    line = " ".join(str(message).split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def parse(arguments: Sequence[str]) -> list[str]:
    """Parse flags; a bad one, a missing config file or a misspelt field ends with one line."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.lstrip("-") == "config" and not epath.Path(value.partition(":")[0]).exists():
            fail(f"config file {value} does not exist: see the files in configs/.")
    try:
        rest = flags.FLAGS(list(arguments))
        # Reads the file now, so that whatever else is wrong with it shows here.
        if _CONFIG.value is not None:
            _CONFIG.value.keys()
        return rest
    except flags.Error as error:
        fail(error)
    except OSError as error:
        fail(f"the config file cannot be read ({error}): see the files in configs/.")
    except (AttributeError, KeyError, TypeError, ValueError, ImportError, SyntaxError) as error:
        fail(error)
    return []


def start() -> None:
    """Set up logging, the compilation cache and other hosts, as the flags say."""
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax and TFDS tell of every file.
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
    if _DISTRIBUTED.value:
        jax.distributed.initialize()


def main(_: Sequence[str]) -> None:
    """Dispatch on the mode."""
    # Imported late: a misspelt flag should not wait for the networks.
    from experiments import evaluate, sample, train
    from mmebm_jax import checkpoint
    from mmebm_jax.sampler import Sampler

    start()
    if _WORKDIR.value is None:
        fail("--workdir is missing: name the folder of the run.")
    workdir = epath.Path(_WORKDIR.value)
    try:
        if _MODE.value == "sample":
            sample.sample(
                workdir,
                num_samples=_NUM_SAMPLES.value,
                given=_GIVEN.value,
                num_steps=_REFINEMENT.value,
                seed=_SEED.value,
            )
            return
        if _MODE.value == "evaluate":
            config = _CONFIG.value or checkpoint.read_config(workdir)
            run = train.prepare(config, workdir)
            weights, step = train.restore_weights(run)
        else:
            if _CONFIG.value is None:
                fail("--config is missing: for example --config=configs/polydigits.py.")
            run = train.prepare(_CONFIG.value, workdir)
    except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        fail(error)
    if _MODE.value == "train":
        try:
            train.train(run)
        except FloatingPointError as error:
            fail(error)
        return
    judge = evaluate.Judge(run, epath.Path(_CLASSIFIERS.value or workdir / "classifiers"))
    sampler = Sampler(run.model, weights, run.sampler, run.mesh)
    result = evaluate.evaluate(run, sampler, step, judge, num_steps=_REFINEMENT.value)
    evaluate.write(workdir, result)
    print(evaluate.table(result))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
