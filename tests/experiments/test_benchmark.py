"""The benchmark's arithmetic; its timings are not tested."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import flops, measure, modalities, workload
from experiments.benchmarks.workload import Shape

TINY = Shape(num_modalities=1, image_size=4, batch_size=2, num_steps=3)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_an_exponent_is_that_of_a_power_law(power):
    sizes = [2, 3, 5, 40]
    assert measure.exponent(sizes, [7 * s**power for s in sizes]) == pytest.approx(power)


def test_a_fixed_cost_lowers_the_exponent():
    assert 0.5 < measure.exponent([5, 10, 20], [1 + 0.2 * s for s in (5, 10, 20)]) < 1


@pytest.mark.parametrize(("sizes", "costs"), [([3], [1.0]), ([1, 2], [1.0, 0.0]), ([0, 2], [1, 1])])
def test_an_exponent_needs_positive_pairs(sizes, costs):
    with pytest.raises(ValueError, match="positive"):
        measure.exponent(sizes, costs)


def test_ratios_are_of_pairs():
    assert measure.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == (2.0, 3.0, 4.0)
    assert str(measure.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])) == "2.00 / 3.00 / 4.00"
    with pytest.raises(ValueError):
        measure.ratios([1.0], [1.0, 2.0])


def test_calls_take_turns():
    order = []
    times = measure.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_a_table_is_markdown():
    lines = measure.table([["chain", 0.123456, 12]], ["", "seconds", "steps"]).splitlines()
    assert [cell.strip() for cell in lines[-1].strip("|").split("|")] == ["chain", "0.123", "12"]


def test_the_steps_that_the_analysis_leaves_out_are_added():
    work = workload.build("paper_b", TINY, quick=True)
    chain = workload.revisions(work)["posterior"]
    arguments = chain.arrays, jax.random.key(0), chain.start

    def count(unroll):
        return flops.counted(lambda *a: chain.run(unroll, *a), *arguments)

    assert count(1) + flops.of_repetitions([chain]) == pytest.approx(count(3), rel=0.02)


def test_stacked_modalities_have_the_same_energies():
    shape = Shape(num_modalities=2, image_size=8, batch_size=3, num_steps=1)
    work = workload.build("paper_b", shape, quick=True)
    looped, together = workload.revisions(work), modalities.stacked(work)
    assert looped.keys() == together.keys()
    for name, chain in together.items():
        np.testing.assert_allclose(
            chain.energy(chain.arrays, chain.start),
            looped[name].energy(looped[name].arrays, looped[name].start),
            rtol=1e-5,
        )


def test_flops_of_a_matrix_product():
    assert flops.counted(jnp.matmul, jnp.ones([3, 5]), jnp.ones([5, 7])) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("networks", ["small", "resnet"])
def test_the_torch_update_computes_what_ours_does(networks):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_check

    work = workload.build("paper_b", workload.SMALL, quick=True, networks=networks)
    found = torch_check.assert_equal(work)
    assert len(found) == 15


def test_a_different_torch_update_is_refused(monkeypatch):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_check

    work = workload.build("paper_b", TINY, quick=True)
    monkeypatch.setattr(torch_check, "differences", lambda work: {"losses": 1e-3, "chains": np.nan})
    with pytest.raises(ValueError, match=r"losses.*chains"):
        torch_check.assert_equal(work)


def test_a_part_can_be_written():
    spread = measure.spread([3.0, 1.0, 2.0])
    assert json.loads(json.dumps({"seconds": spread})) == {"seconds": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("gap_share", [0.0, 0.7])
def test_the_torch_updates_of_the_settled_method_compute_what_ours_do(gap_share):
    pytest.importorskip("torch")
    from experiments.benchmarks import settled_check, torch_check

    for phase, work in settled_check.workloads(workload.SMALL, quick=True).items():
        chains = work.settings.chains._replace(gap_share=gap_share)
        work = replace(work, settings=work.settings._replace(chains=chains))
        found = settled_check.differences(work)
        torch_check.refuse_differences(found)
        assert (found.keys() >= {"data chain"}) == (phase == "energy")


def test_another_bound_in_torch_is_refused(monkeypatch):
    pytest.importorskip("torch")
    from experiments.benchmarks import settled_check, torch_check

    work = settled_check.workloads(workload.SMALL, quick=True)["bound"]
    theirs = settled_check.torch_update

    def other(work):
        bound = work.settings.bound._replace(shared_factor=1.0)
        update = theirs(work)
        update.settings = work.settings._replace(bound=bound)
        return update

    monkeypatch.setattr(settled_check, "torch_update", other)
    with pytest.raises(ValueError, match="bound"):
        torch_check.refuse_differences(settled_check.differences(work))
