"""Rows prepared once as a TFDS data set of ArrayRecord files, without TensorFlow.

Each choice of options and each content of the annotation files has a separate folder, so that a
change of either makes a new prepared set and never mixes two.
"""

import base64
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from mmebm_jax.data import encoding as encodings
from mmebm_jax.data.encoding import Counts, Encoding, Form
from mmebm_jax.data.rows import LABEL, Damage, Tables
from mmebm_jax.data.source import ArraySource, DataSplits, Field, RecordSource, Source
from mmebm_jax.data.stored import Stored, assembled, shuffled
from mmebm_jax.storage.places import place as path_of
from mmebm_jax.storage.validation import brief

VERSION = "1.0.0"  # of the format of prepared sets
LOGGER = logging.getLogger("mmebm_jax")
_CHUNK = 4096
_TFDS_NAME = "folder"
_SHOWN = 20  # lines shown about what was left out; the rest is only counted


class Place(NamedTuple):
    """The location of a prepared set: `data_dir`/folder/NAME/VERSION."""

    data_dir: str
    name: str

    @property
    def path(self) -> epath.Path:
        """Its folder."""
        return path_of(self.data_dir).expanduser() / _TFDS_NAME / self.name / VERSION

    def exists(self) -> bool:
        """Whether it has been prepared; it appears complete or not at all."""
        return (self.path / "dataset_info.json").exists()


def find(data_dir: str, beginning: str) -> Place | None:
    """The newest prepared set whose name starts with `beginning`; None if there is none."""
    folder = path_of(data_dir).expanduser() / _TFDS_NAME
    if not folder.exists():
        return None
    places = [Place(data_dir, p.name) for p in folder.iterdir() if p.name.startswith(beginning)]
    there = [place for place in places if place.exists()]
    return max(there, key=lambda place: place.path.stat().mtime, default=None)


def prepare(place: Place, tables: Tables, form: Form, damage: Damage) -> None:
    """Write rows as a prepared set, with a progress bar; an incomplete set is never left behind.

    Raises:
      ValueError: see `encoding.learn` and `Damage`; or no example of a split can be read.
    """
    tables = shuffled(tables)
    content = _Content(tables, encodings.learn(tables, form), damage, {})
    config = FolderConfig(name=place.name, content=content)
    data_dir = str(path_of(place.data_dir).expanduser())
    builder = Folder(data_dir=data_dir, config=config, file_format="array_record")
    tfds.display_progress_bar(False)  # TFDS's bars do not know the number of examples.
    try:
        builder.download_and_prepare()
    finally:
        tfds.display_progress_bar(True)
    _tell(json.loads((place.path / "metadata.json").read_text())["facts"], form)


def open_prepared(place: Place, *, into_memory: bool) -> DataSplits:
    """Open a prepared set as a data set.

    Args:
      place: as given to `prepare`.
      into_memory: whether all examples are read now.

    Raises:
      ValueError: its files are damaged; the message says how to fix it.
    """
    try:
        facts = json.loads((place.path / "metadata.json").read_text())["facts"]
        encoding = _encoding_of(facts["encoding"])
        builder = tfds.builder_from_directory(str(place.path))
        splits = {}
        for name, packed in facts["observed"].items():
            records = RecordSource(builder.as_data_source(name))
            observed = _unpacked(packed, len(records), len(encoding.fields))
            source = _in_memory(records) if into_memory else records
            splits[name] = Stored(source, observed)
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = brief(str(error) or type(error).__name__)
        raise ValueError(
            f"the prepared data set {place.path} cannot be read ({reason}): delete that folder, "
            "and it is made anew."
        ) from error
    version = f"{VERSION}+{place.name.rpartition('_')[2]}"
    return assembled(encoding, splits, version)


class _Content(NamedTuple):
    """The content that a builder writes."""

    tables: Tables
    encoding: Encoding
    damage: Damage
    facts: dict[str, Any]  # filled while the content is written


@dataclasses.dataclass(kw_only=True)
class FolderConfig(tfds.core.BuilderConfig):
    """The name of a prepared set, and the content to write."""

    content: Any = None


class Folder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder that writes rows; `tfds.builder_from_directory` reads them again."""

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # see the builder of PolyMNIST
    BUILDER_CONFIGS: ClassVar[list[FolderConfig]] = []

    def _info(self) -> tfds.core.DatasetInfo:
        """See the base class."""
        content = self.builder_config.content
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(_features(content.encoding)),
            disable_shuffling=True,  # `shuffled` has done so.
            metadata=tfds.core.MetadataDict(facts=content.facts),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        """See the base class."""
        content = self.builder_config.content
        content.facts.update(encoding=content.encoding._asdict(), observed={}, counts={})
        return {name: self._generate_examples(name) for name in Tables._fields}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """See the base class."""
        tables, encoding, damage, facts = self.builder_config.content
        rows = getattr(tables, split)
        counts, seen = list[Counts](), list[np.ndarray]()
        bar = tqdm(rows, desc=f"preparing {split}", unit="example", dynamic_ncols=True)
        for arrays, observed in encodings.encoded(bar, encoding, damage, counts):
            yield len(seen), arrays
            seen.append(observed)
        if not seen:
            raise ValueError(f"no example of the {split} split can be read.")
        facts["observed"][split] = _packed(np.stack(seen))
        facts["counts"][split] = {
            "examples": len(seen),
            "cut": sum(count.cut for count in counts),
            "enlarged": sum(count.enlarged for count in counts),
        }
        facts["left_out"] = damage.lines


def _features(encoding: Encoding) -> dict[str, Any]:
    """TFDS features, as bytes: an eighth of the size of TFDS's default, and much faster."""

    def tensor(shape: tuple[int, ...], dtype: Any) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    features: dict[str, Any] = {}
    for name, (kind, shape) in encoding.fields.items():
        if kind == "image":
            features[name] = tensor(shape, np.uint8)
        elif kind == "text":
            features[name] = tensor((encoding.alternatives[name], shape[0]), np.uint16)
            features[f"{name}_count"] = tfds.features.Scalar(np.uint8)
        elif kind == "category":
            features[name] = tfds.features.Scalar(np.int32)
        else:
            features[name] = tensor(shape, np.float32)
    if encoding.classes:
        features[LABEL] = tfds.features.Scalar(np.int32)
    return features


def _encoding_of(facts: Mapping[str, Any]) -> Encoding:
    fields = {name: Field(kind, tuple(shape)) for name, (kind, shape) in facts["fields"].items()}
    alphabet = facts["alphabet"]
    words = tuple(alphabet) if isinstance(alphabet, list) else alphabet
    return Encoding(**{**facts, "fields": fields, "alphabet": words})


def _packed(observed: np.ndarray) -> str:
    """The bits as text; "" if nothing is missing."""
    return "" if observed.all() else base64.b64encode(np.packbits(observed).tobytes()).decode()


def _unpacked(text: str, count: int, num_modalities: int) -> np.ndarray:
    if not text:
        return np.ones([count, num_modalities], bool)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
    return bits[: count * num_modalities].reshape(count, num_modalities).astype(bool)


def _in_memory(records: RecordSource) -> Source:
    """All examples in memory, read in chunks, since a list of all would double the memory."""
    arrays: dict[str, np.ndarray] = {}
    for start in range(0, len(records), _CHUNK):
        part = records.gather(np.arange(start, min(start + _CHUNK, len(records))))
        for name, values in part.items():
            if name not in arrays:
                arrays[name] = np.empty((len(records), *values.shape[1:]), values.dtype)
            arrays[name][start : start + len(values)] = values
    return ArraySource(arrays)


def _tell(facts: Mapping[str, Any], form: Form) -> None:
    """Log what was done to the data, one line each."""
    for line in facts["left_out"][:_SHOWN]:
        LOGGER.warning("left out: %s", line)
    counts = facts["counts"]
    total = {name: sum(split[name] for split in counts.values()) for name in counts["train"]}
    found = ", ".join(f"{split['examples']} to {name}" for name, split in counts.items())
    LOGGER.info("prepared %s; %d left out.", found, len(facts["left_out"]))
    if total["cut"]:
        LOGGER.warning("%d texts are longer than %d words: cut.", total["cut"], form.length - 1)
    if total["enlarged"]:
        LOGGER.warning(
            "%d pictures are smaller than %d: enlarged.", total["enlarged"], form.image_size
        )
    if number := facts["encoding"]["num_words_left_out"]:
        LOGGER.warning(
            "%d words are beyond the %d of config.data.vocabulary_size: <unk>.",
            number,
            form.most_words,
        )
