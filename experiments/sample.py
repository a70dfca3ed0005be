"""Draw samples from a trained run, jointly or conditioned on some modalities."""

import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath

from mmebm_jax.runs import arguments, checkpoint
from mmebm_jax.runs.sampler import Sampler, load
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.npz import MOST_BYTES, read_npz
from mmebm_jax.storage.places import place

DEFAULT_NUM_SAMPLES = 16
NUM_DRAWN = 32
# Limits of the picture when several draws are made for each given example.
NUM_DRAWN_SOURCES = 8
NUM_DRAWN_EACH = 16
MOST_EXAMPLES = 2**16
LOGGER = logging.getLogger("mmebm_jax")


def sample(
    workdir: epath.Path,
    *,
    num_samples: int | None = None,
    given: str | None = None,
    num_steps: int | None = None,
    seed: int = 0,
) -> None:
    """Write `samples.npz` (uint8 images, int32 tokens) and `samples.png` into the run folder.

    Without Matplotlib no picture is written, and a log line says so.
    The arrays are `[num_samples, *shape]`. With `given` they are `[N, *shape]`, one draw for each
    of its N examples, or `[N, num_samples, *shape]` when `num_samples` is given.

    Args:
      workdir: folder of a trained run.
      num_samples: number of samples, 16 by default; with `given`, the number for each example.
      given: `.npz` file with any subset of the modalities.
      num_steps: data-space refinement steps; 0 for the generator alone, None for the configured
        number.
      seed: seed for sampling.

    Raises:
      FileNotFoundError: the run, its checkpoint or the given file does not exist.
      ValueError: the file is not an .npz of this model's modalities, or more samples are requested
        than `most_examples`; the one-line message names the problem.
    """
    sampler = load(workdir)
    observed = None if given is None else read_given(given, sampler)
    count = num_samples or (DEFAULT_NUM_SAMPLES if observed is None else 1)
    sources = 1 if observed is None else len(next(iter(observed.values())))
    if count * sources > (most := most_examples(sampler)):
        each = f" for each of {sources} given examples" if observed else ""
        raise ValueError(f"--num_samples={count}{each}: draw at most {most} in all at a time.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        samples = sampler.sample(
            jax.random.key(seed),
            num_samples if observed else count,
            observed,
            num_steps=num_steps,
            check_values=False,  # Already checked by `read_given`.
        )
    for warning in caught:
        LOGGER.warning("warning: %s", warning.message)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **sampler.as_raw(samples))  # type: ignore[arg-type]
    write_whole(workdir / "samples.npz", buffer.getvalue())
    if importlib.util.find_spec("matplotlib") is None:
        LOGGER.warning("samples.png needs matplotlib: pip install 'mmebm_jax[train]'.")
        print(f"wrote {workdir / 'samples.npz'}")
        return
    from mmebm_jax.training import plotting

    title = f"given {', '.join(observed)}" if observed else "samples"
    blocks = picture_blocks(
        samples, title, several=observed is not None and num_samples is not None
    )
    alphabet = checkpoint.read_data_facts(workdir).alphabet
    plotting.save_grid(workdir / "samples.png", blocks, sampler.modalities, alphabet)
    print(f"wrote {workdir / 'samples.npz'} and {workdir / 'samples.png'}")


def picture_blocks(
    samples: Mapping[str, jax.Array], title: str, *, several: bool
) -> dict[str, dict[str, np.ndarray]]:
    """What to plot, by title: a row of examples, or a block of draws for each given example.

    Args:
      samples: name → `[N, *shape]`, or `[N, num_samples, *shape]` if `several`.
      title: title of all blocks.
      several: whether there are several draws for each example.
    """
    if not several:
        return {title: {name: np.asarray(values[:NUM_DRAWN]) for name, values in samples.items()}}
    sources = min(NUM_DRAWN_SOURCES, len(next(iter(samples.values()))))
    return {
        f"{title}, example {index}": {
            name: np.asarray(values[index, :NUM_DRAWN_EACH]) for name, values in samples.items()
        }
        for index in range(sources)
    }


def read_given(path: str, sampler: Sampler) -> dict[str, jax.Array]:
    """Read the modalities in an `.npz` file, name → `[N, *shape]` in model range.

    Names, types, shapes and sizes are checked before any values are read, and nothing in the file
    is executed. Memory is bounded by `npz.MOST_BYTES` and `most_examples`.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not an `.npz` of this model's modalities, or holds too much; one line.
    """
    most = most_examples(sampler)

    def accept(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        sampler.check_form(name, shape, dtype)
        if shape[0] > most:
            raise ValueError(
                f"modality {name!r} holds {shape[0]} examples: give at most {most} at a time."
            )

    try:
        given = sampler.as_batch(read_npz(place(path), accept))
        arguments.check_equal_counts(given)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"--given={path} does not exist: name an .npz of modalities."
        ) from error
    except ValueError as error:
        raise ValueError(f"--given={path}: {error}") from error
    return given


def most_examples(sampler: Sampler) -> int:
    """The number of examples whose modalities, all stored as float32, fit the memory limit."""
    size = 4 * sum(math.prod(m.shape) for m in sampler.modalities)
    return max(1, min(MOST_EXAMPLES, MOST_BYTES // size))
