"""Avatars: drawn faces, the attributes that each was drawn with, and sentences that name them.

It is known exactly how well a picture, its attributes and a sentence agree: every face is drawn
from its attributes in DiceBear's style "Pixel Art" (licence CC0 1.0), so a classifier can check
each attribute of a generated picture. It is a substitute for CelebA's attributes.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic

from mmebm_jax.data.rows import Damage, Row, Tables
from mmebm_jax.data.source import DataSplits
from mmebm_jax.storage.validation import PRINTABLE, Record

STYLE = "pixel-art.json"
LICENCE = "DiceBear's style Pixel Art, CC0 1.0."
_INSTALL = "avatars need three packages: pip install 'mmebm_jax[avatars]'."
# Attribute → its values, each with the options that DiceBear is given.
ATTRIBUTES: dict[str, dict[str, dict[str, Any]]] = {
    "skin": {
        "light": {"skinColor": ["#ffdbac"]},
        "tan": {"skinColor": ["#cb9e6e"]},
        "dark": {"skinColor": ["#8d5524"]},
    },
    "hair_colour": {
        "blond": {"hairColor": ["#cab188"]},
        "brown": {"hairColor": ["#603a14"]},
        "red": {"hairColor": ["#bd1700"]},
        "blue": {"hairColor": ["#009bbd"]},
        "green": {"hairColor": ["#91cb15"]},
    },
    "hair_length": {
        "short": {"hairVariant": [f"short{n:02d}" for n in range(1, 25)]},
        "long": {"hairVariant": [f"long{n:02d}" for n in range(1, 22)]},
    },
    "mouth": {
        "smiling": {"mouthVariant": [f"happy{n:02d}" for n in range(1, 14)]},
        "frowning": {"mouthVariant": [f"sad{n:02d}" for n in range(1, 11)]},
    },
    "glasses": {
        "none": {"glassesProbability": 0},
        "dark": {
            "glassesProbability": 100,
            "glassesVariant": [f"dark{n:02d}" for n in range(1, 8)],
        },
        "light": {
            "glassesProbability": 100,
            "glassesVariant": [f"light{n:02d}" for n in range(1, 8)],
        },
    },
    "shirt": {
        "blue": {"clothingColor": ["#428bca"]},
        "green": {"clothingColor": ["#00b159"]},
        "red": {"clothingColor": ["#d11141"]},
        "yellow": {"clothingColor": ["#ffc425"]},
    },
    "background": {
        "white": {"backgroundColor": ["#ffffff"]},
        "pink": {"backgroundColor": ["#f4b6c2"]},
        "grey": {"backgroundColor": ["#9a9a9a"]},
    },
}
# Options that remove what would hide an attribute.
_HIDDEN = {"accessoriesProbability": 0, "beardProbability": 0, "hatProbability": 0}
_TEMPLATES = (
    "a {mouth} person with {hair_length} {hair_colour} hair , {skin} skin and {glasses} , wearing "
    "a {shirt} shirt on a {background} background",
    "on {background} , someone in a {shirt} shirt with {skin} skin , {glasses} and {hair_length} "
    "{hair_colour} hair is {mouth}",
    "the {hair_length} hair is {hair_colour} , the skin is {skin} , the shirt is {shirt} , the "
    "background is {background} , with {glasses} and a {mouth} face",
)
_GLASSES = {"none": "no glasses", "dark": "dark glasses", "light": "light glasses"}
_VERSION = "1"  # changes when the same options give other drawings

Count = Annotated[int, pydantic.Field(ge=1, le=10**6)]


class Options(Record):
    """What to draw."""

    data_dir: str = pydantic.Field(
        "data",
        min_length=1,
        max_length=4096,
        pattern=PRINTABLE,
        description="Folder of prepared data sets: a local path or gs://.",
    )
    seed: int = pydantic.Field(0, ge=0, le=2**31 - 1, description="Seed of the faces.")
    num_train: Count = pydantic.Field(18_000, description="Training examples.")
    num_test: Count = pydantic.Field(2_000, description="Test examples.")
    image_size: int = pydantic.Field(
        64, ge=16, le=256, multiple_of=16, description="Height and width; the art has 16×16 pixels."
    )
    held_out: float = pydantic.Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the combinations of attributes that occur only in the test split.",
    )


class _Library(NamedTuple):
    """The packages, imported when they are needed."""

    avatar: Any
    style: Any
    rasterise: Any


def load(options: Options, *, prepare: bool = True) -> DataSplits:
    """Opens the data set, drawing it first if it has not been drawn yet.

    Modalities: "image", uint8 `[S, S, 3]`; "attributes", one number of −1 or 1 for each value of
    each of `ATTRIBUTES` in their order; and "text", three sentences that name every attribute. No
    combination of attributes is in both splits. There are no classes.

    Raises:
        ValueError: it has not been drawn and ``prepare`` is False, or the packages are missing.
    """
    from mmebm_jax.data import prepared
    from mmebm_jax.data.encoding import Form

    drawn_by = {n: v for n, v in options.model_dump().items() if n != "data_dir"}
    digest = hashlib.sha256(repr((_VERSION, sorted(drawn_by.items()))).encode()).hexdigest()[:12]
    place = prepared.Place(options.data_dir, f"avatars_{digest}")
    if not place.exists():
        if not prepare:
            raise ValueError(
                f"avatars are not drawn in {options.data_dir} yet: training draws them."
            )
        tables = _tables(options, _library())
        prepared.prepare(place, tables, Form(length=40, scale_vectors=False), Damage(skip=False))
    return prepared.open_prepared(place, into_memory=True)


def combinations(seed: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """The attribute combinations of train and of test, value indices int `[K, num_attributes]`."""
    sizes = [range(len(values)) for values in ATTRIBUTES.values()]
    every = np.array(list(itertools.product(*sizes)))
    every = np.random.default_rng([seed, 2]).permutation(every)
    count = round(held_out * len(every))
    return every[count:], every[:count]


def sentences(names: Mapping[str, str]) -> tuple[str, ...]:
    """The sentences about a face with these attributes."""
    given = {**names, "glasses": _GLASSES[names["glasses"]]}
    return tuple(template.format(**given) for template in _TEMPLATES)


def _library() -> _Library:
    try:
        import dicebear
        import resvg_py
    except ImportError as error:
        raise ValueError(_INSTALL) from error
    content = resources.files("dicebear_styles").joinpath(STYLE).read_text("utf-8")
    return _Library(dicebear.Avatar, dicebear.Style(json.loads(content)), resvg_py.svg_to_bytes)


def _tables(options: Options, library: _Library) -> Tables:
    from tqdm import tqdm

    tables = []
    parts = combinations(options.seed, options.held_out)
    counts = (options.num_train, options.num_test)
    for split, (allowed, count) in enumerate(zip(parts, counts, strict=True)):
        rng = np.random.default_rng([options.seed, split])
        chosen = allowed[rng.integers(len(allowed), size=count)]
        bar = tqdm(chosen, desc="drawing", unit="example", dynamic_ncols=True)
        tables.append([_row(numbers, rng, options.image_size, library) for numbers in bar])
    return Tables(*tables)


def _row(numbers: np.ndarray, rng: np.random.Generator, size: int, library: _Library) -> Row:
    names = {
        attribute: list(values)[number]
        for number, (attribute, values) in zip(numbers, ATTRIBUTES.items(), strict=True)
    }
    # This seed determines everything that the attributes leave open.
    asked: dict[str, Any] = {"seed": str(rng.integers(2**31)), **_HIDDEN}
    for attribute, name in names.items():
        asked |= ATTRIBUTES[attribute][name]
    drawing = library.avatar(library.style, asked).to_string()
    content = library.rasterise(svg_string=drawing, width=size, height=size, skip_system_fonts=True)
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(bytes(content))).convert("RGB"))
    ticks = [
        1.0 if name == names[attribute] else -1.0
        for attribute, values in ATTRIBUTES.items()
        for name in values
    ]
    values = {"image": picture, "attributes": tuple(ticks), "text": sentences(names)}
    return Row("avatars", values)
