"""Train variants under one budget, evaluate them by one protocol, write one table.

    python -m experiments.compare --configs=configs/polydigits.py:mmvae,configs/polydigits.py \\
        --seeds=0,1,2 --budget_minutes=3 --workdir=runs/compare

Every run keeps its folder, `WORKDIR/seed<n>/<variant>`, so a comparison that was stopped goes on
where it stopped. A model without any energy or fitted prior is also evaluated with a Gaussian
mixture fitted to its latents: the control that an energy-based prior has to face. With --jobs=N,
N runs go on at a time, each on its own share of the processor's cores.
"""

import importlib.util
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

import jax
from absl import flags
from etils import epath
from matplotlib import colormaps
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tabulate import tabulate

from experiments import command_line, evaluate
from mmebm_jax.runs import builders, checkpoint
from mmebm_jax.storage.files import write_whole
from mmebm_jax.training import loop as train
from mmebm_jax.training import plotting

_CONFIGS = flags.DEFINE_list("configs", [], "Config files, each with a variant after a colon.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, each a run of every config.")
_MINUTES = flags.DEFINE_float("budget_minutes", None, "Training time of each run.")
_STEPS = flags.DEFINE_integer("budget_steps", None, "Training steps of each run.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, each on its share of the cores.", 1)
_TABLE = flags.DEFINE_bool("table", True, "Write the table of all runs; a job of --jobs does not.")

CONTROL = " + mixture"

COLUMNS = {
    "joint coherence": ("joint_coherence", "energy", "generator"),
    "joint, generator": ("joint_coherence", "generator"),
    "cross coherence": ("cross_coherence", "mean"),
    "cross, expert's mean": ("cross_coherence", "expert_mean"),
    "cross, revised": ("cross_coherence", "posterior_revised"),
    "Fréchet": ("frechet", "energy", "generator"),
    "Fréchet, generator": ("frechet", "generator"),
    "seconds": ("train_seconds",),
    "steps": ("step",),
}
DETAILS = {
    **{f"coherence given {n}": ("coherence_by_inputs", str(n)) for n in range(1, 5)},
    "examples a second": ("examples_per_second",),
}
WHOLE_NUMBERS = ("seconds", "steps", "examples a second")


def read_config(name: str) -> ConfigDict:
    """The configuration of `path/file.py:variant`.

    Raises:
      ValueError, FileNotFoundError: no such file or variant.
    """
    path, _, variant = name.partition(":")
    if not epath.Path(path).exists():
        raise FileNotFoundError(f"config file {path} does not exist.")
    spec = importlib.util.spec_from_file_location("compared_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def run_one(
    config: ConfigDict, folder: epath.Path, classifiers: epath.Path
) -> dict[str, dict[str, Any]]:
    """Train and evaluate one run; gives its evaluation, and its mixture control's if it has one.

    What is already in the folder is read instead.
    """
    checkpoint.check_config(folder, config)
    control_folder = folder / "mixture_control"
    plain = not (config.prior.learn or config.energy.learn or config.prior.fit_mixture)
    wanted = {"": folder} | ({CONTROL: control_folder} if plain else {})
    files = {name: path / "evaluation.json" for name, path in wanted.items()}
    if all(file.exists() for file in files.values()):
        return {name: json.loads(file.read_text()) for name, file in files.items()}
    run = train.prepare(config, folder)
    state, seconds = train.train(run)
    trained_classifiers = evaluate.Classifiers(run, classifiers)
    for name, path in wanted.items():
        if name:
            begin = time.monotonic()
            state = train.fit_base_prior(run, state, jax.random.key(config.seed))
            seconds += time.monotonic() - begin
        sampler = train.make_sampler(run, state.weights, checkpoint.trained_networks(state))
        result = evaluate.evaluate(run, sampler, int(state.step), trained_classifiers)
        rate = int(state.step) * config.batch_size / seconds
        result |= {"train_seconds": round(seconds, 1), "examples_per_second": round(rate, 1)}
        path.mkdir(parents=True, exist_ok=True)
        evaluate.write(path, result)
        print(f"\n{path}\n{evaluate.table(result)}\n", flush=True)
    # As written: a table is the same whether a run is new or read.
    return {name: json.loads(file.read_text()) for name, file in files.items()}


def lookup(result: dict[str, Any], path: Sequence[str]) -> float | None:
    """The first of the named entries that the result has, or None."""
    entry = result.get(path[0])
    if len(path) == 1 or entry is None:
        return entry
    return next((entry[name] for name in path[1:] if name in entry), None)


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Method → column → mean and standard deviation over seeds, and the values."""
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
                }
    return summary


def to_markdown(summary: dict[str, dict[str, Any]], columns: Iterable[str] = COLUMNS) -> str:
    """The comparison as a Markdown table of these columns."""
    rows = []
    for method, entries in summary.items():
        row = [method]
        for column in columns:
            entry = entries.get(column)
            digits = 3 if "coherence" in column or column.startswith(("joint", "cross")) else 1
            digits = 0 if column in WHOLE_NUMBERS else digits
            if entry is None:
                row.append("–")
            elif entry["standard_deviation"] is None or digits == 0:
                row.append(f"{entry['mean']:.{digits}f}")
            else:
                row.append(f"{entry['mean']:.{digits}f} ± {entry['standard_deviation']:.{digits}f}")
        rows.append(row)
    return tabulate(rows, ["method", *columns], tablefmt="github", disable_numparse=True)


def draw(summary: dict[str, dict[str, Any]], path: epath.Path) -> None:
    """Quality against coherence, one point a method; a control has its model's colour."""
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


def with_budget(config: ConfigDict, seed: int) -> ConfigDict:
    """A copy with this seed under the budget of the flags; a schedule keeps its proportions."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    if _MINUTES.value is not None:
        config.budget_seconds = 60.0 * _MINUTES.value
    if _STEPS.value is not None:
        share = _STEPS.value / config.num_steps
        config.update(num_steps=_STEPS.value, warmup_steps=round(share * config.warmup_steps))
        for part, name in (
            (config.prior, "fit_step"),
            (config.prior, "start_step"),
            (config.energy, "start_step"),
            (config.schedule, "settle_step"),
        ):
            part[name] = round(share * part[name])
    return config


def run_jobs(names: dict[str, str], seeds: Sequence[int], workdir: epath.Path, jobs: int) -> None:
    """Run every config and seed in processes of their own, `jobs` at a time.

    Raises:
      ValueError: a run failed; what it printed stands in its log.
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
        os.sched_setaffinity(0, share)  # of this thread, and so of the process that it starts
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
    if _JOBS.value > (num_cores := len(os.sched_getaffinity(0))):
        command_line.fail(f"--jobs={_JOBS.value}, but there are {num_cores} cores: lower it.")
    workdir = epath.Path(command_line.WORKDIR.value or "runs/compare")
    seeds = [int(seed) for seed in _SEEDS.value]
    names = {short_name(name): name for name in _CONFIGS.value}
    if len(names) < len(_CONFIGS.value):
        command_line.fail("--configs names a variant twice: compare one config file at a time.")
    configs = {label: read_config(name) for label, name in names.items()}
    for config in configs.values():
        builders.validate(config)
    if _JOBS.value > 1:
        first = with_budget(next(iter(configs.values())), seeds[0])
        # Once, before the jobs would each train their own.
        evaluate.Classifiers(train.prepare(first, workdir / "none"), workdir / "classifiers")
        run_jobs(names, seeds, workdir, _JOBS.value)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for name, base in configs.items():
            print(f"{name}, seed {seed}", flush=True)
            folder, config = workdir / f"seed{seed}" / name, with_budget(base, seed)
            for suffix, result in run_one(config, folder, workdir / "classifiers").items():
                results.setdefault(name + suffix, []).append(result)
            if _TABLE.value:
                write_table(summarise(results), workdir)
    if _TABLE.value:
        print(to_markdown(summarise(results)))


def short_name(name: str) -> str:
    """How the table calls `path/file.py:variant`."""
    return name.partition(":")[2] or "full"


def write_table(summary: dict[str, dict[str, Any]], workdir: epath.Path) -> None:
    """Write the comparison's three files."""
    write_whole(workdir / "comparison.json", json.dumps(summary, indent=2) + "\n")
    tables = to_markdown(summary), to_markdown(summary, DETAILS)
    write_whole(workdir / "comparison.md", "\n\n".join(tables) + "\n")
    draw(summary, workdir)


if __name__ == "__main__":
    command_line.run(main)
