import itertools

import numpy as np
import pytest

from configs.polydigits import get_config
from mmebm_jax.runs import builders
from mmebm_jax.training import schedule

SECTIONS = (
    "warmup_steps", "prior.fit_step", "prior.start_step", "energy.start_step",
    "schedule.settle_step",
)  # fmt: skip


def value(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def test_a_scaled_schedule_keeps_its_proportions():
    base = get_config("full")
    config = schedule.scaled(base, 600)
    assert config.num_steps == 600
    for name in SECTIONS:
        assert value(config, name) == value(base, name) / 10 > 0
    assert base.num_steps == 6000
    builders.validate(config)


@pytest.mark.parametrize("num_steps", [60, 6000, 60001])
def test_phases_are_all_steps_and_keep_their_shares(num_steps):
    base = get_config("full")
    phases = schedule.phases(schedule.scaled(base, num_steps))
    assert phases[0].start == 0
    assert phases[-1].stop == num_steps
    assert all(a.stop == b.start and a.terms != b.terms for a, b in itertools.pairwise(phases))
    shares = [(phase.stop - phase.start) / num_steps for phase in phases]
    np.testing.assert_allclose(shares, [0.6, 0.2333, 0.1667], atol=1 / num_steps + 1e-4)


def test_a_method_without_energies_has_one_phase_whatever_its_unused_steps():
    (phase,) = schedule.phases(get_config("mmvae"))
    assert (phase.start, phase.stop) == (0, 6000)


def test_learning_rates_are_those_of_the_schedules_wherever_one_starts():
    config = get_config("full")
    schedules = builders.build_schedules(config)
    for start in (0, 1023, 1024, 5500):
        found = list(itertools.islice(schedule.learning_rates(config, start), 3))
        for offset, rates in enumerate(found):
            for name, rate in rates.items():
                updates = max(start + offset - builders.first_update(config, name), 0)
                expected = schedules[name](updates)
                np.testing.assert_allclose(rate, expected, rtol=1e-4, atol=1e-9)
    whole = list(itertools.islice(schedule.learning_rates(config, 1000), 100))
    assert whole[50:] == list(itertools.islice(schedule.learning_rates(config, 1050), 50))


def test_only_the_energies_are_slowed():
    config = get_config("full")
    fast = next(schedule.learning_rates(config, 5500))
    slow = next(schedule.learning_rates(config, 5500, energy_scale=0.5))
    for name in fast:
        factor = 0.5 if name in ("prior", "energy") else 1.0
        np.testing.assert_allclose(slow[name], factor * fast[name], rtol=1e-6)
