"""What an evaluation says of the energies of its samples."""

import jax.numpy as jnp
import numpy as np

from experiments.measures.samples import measure_energies
from experiments.measures.subject import CHUNK
from mmebm_jax.runs.sampler import Sampler


class Sums(Sampler):
    """The energy of an example is its value; trained chains of 10 steps stay within -1 to 1."""

    def __init__(self):
        self._trained = 10

    def energy(self, batch, *, check_values=True):
        return jnp.asarray(batch["x"]).sum(-1)

    def trained_energies(self):
        return -1.0, 1.0

    @property
    def settings(self):
        data = type("Chain", (), {"num_steps": self._trained})
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
    assert "refinement of 100 steps left the energies seen in training" in warnings[0]
    assert "outside -3 to 4" in warnings[0]
    for num_steps in (None, 0, 10):
        assert measure_energies(Sums(), data, generated, refined, num_steps)[1] == []
    assert measure_energies(Sums(), data, generated, batch(-2.9, 3.9), 100)[1] == []
