"""Train variants under one budget, evaluate them by one protocol, write one table.

    python -m experiments.compare --configs=configs/polydigits.py:mmvae,configs/polydigits.py \\
        --seeds=0,1,2 --budget_minutes=3 --workdir=runs/compare

Every run keeps its folder, `WORKDIR/seed<n>/<variant>`, so an interrupted comparison resumes where
it stopped. Under --budget_minutes a run first measures the cost of its steps on this machine and
then scales its schedule to the budget. The budget covers that measurement, compilation, training
steps, fits of the base prior, pictures and diagnostics, but not data loading, initialisation or
evaluation. A model without any energy or fitted prior is also evaluated after ex-post density
estimation, with a Gaussian mixture fitted to its latents: the control for energy-based priors. With
--jobs=N, N runs proceed in parallel, each on its own share of the processor's cores; with
--shard=i/n this is one of n machines that divide the runs and share WORKDIR, see `shards`. At the
end, `WORKDIR/report.html` shows all results; --noreport skips it.
"""

import contextlib
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import flags
from etils import epath
from matplotlib import colormaps
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tabulate import tabulate

from experiments import command_line, evaluate, measures, report, results, shards
from experiments.control import CONTROL, CONTROL_FOLDER, with_fitted_prior
from experiments.results import lookup
from mmebm_jax import training
from mmebm_jax.runs import builders, checkpoint
from mmebm_jax.storage.files import check_folder, read_object, write_whole
from mmebm_jax.storage.places import place
from mmebm_jax.storage.validation import shown
from mmebm_jax.training import budget, plotting
from mmebm_jax.training.run import on_data
from mmebm_jax.training.schedule import scaled

_CONFIGS = flags.DEFINE_list("configs", [], "Config files, each with a variant after a colon.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, each a run of every config.")
_MINUTES = flags.DEFINE_float(
    "budget_minutes", None, "Training time of each run, from which its steps follow."
)
_STEPS = flags.DEFINE_integer("budget_steps", None, "Training steps of each run.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, each on its share of the cores.", 1)
_SHARD = flags.DEFINE_string(
    "shard", None, "i/n: one of n machines that divide the runs and share --workdir."
)
_TABLE = flags.DEFINE_bool("table", True, "Write the table of all runs; a job of --jobs does not.")
_REPORT = flags.DEFINE_bool(
    "report", True, "Write report.html about all runs; needs the extra of the same name."
)
_RESULTS = flags.DEFINE_string(
    "results",
    None,
    "File to write every run's numbers to as well, as docs/results/NAME.json.",
    allow_override=True,
)

COLUMNS = {
    "joint coherence": ("joint_coherence", "energy", "generator"),
    "joint, generator": ("joint_coherence", "generator"),
    "cross coherence": ("cross_coherence", "mean"),
    "cross, expert's mean": ("cross_coherence", "expert_mean"),
    "cross, revised": ("cross_coherence", "posterior_revised"),
    "cross, drawn": ("cross_coherence", "drawn"),
    "diversity": ("diversity", "conditional"),
    "Fréchet": ("frechet", "energy", "generator"),
    "Fréchet, generator": ("frechet", "generator"),
    "Fréchet, floor": ("frechet", "floor"),
    "seconds": ("train_seconds",),
    "budget": ("budget_seconds",),
    "steps": ("step",),
}
DETAILS = {
    **{f"coherence given {n}": ("coherence_by_inputs", str(n)) for n in range(1, 5)},
    "examples a second": ("examples_per_second",),
}
WHOLE_NUMBERS = ("seconds", "budget", "steps", "examples a second")


def check_same_data(configs: dict[str, ConfigDict]) -> None:
    """Refuse to compare configurations with different data.

    Raises:
      ValueError: one line that names two of them and the field.
    """
    (first, base), *others = configs.items()
    wanted = checkpoint.flatten(base.data.to_dict())
    for name, config in others:
        given = checkpoint.flatten(config.data.to_dict())
        for field in sorted(wanted.keys() | given.keys(), key=lambda field: field != "name"):
            if wanted.get(field) != given.get(field):
                raise ValueError(
                    f"{first} has config.data.{field} = {shown(wanted.get(field))} and {name} "
                    f"{shown(given.get(field))}: compare configurations of the same data."
                )


def check_grid(
    grid: dict[epath.Path, ConfigDict], workdir: epath.Path, seconds: float | None
) -> None:
    """Check every run before the first one starts, so that none fails when its turn comes.

    Args:
      grid: run folder → configuration.
      workdir: folder of the comparison.
      seconds: the budget of each run, or None.

    Raises:
      ValueError, OSError: a folder holds another run or cannot be written to; data are missing, or
        do not fit a configuration or what it measures.
    """
    check_folder(workdir / "classifiers")
    grid = {folder: budget.checked(config, folder, seconds) for folder, config in grid.items()}
    # One seed of each configuration. Finished runs are only read, so their data need not exist.
    left = {folder.name: folder for folder in reversed(grid) if not is_done(grid[folder], folder)}
    if not left:
        return
    folder, *others = reversed(left.values())
    run = training.prepare(grid[folder], folder)
    measures.check(run)
    for folder in others:
        measures.check(on_data(grid[folder], folder, run.splits))


def is_done(config: ConfigDict, folder: epath.Path) -> bool:
    """Whether a run, and its control if it has one, has been evaluated."""
    return all((path / "evaluation.json").exists() for path in wanted(config, folder).values())


def run_one(
    config: ConfigDict, folder: epath.Path, classifiers: epath.Path, seconds: float | None = None
) -> dict[str, dict[str, Any]]:
    """Train and evaluate one run; returns its evaluation, and that of its control if it has one.

    Results that already exist in the folder are read instead.

    Args:
      config: configuration of the run; under a budget it sets the proportions of the schedule.
      folder: run folder.
      classifiers: folder of the evaluation's classifiers.
      seconds: the budget, or None to use the configured number of steps.

    Raises:
      ValueError: the folder holds another run or a damaged evaluation.
    """
    budget.checked(config, folder, seconds)
    folders = wanted(config, folder)
    files = {name: path / "evaluation.json" for name, path in folders.items()}
    if not is_done(config, folder):
        _train_and_evaluate(config, folders, classifiers, seconds)
    # Read back from the files, so that the table is the same for new and for finished runs.
    return {
        name: read_object(file, "move it away to evaluate anew") for name, file in files.items()
    }


def wanted(config: ConfigDict, folder: epath.Path) -> dict[str, epath.Path]:
    """Suffix of a row's name → folder of its evaluation.json, for the run and its control."""
    plain = not (config.prior.learn or config.energy.learn or config.prior.fit_mixture)
    return {"": folder} | ({CONTROL: folder / CONTROL_FOLDER} if plain else {})


def _train_and_evaluate(
    config: ConfigDict,
    folders: dict[str, epath.Path],
    classifiers: epath.Path,
    seconds: float | None,
) -> None:
    if seconds is None:
        run = training.prepare(config, folders[""])
        measures.check(run)
        state, used = training.train(run)
    else:
        run, updates, used = budget.prepare_for(config, folders[""], seconds)
        measures.check(run)
        state, training_seconds = training.train(run, updates=updates)
        used += training_seconds
    trained_classifiers = evaluate.Classifiers(run, classifiers)
    sampler, _ = training.restore_sampler(run)
    for name, path in folders.items():
        if name == CONTROL:
            begin = time.monotonic()
            sampler = with_fitted_prior(run, sampler)
            used += time.monotonic() - begin
        result = evaluate.evaluate(run, sampler, int(state.step), trained_classifiers)
        num_examples = int(state.step) * run.config.batch_size
        rate = num_examples / used
        passes = num_examples / len(run.splits.train)
        result |= {"train_seconds": round(used, 1), "examples_per_second": round(rate, 1)}
        result |= {"minutes": round(used / 60, 2), "passes": round(passes, 1)}
        if seconds is not None:
            result["budget_seconds"] = seconds
        path.mkdir(parents=True, exist_ok=True)
        evaluate.write(path, result)
        print(f"\n{path}\n{evaluate.table(result)}\n", flush=True)


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Method → column → mean and standard deviation over seeds, with the values."""
    summary: dict[str, dict[str, Any]] = {}
    for method, runs in results.items():
        summary[method] = {}
        for column, path in (COLUMNS | DETAILS).items():
            values = [value for run in runs if (value := lookup(run, path)) is not None]
            if values:
                summary[method][column] = {
                    "mean": statistics.fmean(values),
                    "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
                    "values": values,
                    "num_runs": len(runs),
                }
    return summary


def to_markdown(summary: dict[str, dict[str, Any]], columns: Iterable[str] = COLUMNS) -> str:
    """The comparison as a Markdown table with these columns."""
    rows = []
    for method, entries in summary.items():
        row = [method]
        for column in columns:
            entry = entries.get(column)
            digits = (
                3
                if "coherence" in column or column.startswith(("joint", "cross", "diversity"))
                else 1
            )
            digits = 0 if column in WHOLE_NUMBERS else digits
            if entry is None:
                row.append("–")
            else:
                text = f"{entry['mean']:.{digits}f}"
                if entry["standard_deviation"] is not None and digits:
                    text += f" ± {entry['standard_deviation']:.{digits}f}"
                count, num_runs = len(entry["values"]), entry["num_runs"]
                text += f" ({count} of {num_runs})" if count < num_runs else ""
                row.append(text)
        rows.append(row)
    return tabulate(rows, ["method", *columns], tablefmt="github", disable_numparse=True)


def draw(summary: dict[str, dict[str, Any]], path: epath.Path) -> None:
    """Plot quality against coherence, one point per method; a control has its model's colour."""
    figure = Figure(figsize=(8.5, 4.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    colours: dict[str, Any] = {}
    for method, columns in summary.items():
        if "joint coherence" not in columns:
            continue
        x, y = columns["Fréchet"], columns["joint coherence"]
        model = method.removesuffix(CONTROL)
        axes.errorbar(
            x["mean"],
            y["mean"],
            xerr=x["standard_deviation"] or 0,
            yerr=y["standard_deviation"] or 0,
            fmt="s" if method.endswith(CONTROL) else "o",
            color=colours.setdefault(model, colormaps["tab20"](len(colours) % 20)),
            capsize=3,
            label=method,
        )
    axes.set(xlabel="Fréchet distance on classifier features (lower is better)", xscale="log")
    axes.set(ylabel="joint coherence", ylim=(0, 1))
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=7, loc="outside right upper")
    plotting.write_figure(path / "comparison.png", figure)


def with_flags(config: ConfigDict, seed: int) -> ConfigDict:
    """A copy with this seed and, if the flags give one, their number of steps."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    return config if _STEPS.value is None else scaled(config, _STEPS.value)


def run_jobs(names: dict[str, str], seeds: Sequence[int], workdir: epath.Path, jobs: int) -> None:
    """Run every config and seed in its own process, `jobs` at a time.

    Raises:
      ValueError: a run failed; its output is in its log.
    """
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.Queue[list[int]] = queue.Queue()
    for index in range(jobs):
        shares.put(cores[index::jobs])
    budget = [
        f"--{flag.name}={flag.value}" for flag in (_MINUTES, _STEPS) if flag.value is not None
    ]

    def run(job: tuple[int, str]) -> None:
        seed, label = job
        share = shares.get()
        log = workdir / f"seed{seed}" / f"{label}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        os.sched_setaffinity(0, share)  # the process it starts inherits it
        command = [sys.executable, "-m", "experiments.compare", f"--configs={names[label]}"]
        command += [f"--seeds={seed}", f"--workdir={workdir}", "--notable", *budget]
        command += command_line.shared_flags()
        with log.open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
        shares.put(share)
        if done.returncode:
            raise ValueError(f"{label}, seed {seed} failed: see {log}.")
        print(f"{label}, seed {seed}: done", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, [(seed, label) for seed in seeds for label in names]))


def main() -> None:
    """Run what is missing, then write `comparison.json`, `comparison.md`, `comparison.png`."""
    if not _CONFIGS.value:
        command_line.fail("--configs is empty: name config files, as configs/polydigits.py:mmvae.")
    for flag in (_MINUTES, _STEPS):
        if flag.value is not None and flag.value <= 0:
            command_line.fail(f"--{flag.name}={flag.value} must be more than 0.")
    if _MINUTES.value is not None and _STEPS.value is not None:
        command_line.fail("--budget_minutes and --budget_steps exclude each other: give one.")
    if _SHARD.value is not None:
        shards.parse(_SHARD.value)
        if _JOBS.value > 1:
            command_line.fail("--shard and --jobs exclude each other: start a shard for each job.")
    if _JOBS.value > (num_cores := len(os.sched_getaffinity(0))):
        command_line.fail(f"--jobs={_JOBS.value}, but there are {num_cores} cores: lower it.")
    workdir = place(command_line.WORKDIR.value or "runs/compare")
    seeds = command_line.seeds(_SEEDS)
    command_line.check_output(_RESULTS)
    names = {short_name(name): name for name in _CONFIGS.value}
    if len(names) < len(_CONFIGS.value):
        command_line.fail("--configs names a variant twice: compare one config file at a time.")
    configs = {label: command_line.read_config(name) for label, name in names.items()}
    for config in configs.values():
        builders.validate(config)
    check_same_data(configs)
    first = with_flags(next(iter(configs.values())), seeds[0])
    seconds = None if _MINUTES.value is None else 60.0 * _MINUTES.value
    grid = {
        workdir / f"seed{seed}" / name: with_flags(base, seed)
        for seed in seeds
        for name, base in configs.items()
    }
    check_folder(workdir, "--workdir")
    # Checking may build a data set, which several machines would otherwise do at the same time.
    with shards.alone(workdir, "check") if _SHARD.value else contextlib.nullcontext():
        check_grid(grid, workdir, seconds)
    if _SHARD.value is not None:
        shard = shards.parse(_SHARD.value)
        if not run_shard(grid, first, shard, workdir, seconds):
            return
    elif _JOBS.value > 1:
        _train_classifiers(first, workdir)
        run_jobs(names, seeds, workdir, _JOBS.value)
    # Several machines may find at the same time that everything is done.
    with shards.alone(workdir, "comparison") if _SHARD.value else contextlib.nullcontext():
        _collect(configs, seeds, workdir, seconds)


def run_shard(
    grid: dict[epath.Path, ConfigDict],
    first: ConfigDict,
    shard: shards.Shard,
    workdir: epath.Path,
    seconds: float | None,
) -> bool:
    """Process this machine's share of a grid; returns whether the whole grid is done.

    Args:
      grid: run folder → configuration.
      first: the configuration that the classifiers are trained with.
      shard: this machine.
      workdir: folder of the comparison.
      seconds: the budget of each run, or None.
    """

    def folder_is_done(folder: epath.Path) -> bool:
        return is_done(grid[folder], folder)

    if not all(map(folder_is_done, grid)):
        # Once, so that the machines do not each train their own.
        with shards.alone(workdir, "classifiers"):
            _train_classifiers(first, workdir)
    for folder in shards.claims(list(grid), shard, folder_is_done):
        print(f"{folder.name}, {folder.parent.name}", flush=True)
        run_one(grid[folder], folder, workdir / "classifiers", seconds)
    left = [folder for folder in grid if not folder_is_done(folder)]
    if left:
        print(
            f"{len(left)} of {len(grid)} runs are under way elsewhere, as {left[0]}: whichever "
            "machine ends last writes the table; run any shard again if one has died."
        )
    return not left


def _train_classifiers(config: ConfigDict, workdir: epath.Path) -> None:
    run = training.prepare(config, workdir / "none")
    evaluate.Classifiers(run, workdir / "classifiers").complete()


def _collect(
    configs: dict[str, ConfigDict],
    seeds: Sequence[int],
    workdir: epath.Path,
    seconds: float | None,
) -> None:
    """Run or read every run and write the comparison."""
    found: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for seed in seeds:
        for name, base in configs.items():
            print(f"{name}, seed {seed}", flush=True)
            folder, config = workdir / f"seed{seed}" / name, with_flags(base, seed)
            done = run_one(config, folder, workdir / "classifiers", seconds)
            for suffix, result in done.items():
                found.setdefault(name + suffix, []).append(result)
                numbers = {k: v for k, v in result.items() if k not in ("protocol", "made")}
                rows.append({"method": name + suffix, "seed": seed, **numbers})
            if _TABLE.value:
                write_table(summarise(found), workdir)
    if _TABLE.value:
        print(to_markdown(summarise(found)))
    if _RESULTS.value:
        results.write(_RESULTS.value, f"python -m {' '.join(_command())}", rows)
    if _TABLE.value and _REPORT.value:
        print(f"wrote {report.write(workdir)}" if report.can_write() else report.NEEDED)


def _command() -> list[str]:
    """The command line of this comparison, for the file of results."""
    given: list[tuple[str, flags.FlagHolder[Any]]]
    given = [("configs", _CONFIGS), ("seeds", _SEEDS), ("budget_minutes", _MINUTES)]
    given += [("budget_steps", _STEPS), ("jobs", _JOBS), ("workdir", command_line.WORKDIR)]
    shown = {
        name: ",".join(flag.value) if isinstance(flag.value, list) else flag.value
        for name, flag in given
        if flag.value is not None
    }
    return ["experiments.compare", *(f"--{name}={value}" for name, value in shown.items())]


def short_name(name: str) -> str:
    """The name of `path/file.py:variant` in the table."""
    return name.partition(":")[2] or "full"


def write_table(summary: dict[str, dict[str, Any]], workdir: epath.Path) -> None:
    """Write the three files of the comparison."""
    write_whole(workdir / "comparison.json", json.dumps(summary, indent=2) + "\n")
    tables = to_markdown(summary), to_markdown(summary, DETAILS)
    write_whole(workdir / "comparison.md", "\n\n".join(tables) + "\n")
    draw(summary, workdir)


if __name__ == "__main__":
    command_line.run(main)
