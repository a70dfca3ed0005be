"""Records whose fields have a type, a range, a default and a meaning, with one-line errors."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import pydantic
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

MOST_SHOWN = 80  # characters of a bad value
PRINTABLE = r"^\P{C}*$"  # pattern of strings without control characters
SEE_FIELDS = "docs/configuration.md"


class Record(pydantic.BaseModel):
    """A frozen record whose fields are checked when it is made.

    Nothing is converted: a bool or a string is not accepted as a number, and a float must be
    finite; only an int is accepted as a float. An unknown field or section is an error.
    """

    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False
    )
    # Whether `parse` requires every field to be given, even those with a default.
    needs_all: ClassVar[bool] = False


R = TypeVar("R", bound=Record)


class OneOf:
    """Metadata of a string field: the allowed values, as in `Annotated[str, OneOf(NAMES)]`."""

    def __init__(self, names: Iterable[str]):
        self.names = tuple(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """See Pydantic's custom types."""
        return core_schema.literal_schema(list(self.names))


class Limits(NamedTuple):
    """The range of a number."""

    low: float
    high: float
    open_low: bool  # whether `low` itself is excluded
    open_high: bool  # whether `high` itself is excluded


def parse(record: type[R], values: Any, prefix: str = "config") -> R:
    """Make a record from values.

    Args:
      record: the type of the record.
      values: field → value and section → fields, as a mapping or a `ConfigDict`.
      prefix: name of the values in error messages.

    Raises:
      ValueError: a field is unknown, missing or invalid; the message names it, its value and what
        is allowed.
    """
    values = values.to_dict() if hasattr(values, "to_dict") else values
    _check_names(record, values, prefix)
    try:
        return record.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
    path = ".".join((prefix, *map(plain, first["loc"])))
    if first["type"] == "value_error":  # A validator's message starts with the name of a field.
        raise ValueError(f"{path}.{first['ctx']['error']}")
    field = _field_at(record, first["loc"])
    mend = f": {allowed(field)}." if field is not None else "."
    raise ValueError(f"{path} is {shown(first['input'])}{mend}")


def leaves(record: type[Record], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a record and of its sections, by names such as "prior.chain.num_steps"."""
    for name, field in record.model_fields.items():
        section = section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from leaves(section, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[Record] | None:
    """The type of record that a field holds; None if it holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Record) else None


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The allowed values of a field with `OneOf`; empty for other fields."""
    return next((item.names for item in field.metadata if isinstance(item, OneOf)), ())


def limits(field: FieldInfo) -> Limits:
    """The range of a numeric field."""
    found = {type(item): item for item in field.metadata}
    low = found[Gt].gt if Gt in found else found[Ge].ge
    high = found[Lt].lt if Lt in found else found[Le].le
    return Limits(low, high, Gt in found, Lt in found)


def allowed(field: FieldInfo) -> str:
    """What a field may hold, in words, such as "it must be a number in [0, 1]"."""
    if names := choices(field):
        return f"choose one of {', '.join(names)}"
    if field.annotation is bool:
        return "it must be True or False"
    if field.annotation is str:
        found = {type(item): item for item in field.metadata}
        shortest = found[MinLen].min_length if MinLen in found else 0
        printable = any(getattr(item, "pattern", None) == PRINTABLE for item in field.metadata)
        kind = "printable characters" if printable else "characters"
        return f"it must be a text of {shortest} to {found[MaxLen].max_length} {kind}"
    if field.annotation not in (int, float):
        return "it must be a list"
    kind = "a whole number" if field.annotation is int else "a number"
    ends = limits(field)
    left, right = "[("[ends.open_low], "])"[ends.open_high]
    return f"it must be {kind} in {left}{_number(ends.low)}, {_number(ends.high)}{right}"


def shown(value: Any) -> str:
    """A short representation of any value, for an error message."""
    # Python refuses to print numbers with thousands of digits.
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return brief(repr(value))


def plain(name: Any) -> str:
    """A name for an error message: unchanged if printable and short, otherwise escaped and cut."""
    name = str(name)
    return name if name.isprintable() and len(name) <= MOST_SHOWN else brief(ascii(name))


def brief(line: str) -> str:
    """A message of another library as one short, printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}…"


def _check_names(record: type[Record], values: Any, prefix: str) -> None:
    """Check that sections hold fields, and that no field is unknown or missing."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix} is {shown(values)}: it must be a section of fields.")
    fields = record.model_fields
    for name in values:
        if name not in fields:
            close = difflib.get_close_matches(str(name)[:MOST_SHOWN], fields, n=1)
            mend = f"did you mean {close[0]}?" if close else f"known are {', '.join(fields)}."
            raise ValueError(f"{prefix}.{plain(name)} is unknown: {mend}")
    for name, field in fields.items():
        section = section_of(field)
        if name in values and section is not None:
            _check_names(section, values[name], f"{prefix}.{name}")
        elif name not in values and (record.needs_all or field.is_required()):
            mend = f"see {SEE_FIELDS} for every field" if record.needs_all else "add it"
            raise ValueError(f"{prefix}.{name} is missing: {mend}.")


def _field_at(record: type[Record], path: tuple[int | str, ...]) -> FieldInfo | None:
    """The field at a path of names; None inside a field that holds a list."""
    field = record.model_fields[str(path[0])]
    section = section_of(field)
    if len(path) == 1:
        return field
    return None if section is None else _field_at(section, path[1:])


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
