"""Your own data: a folder of pictures, sentences, vectors and categories, prepared once.

Layouts are the readers in `mmebm_jax/data/layouts`: "folder" is the convention of Hugging Face's
image folders, the others are the official files of published data sets.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pydantic

from mmebm_jax.data import layouts
from mmebm_jax.data.rows import LABEL, Damage, Reading
from mmebm_jax.data.source import DataSplits
from mmebm_jax.storage.validation import PRINTABLE, OneOf, Record

if TYPE_CHECKING:  # A trained model does not need what reads and writes pictures.
    from mmebm_jax.data.encoding import Form
    from mmebm_jax.data.prepared import Place

Text = Annotated[str, pydantic.Field(max_length=4096, pattern=PRINTABLE)]
# Options that do not change the examples, only where they are kept.
_OF_PLACE = ("path", "data_dir", "in_memory")


class Options(Record):
    """Which folder to read, and how its examples are encoded."""

    path: Text = pydantic.Field(
        "", description="The folder; once prepared, it is read only to detect changes."
    )
    layout: Annotated[str, OneOf(layouts.LAYOUTS)] = pydantic.Field(
        "folder", description="Layout of its files; see docs/data.md."
    )
    data_dir: Text = pydantic.Field(
        "data", min_length=1, description="Folder of prepared data sets: a local path or gs://."
    )
    columns: Text = pydantic.Field(
        "", description="Modalities to read, separated by commas; empty for all."
    )
    categories: Text = pydantic.Field(
        "", description="Columns of whole numbers that are categories, separated by commas."
    )
    label: Text = pydantic.Field(
        LABEL, description="Column of the class, if there is one; empty for none."
    )
    split_column: Text = pydantic.Field(
        "split", min_length=1, description="Column of the split, in a single metadata file."
    )
    train_split: Text = pydantic.Field(
        "train", min_length=1, description="Name of the training split."
    )
    test_split: Text = pydantic.Field("test", min_length=1, description="Name of the test split.")
    image_size: int = pydantic.Field(
        64,
        ge=4,
        le=1024,
        multiple_of=4,
        description="Height and width of pictures, a multiple of 4.",
    )
    grey: bool = pydantic.Field(False, description="Whether pictures are converted to grey.")
    length: int = pydantic.Field(
        32, ge=2, le=256, description="Words per text, including its end; longer texts are cut."
    )
    smallest_count: int = pydantic.Field(
        1, ge=1, le=10**6, description="How often a word must occur in the training texts."
    )
    vocabulary_size: int = pydantic.Field(
        8192, ge=4, le=2**15, description="Maximal number of words; the rarest become <unk>."
    )
    scale_vectors: bool = pydantic.Field(
        True, description="Whether each number of a vector is scaled to [-1, 1]."
    )
    skip_damaged: bool = pydantic.Field(
        False, description="Whether unreadable examples are left out and counted, not an error."
    )
    in_memory: bool = pydantic.Field(
        True, description="Whether everything is read into memory first."
    )

    @pydantic.model_validator(mode="after")
    def _two_splits(self) -> "Options":
        if self.train_split == self.test_split:
            raise ValueError(
                f"train_split and test_split are both {self.train_split!r}: name two splits."
            )
        return self


def load(options: Options, *, prepare: bool = True) -> DataSplits:
    """Opens a folder's data set, preparing it in ``data_dir`` first if necessary.

    Args:
        options: the folder, and how its examples are encoded.
        prepare: whether to prepare it if it has not been prepared yet.

    Raises:
        ValueError: something cannot be read, or it is not prepared and ``prepare`` is False.
        FileNotFoundError: the folder or one of its files is missing.
    """
    from mmebm_jax.data import encoding, prepared

    place = _place(options)
    if not place.exists():
        reading = _reading(options)
        tables = layouts.layout(options.layout).read(reading)
        if not prepare:
            encoding.learn(tables, _form(options))  # raises errors that preparing would raise
            raise ValueError(
                f"{options.path} is not prepared in {options.data_dir} yet: training prepares it, "
                "once."
            )
        prepared.prepare(place, tables, _form(options), reading.damage)
    return prepared.open_prepared(place, into_memory=options.in_memory)


def _place(options: Options) -> "Place":
    """The place of its prepared set, from the options and the content of the annotation files.

    Raises:
        ValueError: no folder is named.
        FileNotFoundError: the folder does not exist and is not prepared either.
    """
    from mmebm_jax.data import prepared

    if not options.path:
        raise ValueError("path is empty: name the folder in config.data.path.")
    path = _path(options)
    chosen = {n: v for n, v in options.model_dump().items() if n not in _OF_PLACE}
    beginning = f"{options.layout}_{_digest(repr((str(path), sorted(chosen.items()))).encode())}_"
    if not path.exists():
        if known := prepared.find(options.data_dir, beginning):
            return known
        raise FileNotFoundError(f"{path} does not exist: name your folder in config.data.path.")
    parts = []
    for file in layouts.layout(options.layout).annotations(path):
        with file.open("rb") as stream:
            parts.append(hashlib.file_digest(stream, "sha256").digest())
    return prepared.Place(options.data_dir, beginning + _digest(b"".join(parts)))


def _path(options: Options) -> Path:
    return Path(options.path).expanduser().absolute()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _reading(options: Options) -> Reading:
    return Reading(
        path=_path(options),
        damage=Damage(options.skip_damaged),
        label=options.label,
        categories=_names(options.categories),
        columns=_names(options.columns),
        split_column=options.split_column,
        splits=(options.train_split, options.test_split),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _form(options: Options) -> "Form":
    from mmebm_jax.data.encoding import Form

    return Form(
        image_size=options.image_size,
        channels=1 if options.grey else 3,
        length=options.length,
        smallest_count=options.smallest_count,
        most_words=options.vocabulary_size,
        scale_vectors=options.scale_vectors,
    )
