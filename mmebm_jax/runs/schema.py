"""Every field of a configuration: its type and its range.

Upper limits stand where a slip of the finger would allocate absurdly or overflow 32-bit numbers;
they are far above what any method of the family needs.
"""

from collections.abc import Mapping
from typing import Any

from mmebm_jax.data.options import OPTIONS
from mmebm_jax.distributions.families import FAMILIES
from mmebm_jax.method.aggregators import AGGREGATORS
from mmebm_jax.method.bounds import ESTIMATORS, OBJECTIVES
from mmebm_jax.method.model import ARITHMETIC, NETWORKS
from mmebm_jax.modalities.kinds import KINDS, likelihoods_of
from mmebm_jax.storage.validation import Rule, Rules, check, choice, real, switch, whole

EXAMPLE = "configs/polydigits.py"
DATA_STARTS = ("generator", "noise")
MOST_STEPS = 10**9
MOST_CHAIN_STEPS = 10**6
LARGEST_SIZE = 2**16

_STEP = whole(0, MOST_STEPS)
_EVERY = whole(1, MOST_STEPS)
_SIZE = whole(1, LARGEST_SIZE)
_WEIGHT = real(0, 1e6)
_SCALE = real(1e-6, 1e6)
_MOMENTUM = real(0, 1, "[)")
_CHAIN: Rules = {
    "num_steps": whole(0, MOST_CHAIN_STEPS),
    "step_size": real(0, 1e3),
    "temperature": real(0, 1e6),
    "gradient_clip": real(0, 1e9),
}
_OPTIMISER: Rules = {
    "learning_rate": real(0, 10, "(]"),
    "b1": _MOMENTUM,
    "b2": _MOMENTUM,
    "gradient_clip": real(0, 1e9, "(]"),
}

FIELDS: Rules = {
    "seed": whole(0, 2**31 - 1),
    "batch_size": _SIZE,
    "num_steps": _EVERY,
    "budget_seconds": real(0, 1e9),
    "warmup_steps": _STEP,
    "revision_stride": _SIZE,
    "accumulation_steps": _SIZE,
    "input": {"device_resident": switch()},
    "missing_ratio": real(0, 1, "[)"),
    "likelihood": {
        kind: {"name": choice(*names), "scale": _SCALE, "weight": _SCALE}
        for kind, names in ((kind, likelihoods_of(kind)) for kind in KINDS)
    },
    "model": {
        "num_latents": whole(0, LARGEST_SIZE),
        "num_private": whole(0, LARGEST_SIZE),
        "posterior": choice(*FAMILIES),
        "aggregator": choice(*AGGREGATORS),
        "correlation": real(0, 1, "[)"),
        "width": _SIZE,
        "hidden": _SIZE,
        "prior_hidden": _SIZE,
        "prior_bound": real(0, 1e6, "(]"),
        "energy_width": _SIZE,
        "energy_hidden": _SIZE,
        "spectral_gain": real(0, 1e3),
        "arithmetic": choice(*ARITHMETIC),
        "rematerialise": switch(),
    },
    "elbo": {
        "objective": choice(*OBJECTIVES),
        "warmup_weight": _WEIGHT,
        "weight": _WEIGHT,
        "beta": _WEIGHT,
        "num_samples": whole(1, 1000),
        "estimator": choice(*ESTIMATORS),
        "total_correlation": real(0, 1),
        "entropy_weight": _WEIGHT,
        "learned_prior": switch(),
    },
    "posterior": {
        "generator_weight": _WEIGHT,
        "inference_weight": _WEIGHT,
        "independent_inference": switch(),
        "chain": _CHAIN,
    },
    "prior": {
        "family": choice(*FAMILIES),
        "fit_mixture": switch(),
        "num_components": _SIZE,
        "num_fit_examples": whole(2, 10**7),
        "fit_step": _STEP,
        "learn": switch(),
        "start_step": _STEP,
        "fit_steps": whole(0, MOST_CHAIN_STEPS),
        "fit_learning_rate": real(0, 10, "(]"),
        "num_candidates": _SIZE,
        "penalty": _WEIGHT,
        "chain": _CHAIN,
    },
    "energy": {
        "learn": switch(),
        "start_step": _STEP,
        "start": choice(*DATA_STARTS),
        "penalty": _WEIGHT,
        "data_noise": real(0, 1),
        "synthesis_generator": _WEIGHT,
        "synthesis_inference": _WEIGHT,
        "chain": _CHAIN,
    },
    "optimiser": dict.fromkeys(NETWORKS, _OPTIMISER),
    "schedule": {
        "warmup_steps": _STEP,
        "settle_step": _STEP,
        "final_fraction": real(0, 1),
    },
    "averaging": real(0, 1, "[)"),
    "guard": {
        "retries": whole(0, 1000),
        "halve_energy_rate": switch(),
        "energy_gap": real(0, 1e30),
        "gradient_norm": real(0, 1e30),
    },
    "log_every": _EVERY,
    "picture_every": _EVERY,
    "checkpoint_every": _EVERY,
    "keep_checkpoints": whole(1, 10**6),
    "evaluation": {
        "num_samples": whole(2, 10**7),
        "classifier_steps": whole(1, MOST_CHAIN_STEPS),
    },
}
"""All fields but those of `data`, which are the chosen data set's."""


def check_fields(config: Any) -> None:
    """Refuse a configuration with an unknown or missing field, a wrong type or a bad value.

    Args:
      config: fields and sections, a `ConfigDict` or what a JSON file holds.

    Raises:
      ValueError: one line that names the field, its value and what is allowed.
    """
    data: Mapping[str, Rule | Rules] = {"name": choice(*OPTIONS)}
    if hasattr(config, "items") and hasattr(config.get("data"), "items"):
        section = config["data"]
        if "name" in section:
            check({"name": section["name"]}, data, "config.data")
            data = {**data, **OPTIONS[section["name"]]}
    check(config, {**FIELDS, "data": data}, "config", EXAMPLE)
