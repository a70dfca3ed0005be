"""Draw samples of a trained run, jointly or given some modalities."""

import io
import zipfile
import zlib

import jax
import numpy as np
from etils import epath

from mmebm_jax import checkpoint, plotting
from mmebm_jax.files import write_whole
from mmebm_jax.sampler import load

DEFAULT_NUM_SAMPLES = 16
NUM_DRAWN = 32


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
      ValueError: the file is not an .npz of this model's modalities; one line that names what.
    """
    sampler = load(workdir)
    observed = None
    if given is not None:
        try:
            observed = sampler.as_batch(read_given(given))
        except ValueError as error:
            raise ValueError(f"--given={given}: {error}") from error
        if len({len(values) for values in observed.values()}) > 1:
            raise ValueError(f"--given={given}: its modalities hold different numbers of examples.")
        observed = {name: values[:num_samples] for name, values in observed.items()}
    samples = sampler.sample(
        jax.random.key(seed), num_samples or DEFAULT_NUM_SAMPLES, observed, num_steps=num_steps
    )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **sampler.as_raw(samples))  # type: ignore[arg-type]
    write_whole(workdir / "samples.npz", buffer.getvalue())
    title = f"given {', '.join(observed)}" if observed else "samples"
    shown = {name: np.asarray(values[:NUM_DRAWN]) for name, values in samples.items()}
    alphabet = checkpoint.read_data_facts(workdir)["alphabet"]
    plotting.save_grid(workdir / "samples.png", {title: shown}, alphabet)
    print(f"wrote {workdir / 'samples.npz'} and {workdir / 'samples.png'}")


def read_given(path: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; nothing in it is executed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no .npz, or holds objects.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"--given={path} does not exist: name an .npz of modalities.")
    try:
        archive = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile) or not archive.files:
            raise ValueError("it holds no named arrays")
        return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"the file cannot be read as an .npz of plain arrays ({error})."
        ) from error
