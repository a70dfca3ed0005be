"""The choices of networks in a configuration."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import polydigits
from mmebm_jax.data.source import Field
from mmebm_jax.method import train_state
from mmebm_jax.modalities.kinds import KINDS, NETWORKS
from mmebm_jax.networks.parts import Sizes
from mmebm_jax.runs import builders

FIELDS = {"m0": Field("image", (16, 16, 3)), "word": Field("text", (8, 27))}


def make_config(name):
    config = polydigits.get_config("paper_b")
    config.update(batch_size=8, warmup_steps=0)
    config.energy.start_step = 0
    config.posterior.chain.num_steps = config.energy.chain.num_steps = 2
    config.prior.num_components = 2
    config.model.update(networks=name, width=2, hidden=8)
    config.model.update(energy_width=2, energy_hidden=8, prior_hidden=4)
    return config


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_networks_are_chosen_by_name_and_learn(name):
    config = make_config(name)
    builders.validate(config)
    model = builders.build_model(config, FIELDS)
    kinds = {modality.name: modality.of_kind.networks[name] for modality in model.modalities}
    for role, parts in (
        ("expert", model.inference.experts),
        ("decoder", model.generator.decoders),
        ("trunk", model.energy.trunks),
    ):
        for part, modality in zip(parts, model.modalities, strict=True):
            wanted = getattr(kinds[part.name], role)(modality.shape, Sizes(2, 8))
            assert part.network == wanted
    optimisers = builders.build_optimisers(config)
    state = jax.jit(
        functools.partial(train_state.create, model=model, optimisers=optimisers, num_components=2)
    )(jax.random.key(0))
    plan = builders.build_plan(config, model, builders.terms_at(config, config.num_steps - 1))
    rng = np.random.default_rng(0)
    raw = {
        "m0": rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
        "word": rng.integers(0, 27, (8, 8), np.int32),
    }
    before = jax.tree.map(np.asarray, state.params)
    update = builders.jitted(builders.build_update(config, plan, optimisers))
    new, metrics = update(state, raw, jax.random.key(1))
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    for network in ("inference", "generator", "energy"):
        for part in before[network]:
            pairs = zip(
                jax.tree.leaves(before[network][part]),
                jax.tree.leaves(new.params[network][part]),
                strict=True,
            )
            if not part.startswith("subset"):
                assert any((a != b).any() for a, b in pairs), (network, part)
    # Spectral normalisation reaches every kernel, however deeply nested.
    kernels = jax.tree.leaves(model.normalised(before["energy"])["m0"])
    norms = [
        np.linalg.svd(leaf.reshape(-1, leaf.shape[-1]), compute_uv=False)[0]
        for leaf in kernels
        if leaf.ndim > 1
    ]
    np.testing.assert_allclose(norms, config.model.spectral_gain, rtol=1e-3)


def test_networks_that_a_kind_lacks_are_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match="networks is 'big': choose one of small, resnet, transfo"):
        builders.validate(make_config("big"))
    text = KINDS["text"]
    poor = dataclasses.replace(text, networks={"small": text.networks["small"]})
    monkeypatch.setitem(KINDS, "text", poor)
    builders.build_model(make_config("small"), FIELDS)
    line = (
        r"config\.model\.networks is 'resnet', but kind 'text' of modality word has no such "
        r"networks: choose one of small\."
    )
    with pytest.raises(ValueError, match=line) as caught:
        builders.build_model(make_config("resnet"), FIELDS)
    assert "\n" not in str(caught.value)
