"""The schedule of a run: its losses and learning rates at each step, and how it is rescaled."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmebm_jax.method.plan import Terms
from mmebm_jax.runs import builders

STRETCH = 1024  # steps whose learning rates are computed together

# Fields that hold a step; all are rescaled in proportion to `num_steps`.
STEP_FIELDS = (
    "warmup_steps",
    "prior.fit_step",
    "prior.start_step",
    "energy.start_step",
    "schedule.settle_step",
    "schedule.freeze_step",
)


class Phase(NamedTuple):
    """Steps `start` to `stop` − 1, which use the same losses."""

    start: int
    stop: int
    terms: Terms


def phases(config: ConfigDict) -> list[Phase]:
    """The phases of a schedule in order; together they cover all its steps."""
    starts = {0, config.warmup_steps, config.prior.fit_step}
    starts |= {config.prior.start_step, config.energy.start_step, config.schedule.freeze_step}
    found: list[Phase] = []
    for start in sorted(start for start in starts if start < config.num_steps):
        terms = builders.terms_at(config, start)
        if found and terms == found[-1].terms:
            continue
        if found:
            found[-1] = found[-1]._replace(stop=start)
        found.append(Phase(start, config.num_steps, terms))
    return found


def scaled(config: ConfigDict, num_steps: int) -> ConfigDict:
    """A copy whose schedule has `num_steps` steps; each phase keeps its share of them."""
    config = config.copy_and_resolve_references()
    share = num_steps / config.num_steps
    changed = {name: round(share * step) for name, step in steps(config).items()}
    config.update_from_flattened_dict({"num_steps": num_steps, **changed})
    return config


def steps(config: ConfigDict) -> dict[str, int]:
    """The values of the fields that hold a step, by names such as "prior.fit_step"."""
    return {name: _value(config, name) for name in STEP_FIELDS}


def learning_rates(
    config: ConfigDict, start: int, *, energy_scale: float = 1.0
) -> Iterator[dict[str, np.float32]]:
    """Endless iterator over the learning rates by network, from step `start` on.

    The rates of a step do not depend on `start`. `energy_scale` multiplies those of both energies.
    """
    schedules = builders.build_schedules(config, energy_scale=energy_scale)
    firsts = {name: builders.first_update(config, name) for name in schedules}

    @jax.jit
    def table(steps: np.ndarray) -> dict[str, jax.Array]:
        return {
            name: jax.vmap(schedule)(jnp.maximum(steps - firsts[name], 0))
            for name, schedule in schedules.items()
        }

    first = start - start % STRETCH
    while True:
        rates = jax.device_get(table(np.arange(first, first + STRETCH, dtype=np.int32)))
        for index in range(max(0, start - first), STRETCH):
            yield {name: np.float32(values[index]) for name, values in rates.items()}
        first += STRETCH


def _value(config: ConfigDict, name: str) -> int:
    for part in name.split("."):
        config = config[part]
    return config
