"""Runs meant for an accelerator, on a CPU: exact operation counts and a one-line warning."""

import jax
import jax.numpy as jnp
import pytest

from mmebm_jax import training
from mmebm_jax.runs import builders
from mmebm_jax.training import hardware, schedule
from mmebm_jax.training.compiled_update import abstract_arguments, compiled_update
from tests.commands import digest, small_config


def counted(function, *arguments):
    return hardware.of_program(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_products_loops_and_branches():
    a, b = jnp.ones([3, 4]), jnp.ones([4, 5])
    product = 2 * 3 * 4 * 5
    assert counted(jnp.matmul, a, b) == product
    assert counted(jax.jit(jnp.matmul), a, b) == product
    assert counted(jnp.add, a, a) == 0

    def looped(square):
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ square), None), square, length=7)[0].sum()

    square = jnp.ones([4, 4])
    assert counted(looped, square) == 7 * 2 * 4**3
    assert counted(jax.grad(looped), square) == 3 * 7 * 2 * 4**3

    def branch(flag):
        return jax.lax.cond(flag, lambda: (a @ b).sum(), lambda: a.sum())

    assert counted(branch, True) == product


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions(stride):
    images, kernel = jnp.ones([2, 8, 8, 3]), jnp.ones([3, 3, 3, 5])

    def convolve(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), "SAME", dimension_numbers=numbers
        )

    size = 8 // stride
    assert counted(convolve, images, kernel) == 2 * (2 * size * size * 5) * 3 * 3 * 3


def test_durations_are_in_the_unit_that_suits_them():
    texts = [hardware.duration(s) for s in (3, 119, 120, 7200, 2 * 86400, 41.4 * 86400)]
    assert texts == ["3 seconds", "119 seconds", "2 minutes", "2 hours", "2 days", "41 days"]


@pytest.fixture
def run(tmp_path):
    config = small_config(data__num_train=40, data__num_test=40, guard__device="accelerator")
    return training.prepare(config, tmp_path / "run")


def test_a_run_is_the_sum_of_its_phases(run):
    optimisers = builders.build_optimisers(run.config)
    arguments = abstract_arguments(run, optimisers)
    each = [
        hardware.of_program(
            compiled_update(run, optimisers, phase.terms).trace(*arguments).jaxpr.jaxpr
        )
        for phase in schedule.phases(run.config)
    ]
    steps = [phase.stop - phase.start for phase in schedule.phases(run.config)]
    assert len(each) > 2
    assert each[0] < each[-1]  # first the bound alone, last with chains in latent and data space
    expected = sum(n * c for n, c in zip(steps, each, strict=True))
    assert hardware.operations(run) == pytest.approx(expected)


def test_a_cpu_is_told_and_refused_before_anything_is_written(run, tmp_path):
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r"meant for a GPU or TPU: its 8 updates") as caught:
        training.train(run)
    line = str(caught.value)
    assert "\n" not in line
    for part in ("floating-point operations, at least", "GFLOP a second", "guard.device=any"):
        assert part in line
    assert digest(tmp_path) == before


def test_it_can_be_overridden_and_others_are_not_asked(run, monkeypatch):
    def refuse(_):
        raise AssertionError("measured")

    monkeypatch.setattr(hardware, "operations", refuse)
    run.config.guard.device = "any"
    hardware.check_device(run)
