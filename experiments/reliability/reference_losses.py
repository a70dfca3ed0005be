"""Regression test: train every variant for 20 steps and compare its losses with a stored file.

    python -m experiments.reliability.reference_losses --workdir=runs/reference_losses
    python -m experiments.reliability.reference_losses --only=polydigits:full,polymnist:paper_b

The file, `reference_losses.json` next to this module, holds the losses of version 2dd2224. An
intended change to the method rewrites it (`--write`) and says so in its commit.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from configs import digits_text, polydigits, polymnist, toy
from experiments import command_line
from mmebm_jax import training as train
from mmebm_jax.data.source import ArraySource, DataSplits, Field
from mmebm_jax.method import train_state
from mmebm_jax.runs import builders, sharding
from mmebm_jax.storage.files import write_whole
from mmebm_jax.training import feed, prior_fitting

_ONLY = flags.DEFINE_list("only", [], "Cases, as polydigits:full; all when empty.")
_WRITE = flags.DEFINE_bool("write", False, "Write the file instead of comparing with it.")

FILE = epath.Path(__file__).parent / "reference_losses.json"
TOLERANCE = 1e-5
NUM_STEPS = 20
WEIGHTS_NORM = "weights_norm"  # of the moving averages after the last step
MISSING = ("mvae", "mopoe", "mmvae_plus", "paper_a", "paper_b", "full")

Rows = list[dict[str, float]]


def cases() -> dict[str, tuple[Callable[[str], ConfigDict], str]]:
    """Case → the config's `get_config` function and the variant."""
    named = [("polydigits", polydigits, variant) for variant in polydigits.VARIANTS]
    named += [("polydigits", polydigits, f"{variant}_missing") for variant in MISSING]
    named += [("polymnist", polymnist, variant) for variant in ("full", "paper_a", "paper_b")]
    named += [("toy", toy, "full"), ("digits_text", digits_text, "full")]
    return {f"{name}:{variant}": (module.get_config, variant) for name, module, variant in named}


def run_losses(config: ConfigDict, name: str) -> Rows:
    """The losses at every step of a shortened run, and the norm of its averaged weights."""
    config = _shortened(config)
    if name.startswith("polymnist"):
        splits = _noise()
    else:
        config.data.update(num_train=500, num_test=100)
        splits = builders.build_data(config)
    builders.validate(config)
    mesh, model = sharding.data_mesh(), builders.build_model(config, splits.fields)
    source = builders.build_train_source(config, splits)
    run = train.Run(config, epath.Path("unused"), splits, source, model, mesh)
    optimisers = builders.build_optimisers(config)
    init_key, run_key, fit_key, _ = jax.random.split(jax.random.key(config.seed), 4)
    state = jax.jit(
        lambda key: train_state.create(key, model, optimisers, config.prior.num_components),
        out_shardings=sharding.replicated(mesh),
    )(init_key)
    updates: dict[Any, Any] = {}
    rows: Rows = []
    fitted = False
    for step, batch in zip(range(config.num_steps), _batches(run), strict=False):
        if config.prior.fit_mixture and not fitted and step >= config.prior.fit_step:
            state = prior_fitting.fit_base_prior(
                run, state, jax.random.fold_in(fit_key, 0), final=False
            )
            fitted = True
        terms = builders.terms_at(config, step)
        if terms not in updates:
            plan = builders.build_plan(config, model, terms, sharding.split_batch(mesh))
            update = builders.build_update(config, plan, optimisers)
            updates[terms] = builders.jitted(update, sharding.replicated(mesh))
        state, metrics = updates[terms](state, batch, run_key)
        rows.append({k: float(v) for k, v in metrics.items() if k.startswith("loss/")})
    if config.prior.fit_mixture:
        state = prior_fitting.fit_base_prior(
            run, state, jax.random.fold_in(fit_key, 1), warm_start=fitted
        )
    squares = [np.square(np.asarray(x, np.float64)) for x in jax.tree.leaves(state.weights.params)]
    return [*rows, {WEIGHTS_NORM: math.sqrt(sum(float(x.sum()) for x in squares))}]


def largest_difference(rows: Rows, expected: Rows) -> tuple[float, str]:
    """The largest relative difference of a loss, and where it occurs."""
    worst, place = 0.0, "nowhere"
    for step, (row, other) in enumerate(zip(rows, expected, strict=True)):
        if row.keys() != other.keys():
            return math.inf, f"step {step}: {sorted(row)} instead of {sorted(other)}"
        for name, value in row.items():
            # A loss that crosses zero is compared on the scale of the largest loss.
            size = max(abs(other[name]), 1e-3 * max(map(abs, other.values())))
            difference = abs(value - other[name]) / size if size else abs(value)
            if not difference <= worst:
                worst, place = difference, f"step {step}, {name}"
    return worst, place


def _shortened(config: ConfigDict) -> ConfigDict:
    share = NUM_STEPS / config.num_steps
    config.update(num_steps=NUM_STEPS, warmup_steps=round(share * config.warmup_steps))
    for part, name in (
        (config.prior, "fit_step"),
        (config.prior, "start_step"),
        (config.energy, "start_step"),
        (config.schedule, "settle_step"),
    ):
        part[name] = round(share * part[name])
    config.batch_size = 16
    config.prior.num_components = min(10, config.prior.num_components)
    config.prior.num_fit_examples = 400
    config.prior.fit_steps = min(20, config.prior.fit_steps)
    config.schedule.warmup_steps = 5
    return config


def _noise() -> DataSplits:
    """Random pictures of PolyMNIST's shapes."""
    rng = np.random.default_rng(0)
    names = [f"m{index}" for index in range(5)]

    def split(count: int) -> ArraySource:
        images = {name: rng.integers(0, 256, (count, 28, 28, 3), np.uint8) for name in names}
        return ArraySource(images | {"label": np.arange(count, dtype=np.int32) % 10})

    fields = {name: Field("image", (28, 28, 3)) for name in names}
    return DataSplits(split(500), split(50), fields, 10, "")


def _batches(run: train.Run) -> Iterator[Any]:
    return feed.batches(
        run.train_source,
        run.mesh,
        batch_size=run.config.batch_size,
        seed=run.config.seed,
        start_step=0,
        device_resident=False,
    )


def main() -> None:
    """Compare, or write the file; exits with an error if a case differs."""
    known = cases()
    if unknown := sorted(set(_ONLY.value) - set(known)):
        raise ValueError(f"--only={','.join(unknown)}: choose from {', '.join(known)}.")
    expected = {} if _WRITE.value and not FILE.exists() else json.loads(FILE.read_text())
    if not _WRITE.value and (newer := sorted(set(_ONLY.value) - set(expected))):
        raise ValueError(f"--only={','.join(newer)}: {FILE} has none of these; see --write.")
    wrong = []
    for name in _ONLY.value or known:
        if name not in expected and not _WRITE.value:
            print(f"{name}: newer than the file", flush=True)
            continue
        get_config, variant = known[name]
        config = get_config(variant)
        rows = run_losses(config, name)
        if _WRITE.value:
            expected[name] = rows
            write_whole(FILE, json.dumps(expected, separators=(",", ":")) + "\n")
            continue
        # Since b05ea78 the final fit of the latent energy, after all losses, holds out a tenth of
        # the latents to measure its benefit on them, so its result is not compared.
        fits_energy = config.prior.learn and config.prior.fit_steps
        compared = NUM_STEPS if fits_energy else NUM_STEPS + 1
        difference, place = largest_difference(rows[:compared], expected[name][:compared])
        wrong += [name] if difference > TOLERANCE else []
        print(f"{name}: {difference:.1e} ({place})", flush=True)
    if wrong:
        raise ValueError(f"losses differ by more than {TOLERANCE}: {', '.join(wrong)}.")


if __name__ == "__main__":
    command_line.run(main)
