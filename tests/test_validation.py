"""Whatever passes validation starts: nothing in it crashes before the first step is compiled."""

import functools
import os

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import strategies

from configs import polydigits
from experiments import train
from mmebm_jax import builders, config_rules, train_state
from mmebm_jax.data import load_data
from mmebm_jax.data.options import OPTIONS
from mmebm_jax.update import make_update
from mmebm_jax.validation import Rule

SHRINK = {
    "batch_size": 8,
    "data.num_modalities": 2,
    "data.num_train": 40,
    "data.num_test": 20,
    "model.num_latents": 3,
    "model.width": 2,
    "model.hidden": 4,
    "model.prior_hidden": 4,
    "model.energy_width": 2,
    "model.energy_hidden": 4,
}
NUM_EXAMPLES = int(os.environ.get("CONFIG_EXAMPLES", "30"))
load_once = functools.cache(lambda **options: load_data(**options))


def small_config():
    config = polydigits.get_config("smoke")
    config.update_from_flattened_dict(SHRINK)
    config.data.word = False
    return config


def flatten(rules, prefix=""):
    for name, rule in rules.items():
        if isinstance(rule, Rule):
            yield prefix + name, rule
        else:
            yield from flatten(rule, f"{prefix}{name}.")


RULES = dict(flatten(config_rules.FIELDS | {"data": OPTIONS["polydigits"]}))


def allowed(name, rule):
    """Values of a field, with the ends of its range among the likeliest."""
    if rule.kind is bool:
        return strategies.booleans()
    if rule.choices:
        return strategies.sampled_from(rule.choices)
    if rule.kind is int:
        # The data are made for every example: few of them.
        high = 60 if name.startswith("data.num_") and "modalities" not in name else int(rule.high)
        low, few = int(rule.low), min(int(rule.low) + 12, high)
        values = strategies.integers(low, few) | strategies.integers(low, high)
        return values | strategies.sampled_from([low, high])
    ends = [
        x for x, is_open in ((rule.low, rule.open_low), (rule.high, rule.open_high)) if not is_open
    ]
    return strategies.sampled_from([*ends, 0.5]) | strategies.floats(
        rule.low, rule.high, exclude_min=rule.open_low, exclude_max=rule.open_high
    )


@strategies.composite
def changes(draw):
    """Some fields with values that their own rules allow."""
    names = draw(strategies.lists(strategies.sampled_from(sorted(RULES)), max_size=12, unique=True))
    return {name: draw(allowed(name, RULES[name])) for name in names}


@hypothesis.settings(
    deadline=None,
    max_examples=NUM_EXAMPLES,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(
    variant=strategies.sampled_from([*polydigits.VARIANTS]),
    changes=changes(),
    data=strategies.data(),
)
def test_what_passes_validation_starts(tmp_path_factory, variant, changes, data):
    config = small_config()
    config.update_from_flattened_dict(
        {n: v for n, v in polydigits.VARIANTS[variant].items() if not n.endswith("_step")}
    )
    config.update_from_flattened_dict(changes)
    workdir = epath.Path(tmp_path_factory.getbasetemp() / "never_made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "load_data", load_once)
        try:
            run = train.prepare(config, workdir)
        except ValueError:
            hypothesis.reject()
    optimisers = builders.build_optimisers(config)
    state = jax.eval_shape(
        functools.partial(
            train_state.create,
            model=run.model,
            optimisers=optimisers,
            num_components=config.prior.num_components,
        ),
        jax.random.key(0),
    )
    starts = [0, config.warmup_steps, config.prior.fit_step, config.prior.start_step]
    starts += [config.energy.start_step, config.num_steps - 1]
    terms = builders.terms_at(config, data.draw(strategies.sampled_from(starts)))
    schedules = builders.build_schedules(config)
    update = make_update(run.model, optimisers, schedules, builders.build_settings(config), terms)
    batch = jax.eval_shape(
        lambda: {
            name: jnp.zeros([config.batch_size, *values.shape[1:]], values.dtype)
            for name, values in run.train_source.gather(np.arange(2)).items()
        }
    )
    new, metrics = jax.eval_shape(update, state, batch, jnp.zeros(()), jax.random.key(0))
    forms = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, new)]
    assert forms[0] == forms[1]
    assert all(value.shape == () for value in metrics.values())
