"""The sampler of a run, from weights in memory or from its newest checkpoint."""

from collections.abc import Collection

import jax

from mmebm_jax.method.train_state import Weights
from mmebm_jax.runs import builders, checkpoint, sharding
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.runs.template import template
from mmebm_jax.training.run import Run


def make_sampler(
    run: Run, weights: Weights, trained: Collection[str], sampling_time: float = 0.0
) -> Sampler:
    """The sampler of a run's weights, using the energies that were trained.

    Args:
      run: from `prepare`.
      weights: `state.weights` of the state that `train` returned.
      trained: names of the trained networks; see `checkpoint.trained_networks`.
      sampling_time: the fitted time of the data chain; 0 for the configured one.
    """
    settings = builders.build_sampler_settings(run.config, trained, sampling_time)
    mesh = sharding.data_mesh(jax.local_devices())
    return Sampler(run.model, sharding.local(weights), settings, mesh, run.splits.alphabet)


def restore_sampler(run: Run, latest: int | None = None) -> tuple[Sampler, int]:
    """The sampler of a run's newest readable checkpoint, and its step.

    Args:
      run: from `prepare`.
      latest: the last step to consider; later checkpoints are skipped.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    shapes = template(run.model, run.config.prior.num_components)
    restored = checkpoint.restore_weights(run.workdir, shapes, latest)
    sampler = make_sampler(run, restored.weights, restored.trained, restored.sampling_time)
    return sampler, restored.step
