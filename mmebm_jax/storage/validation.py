"""What a field of a configuration may hold, and the one line that refuses anything else."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Union

Rules = Mapping[str, Union["Rule", "Rules"]]
"""Field → its rule, section → the rules of its fields."""

MOST_SHOWN = 80  # characters of a bad value


@dataclasses.dataclass(frozen=True)
class Rule:
    """What one field may hold.

    Attributes:
      kind: bool, int, float, str or list; where a float belongs an int will do, but never a bool.
      low: smallest number.
      high: largest number, or number of characters.
      open_low: whether `low` itself is too small.
      open_high: whether `high` itself is too large.
      choices: all texts that are allowed; empty for any.
      required: whether the field must be there.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    required: bool = True

    @property
    def optional(self) -> "Rule":
        """The same rule for a field that may be absent."""
        return dataclasses.replace(self, required=False)

    def allows(self, value: Any) -> bool:
        """Whether a field may hold the value."""
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is str:
            if not isinstance(value, str):
                return False
            return value in self.choices if self.choices else self.low <= len(value) <= self.high
        if self.kind is list:
            return isinstance(value, list)
        if not isinstance(value, int if self.kind is int else (int, float)):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        """What is allowed, in words."""
        if self.kind is bool:
            return "it must be True or False"
        if self.kind is list:
            return "it must be a list"
        if self.choices:
            return f"choose one of {', '.join(self.choices)}"
        if self.kind is str:
            return f"it must be a text of {self.low:g} to {self.high:g} characters"
        kind = "a whole number" if self.kind is int else "a number"
        low, high = "[("[self.open_low], "])"[self.open_high]
        return f"it must be {kind} in {low}{_number(self.low)}, {_number(self.high)}{high}"


def switch() -> Rule:
    """True or False."""
    return Rule(bool)


def whole(low: int, high: int) -> Rule:
    """An int in [low, high]."""
    return Rule(int, low, high)


def real(low: float, high: float, ends: str = "[]") -> Rule:
    """A finite number between `low` and `high`, which `ends` includes or, as in "()", does not."""
    return Rule(float, low, high, open_low=ends[0] == "(", open_high=ends[1] == ")")


def choice(*names: str) -> Rule:
    """One of some texts."""
    return Rule(str, choices=names)


def text(shortest: int = 0, longest: int = 4096) -> Rule:
    """Any text of so many characters."""
    return Rule(str, shortest, longest)


def check(values: Any, rules: Rules, prefix: str = "config", example: str = "") -> None:
    """Refuse what the rules do not allow.

    Args:
      values: a section, field → value.
      rules: of the section.
      prefix: how the section is called.
      example: where the fields can be seen, for the line about one that is missing.

    Raises:
      ValueError: a field that is unknown, missing or holds what it may not; one line that names it,
        the value and what is allowed.
    """
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise ValueError(f"{prefix} is {shown(values)}: it must be a section of fields.")
    for name in values:
        if name not in rules:
            close = difflib.get_close_matches(str(name)[:MOST_SHOWN], rules, n=1)
            mend = f"did you mean {close[0]}?" if close else f"known are {', '.join(rules)}."
            raise ValueError(f"{prefix}.{plain(name)} is unknown: {mend}")
    for name, rule in rules.items():
        field = f"{prefix}.{name}"
        if name not in values:
            if isinstance(rule, Rule) and not rule.required:
                continue
            mend = f"see {example} for every field" if example else "add it"
            raise ValueError(f"{field} is missing: {mend}.")
        if not isinstance(rule, Rule):
            check(values[name], rule, field, example)
        elif not rule.allows(values[name]):
            raise ValueError(f"{field} is {shown(values[name])}: {rule}.")


def shown(value: Any) -> str:
    """A value for a line of text: short, whatever it is."""
    # Python refuses to print numbers of thousands of digits.
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return brief(repr(value))


def plain(name: Any) -> str:
    """A name for a line of text: as it is if it can stand there, else quoted and short."""
    name = str(name)
    return name if name.isprintable() and len(name) <= MOST_SHOWN else brief(ascii(name))


def brief(line: str) -> str:
    """What another library says, for a line of text: one line, short and printable."""
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}…"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
