import pytest

from configs import digits_text, polydigits, polymnist
from experiments.compare import read_config
from mmebm_jax import builders
from mmebm_jax.update import Terms

CASES = [
    (module, variant)
    for module in (polydigits, digits_text, polymnist)
    for variant in polydigits.VARIANTS
]


@pytest.mark.parametrize(("module", "variant"), CASES)
def test_every_variant_is_valid_and_begins_and_ends_as_it_says(module, variant):
    config = module.get_config(variant)
    builders.validate(config)
    last = builders.terms_at(config, config.num_steps - 1)
    assert last.learn_prior == (variant in ("full", "ebm_prior", "smoke"))
    assert last.learn_energy == (variant in ("full", "paper_b", "smoke"))
    assert (last.posterior_generator > 0) == (variant in ("full", "paper_b", "smoke"))
    if config.warmup_steps:
        assert builders.terms_at(config, 0) == Terms(elbo=1.0)


def test_a_config_is_read_by_path_and_variant(tmp_path):
    path = polydigits.__file__
    assert read_config(f"{path}:elbo") == polydigits.get_config("elbo")
    assert read_config(path) == polydigits.get_config()
    with pytest.raises(FileNotFoundError, match=r"absent\.py"):
        read_config(str(tmp_path / "absent.py"))
    with pytest.raises(ValueError, match="choose one of full, elbo"):
        read_config(f"{path}:unknown")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("averaging", 1.0),
        ("posterior.chain.step_size", -0.1),
        ("model.prior_bound", 0.0),
        ("optimiser.energy.learning_rate", 0.0),
        ("seed", -1),
        ("prior.num_fit_examples", 10),
    ],
)
def test_impossible_values_are_named(field, value):
    config = polydigits.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=rf"config\.{field} is {value}"):
        builders.validate(config)


def test_a_missing_field_is_named():
    config = polydigits.get_config()
    del config.prior.penalty
    with pytest.raises(ValueError, match=r"config\.prior\.penalty is missing"):
        builders.validate(config)
