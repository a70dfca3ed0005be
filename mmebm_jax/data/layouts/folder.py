"""A folder of your own, in the convention of Hugging Face's image folders.

    DIR/train/metadata.jsonl  (or .csv, or .npz)      DIR/metadata.jsonl, with a column `split`
    DIR/train/0001.png …                              DIR/0001.png …
    DIR/test/metadata.jsonl
    DIR/test/…

One line is one example. `file_name` is the picture of the modality "image", `x_file_name` that of
"x"; both are paths relative to the metadata's folder. A string is text, and a list of strings holds
alternatives, through which successive passes over the data cycle; a number or a list of numbers is
a vector; an integer is a category if the configuration names its column. An entry that is null,
empty or absent is a missing modality of that example. A `.npz` holds one array per modality: uint8
pictures `[N, H, W]` or `[N, H, W, C]`, strings `[N]` or `[N, A]`, numbers `[N]` or `[N, D]`; there,
an empty string or a row of only NaN is missing.
"""

import codecs
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mmebm_jax.data.rows import LABEL, Damage, PictureFile, Reading, Row, Tables, Value
from mmebm_jax.storage.npz import read_npz
from mmebm_jax.storage.validation import brief, plain, shown

FILE_NAME = "file_name"
NAMES = ("metadata.jsonl", "metadata.csv", "metadata.npz")
CHANNELS = (1, 3, 4)
_NOT_UTF8 = "is not UTF-8"


def annotations(path: Path, version: str = "") -> list[Path]:
    """The metadata files that exist; see `read` for which ones are used."""
    return [
        path / place / name
        for place in (".", *sorted(each.name for each in _folders(path)))
        for name in NAMES
        if (path / place / name).is_file()
    ]


def read(reading: Reading, version: str = "") -> Tables:
    """The rows of a folder's two splits.

    Raises:
      FileNotFoundError: the folder or its metadata are missing.
      ValueError: a split has two metadata files, a column has no known type, a column named in the
        configuration is in no file, or something is damaged and is not to be left out.
    """
    if not reading.path.is_dir():
        raise FileNotFoundError(f"{reading.path} is no folder: name yours in config.data.path.")
    columns: set[str] = set()
    if (whole := _metadata(reading.path)) is not None:
        for split in reading.splits:
            if (other := _metadata(reading.path / split)) is not None:
                raise ValueError(f"there are {whole} and {other}: keep one of them.")
        rows = list(_rows(whole, _Wanted(reading, columns, keep_split=True)))
        _check_names(reading, columns - {reading.split_column})
        return _split(reading, rows)
    tables = []
    for split in reading.splits:
        file = _metadata(reading.path / split)
        if file is None:
            raise FileNotFoundError(
                f"{reading.path / split} holds no {', '.join(NAMES[:-1])} or {NAMES[-1]}: write "
                f"one line an example, or one such file in {reading.path} with a column "
                f"{reading.split_column!r}."
            )
        tables.append(list(_rows(file, _Wanted(reading, columns))))
    _check_names(reading, columns)
    return Tables(*tables)


def _check_names(reading: Reading, columns: set[str]) -> None:
    """Check that named columns exist; only the default label column may be absent."""
    modalities = {_modality(column) for column in columns}
    there = f"there are {shown(sorted(modalities - {reading.label}))}"
    for field in ("columns", "categories"):
        if unknown := set(getattr(reading, field)) - modalities:
            raise ValueError(
                f"config.data.{field} names {plain(min(unknown))!r}, which no column is: {there}."
            )
    if reading.label not in ("", LABEL) and reading.label not in columns:
        raise ValueError(
            f"config.data.label is {plain(reading.label)!r}, which no column is: {there}."
        )


def _folders(path: Path) -> list[Path]:
    return [each for each in path.iterdir() if each.is_dir()] if path.is_dir() else []


def _metadata(folder: Path) -> Path | None:
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {found[0].name} and {found[1].name}: keep one of them.")
    return found[0] if found else None


def _split(reading: Reading, rows: list[Row]) -> Tables:
    column, (train, test) = reading.split_column, reading.splits
    parts: dict[str, list[Row]] = {train: [], test: []}
    others: set[str] = set()
    for place, values in rows:
        given = dict(values)
        name = given.pop(column, None)
        name = name[0] if isinstance(name, tuple) and name else name
        if name is None:
            reading.damage.add(f"{place} has no {column!r}")
        elif name in parts:  # Other splits, such as validation, are ignored.
            parts[str(name)].append(Row(place, given))
        else:
            others.add(str(name))
    for split, found in parts.items():
        if not found and others:
            raise ValueError(
                f"column {column!r} is never {split!r}, but {shown(sorted(others))}: set "
                "config.data.train_split and config.data.test_split."
            )
    return Tables(parts[train], parts[test])


def _rows(file: Path, wanted: "_Wanted") -> Iterator[Row]:
    damage = wanted.reading.damage
    if file.suffix == ".npz":
        yield from _from_npz(file, wanted)
        return
    lines = _from_csv(file) if file.suffix == ".csv" else _from_jsonl(file, damage)
    for place, entries in lines:
        try:
            values = {n: v for n, v in wanted.values(file.parent, entries).items() if v is not None}
        except _BadEntry as error:
            damage.add(f"{place}: {error}")
            continue
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        yield Row(place, values)


class _BadEntry(Exception):
    """An entry of a valid column that cannot be read."""


class _Wanted:
    """Which columns become which modalities; `columns` collects the names of all columns."""

    def __init__(self, reading: Reading, columns: set[str], keep_split: bool = False):
        self.reading, self.columns, self.keep_split = reading, columns, keep_split

    def modality(self, column: str) -> str | None:
        """The modality that a column belongs to; None if it is not read."""
        reading = self.reading
        self.columns.add(column)
        if self.keep_split and column == reading.split_column:
            return column
        if column == reading.label and reading.label:
            return LABEL
        name = _modality(column)
        return name if not reading.columns or name in reading.columns else None

    def values(self, folder: Path, entries: Mapping[str, Any]) -> dict[str, Value | None]:
        """The values of a line by modality; None for a missing one."""
        found: dict[str, Value | None] = {}
        for column, entry in entries.items():
            name = self.modality(column)
            if name is None:
                continue
            if name in found:
                raise ValueError(f"two columns are the modality {plain(name)!r}: rename one.")
            if _is_missing(entry):
                found[name] = None
            elif name == LABEL or name in self.reading.categories:
                found[name] = _category(name, entry)
            elif column.endswith(FILE_NAME):
                found[name] = _picture(folder, column, entry)
            else:
                found[name] = _value(column, entry)
        return found


def _modality(column: str) -> str:
    if column == FILE_NAME:
        return "image"
    return column.removesuffix(f"_{FILE_NAME}")


def _is_missing(entry: Any) -> bool:
    if isinstance(entry, float) and math.isnan(entry):
        return True
    return entry is None or (isinstance(entry, str | list) and not entry)


def _category(name: str, entry: Any) -> int | str:
    if name == LABEL and isinstance(entry, str) and not entry.lstrip("-").isdigit():
        return _utf8(entry)
    try:
        number = int(entry) if isinstance(entry, str) else entry
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        kind = "a whole number from 0 on" + (" or a name" if name == LABEL else "")
        raise ValueError(f"{plain(name)!r} is {shown(entry)}: give {kind}.")
    return number


def _picture(folder: Path, column: str, entry: Any) -> PictureFile:
    if not isinstance(entry, str):
        raise ValueError(f"{plain(column)!r} is {shown(entry)}: give a file's name.")
    return PictureFile(folder / _utf8(entry))


def _value(column: str, entry: Any) -> Value | None:
    items = entry if isinstance(entry, list) else [entry]
    if all(isinstance(item, str) for item in items):
        return tuple(_utf8(item) for item in items if item) or None
    if all(isinstance(item, int | float) for item in items):
        try:
            numbers = tuple(float(item) for item in items)
        except OverflowError:  # a whole number beyond all floats
            numbers = (math.inf,)
        if not all(map(math.isfinite, numbers)):
            raise _BadEntry(f"{plain(column)!r} holds a number that is not finite")
        return numbers
    raise ValueError(
        f"column {plain(column)!r} holds {shown(entry)}: give text, a list of texts, a number or a "
        "list of numbers, or choose other columns by config.data.columns."
    )


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # Bytes that are not UTF-8 were kept as lone surrogates.
        raise _BadEntry(_NOT_UTF8) from None
    return text


def _from_jsonl(file: Path, damage: Damage) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _text_of(file)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{file} line {number}"
        try:
            entries = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            damage.add(f"{place} is no JSON ({brief(str(error))})")
            continue
        if not isinstance(entries, dict):
            damage.add(f"{place} is no JSON object")
            continue
        yield place, entries


def _text_of(file: Path) -> str:
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{file} is UTF-16: save it as UTF-8.")
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name stands in it twice")
    return entries


def _from_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of a CSV; a column is read as numbers, or JSON lists, if all its entries are such."""
    text = _text_of(file)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"{file} is no table ({brief(str(error))}): write it anew.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    head = numbered[0][1] if numbered else []
    if not head or len(set(head)) != len(head):
        raise ValueError(f"{file} has no first line of names, each once: write it anew.")
    if "" in head:
        raise ValueError(
            f"{file}: column {head.index('') + 1} has no name: name it, or leave it out, as pandas "
            "does its index with index=False."
        )
    for number, line in numbered[1:]:
        if len(line) != len(head):
            raise ValueError(
                f"{file} row {number} has {len(line)} entries, not {len(head)}: quote commas."
            )
    columns = {name: _typed([line[i] for _, line in numbered[1:]]) for i, name in enumerate(head)}
    for row, (number, _) in enumerate(numbered[1:]):
        yield f"{file} row {number}", {name: entries[row] for name, entries in columns.items()}


def _typed(entries: list[str]) -> list[Any]:
    for read in (_number(int), _number(float), _json_list):
        try:
            return [read(entry) if entry else None for entry in entries]
        except (ValueError, RecursionError):
            continue
    return list(entries)


def _number(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(entry: str) -> Any:
        if "_" in entry:  # Python reads 1_000 as 1000.
            raise ValueError
        return kind(entry)

    return read


def _json_list(entry: str) -> list[Any]:
    found = json.loads(entry)
    if not isinstance(found, list):
        raise ValueError
    return found


def _from_npz(file: Path, wanted: _Wanted) -> Iterator[Row]:
    try:
        arrays = read_npz(epath.Path(file))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{file}: arrays differ in length, {shown(lengths)}: give each N rows.")
    named = {}
    for column, array in arrays.items():
        name = wanted.modality(column)
        if name and column.endswith(FILE_NAME):
            raise ValueError(
                f"{file}: {plain(column)!r} names files, and arrays hold pictures themselves: give "
                "uint8 [N, H, W, C], or write metadata.jsonl or metadata.csv."
            )
        if name:
            named[name] = array
    yield from rows_of_arrays(named, str(file), wanted.reading.categories)


def rows_of_arrays(
    arrays: Mapping[str, Any], place: str, categories: tuple[str, ...] = ()
) -> Iterator[Row]:
    """The examples in arrays of N rows each, by modality; see the module's docstring.

    Args:
      arrays: as in an `.npz`; texts may also be lists of strings, or of lists of strings.
      place: where they come from, for error messages.
      categories: modalities whose integers are categories, as "label" always is.

    Raises:
      ValueError: an array has no known type; the message names it.
    """
    classes = (*categories, LABEL)
    arrays = {n: np.asarray(a) if n in classes else a for n, a in arrays.items()}
    readers = {name: _array_reader(name, array, categories) for name, array in arrays.items()}
    count = len(next(iter(arrays.values()))) if arrays else 0
    for index in range(count):
        found = {name: reader(arrays[name][index]) for name, reader in readers.items()}
        yield Row(f"{place} row {index}", {n: v for n, v in found.items() if v is not None})


def _array_reader(name: str, array: Any, categories: tuple[str, ...]) -> Any:
    if not isinstance(array, np.ndarray):
        return _texts
    kind, rank = array.dtype.kind, array.ndim
    there = f"array {plain(name)!r} is {array.dtype} of shape {list(array.shape)}"
    if name in (*categories, LABEL):
        if rank == 1 and kind in "iu":
            return lambda entry: _category(name, entry.item())
        if rank == 1 and kind == "U" and name == LABEL:
            return lambda entry: str(entry) or None
        names = " or names" if name == LABEL else ""
        raise ValueError(f"{there}: give whole numbers from 0 on{names}, [N].")
    if array.dtype == np.uint8 and rank in (3, 4):
        if 0 in array.shape[1:] or (rank == 4 and array.shape[3] not in CHANNELS):
            raise ValueError(f"{there}: give pictures [N, H, W] or [N, H, W, C], with C 1, 3 or 4.")
        return lambda entry: entry
    if kind == "U" and rank in (1, 2):
        return _texts
    if kind in "biuf" and rank in (1, 2):
        return _numbers
    raise ValueError(f"{there}: give uint8 pictures [N, H, W, C], strings [N] or numbers [N, D].")


def _texts(entry: Any) -> Value | None:
    if entry is None or isinstance(entry, str):
        return (str(entry),) if entry else None
    return tuple(str(text) for text in entry if text) or None


def _numbers(entry: Any) -> Value | None:
    values = np.atleast_1d(np.asarray(entry, np.float64))
    return None if np.isnan(values).all() else tuple(values.tolist())
