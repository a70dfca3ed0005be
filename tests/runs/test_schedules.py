import numpy as np
import pytest

from configs import polydigits
from mmebm_jax.runs import builders


@pytest.mark.parametrize(("start_step", "first"), [(40, 40), (10, 30)])
def test_a_network_learns_at_the_rate_of_the_step_it_is_at(start_step, first):
    """A latent energy that would start during the warm start is first updated after it."""
    config = polydigits.get_config("ebm_prior")
    config.update(num_steps=100, warmup_steps=30)
    config.prior.start_step = start_step
    config.schedule.warmup_steps = 5
    config.optimiser.prior.learning_rate = 1.0
    schedule = builders.build_schedules(config)["prior"]

    def expected(step):
        """Linear for five steps from the start, then a cosine decay to a tenth at the run's end."""
        since = step - start_step + 1
        if since < 5:
            return since / 5
        share = (since - 5) / (100 - start_step - 5)
        return 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * min(share, 1)))

    assert not builders.terms_at(config, first - 1).learn_prior
    assert builders.terms_at(config, first).learn_prior
    for count in (0, 1, 7, 50):
        assert float(schedule(count)) == pytest.approx(expected(first + count), rel=1e-5)
