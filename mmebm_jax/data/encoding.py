"""Encoding of rows: learns what the columns hold, and turns examples into arrays of one shape."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmebm_jax.data import words
from mmebm_jax.data.checks import check_fields
from mmebm_jax.data.pictures import read_picture, square_of_array
from mmebm_jax.data.rows import LABEL, Damage, PictureFile, Row, Tables, Value
from mmebm_jax.data.source import Field
from mmebm_jax.modalities.text import SPECIAL
from mmebm_jax.storage.validation import plain, shown
from mmebm_jax.typing import Alphabet

_ORDER = ("image", "text", "vector", "category")  # of modalities, then by their names
MOST_CATEGORIES = 2**16
MOST_ALTERNATIVES = 64


class Form(NamedTuple):
    """The form of the arrays that rows are turned into."""

    image_size: int = 0  # of every picture; 0: that of the given arrays, which must all agree
    channels: int = 3
    length: int = 32  # of texts, in words
    smallest_count: int = 1  # occurrences of a word in training
    most_words: int = 8192
    scale_vectors: bool = True  # whether to scale to [-1, 1] by the range in training


class Encoding(NamedTuple):
    """How a row is turned into arrays; learned from the training split, kept as JSON."""

    fields: dict[str, Field]
    alphabet: Alphabet
    alternatives: dict[str, int]  # text → the most alternatives that an example has
    ranges: dict[str, list[list[float]]]  # vector → lowest and highest training values
    classes: list[Any]  # class → its number or name in the data; [] without labels
    num_words_left_out: int = 0


class Counts(NamedTuple):
    """Counts of texts and pictures that had to be changed."""

    cut: int = 0  # texts that were too long
    enlarged: int = 0  # pictures that were too small


def learn(tables: Tables, form: Form) -> Encoding:
    """Learn from the tables what their columns hold.

    Raises:
      ValueError: a column has no type or two types, is in only one split, or has vectors of two
        sizes or categories that occur only in test; or a modality is impossible.
    """
    kinds = [_kinds(rows) for rows in tables]
    train, test = (
        {
            n: found[n]
            for n in sorted(found, key=lambda n: (_ORDER.index(found[n]), n))
            if n != LABEL
        }
        for found in kinds
    )
    for name, rows in zip(Tables._fields, tables, strict=True):
        if not rows:
            raise ValueError(f"the {name} split holds no example: give at least one.")
    if not train.keys() & test.keys():
        raise ValueError(
            "train and test have no modality in common: train has "
            f"{shown(sorted(train))}, test has {shown(sorted(test))}."
        )
    for name in sorted(train.keys() ^ test.keys()):
        raise ValueError(
            f"modality {plain(name)!r} is in {'train' if name in train else 'test'} alone: give it "
            "to both splits, or choose the others by config.data.columns."
        )
    for name, kind in train.items():
        if test[name] != kind:
            raise ValueError(
                f"modality {plain(name)!r} is {kind} in train and {test[name]} in test: make it "
                "one of them."
            )
    texts = [name for name, kind in train.items() if kind == "text"]
    known = words.Vocabulary((), 0)
    if texts:
        sentences = (s for row in tables.train for n in texts for s in row.values.get(n, ()))
        known = words.learn_words(sentences, form.smallest_count, form.most_words)
        if len(known.words) == len(SPECIAL):
            raise ValueError(
                f"no word of {', '.join(texts)} stands {form.smallest_count} times in train: lower "
                "config.data.smallest_count."
            )
    fields = {
        name: _field(name, kind, tables, form, len(known.words)) for name, kind in train.items()
    }
    check_fields(fields)
    return Encoding(
        fields=fields,
        alphabet=known.words or "",
        alternatives={name: _most_alternatives(name, tables) for name in texts},
        ranges={n: _range(n, tables.train) for n, kind in train.items() if kind == "vector"}
        if form.scale_vectors
        else {},
        classes=_categories(LABEL, tables) if LABEL in kinds[0] or LABEL in kinds[1] else [],
        num_words_left_out=known.num_left_out,
    )


def _kinds(rows: Sequence[Row]) -> dict[str, str]:
    """Modality → the kind of value that it holds in all of these rows."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        for name, value in row.values.items():
            kind = _kind(value)
            before = found.setdefault(name, (kind, row.place))
            if before[0] != kind and name != LABEL:
                raise ValueError(
                    f"{row.place}: {plain(name)!r} is {kind}, but {before[0]} at {before[1]}: make "
                    "it one of them."
                )
    return {name: kind for name, (kind, _) in found.items()}


def _kind(value: Value) -> str:
    if isinstance(value, PictureFile | np.ndarray):
        return "image"
    if isinstance(value, int | str):
        return "category"
    return "text" if isinstance(value[0], str) else "vector"


def _field(name: str, kind: str, tables: Tables, form: Form, num_words: int) -> Field:
    if kind == "image":
        return Field("image", _picture_shape(name, tables, form))
    if kind == "text":
        return Field("text", (form.length, num_words))
    if kind == "category":
        return Field("category", (len(_categories(name, tables, whole=True)),))
    sizes: dict[int, str] = {}
    for row in (*tables.train, *tables.test):
        if name in row.values:
            sizes.setdefault(len(row.values[name]), row.place)
    if len(sizes) > 1:
        (one, _), (other, place) = list(sizes.items())[:2]
        raise ValueError(
            f"{place}: {plain(name)!r} has {other} numbers, others have {one}: give each as many."
        )
    return Field("vector", (next(iter(sizes)),))


def _picture_shape(name: str, tables: Tables, form: Form) -> tuple[int, int, int]:
    if form.image_size:
        return (form.image_size, form.image_size, form.channels)
    shapes = {
        np.shape(row.values[name])
        for rows in tables
        for row in rows
        if isinstance(row.values.get(name), np.ndarray)
    }
    if len(shapes) != 1:
        raise ValueError(f"pictures {plain(name)!r} have shapes {shown(shapes)}: give one.")
    shape = next(iter(shapes))
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def _categories(name: str, tables: Tables, *, whole: bool = False) -> list[Any]:
    """The sorted categories of the training split; if `whole`, all numbers up to the highest."""
    train, test = ({r.values[name] for r in rows if name in r.values} for rows in tables)
    if len({type(value) for value in train | test}) > 1:
        raise ValueError(f"{plain(name)!r} holds numbers and names: give one of them.")
    if unknown := test - train:
        raise ValueError(
            f"{plain(name)!r} is {shown(min(unknown))} in the test split ({len(unknown)} such "
            "categories), which the training split never is: split the examples otherwise, or "
            + ("set config.data.label to ''." if name == LABEL else "leave the column out.")
        )
    if any(isinstance(value, int) and value >= MOST_CATEGORIES for value in train):
        raise ValueError(f"{plain(name)!r} is {shown(max(train))}: number categories from 0 on.")
    return list(range(max(train) + 1)) if whole else sorted(train)


def _most_alternatives(name: str, tables: Tables) -> int:
    counts = [len(r.values[name]) for rows in tables for r in rows if name in r.values]
    if max(counts) > MOST_ALTERNATIVES:
        raise ValueError(
            f"{plain(name)!r} has {max(counts)} texts for one example: give at most "
            f"{MOST_ALTERNATIVES}."
        )
    return max(counts)


def _range(name: str, rows: Sequence[Row]) -> list[list[float]]:
    values = np.array([row.values[name] for row in rows if name in row.values], np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        raise ValueError(
            f"{plain(name)!r} holds no finite numbers in train: a number is not finite."
        )
    return [values.min(axis=0).tolist(), values.max(axis=0).tolist()]


def encoded(
    rows: Iterable[Row], encoding: Encoding, damage: Damage, counts: list[Counts]
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yields each readable row as arrays, and which modalities it has, `bool[M]`.

    Args:
      rows: rows of one split.
      encoding: what their columns hold.
      damage: records the rows that cannot be read.
      counts: receives the counts of each row.
    """
    tokenisers = {
        name: words.Tokeniser(encoding.alphabet, encoding.fields[name].shape[0])
        for name in encoding.alternatives
    }
    for row in rows:
        observed = np.array([name in row.values for name in encoding.fields])
        if not observed.any():
            damage.add(f"{row.place} has no modality")
            continue
        if encoding.classes and LABEL not in row.values:
            damage.add(f"{row.place} has no label")
            continue
        try:
            arrays, count = _arrays(row, encoding, tokenisers)
        except ValueError as error:
            damage.add(f"{row.place}: {error}")
            continue
        counts.append(count)
        yield arrays, observed


def _arrays(
    row: Row, encoding: Encoding, tokenisers: Mapping[str, words.Tokeniser]
) -> tuple[dict[str, np.ndarray], Counts]:
    arrays: dict[str, np.ndarray] = {}
    cut = enlarged = 0
    for name, (kind, shape) in encoding.fields.items():
        value: Any = row.values.get(name)
        if kind == "image":
            arrays[name], small = _picture(value, shape)
            enlarged += small
        elif kind == "text":
            arrays[name], arrays[f"{name}_count"], num_cut = _text(
                value, tokenisers[name], (encoding.alternatives[name], shape[0])
            )
            cut += num_cut
        elif kind == "category":
            arrays[name] = np.int32(value or 0)  # type: ignore[assignment]
        else:
            arrays[name] = _vector(value, shape, encoding.ranges.get(name))
    if encoding.classes:
        arrays[LABEL] = np.int32(encoding.classes.index(row.values[LABEL]))  # type: ignore[assignment]
    return arrays, Counts(cut, enlarged)


def _picture(value: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    size, _, channels = shape
    if value is None:
        return np.zeros(shape, np.uint8), False
    if isinstance(value, PictureFile):
        return read_picture(value.path, size, channels)
    if value.shape in (tuple(shape), (*shape[:2], 1), shape[:2]):
        return np.broadcast_to(value.reshape(*shape[:2], -1), shape), False
    return square_of_array(value, size, channels)


def _text(
    value: Any, tokeniser: words.Tokeniser, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int]:
    tokens = np.zeros(shape, np.uint16)
    if not value:
        return tokens, np.uint8(1), 0  # type: ignore[return-value]
    found, num_cut = tokeniser(value)
    tokens[: len(found)] = found
    return tokens, np.uint8(len(found)), num_cut  # type: ignore[return-value]


def _vector(value: Any, shape: tuple[int, ...], span: list[list[float]] | None) -> np.ndarray:
    if value is None:
        return np.zeros(shape, np.float32)
    values = np.asarray(value, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    if span is not None:
        low, high = np.asarray(span)
        width = np.where(high > low, high - low, 1)
        # A number that is constant in training maps to 0, the middle of the range.
        values = np.where(high > low, 2 * (values - low) / width - 1, values - low)
    return values.astype(np.float32)
