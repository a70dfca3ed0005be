"""Settings and tiny models shared by several test files."""

import os
import tempfile

import hypothesis
import jax
import pytest
from absl import flags

from mmebm_jax.distributions.aggregators import Aggregation
from mmebm_jax.method.model import Model
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.networks.joint import Generator, Inference, JointEnergy, LatentEnergy
from mmebm_jax.networks.parts import Part, Sizes

jax.config.update("jax_enable_x64", False)
# Implicit rank promotion is an error, in child processes too.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
jax.config.update("jax_numpy_rank_promotion", "raise")
# A shared compilation cache, also inherited by xdist workers and child processes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="mmebm_tests_")  # kept for the session
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
# Cache even short compilations: nearly all take less than JAX's threshold of one second.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# JAX writes there without locks; a program that another process is still writing is recompiled.
os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache"
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_addoption(parser):
    """Number of rounds for randomised tests, and what the app's picture shows."""
    parser.addoption("--rounds", type=int, default=None, help="Draws of each such test.")
    parser.addoption("--screenshot", default=None, help="File for the app's picture.")
    parser.addoption("--app_model", default=None, help="Run or export that the app shows.")


def pytest_configure(config):
    """Make the draws of Hypothesis deterministic and their number configurable."""
    hypothesis.settings.register_profile(
        "rounds",
        max_examples=config.getoption("rounds") or 40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("rounds")


def pytest_collection_modifyitems(items):
    """Run the longest files first, so that no worker is left alone with one at the end."""
    longest = ["test_loop.py", "test_update.py", "test_processes.py", "test_chaos.py"]
    rank = {name: place for place, name in enumerate(longest)}
    items.sort(key=lambda item: rank.get(item.path.name, len(longest)))


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Clear compiled programs, since each uses several of the memory maps Linux allows a process.

    A worker that keeps the programs of all its files exceeds the usual limit of 65,530, and XLA
    aborts the process.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def parsed_flags():
    """For tests that read flags outside a command."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])


@pytest.fixture(scope="module")
def quick_compilation():
    """For tiny programs, which take longer to optimise than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_model(num_latents=3, num_private=0):
    """A picture and a text: the smallest model with both kinds."""
    modalities = (
        Modality("picture", "image", (8, 8, 1), "gaussian", 0.5),
        Modality("text", "text", (3, 4), "categorical"),
    )

    def parts(role):
        networks = {m.name: m.of_kind.networks["small"] for m in modalities}
        return tuple(
            Part(m.name, getattr(networks[m.name], role)(m.shape, Sizes(2, 8))) for m in modalities
        )

    return Model(
        modalities=modalities,
        num_latents=num_latents,
        num_private=num_private,
        posterior_family="gaussian",
        prior_family="gaussian",
        aggregation=Aggregation("mixture"),
        inference=Inference(parts("expert"), num_latents, num_private),
        generator=Generator(parts("decoder")),
        prior=LatentEnergy(8, 10.0),
        energy=JointEnergy(parts("trunk"), 8),
        spectral_gain=1.5,
    )


@pytest.fixture(scope="session")
def tiny_model():
    """Three shared latents, no private ones."""
    return make_model()


@pytest.fixture(scope="session")
def private_model():
    """Three shared latents, and two private latents per modality."""
    return make_model(num_private=2)
