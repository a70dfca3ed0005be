"""What the app shows: a model, and examples to start from."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from experiments.report import pictures
from mmebm_jax.runs import checkpoint, exports, folders, hub
from mmebm_jax.runs.sampler import Sampler, load
from mmebm_jax.typing import Alphabet

NUM_EXAMPLES = 12
MOST_DRAWS = 8
MOST_STEPS = 400  # of a chain that is shown
TIMES_TRAINED = 4  # how many times longer than in training a chain may be
FEWEST_STEPS = 20  # every chain may be at least this long


class Subject(NamedTuple):
    """A model with examples of every modality."""

    name: str
    sampler: Sampler
    alphabet: Alphabet
    examples: Mapping[str, Any]  # name → `[N, *shape]` in model range
    note: str  # where the examples come from, if not the test data


def open_subject(path: str) -> Subject:
    """Open a run, an export or an address on the Hugging Face Hub, with examples.

    The examples are the run's test data or, if these cannot be read, samples from the model. Paths
    stored in an export are never followed: its data set is opened only if it needs none.

    Raises:
      FileNotFoundError, ValueError, ConnectionError: see `mmebm_jax.load`.
    """
    folder = hub.folder_of(path)
    sampler = load(folder)
    read = exports.read_data_section if folders.is_export(folder) else checkpoint.read_config
    examples, problem = pictures.test_examples(sampler, read(folder), NUM_EXAMPLES)
    if not problem and not len(next(iter(examples.values()))):
        problem = "no test example has every modality"
    if problem:
        examples = sampler.sample(jax.random.key(0), NUM_EXAMPLES)
        problem = f"Samples of the model stand for test examples: {problem}."
    alphabet = checkpoint.read_data_facts(folder).alphabet
    name = path if path.startswith(hub.PREFIX) else folder.absolute().name
    return Subject(name, sampler, alphabet, examples, problem)


def most_steps(sampler: Sampler, trained: int) -> int:
    """The longest chain that is shown: the trajectories of all draws must fit in memory."""
    size = 4 * sum(math.prod(m.shape) for m in sampler.modalities)
    fitting = pictures.MOST_TRAJECTORY_BYTES // (size * MOST_DRAWS)
    wanted = max(FEWEST_STEPS, TIMES_TRAINED * trained)
    return max(1, min(wanted, max(MOST_STEPS, trained), fitting))
