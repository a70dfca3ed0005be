"""Draw samples of a trained run, jointly or given some modalities."""

import io
import math

import jax
import numpy as np
from etils import epath

from mmebm_jax.runs import checkpoint
from mmebm_jax.runs.sampler import Sampler, load
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.npz import MOST_BYTES, read_npz
from mmebm_jax.training import plotting

DEFAULT_NUM_SAMPLES = 16
NUM_DRAWN = 32
MOST_EXAMPLES = 2**16


def sample(
    workdir: epath.Path,
    *,
    num_samples: int | None = None,
    given: str | None = None,
    num_steps: int | None = None,
    seed: int = 0,
) -> None:
    """Write `samples.npz` (uint8 images, int32 tokens) and `samples.png` into the run's folder.

    Args:
      workdir: of a trained run.
      num_samples: how many, 16 by default; with `given`, of its first examples, all by default.
      given: `.npz` file with any subset of the modalities.
      num_steps: of data-space refinement; 0 is the generator alone, None as trained.
      seed: of the draws.

    Raises:
      FileNotFoundError: no run, no checkpoint or no such file.
      ValueError: the file is not an .npz of this model's modalities, or more is asked for than
        `most_examples`; one line that names what.
    """
    sampler = load(workdir)
    if num_samples is not None and num_samples > (most := most_examples(sampler)):
        raise ValueError(f"--num_samples={num_samples}: draw at most {most} at a time.")
    observed = None
    if given is not None:
        observed = {n: v[:num_samples] for n, v in read_given(given, sampler).items()}
    samples = sampler.sample(
        jax.random.key(seed), num_samples or DEFAULT_NUM_SAMPLES, observed, num_steps=num_steps
    )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **sampler.as_raw(samples))  # type: ignore[arg-type]
    write_whole(workdir / "samples.npz", buffer.getvalue())
    title = f"given {', '.join(observed)}" if observed else "samples"
    shown = {name: np.asarray(values[:NUM_DRAWN]) for name, values in samples.items()}
    alphabet = checkpoint.read_data_facts(workdir).alphabet
    plotting.save_grid(workdir / "samples.png", {title: shown}, alphabet)
    print(f"wrote {workdir / 'samples.npz'} and {workdir / 'samples.png'}")


def read_given(path: str, sampler: Sampler) -> dict[str, jax.Array]:
    """The modalities in an `.npz` file, name → `[N, *shape]` in model range.

    Names, types, shapes and sizes are checked before any values are read, and nothing in the file
    is executed. Memory is bounded by `npz.MOST_BYTES` and `most_examples`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no `.npz` of this model's modalities, or holds too much; one line.
    """
    most = most_examples(sampler)

    def accept(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        sampler.check_form(name, shape, dtype)
        if shape[0] > most:
            raise ValueError(
                f"modality {name!r} holds {shape[0]} examples: give at most {most} at a time."
            )

    try:
        given = sampler.as_batch(read_npz(epath.Path(path), accept))
        if len({len(values) for values in given.values()}) > 1:
            raise ValueError("its modalities hold different numbers of examples.")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"--given={path} does not exist: name an .npz of modalities."
        ) from error
    except ValueError as error:
        raise ValueError(f"--given={path}: {error}") from error
    return given


def most_examples(sampler: Sampler) -> int:
    """How many examples one call may hold: with every modality as float32 they fit the limit."""
    size = 4 * sum(math.prod(m.shape) for m in sampler.modalities)
    return max(1, min(MOST_EXAMPLES, MOST_BYTES // size))
