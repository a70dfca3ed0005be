"""Ex-post density estimation, the control for every model without a learned prior."""

import jax

from mmebm_jax import data, training
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import prior_fitting

CONTROL = " + mixture"  # suffix of its name in tables
CONTROL_FOLDER = "mixture_control"  # subfolder of a run folder that holds its evaluation


def with_fitted_prior(run: training.Run, sampler: Sampler) -> Sampler:
    """The sampler after ex-post density estimation with the settings of its run."""
    settings = run.config.prior
    return training.fit_prior(
        sampler,
        data.whole(run.train_source, settings.num_fit_examples),
        num_components=settings.num_components,
        num_private_components=settings.num_private_components,
        private_temperature=settings.private_temperature,
        key=jax.random.key(run.config.seed),
        method=prior_fitting.inference_method(run),
    )
