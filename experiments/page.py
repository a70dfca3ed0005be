"""A picture of test examples and of what a run draws when each modality is given in turn.

    python -m experiments.page --workdir=runs/cub [--picture=docs/results/cub.png]

The blocks, from left to right and top to bottom: test examples; the draws of `sample(given=…)` for
each modality of these examples, with the given one shown unchanged; and unconditional samples.
Sentences appear below their pictures. The test examples are the first of the split, not
hand-picked.
"""

import jax
from absl import flags
from etils import epath

from experiments import command_line
from mmebm_jax import data
from mmebm_jax.data.source import DataSplits
from mmebm_jax.runs import checkpoint
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.places import place

NAME = "page.png"

_PICTURE = flags.DEFINE_string("picture", None, f"File to write; by default {NAME} in the run's.")
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 8, "Examples of each block.", 1, 100)


def draw(
    path: epath.PathLike, splits: DataSplits, sampler: Sampler, key: jax.Array, num_examples: int
) -> None:
    """Write the picture for a model.

    Args:
      path: the PNG file; its folder is created if absent.
      splits: the data, whose complete test examples are shown.
      sampler: the model.
      key: PRNG key for the draws.
      num_examples: number of examples in each block.
    """
    from mmebm_jax.training import plotting

    raw = data.whole(data.complete(splits.test), num_examples)
    names = [modality.name for modality in sampler.modalities]
    test = sampler.as_batch({n: raw[n] for n in names}, check_values=False)
    count = len(test[names[0]])
    blocks = {"test examples": test}
    for index, name in enumerate(names if len(names) > 1 else ()):
        given = {name: test[name]}
        draws = sampler.sample(jax.random.fold_in(key, index), given=given, check_values=False)
        blocks[f"{name} given, the rest drawn"] = {n: draws[n] for n in names}
    samples = sampler.sample(jax.random.fold_in(key, len(test)), count)
    blocks["nothing given"] = {n: samples[n] for n in names}
    # Block by block, because JAX sorts the keys of the dictionary that it fetches.
    fetched = {title: jax.device_get(block) for title, block in blocks.items()}
    plotting.save_grid(path, fetched, sampler.modalities, splits.alphabet)


def main() -> None:
    """Draw the picture for a run."""
    from mmebm_jax import training

    if not command_line.WORKDIR.value:
        command_line.fail("--workdir is missing: name the folder of a run.")
    command_line.check_output(_PICTURE)
    workdir = place(command_line.WORKDIR.value)
    run = training.prepare(checkpoint.read_config(workdir), workdir)
    sampler, _ = training.restore_sampler(run)
    path = place(_PICTURE.value or workdir / NAME)
    draw(path, run.splits, sampler, jax.random.key(run.config.seed), _NUM_EXAMPLES.value)
    print(f"wrote {path}")


if __name__ == "__main__":
    command_line.run(main)
