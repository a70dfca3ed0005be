"""The worked examples of docs/extending.md, applied to a copy of the library and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(python title=\"([^\"]+)\"|diff)\n(.*?)```", re.DOTALL)
SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, PIL.Image
from configs import moons
from experiments import measures
from mmebm_jax.data.source import Field
from mmebm_jax.method import train_state
from mmebm_jax.modalities.modality import Modality, from_raw, log_likelihood, to_raw
from mmebm_jax.runs import builders
from mmebm_jax.training import plotting

def updated(config, fields, raw, step):
    builders.validate(config)
    model = builders.build_model(config, fields)
    optimisers = builders.build_optimisers(config)
    state = train_state.create(jax.random.key(0), model, optimisers, config.prior.num_components)
    plan = builders.build_plan(config, model, builders.terms_at(config, step))
    update = builders.jitted(builders.build_update(config, plan, optimisers))
    _, metrics = update(state, raw, jax.random.key(1))
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    return model, metrics

# A data set, and its config.
config = moons.get_config("smoke")
splits = builders.build_data(config)
assert len(splits.train) == 300
raw = splits.train.gather(np.arange(8))
updated(config, splits.fields, raw, config.num_steps - 1)

# An aggregator with a hyperparameter: variances fall by its sharpness.
from mmebm_jax.distributions.aggregators import Aggregation, Experts, aggregate
experts = Experts(jnp.zeros([2, 1, 1]), jnp.ones([2, 1, 1]), jnp.ones([2, 1], bool))
sharp = aggregate(experts, Aggregation("sharp_product", sharpness=4.0))
np.testing.assert_allclose(sharp.scale, np.sqrt(1 / 8), rtol=1e-6)
config.model.update(aggregator="sharp_product", sharpness=4.0)
# A bound with a constant: beyond the rate it is the joint bound with the sign turned.
config.elbo.update(objective="capacity", capacity=0.0)
_, at_zero = updated(config, splits.fields, raw, 0)
config.elbo.objective = "joint"
_, joint = updated(config, splits.fields, raw, 0)
np.testing.assert_allclose(at_zero["loss/elbo"], joint["loss/elbo"], rtol=1e-6)

# A kind of modality, with a likelihood of its own.
config = moons.get_config("smoke")
config.likelihood.signal.update(name="cauchy", scale=0.1)
rng = np.random.default_rng(0)
signals = rng.integers(-1000, 1000, (8, 12)).astype(np.int16)
fields = {"signal": Field("signal", (12,)), "point": Field("vector", (2,))}
raw = {"signal": signals, "point": rng.random((8, 2), np.float32)}
model, _ = updated(config, fields, raw, config.num_steps - 1)
signal = model.modalities[0]
np.testing.assert_array_equal(to_raw(signal, from_raw(signal, signals)), signals)
# Its file alone decides how it is drawn: a picture higher than the strip of a vector's cells.
heights = []
for modality in (signal, Modality("signal", "vector", (12,), "gaussian")):
    plotting.save_grid("grid.png", {"data": {"signal": from_raw(signal, signals)}}, [modality])
    heights.append(PIL.Image.open("grid.png").height)
assert heights[0] > heights[1]
at_mean = log_likelihood(signal, jnp.zeros([1, 12]), jnp.zeros([1, 12]))
np.testing.assert_allclose(at_mean, -12 * np.log(np.pi * 0.1), rtol=1e-5)

# A metric.
from mmebm_jax.metrics.agreement import pairwise_agreement
found = pairwise_agreement({"a": np.array([1, 2]), "b": np.array([1, 3])})
assert found == {"a+b": 0.5}
from experiments.measures import coherence as of_coherence
assert of_coherence.pairs in measures.MEASURES
print("every example ran")
"""


def touched(section):
    """Files created or changed by a section's blocks, except configs."""
    blocks = [match.groups() for match in BLOCK.finditer(section)]
    names = {new or re.search(r"^\+\+\+ b/(\S+)", body, re.MULTILINE)[1] for _, new, body in blocks}
    return {name for name in names if not name.startswith("configs/")}


def test_no_example_touches_more_files_than_promised():
    sections = (ROOT / "docs" / "extending.md").read_text().split("\n## ")
    rows = re.findall(r"^\| (an? [^|]+) \| (\d)", sections[0], re.MULTILINE)
    by_title = {section.partition("\n")[0].lower(): section for section in sections[1:]}
    assert len(rows) == 6
    for name, promised in rows:
        assert len(touched(by_title[name])) == int(promised), name


@pytest.mark.slow
def test_the_examples_run(tmp_path):
    for folder in ("mmebm_jax", "configs", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    text = (ROOT / "docs" / "extending.md").read_text()
    for _, new, body in (match.groups() for match in BLOCK.finditer(text)):
        if new:
            assert not (tmp_path / new).exists(), new
            (tmp_path / new).write_text(body)
        else:
            done = subprocess.run(
                ["git", "apply", "--recount", "-"],
                cwd=tmp_path,
                input=body,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr + body
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # each program runs only once
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("every example ran\n")
