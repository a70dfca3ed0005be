"""Draw new samples from a run's checkpoint, as pictures and lines of text for a page.

Pictures are PNG at the data's own size, one per row of examples; the page enlarges them.
"""

import base64
import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from mmebm_jax import data
from mmebm_jax.modalities.kind import Kind
from mmebm_jax.runs import builders, checkpoint
from mmebm_jax.runs.sampler import Sampler, load
from mmebm_jax.typing import Alphabet, Latents

NUM_EXAMPLES = 10
NUM_DRAWS = 8  # per source
MOST_DRAWN_ROWS = 6  # of target modalities, for each source modality
NUM_CHAINS = 3
MOST_SHOWN_STEPS = 8
NUM_ENERGIES = 128  # examples whose energies are measured
MOST_TRAJECTORY_BYTES = 2**28
GAP = 1  # transparent pixels between examples
LEAST_SIDE = 8  # of an example; smaller ones are enlarged, or the gap would be as wide
MOST_FILE_BYTES = 2 * 2**20

Examples = Mapping[str, Any]  # name → `[N, *shape]` in model range


class Strip(NamedTuple):
    """A row of examples of one modality, as a picture or as lines of text."""

    label: str
    num_examples: int
    picture: str = ""  # a data URI
    lines: tuple[str, ...] = ()


class Block(NamedTuple):
    """Strips that belong together."""

    title: str
    strips: tuple[Strip, ...]

    @property
    def num_columns(self) -> int:
        """The length of the longest strip."""
        return max(strip.num_examples for strip in self.strips)


class Drawn(NamedTuple):
    """What is drawn from a run's checkpoint; fields are empty if the model has no such thing."""

    data: tuple[Block, ...] = ()  # test data
    joint: tuple[Block, ...] = ()
    conditional: tuple[Block, ...] = ()
    chains: tuple[Block, ...] = ()
    data_energies: Mapping[str, np.ndarray] = {}  # name of a set → E_α(x)
    latent_energies: Mapping[str, np.ndarray] = {}  # name of a set → E_γ(z)
    problem: str = ""  # why there are no test data to show with the samples


def draw(folder: epath.Path, config: ConfigDict, seed: int = 0) -> Drawn:
    """Samples of a run, with their energies.

    Args:
      folder: run folder.
      config: configuration of the run.
      seed: seed for sampling.

    Raises:
      FileNotFoundError: the run has no checkpoint.
      ValueError: no checkpoint can be read.
    """
    sampler = load(folder)
    alphabet = checkpoint.read_data_facts(folder).alphabet
    latent_key, chain_key, given_key, energy_key = jax.random.split(jax.random.key(seed), 4)
    count = _num_examples(sampler)
    real, problem = test_examples(sampler, config, count)
    latents = sampler.prior_latents(latent_key, count)
    generated = sampler.generate(latents)
    stages = {"generator": generated}
    chains: tuple[Block, ...] = ()
    if sampler.settings.data_energy:
        chain = sampler.refine(chain_key, generated, keep_trajectory=True)
        stages["refined"] = generated | chain.position
        chains = _chains(sampler, generated, chain.trajectory, alphabet)
    named = ({"test data": real} if real else {}) | stages
    blocks = {name: _block(name, sampler, batch, alphabet) for name, batch in named.items()}
    return Drawn(
        data=(blocks["test data"],) if real else (),
        joint=tuple(blocks[name] for name in stages),
        conditional=_conditional(given_key, sampler, real or generated, alphabet),
        chains=chains,
        data_energies=_data_energies(sampler, named),
        latent_energies=_latent_energies(energy_key, sampler, latents, real),
        problem=problem,
    )


def strip(label: str, kind: Kind, values: Any, alphabet: Alphabet = "") -> Strip:
    """A row of examples `[N, *shape]` in model range.

    Args:
      label: text next to the row.
      kind: kind of the modality.
      values: the examples.
      alphabet: the character of each token.
    """
    drawn = kind.draw(np.asarray(values), alphabet)
    if isinstance(drawn, list):
        return Strip(label, len(drawn), lines=tuple(drawn))
    return Strip(label, len(drawn), picture=png_uri(side_by_side(drawn)))


def png_uri(pixels: np.ndarray) -> str:
    """A picture `[H, W, 4]` of uint8 RGBA as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return uri(buffer.getvalue())


def side_by_side(pictures: np.ndarray) -> np.ndarray:
    """RGB `[N, H, W, 3]` as RGBA `[H, N · (W + GAP), 4]`, with a gap after each picture."""
    factor = max(1, LEAST_SIDE // max(pictures.shape[1:3]))
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    opaque = np.full([*pictures.shape[:-1], 1], 255, np.uint8)
    cells = np.concatenate([np.asarray(pictures, np.uint8), opaque], axis=-1)
    cells = np.pad(cells, [(0, 0), (0, 0), (0, GAP), (0, 0)])
    return np.concatenate(list(cells), axis=1)


def test_examples(sampler: Sampler, config: ConfigDict, count: int) -> tuple[dict[str, Any], str]:
    """Test examples in model range, one of each class first, and ""; or none and the reason.

    Args:
      sampler: the model.
      config: its section `data` names the data set, which is not prepared if it is missing.
      count: the largest number of examples.
    """
    try:
        raw = _raw_test_examples(json.dumps(config.data.to_dict(), sort_keys=True), count)
        named = {m.name: raw[m.name] for m in sampler.modalities}
        return sampler.as_batch(named, check_values=False), ""
    except (ValueError, OSError, KeyError, ImportError) as error:
        return {}, f"the test data cannot be read here ({error})"


def stored(folder: epath.Path) -> dict[str, str]:
    """File name → data URI of the newest pictures from training, skipping damaged ones."""
    found = {}
    for kind in ("samples", "chains"):
        for path in sorted((folder / "images").glob(f"{kind}_*.png"))[-1:]:
            if path.stat().length <= MOST_FILE_BYTES and _is_png(content := path.read_bytes()):
                found[path.name] = uri(content)
    return found


def num_bytes(blocks: Sequence[Block]) -> int:
    """The approximate number of bytes that blocks add to a page."""
    return sum(len(s.picture) + sum(map(len, s.lines)) for block in blocks for s in block.strips)


def _num_examples(sampler: Sampler) -> int:
    """Number of examples to measure energies on; fewer if trajectories would not fit in memory."""
    if not sampler.settings.data_energy:
        return NUM_ENERGIES
    size = 4 * sum(math.prod(m.shape) for m in sampler.modalities)
    most = MOST_TRAJECTORY_BYTES // (size * max(1, sampler.settings.chains.data.num_steps))
    return max(NUM_EXAMPLES, min(NUM_ENERGIES, most))


@functools.lru_cache(maxsize=4)
def _raw_test_examples(data_section: str, count: int) -> dict[str, np.ndarray]:
    """Test examples of a data set, starting with one of each class."""
    config = ConfigDict({"data": json.loads(data_section)})
    test = builders.build_data(config, prepare=False).test
    raw = data.whole(data.complete(test), count)
    if "label" not in raw:
        return raw
    _, first = np.unique(raw["label"], return_index=True)
    rest = np.setdiff1d(np.arange(len(raw["label"])), first)
    order = np.concatenate([np.sort(first), rest])
    return {name: values[order] for name, values in raw.items()}


TITLES = {
    "test data": "Test data",
    "generator": "Generator, latents from the prior",
    "refined": "The same, refined under the data energy",
}


def _block(name: str, sampler: Sampler, examples: Examples, alphabet: Alphabet) -> Block:
    strips = [
        strip(m.name, m.of_kind, examples[m.name][:NUM_EXAMPLES], alphabet)
        for m in sampler.modalities
    ]
    return Block(TITLES[name], tuple(strips))


def _conditional(
    key: jax.Array, sampler: Sampler, sources: Examples, alphabet: Alphabet
) -> tuple[Block, ...]:
    """For each source modality: given examples, each above several draws of the others."""
    modalities = sampler.modalities
    if len(modalities) < 2:
        return ()
    num_sources = max(1, MOST_DRAWN_ROWS // (len(modalities) - 1))
    blocks = []
    for index, source in enumerate(modalities):
        given = {source.name: sources[source.name][:num_sources]}
        draws = sampler.sample(jax.random.fold_in(key, index), NUM_DRAWS, given, check_values=False)
        for example, one in enumerate(np.asarray(given[source.name])):
            first = strip(f"{source.name}, given", source.of_kind, one[None], alphabet)
            others = [
                strip(m.name, m.of_kind, draws[m.name][example], alphabet)
                for m in modalities
                if m is not source
            ]
            blocks.append(Block(f"Given {source.name}", (first, *others)))
    return tuple(blocks)


def _chains(
    sampler: Sampler, start: Examples, trajectory: Examples, alphabet: Alphabet
) -> tuple[Block, ...]:
    """Chains under the data energy, with steps as columns."""
    total = sampler.settings.chains.data.num_steps
    # A chain that starts from noise does not begin at the generator's samples.
    first = 1 if sampler.settings.chains.data_start == "noise" else 0
    if total < first + 1:
        return ()
    shown = np.unique(np.linspace(first, total, min(MOST_SHOWN_STEPS, total + 1)).astype(int))
    heads = Strip("step", len(shown), lines=tuple(map(str, shown)))
    blocks = []
    for index in range(NUM_CHAINS):
        strips = [heads]
        for m in sampler.modalities:
            if m.name not in trajectory:
                continue
            steps = np.asarray(trajectory[m.name][:, index])
            whole = np.concatenate([np.asarray(start[m.name][index])[None], steps])
            strips.append(strip(m.name, m.of_kind, whole[shown], alphabet))
        blocks.append(Block(f"Chain {index + 1}", tuple(strips)))
    return tuple(blocks)


def _data_energies(sampler: Sampler, examples: Mapping[str, Examples]) -> dict[str, np.ndarray]:
    if not sampler.settings.data_energy:
        return {}
    return {
        name: np.asarray(sampler.energy(batch, check_values=False))
        for name, batch in examples.items()
    }


def _latent_energies(
    key: jax.Array, sampler: Sampler, latents: Latents, real: Examples
) -> dict[str, np.ndarray]:
    """E_γ on draws from the base prior and the learned prior, and on latents of test data."""
    if not sampler.settings.prior_energy:
        return {}
    base_key, infer_key = jax.random.split(key)
    named = {
        "base prior": sampler.prior_latents(base_key, len(latents.shared), use_energy=False),
        "learned prior": latents,
    }
    if real:
        named["latents of test data"] = sampler.infer(infer_key, real, method="sample")
    params = sampler.weights.params["prior"]
    return {
        name: np.asarray(sampler.model.latent_energy(params, *values))
        for name, values in named.items()
    }


def uri(content: bytes) -> str:
    """Encode a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _is_png(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Pillow raises many kinds of exceptions for damaged files.
        return False
    return True
