"""Warnings about the energies of samples, and whose configuration an evaluation uses."""

import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from etils import epath

from experiments import evaluate
from experiments.measures.samples import measure_energies
from experiments.measures.subject import CHUNK
from mmebm_jax.runs import checkpoint
from mmebm_jax.runs.sampler import Sampler
from tests.commands import run_here, save_run, small_config


class Sums(Sampler):
    """The energy of an example is its value; configured chains of 10 steps stay within -1 to 1."""

    def __init__(self):
        self._configured = 10

    def energy(self, batch, *, check_values=True):
        return jnp.asarray(batch["x"]).sum(-1)

    def usual_energies(self):
        return -1.0, 1.0

    @property
    def settings(self):
        data = type("Chain", (), {"num_steps": self._configured})
        return type("Settings", (), {"chains": type("Chains", (), {"data": data})})


def test_energies_are_measured_over_all_chunks_and_long_chains_are_said():
    def batch(*values):
        return {"x": np.asarray(values, np.float32)[:, None]}

    data, generated = batch(0.0, 2.0, -3.0), batch(*[0.5] * CHUNK, 4.0)
    refined = batch(*[-5.0] * CHUNK, 3.0)
    ranges, warnings = measure_energies(Sums(), data, generated, refined, 100)
    np.testing.assert_allclose([ranges["data"][n] for n in ("low", "high")], [-3, 2])
    assert ranges["generator"]["high"] == 4
    np.testing.assert_allclose(ranges["refined"]["mean"], (3 - 5 * CHUNK) / (CHUNK + 1), rtol=1e-5)
    assert len(warnings) == 1
    assert "refinement of 100 steps left the energies of the configured chain" in warnings[0]
    assert "outside -3 to 4" in warnings[0]
    for num_steps in (None, 0, 10):
        assert measure_energies(Sums(), data, generated, refined, num_steps)[1] == []
    assert measure_energies(Sums(), data, generated, batch(-2.9, 3.9), 100)[1] == []


def test_the_table_sets_every_number_beside_what_it_is_read_against():
    scores = {"interval_coverage": {"0.5": 0.03}}
    result = {
        "step": 3,
        "num_samples": 20,
        "classifier_accuracy": {"m0": 0.9},
        "joint_coherence": {"generator": 0.7, "real_data": 0.98, "shuffled_pairs": 0.012},
        "frechet": {"generator": 50.0, "floor": 5.0},
        "FID": {"generator": {"mean": 40.0}, "floor": {"mean": 4.5}},
        "coherence_by_judge": {
            "over_seeds": {
                name: {"mean": 0.8, "standard_deviation": 0.004}
                for name in ("joint", "cross", "drawn")
            }
        },
        "log_likelihood": {
            "test": {"mean": -1274.7, "effective_sample_size": 1.04},
            "training_data": {"mean": -1234.6},
        },
        "calibration": {"expert m0": scores, "num_draws": 19},
        "clustering": {"mixture": {"nmi": 0.8}, "classifier": {"nmi": 0.9}, "shuffled": {"nmi": 0}},
        "linear_probes": {"shared": 0.95, "chance": 0.1},
        "absent": {"fidelity": "it takes more samples"},
    }
    lines = evaluate.table(result).splitlines()
    for words in (
        ("shuffled pairs of real data", "0.012"),
        ("FID", "40.0", "training data 4.5"),
        ("cross coherence over classifiers", "0.800", "± 0.004"),
        ("log-likelihood", "-1274.7", "training data -1234.6", "effective sample size 1.0"),
        ("50 % intervals of expert m0", "0.03", ".5 if calibrated"),
        ("mutual information", "0.80", "classifier 0.90, shuffled 0.00"),
        ("linear probe", "0.950", "chance 0.100"),
        ("not measured: fidelity: it takes more samples",),
    ):
        assert any(all(word in line for word in words) for line in lines), words


@pytest.mark.parametrize(
    "form", ["--workdir={}", "--workdir {}", "--workdir=elsewhere --workdir={}"]
)
def test_fields_are_set_on_the_configuration_of_the_run_where_no_other_is_named(
    tmp_path, capsys, form
):
    tmp_path = epath.Path(tmp_path)
    save_run(tmp_path, small_config(seed=7))
    seen = []

    def main():
        seen.append(flags.FLAGS["config"].value)
        sys.exit(0)

    fields = ["--config.evaluation.classifier_steps=3", "--config.guard.retries=1"]
    workdir = form.format(tmp_path).split()
    run_here(capsys, *workdir, *fields, program=SimpleNamespace(main=main))
    (config,) = seen
    expected = checkpoint.read_config(tmp_path)
    assert expected.seed == config.seed == 7
    expected.evaluation.classifier_steps, expected.guard.retries = 3, 1
    assert config.to_dict() == expected.to_dict()
