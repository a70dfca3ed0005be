"""Train, evaluate (one checkpoint or all), sample, report, view or check: flags and dispatch only.

python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo --mode=check
python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo
python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo --mode=evaluate
python -m experiments.main --config=configs/polymnist.py:private_full --workdir=runs/shipped \\
    --mode=evaluate --weights=pretrained/polymnist
python -m experiments.main --workdir=runs/demo --mode=curve
python -m experiments.main --workdir=runs/demo --mode=sample --num_samples=16
python -m experiments.main --workdir=runs/demo --mode=report
python -m experiments.main --workdir=runs/demo --mode=app
"""

import logging

from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import command_line
from experiments.app import options
from mmebm_jax.storage.places import place

MODES = ["train", "evaluate", "curve", "sample", "report", "app", "check"]
_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file of the run.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "What to do: curve evaluates all checkpoints, report writes report.html about a run or a "
    "folder of runs, app serves a page to look at a model with, check prints the plan.",
)
_GIVEN = flags.DEFINE_string(
    "given",
    None,
    ".npz file of observed modalities: at most 65,536 examples, and 2 GiB in memory.",
)
_REFINEMENT = flags.DEFINE_integer(
    "refinement_steps",
    None,
    "Data-space steps: 0 for the generator alone; default as configured.",
    0,
    10**6,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of sampling.", 0, 2**31 - 1)
_CLASSIFIERS = flags.DEFINE_string(
    "classifiers", None, "Folder of the evaluation's classifiers; default WORKDIR/classifiers."
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Export whose model is measured, with its own settings, on the data of the configuration.",
    allow_override=True,
)
LOGGER = logging.getLogger("mmebm_jax")
# The modes in which each flag has an effect; in other modes it would be silently ignored.
_ACTS_IN = {
    "num_samples": ("sample", "curve"),
    "given": ("sample",),
    "refinement_steps": ("sample", "evaluate"),
    "seed": ("sample", "report"),
    "classifiers": ("evaluate", "curve"),
    "weights": ("evaluate",),
    "host": ("app",),
    "port": ("app",),
}


def check_flags() -> None:
    """Refuse a flag that has no effect in this mode."""
    for name, modes in _ACTS_IN.items():
        flag = flags.FLAGS[name]
        if flag.value != flag.default and _MODE.value not in modes:
            mend = "give config.seed" if name == "seed" else "leave it out"
            if (name, _MODE.value) == ("weights", "sample"):
                mend = "give the export as --workdir"
            command_line.fail(
                f"--{name} does not act in --mode={_MODE.value}, but in {' and '.join(modes)}: "
                f"{mend}, or set --mode."
            )


def main() -> None:
    """Dispatch on the mode."""
    check_flags()
    if command_line.WORKDIR.value is None:
        command_line.fail("--workdir is missing: name the folder of the run.")
    # Imported late, so that a misspelt flag fails before the networks load and sampling does not
    # need the packages that only training needs.
    import jax

    if _MODE.value != "train" and jax.process_count() > 1:
        command_line.fail(f"--mode={_MODE.value} takes one process: start it on one host alone.")
    if _MODE.value == "app":  # The app also accepts an address on the hub, since it writes nothing.
        _app()
        return
    workdir = place(command_line.WORKDIR.value)
    if _MODE.value == "sample":
        _sample(workdir)
    elif _MODE.value == "report":
        _report(workdir)
    elif _MODE.value in ("evaluate", "curve"):
        _evaluate(workdir)
    elif _CONFIG.value is None:
        command_line.fail("--config is missing: for example --config=configs/polydigits.py.")
    else:
        _train_or_check(workdir)


def _sample(workdir: epath.Path) -> None:
    from experiments import sample
    from mmebm_jax.runs import checkpoint

    if _CONFIG.value is not None:  # What it sets should not be silently ignored.
        checkpoint.check_config(workdir, _CONFIG.value)
    sample.sample(
        workdir,
        num_samples=command_line.NUM_SAMPLES.value,
        given=_GIVEN.value,
        num_steps=_REFINEMENT.value,
        seed=_SEED.value,
    )


def _report(workdir: epath.Path) -> None:
    from experiments import report

    if _CONFIG.value is not None:
        command_line.fail("--config does not act in --mode=report: leave it out.")
    print(f"wrote {report.write(workdir, seed=_SEED.value)}")


def _app() -> None:
    if _CONFIG.value is not None:
        command_line.fail("--config does not act in --mode=app: leave it out.")
    options.serve()


def _evaluate(workdir: epath.Path) -> None:
    from experiments import curve, evaluate, measures
    from mmebm_jax import training
    from mmebm_jax.runs import checkpoint

    weights = _WEIGHTS.value
    if weights and not (_CONFIG.value or (workdir / "config.json").exists()):
        command_line.fail(f"--weights={weights}: name the configuration of its data by --config.")
    classifiers = place(_CLASSIFIERS.value or workdir / "classifiers")
    if classifiers.exists() and not classifiers.is_dir():
        command_line.fail(f"--classifiers={classifiers} is a file: name a folder.")
    config = _CONFIG.value or checkpoint.read_config(workdir)
    if weights:
        config = evaluate.as_exported(config, weights, workdir)
    run = training.prepare(config, workdir)
    if _MODE.value == "curve":
        print(curve.draw(run, classifiers, command_line.NUM_SAMPLES.value))
        return
    measures.check(run)
    sampler, step = evaluate.sampler_of(run, weights)
    evaluate.check_refinement(sampler, _REFINEMENT.value)
    result = evaluate.evaluate(
        run,
        sampler,
        step,
        evaluate.Classifiers(run, classifiers),
        num_steps=_REFINEMENT.value,
    )
    if weights:
        result["weights"] = weights
        checkpoint.write_config(workdir, run.config, run.splits)
    evaluate.write(workdir, result)
    print(evaluate.table(result))


def _train_or_check(workdir: epath.Path) -> None:
    import jax

    from experiments import check, measures
    from mmebm_jax import training
    from mmebm_jax.training import processes

    only_check = _MODE.value == "check"
    run = training.prepare(_CONFIG.value, workdir, prepare_data=not only_check)
    # Otherwise a user who trains and then evaluates would only find out at the end. When several
    # processes train, their machines may lack what the evaluating one needs.
    if jax.process_count() == 1:
        measures.check(run)
    if only_check:
        print(check.plan(run))
        return
    if processes.is_first():
        for line in check.never_acting(run.config):
            LOGGER.warning("warning: %s", line)
    training.train(run)


if __name__ == "__main__":
    command_line.run(main)
