"""Whatever passes validation starts: nothing in it crashes before the first step is compiled."""

import functools
import json
import math
import operator

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from etils import epath
from hypothesis import strategies

from configs import polydigits
from mmebm_jax.data import batches, iterate, load_data
from mmebm_jax.data.options import OPTIONS
from mmebm_jax.method import train_state
from mmebm_jax.method.update import make_update
from mmebm_jax.runs import builders
from mmebm_jax.runs import schema as config_rules
from mmebm_jax.storage.validation import Rule, shown
from mmebm_jax.training import loop as train
from tests.commands import small_config

load_once = functools.cache(lambda **options: load_data(**options))


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


WRONG = {
    bool: [0, 1.0, "True", None],
    int: [True, 2.0, "2", None, [], {}],
    float: [False, "0.5", None, math.nan, math.inf, -math.inf, []],
    str: [0, None, True, "nowhere", "x" * 5000],
}


def wrong(rule):
    """Values that a field may not hold: of another type, and beyond both ends of its range."""
    values = list(WRONG[rule.kind])
    if rule.kind is str and not rule.choices:
        values.remove("nowhere")
    if rule.kind in (int, float):
        step = 1 if rule.kind is int else 1e-3
        values += [rule.low if rule.open_low else rule.low - step]
        values += [rule.high if rule.open_high else rule.high * 2 + step, 10**400]
    return values


def as_tree(config):
    return json.loads(config.to_json_best_effort())


def replaced(tree, name, value):
    """The tree with one field replaced; ... removes it."""
    *path, last = name.split(".")
    section = functools.reduce(operator.getitem, path, tree)
    section[last] = value
    if value is ...:
        del section[last]
    return tree


@pytest.mark.parametrize("name", RULES)
def test_a_field_takes_what_its_rule_allows_and_nothing_else(name):
    tree, rule = as_tree(small_config()), RULES[name]
    config_rules.check_fields(tree)
    for value in wrong(rule):
        with pytest.raises(ValueError, match=rf"^config\.{name} is ") as caught:
            config_rules.check_fields(replaced(as_tree(small_config()), name, value))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    if rule.required:
        with pytest.raises(ValueError, match=rf"^config\.{name} is missing: see configs/"):
            config_rules.check_fields(replaced(tree, name, ...))


SECTIONS = sorted({name.rpartition(".")[0] for name in RULES} - {""})


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_an_unknown_field_of_any_section_is_named(section):
    prefix = f"{section}." if section else ""
    known = next(name for name in RULES if name.rpartition(".")[0] == section).rpartition(".")[2]
    with pytest.raises(
        ValueError, match=rf"^config\.{prefix}{known}s is unknown: did you mean {known}"
    ):
        config_rules.check_fields(replaced(as_tree(small_config()), f"{prefix}{known}s", 1))
    with pytest.raises(ValueError, match=rf"^config\.{prefix}_{{30}} is unknown: known are "):
        config_rules.check_fields(replaced(as_tree(small_config()), prefix + 30 * "_", 1))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_needed_and_holds_fields(section):
    with pytest.raises(ValueError, match=rf"^config\.{section} is missing"):
        config_rules.check_fields(replaced(as_tree(small_config()), section, ...))
    for value in (None, 3, [], "x"):
        with pytest.raises(ValueError, match=rf"^config\.{section} is .*: it must be a section"):
            config_rules.check_fields(replaced(as_tree(small_config()), section, value))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_data_set_refuses_options_that_are_not_its_own(name):
    with pytest.raises(ValueError, match=r"^config\.data\.colour is unknown: known are"):
        load_data(name, colour=1)
    with pytest.raises(ValueError, match=r"^config\.data\.seed is 0\.5: it must be a whole number"):
        load_data(name, seed=0.5, **({"data_dir": "x"} if name == "polymnist" else {}))


@pytest.mark.parametrize(
    ("value", "line"),
    [(10**9999, "a number of 33216 bits"), ("a\nb", r"'a\nb'"), ("\ud800", r"'\ud800'")],
    ids=["huge", "lines", "half"],
)
def test_any_value_can_be_shown_in_a_line(value, line):
    assert shown(value) == line
    assert len(shown("x" * 10**6)) < 100


@strategies.composite
def changes(draw):
    """Some fields with values that their own rules allow."""
    names = draw(strategies.lists(strategies.sampled_from(sorted(RULES)), max_size=12, unique=True))
    return {name: draw(allowed(name, RULES[name])) for name in names}


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
    stream = iterate(batches(run.train_source, config.batch_size, config.seed), prefetch=0)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, next(stream)))
    new, metrics = jax.eval_shape(update, state, batch, jnp.zeros(()), jax.random.key(0))
    forms = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, new)]
    assert forms[0] == forms[1]
    assert all(value.shape == () for value in metrics.values())
