"""Whatever passes validation starts: it does not crash before the first step is compiled."""

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
from mmebm_jax import training as train
from mmebm_jax.data import DATA_SETS, batches, iterate, load_data
from mmebm_jax.data import section as data_section
from mmebm_jax.method import train_state
from mmebm_jax.runs import builders, schema
from mmebm_jax.storage.validation import choices, leaves, limits, shown
from tests.commands import small_config

load_once = functools.cache(lambda **options: load_data(**options))


FIELDS = dict(leaves(schema.record("polydigits")))


def allowed(name, field):
    """Allowed values of a field, with the ends of its range among the likeliest."""
    if field.annotation is bool:
        return strategies.booleans()
    if choices(field):
        return strategies.sampled_from(choices(field))
    if field.annotation is str:  # free text, such as a path
        return strategies.just(field.default)
    ends = limits(field)
    if field.annotation is int:
        # The data are generated for every Hypothesis example, so keep them few.
        high = 60 if name.startswith("data.num_") and "modalities" not in name else ends.high
        few = min(ends.low + 12, high)
        values = strategies.integers(ends.low, few) | strategies.integers(ends.low, high)
        return values | strategies.sampled_from([ends.low, high])
    closed = [
        x for x, is_open in ((ends.low, ends.open_low), (ends.high, ends.open_high)) if not is_open
    ]
    return strategies.sampled_from([*closed, 0.5]) | strategies.floats(
        ends.low, ends.high, exclude_min=ends.open_low, exclude_max=ends.open_high
    )


WRONG = {
    bool: [0, 1.0, "True", None],
    int: [True, 2.0, "2", None, [], {}],
    float: [False, "0.5", None, math.nan, math.inf, -math.inf, []],
    str: [0, None, True, "nowhere", "x" * 5000],
}


def wrong(field):
    """Values that a field may not hold: of other types, and beyond both ends of its range."""
    values = [*WRONG[field.annotation], {}, {"a": {"b": 1}}, "\0"]
    if field.annotation is str and not choices(field):
        values.remove("nowhere")
    if field.annotation in (int, float):
        ends, step = limits(field), 1 if field.annotation is int else 1e-3
        values += [ends.low if ends.open_low else ends.low - step]
        values += [ends.high if ends.open_high else ends.high * 2 + step, 10**400, 2**400]
    return values


def as_tree(config):
    return json.loads(config.to_json_best_effort())


def replaced(tree, name, value):
    """The tree with one field replaced; `...` removes it."""
    *path, last = name.split(".")
    section = functools.reduce(operator.getitem, path, tree)
    section[last] = value
    if value is ...:
        del section[last]
    return tree


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_takes_what_it_may_hold_and_nothing_else(name):
    tree, field = as_tree(small_config()), FIELDS[name]
    schema.parse(tree)
    for value in wrong(field):
        with pytest.raises(ValueError, match=rf"^config\.{name} is ") as caught:
            schema.parse(replaced(as_tree(small_config()), name, value))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
    if not name.startswith("data.") or name == "data.name":
        with pytest.raises(ValueError, match=rf"^config\.{name} is missing: "):
            schema.parse(replaced(tree, name, ...))


def test_whole_numbers_may_stand_where_any_number_may():
    for name, field in FIELDS.items():
        if name == "elbo.hidden_share":  # may be 0 only with the objective mmvae
            continue
        if field.annotation is float and limits(field).low <= 0 and not limits(field).open_low:
            schema.parse(replaced(as_tree(small_config()), name, 0))


SECTIONS = sorted({name.rpartition(".")[0] for name in FIELDS} - {""})


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_an_unknown_field_of_any_section_is_named(section):
    prefix = f"{section}." if section else ""
    known = next(name for name in FIELDS if name.rpartition(".")[0] == section).rpartition(".")[2]
    with pytest.raises(
        ValueError, match=rf"^config\.{prefix}{known}s is unknown: did you mean {known}"
    ):
        schema.parse(replaced(as_tree(small_config()), f"{prefix}{known}s", 1))
    with pytest.raises(ValueError, match=rf"^config\.{prefix}_{{30}} is unknown: known are "):
        schema.parse(replaced(as_tree(small_config()), prefix + 30 * "_", 1))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_needed_and_holds_fields(section):
    with pytest.raises(ValueError, match=rf"^config\.{section} is missing"):
        schema.parse(replaced(as_tree(small_config()), section, ...))
    for value in (None, 3, [], "x"):
        with pytest.raises(ValueError, match=rf"^config\.{section} is .*: it must be a section"):
            schema.parse(replaced(as_tree(small_config()), section, value))


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_refuses_options_that_are_not_its_own(name):
    with pytest.raises(ValueError, match=r"^config\.data\.zzz is unknown: known are"):
        load_data(name, zzz=1)


@pytest.mark.parametrize(
    "name", [name for name in DATA_SETS if "seed" in data_section(name).model_fields]
)
def test_a_data_set_checks_its_own_options(name):
    with pytest.raises(ValueError, match=r"^config\.data\.seed is 0\.5: it must be a whole number"):
        load_data(name, seed=0.5)


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
    names = draw(strategies.lists(strategies.sampled_from([*FIELDS]), max_size=12, unique=True))
    return {name: draw(allowed(name, FIELDS[name])) for name in names}


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
    plan = builders.build_plan(config, run.model, terms)
    update = builders.build_update(config, plan, optimisers)
    stream = iterate(batches(run.train_source, config.batch_size, config.seed), prefetch=0)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, next(stream)))
    new, metrics = jax.eval_shape(update, state, batch, jax.random.key(0))
    forms = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, new)]
    assert forms[0] == forms[1]
    assert all(value.shape == () for value in metrics.values())
