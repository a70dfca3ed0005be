"""Training from Python.

    run = training.prepare(config, workdir)  # builds and checks everything, writes nothing
    state, seconds = training.train(run)     # trains, or resumes, to the end of the schedule

    data = mmebm_jax.data.from_arrays(train, test)
    training.train(config, data, workdir)    # both, on arrays in memory

    model = mmebm_jax.load(workdir)
    model = training.fit_prior(model, examples, num_components=60)  # ex-post density estimation
    fitted = training.fit_sampling_time(key, model, run.train_source)  # for the data chain
    model = model.with_sampling_time(fitted.time)

The modules: `run` (set-up), `start`, `loop`, `schedule` and `budget` (from minutes to steps),
`compiled_update`, `prior_fitting`, `sampling_time`, `sampler_of_run`; `feed`, `log`, `diagnostics`,
`pictures`, `plotting`, `interruption`, `processes`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmebm_jax.training.prior_fitting import fit_prior
    from mmebm_jax.training.run import Run, prepare
    from mmebm_jax.training.sampler_of_run import make_sampler, restore_sampler
    from mmebm_jax.training.sampling_time import fit_sampling_time
    from mmebm_jax.training.start import train

__all__ = [
    "Run",
    "fit_prior",
    "fit_sampling_time",
    "make_sampler",
    "prepare",
    "restore_sampler",
    "train",
]
_HOMES = {
    "Run": "run",
    "fit_prior": "prior_fitting",
    "fit_sampling_time": "sampling_time",
    "make_sampler": "sampler_of_run",
    "prepare": "run",
    "restore_sampler": "sampler_of_run",
    "train": "start",
}


def __getattr__(name: str) -> Any:
    # Imported on demand: code that needs only `processes` does not wait for Orbax and Matplotlib.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
