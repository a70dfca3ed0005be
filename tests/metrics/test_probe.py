import numpy as np

from mmebm_jax.metrics.probe import linear_probe


def test_separable_latents_are_read_off_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    # Badly scaled on purpose, so that standardisation is needed.
    latents = (np.eye(4)[labels] + 0.1 * rng.normal(size=(800, 4))) * [1e-4, 1, 1e3, 1] + 50
    assert linear_probe(latents[:500], labels[:500], latents[500:], labels[500:]) > 0.98
    noise = rng.normal(size=(800, 4))
    assert abs(linear_probe(noise[:500], labels[:500], noise[500:], labels[500:]) - 0.25) < 0.12
