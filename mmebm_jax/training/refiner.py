"""Training of Diff-CMVAE's refiner for a trained run, and the file that stores it."""

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from etils import epath
from flax import traverse_util
from tqdm import tqdm

from mmebm_jax import data
from mmebm_jax.diffusion import refiner
from mmebm_jax.diffusion.refiner import Refiner
from mmebm_jax.networks.unet import UNet
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.storage.files import write_whole
from mmebm_jax.storage.npz import read_npz
from mmebm_jax.storage.places import place
from mmebm_jax.training.run import Run

FOLDER, FILE = "refiner", "refiner.npz"
_HEADER = "header"


class RefinerSettings(NamedTuple):
    """How a refiner is trained; on a GPU use width 128 and multipliers 1, 2, 2, 2, 4."""

    num_steps: int = 3000  # for each modality
    batch_size: int = 64
    learning_rate: float = 2e-4
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    num_blocks: int = 1
    attention_side: int = 0
    dropout: float = 0.1
    gradient_clip: float = 1.0
    decay: float = 0.9999  # of the moving average of the parameters

    def network(self) -> UNet:
        """The U-Net of each modality."""
        return UNet(
            width=self.width,
            multipliers=tuple(self.multipliers),
            num_blocks=self.num_blocks,
            attention_side=self.attention_side,
            dropout=self.dropout,
        )


def train_refiner(key: jax.Array, run: Run, sampler: Sampler, settings: RefinerSettings) -> Refiner:
    """Train U-Nets for all picture modalities on the sampler's reconstructions of training data.

    Each batch is reconstructed from one modality, chosen at random, so a condition is a
    self-reconstruction with probability 1 in M, and a cross-reconstruction otherwise.

    Args:
      key: PRNG key.
      run: the run with its training data; examples that lack a modality are left out.
      sampler: the trained VAE; its data energy is not used.
      settings: settings of the training.

    Raises:
      ValueError: no picture modality, or too few complete examples for a batch.
    """
    pictures = {m.name: m.shape for m in sampler.modalities if m.kind == "image"}
    if not pictures:
        raise ValueError("the refiner draws pictures, but no modality of this run is one.")
    source = data.complete(run.splits.train)
    if len(source) < settings.batch_size:
        raise ValueError(
            f"{len(source)} complete training examples are fewer than a batch of "
            f"{settings.batch_size}: lower it."
        )
    network = settings.network()
    optimiser = optax.chain(
        optax.clip_by_global_norm(settings.gradient_clip), optax.adam(settings.learning_rate)
    )
    init_key, pair_key, update_key = jax.random.split(key, 3)
    states = {
        name: refiner.init(one, network, optimiser, shape)
        for one, (name, shape) in zip(
            jax.random.split(init_key, len(pictures)), pictures.items(), strict=True
        )
    }
    batches = data.batches(source, settings.batch_size, run.config.seed)
    pairs = itertools.islice(
        _pairs(pair_key, batches, sampler, run.config.seed), settings.num_steps
    )
    for number, (batch, made) in enumerate(tqdm(pairs, total=settings.num_steps, unit="step")):
        for index, name in enumerate(pictures):
            step_key = jax.random.fold_in(jax.random.fold_in(update_key, number), index)
            states[name], value = refiner.update(
                *(step_key, states[name], batch[name], made[name]),
                network=network,
                optimiser=optimiser,
                decay=settings.decay,
            )
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the refiner's loss is {float(value)} at step {number}: lower the learning rate."
            )
    return Refiner(network, {name: state.average for name, state in states.items()})


def _pairs(
    key: jax.Array, batches: Any, sampler: Sampler, seed: int
) -> Iterator[tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """Endless pairs of a batch and the sampler's reconstruction of it from one modality."""
    names = [m.name for m in sampler.modalities]
    chosen = np.random.default_rng(seed)
    for number, raw in enumerate(data.iterate(batches, 0)):
        batch = sampler.as_batch({n: raw[n] for n in names}, check_values=False)
        given = names[chosen.integers(len(names))]
        latents = sampler.infer(
            jax.random.fold_in(key, number), {given: batch[given]}, method="sample"
        )
        yield batch, sampler.generate(latents)


def save_refiner(workdir: epath.PathLike, trained: Refiner, settings: RefinerSettings) -> None:
    """Write `refiner/refiner.npz` in a run folder, atomically."""
    flat = traverse_util.flatten_dict({"params": trained.params}, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in flat.items()}
    arrays[_HEADER] = np.asarray(json.dumps(settings._asdict()))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    folder = place(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, buffer.getvalue())


def load_refiner(workdir: epath.PathLike) -> tuple[Refiner, RefinerSettings]:
    """Load what `save_refiner` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged.
    """
    path = place(workdir) / FOLDER / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: train a refiner by python -m experiments.refiner."
        )
    try:
        arrays = read_npz(path)
        settings = RefinerSettings(**json.loads(str(arrays.pop(_HEADER))))
        params = traverse_util.unflatten_dict(arrays, sep="/")["params"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to train again.") from error
    return Refiner(settings.network(), params), settings
