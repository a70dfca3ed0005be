"""Train Diff-CMVAE's refiner for a trained run, and compare it with the run's data energy.

    python -m experiments.refiner --workdir=runs/cmvae --steps=3000
    python -m experiments.refiner --workdir=runs/cmvae --compare

`train` saves the U-Nets in `WORKDIR/refiner/` and leaves the run's checkpoint unchanged. `compare`
draws samples from the run's prior and refines the same samples by diffusion, for several numbers of
sampler steps, and by the data energy if the run has learned one. It reports distance, joint
coherence and seconds per sample, excluding compilation.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from tabulate import tabulate

from experiments import command_line, results
from experiments.classifiers import Classifiers
from experiments.measures import Subject, lack
from experiments.measures.samples import joint_samples
from mmebm_jax import training
from mmebm_jax.diffusion.process import NUM_STEPS
from mmebm_jax.diffusion.refiner import Refiner, refine
from mmebm_jax.metrics import coherence
from mmebm_jax.runs import checkpoint
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.places import place
from mmebm_jax.training.refiner import (
    FOLDER,
    RefinerSettings,
    load_refiner,
    save_refiner,
    train_refiner,
)

DEFAULTS = RefinerSettings()
COUNTS = (1, 5, 10, 20, 50, 100)
CHUNK = 500
FILE = "comparison.json"

_COMPARE = flags.DEFINE_bool("compare", False, "Measure, instead of training.")
_STEPS = flags.DEFINE_integer("steps", None, "Training steps of each U-Net.", allow_override=True)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", DEFAULTS.batch_size, "Examples a step.", 1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", DEFAULTS.learning_rate, "Adam's.", 0.0)
_WIDTH = flags.DEFINE_integer("width", DEFAULTS.width, "Channels at the image's size.", 1)
_MULTIPLIERS = flags.DEFINE_list(
    "multipliers", list(map(str, DEFAULTS.multipliers)), "Of the width, at each size."
)
_ATTENTION = flags.DEFINE_integer(
    "attention_side", DEFAULTS.attention_side, "Height of maps that attend; 0 for none.", 0
)
_SAMPLER_STEPS = flags.DEFINE_list(
    "sampler_steps", list(map(str, COUNTS)), f"Of the diffusion, each at most {NUM_STEPS}."
)
_SEED = flags.DEFINE_integer("refiner_seed", 0, "Of the refiner's training.", 0)
_RESULTS = flags.DEFINE_string(
    "results", None, "File to write, as docs/results/NAME.json.", allow_override=True
)


def prepared(workdir: epath.Path) -> training.Run:
    """The run in a folder, as it was trained.

    Raises:
      FileNotFoundError: the folder holds no run, or one without a checkpoint.
    """
    config = checkpoint.read_config(workdir)
    if not checkpoint.all_steps(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint for a refiner to stand beside: train there first."
        )
    return training.prepare(config, workdir)


def train(workdir: epath.Path, settings: RefinerSettings, seed: int) -> None:
    """Train the U-Nets and save them.

    Raises:
      FileNotFoundError, ValueError: see `prepared` and `train_refiner`.
    """
    run = prepared(workdir)
    sampler, _ = training.restore_sampler(run)
    begin = time.monotonic()
    trained = train_refiner(jax.random.key(seed), run, sampler, settings)
    save_refiner(workdir, trained, settings)
    minutes = round((time.monotonic() - begin) / 60, 2)
    facts = {"minutes": minutes, "seed": seed, **results.made_now(), **settings._asdict()}
    write_whole(workdir / FOLDER / "training.json", json.dumps(facts, indent=1) + "\n")
    print(f"trained {len(trained.params)} U-Nets in {minutes} minutes: {workdir / FOLDER}")


def rows_of(subject: Subject, trained: Refiner, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measure the same samples as generated and as refined by each method."""
    sampler = subject.sampler

    def diffusion(count: int) -> Callable[[jax.Array, Mapping[str, Any]], Mapping[str, Any]]:
        return lambda key, part: refine(key, trained, part, num_steps=count)

    ways: dict[str, tuple[int, Any]] = {"generator": (0, lambda key, part: part)}
    if subject.settings.data_energy:
        steps = subject.settings.chains.data.num_steps
        ways["data energy"] = (steps, lambda key, part: sampler.refine(key, part).position)
    ways |= {f"diffusion, {count} steps": (count, diffusion(count)) for count in counts}
    rows, far = [], subject.has_distances  # with too few samples a distance is meaningless
    for name, (steps, way) in ways.items():
        samples, seconds = refined(way, subject.keys["chain"], subject.generated)
        classes, features = subject.classifiers.predict(samples)
        rows.append(
            {
                "method": name,
                "seed": int(subject.run.config.seed),
                "steps": steps,
                "milliseconds_a_sample": 1000 * seconds,
                "num_samples": subject.num_samples,
                "joint_coherence": {"generator": coherence.joint_coherence(classes)},
                "frechet": {"generator": subject.distance(features)} if far else {},
            }
        )
    return rows


def refined(
    way: Callable[[jax.Array, Mapping[str, Any]], Mapping[str, Any]],
    key: jax.Array,
    samples: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], float]:
    """Refine all samples in chunks; also returns the seconds per sample, without compilation."""
    count = len(next(iter(samples.values())))
    parts, timed, num_timed = [], 0.0, 0
    sizes = []
    for start in range(0, count, CHUNK):
        part = {name: values[start : start + CHUNK] for name, values in samples.items()}
        size = len(next(iter(part.values())))
        if size not in sizes:  # compile first
            jax.block_until_ready(dict(way(key, part)))
            sizes.append(size)
        begin = time.monotonic()
        made = jax.block_until_ready(dict(way(jax.random.fold_in(key, start), part)))
        timed, num_timed = timed + time.monotonic() - begin, num_timed + size
        parts.append(jax.device_get(made))
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return whole, timed / num_timed


def compare(
    workdir: epath.Path,
    counts: tuple[int, ...],
    num_samples: int | None = None,
    path: epath.PathLike | None = None,
) -> list[dict[str, Any]]:
    """Measure, print and save the comparison.

    Args:
      workdir: folder of the run and its refiner.
      counts: numbers of diffusion steps.
      num_samples: number of samples; None for the run's own setting.
      path: file of results; None for `comparison.json` next to the refiner.

    Raises:
      FileNotFoundError: there is no refiner, or see `prepared`.
      ValueError: the data have no classes, so that distances cannot be measured.
    """
    run = prepared(workdir)
    trained, settings = load_refiner(workdir)
    if problem := lack(joint_samples, run):
        raise ValueError(f"--compare measures coherence and distances, but {problem}.")
    if num_samples:
        run.config.evaluation.num_samples = num_samples
    run.config.evaluation.classifier_seeds = 1
    sampler, step = training.restore_sampler(run)
    subject = Subject(run, sampler, Classifiers(run, workdir / "classifiers"))
    rows = rows_of(subject, trained, counts)
    facts = {"step": step, "refiner_steps": settings.num_steps, "width": settings.width}
    rows = [{**row, **facts} for row in rows]
    command = f"python -m experiments.refiner --compare --workdir={workdir}"
    results.write(path or workdir / FOLDER / FILE, command, rows)
    shown = [
        (
            row["method"],
            row["joint_coherence"]["generator"],
            row["frechet"].get("generator"),
            row["milliseconds_a_sample"],
        )
        for row in rows
    ]
    print(tabulate(shown, ["", "joint coherence", "Fréchet", "ms a sample"], floatfmt=".3f"))
    return rows


def main() -> None:
    """Train the refiner, or compare it."""
    if not command_line.WORKDIR.value:
        command_line.fail("--workdir is missing: name the folder of a trained run.")
    workdir = place(command_line.WORKDIR.value)
    command_line.check_output(_RESULTS)
    counts = command_line.whole_numbers(_SAMPLER_STEPS, NUM_STEPS)
    if _COMPARE.value:
        compare(workdir, counts, command_line.NUM_SAMPLES.value, _RESULTS.value)
        return
    num_steps = DEFAULTS.num_steps if _STEPS.value is None else _STEPS.value
    if num_steps < 1:
        command_line.fail(f"--steps={num_steps}: give at least 1.")
    settings = DEFAULTS._replace(
        num_steps=num_steps,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        width=_WIDTH.value,
        multipliers=command_line.whole_numbers(_MULTIPLIERS, 64),
        attention_side=_ATTENTION.value,
    )
    train(workdir, settings, _SEED.value)


if __name__ == "__main__":
    command_line.run(main)
