"""One setting as its field declares it: its meaning, its limits, and how a value is read.

`describe` derives it from the fields of a struct (`mdstream.config.setting`). Checks, help texts, the
command `mdstream settings` and the documents use nothing else.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from mdstream.config import AUTO
from mdstream.errors import ConfigError
from mdstream.system.paths import require_path, require_store
from mdstream.text.durations import EXAMPLES, parse_duration

ENV_PREFIX = "MDSTREAM_"

_AUTOMATIC = "auto"

_KINDS: dict[Any, str] = {
    bool: "yes or no",
    int: "whole number",
    float: "number",
    str: "string",
    Literal: "string",
    tuple: "list",
    dict: "table",
    types.UnionType: "list",  # or a single string
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    `kind` is "yes or no", "whole number", "number", "string", "list" (of strings) or "table" (of numbers,
    by name).
    """

    name: str
    """Dotted name, with the section: `fetch.interval_s`."""
    type: Any
    kind: str
    default: Any
    description: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    """The only allowed strings: the value, the items of a list, or the names in a table."""
    schemes: tuple[str, ...] = ()
    """Allowed schemes of an address."""
    is_path: bool = False
    """Whether it names a file or folder. It may be empty only if that is its default, with a meaning."""
    is_store: bool = False
    """Whether a path may also be the address of an object store."""
    example: str = ""
    """An example of a value, in TOML."""
    flag: str = ""
    metavar: str = ""
    """Name of the value in help texts."""
    variable: str = ""
    """Environment variable."""
    secret: bool = False
    """Whether the value is never shown."""
    is_automatic: bool = False
    """Whether a number may be `auto`, whose value is `AUTO`, one below the least."""
    forms: Mapping[type, Callable[[Any], str]] = field(default_factory=dict)
    """Other types that a string may have in Python, and how each is written."""

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def limits(self) -> str:
        """The allowed values, in words; empty if any value of its kind is allowed."""
        if self.schemes:
            return " or ".join(f"{scheme}://..." for scheme in self.schemes)
        if self.choices:
            return ("any of " if self.kind in ("list", "table") else "") + ", ".join(self.choices)
        if self.least is not None and self.most is not None:
            numbers = f"{self._least_number:g} to {self.most:.12g}"
            return f"{_AUTOMATIC}, or {numbers}" if self.is_automatic else numbers
        if self.least is not None:
            return f"{self.least:g} or more"
        return ""

    @property
    def help(self) -> str:
        """Description, unit and limits, in one paragraph."""
        limits = "; ".join(filter(None, (self.unit, self.limits)))
        return self.description + (f" ({limits})" if limits else "")

    @property
    def _least_number(self) -> float:
        """The least allowed number that is not `AUTO`."""
        assert self.least is not None
        return self.least + self.is_automatic

    def write(self, value: Any) -> Any:
        """Return a value of the setting as people write it: `auto` in place of its number."""
        return _AUTOMATIC if self.is_automatic and value == AUTO else value

    def read(self, value: Any) -> Any:
        """Return `value` as the setting's type. Raises `ConfigError` with the allowed values."""
        value = next((write(value) for form, write in self.forms.items() if isinstance(value, form)), value)
        if self.kind == "list" and isinstance(value, str):
            value = [item.strip() for item in value.split(",") if item.strip()]
        if self.kind == "string" and self.choices and isinstance(value, str):
            value = next((choice for choice in self.choices if choice == value.lower()), value)
        if self.is_automatic and isinstance(value, str) and value.strip().lower() == _AUTOMATIC:
            return AUTO
        if self.kind == "number" and self.unit == "s" and isinstance(value, str):
            duration = parse_duration(value)
            value = value if duration is None else duration.total_seconds()
        try:
            found = msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError:
            raise ConfigError(f"{self.name}: {self._problem(value)}") from None
        if isinstance(found, float) and not math.isfinite(found):
            raise ConfigError(f"{self.name}: {self._problem(value)}")
        if self.is_path and (found or self.default):
            (require_store if self.is_store else require_path)(self.name, found)
        for text in found if self.kind == "list" else [found]:
            if self.choices and text not in self.choices:
                raise ConfigError(f"{self.name}: {text!r} is not one of {', '.join(self.choices)}")
        return found

    def read_entry(self, name: str, value: Any) -> tuple[str, float]:
        """Return the dotted name and the number of an entry of a table. Raises `ConfigError`.

        The name of the entry may be in any case.
        """
        if self.kind != "table":
            raise ConfigError(f"{self.name}.{name}: {self.name} is a single setting, not a section")
        name = next((choice for choice in self.choices if choice.lower() == name.lower()), name)
        if name not in self.choices:
            raise ConfigError(f"{self.name}: {name!r} is not one of {', '.join(self.choices)}")
        number = Setting(f"{self.name}.{name}", float, "number", 0.0, self.description, least=self.least)
        found = number.read(value)
        if self.least is not None and not found >= self.least:
            raise ConfigError(f"{number.name}: {number._problem(value)}")
        return number.name, float(found)

    def _problem(self, value: Any) -> str:
        """Return why `value` is not allowed."""
        if self.secret:
            return f"the value is not a {self.kind}"
        if self.kind in ("whole number", "number"):
            number = _number(value)
            if number is not None and not math.isfinite(number):
                return f"{value} must be finite"
            if number is not None and self.least is not None and number < self.least:
                return f"{value} is below the minimum of {self._least_number:g}"
            if number is not None and self.most is not None and number > self.most:
                return f"{value} is above the maximum of {self.most:.12g}"
        if self.kind == "list":
            return f"{value!r} is not a list of strings"
        if self.kind == "table":
            return f"{value!r} is not a table such as {self.example}"
        if self.choices:
            return f"{value!r} is not one of {', '.join(self.choices)}"
        if self.kind == "yes or no":
            return f"{value!r} is neither true nor false"
        kind = self.kind
        if kind == "number" and self.unit == "s":
            kind = f"number of seconds or a duration such as {EXAMPLES}"
        example = f" such as {self.example}" if self.example else ""
        return f"{value!r} is not a {kind}{example}" + (f" ({self.limits})" if self.limits else "")


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def describe(owner: type, choices: Callable[[str], Sequence[str]] = lambda name: ()) -> tuple[Setting, ...]:
    """Return each setting that a struct or a typed dictionary declares, and those of its sections.

    `choices` returns the allowed strings of a setting whose type does not define them.
    """
    return tuple(_settings(owner, "", choices))


def _settings(owner: type, prefix: str, choices: Callable[[str], Sequence[str]]) -> Iterator[Setting]:
    for key, annotation in typing.get_type_hints(owner, include_extras=True).items():
        name = prefix + key
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            yield from _settings(annotation, name + ".", choices)
            continue
        meta = _split_annotation(annotation)[1]
        about = dict(meta.extra or {})
        plain = str if "forms" in about else annotation
        base = _split_annotation(plain)[0]
        origin = typing.get_origin(base) or base
        limits = _split_annotation(typing.get_args(base)[1])[1] if origin is dict else meta
        fixed = about.pop("choices", ()) or (typing.get_args(base) if origin is Literal else choices(name))
        yield Setting(
            name=name,
            type=plain,
            kind=_KINDS[origin],
            default=_default(owner, key),
            description=meta.description or "",
            least=limits.ge,
            most=limits.le,
            choices=tuple(fixed),
            **about,
        )


def _split_annotation(annotation: Any) -> tuple[Any, msgspec.Meta]:
    """Return the type of an annotation, and its metadata. Another may add a flag (`config.add_flag`)."""
    metas = getattr(annotation, "__metadata__", ())
    if not metas:
        return annotation, msgspec.Meta()
    first, *more = metas
    extra = {key: value for meta in (first, *more) for key, value in (meta.extra or {}).items()}
    return annotation.__origin__, msgspec.Meta(
        description=first.description, ge=first.ge, le=first.le, extra=extra
    )


def _default(owner: type, key: str) -> Any:
    """Return the default of a field; None if it has none, as in a typed dictionary."""
    if not issubclass(owner, msgspec.Struct):
        return None
    field = next(field for field in msgspec.structs.fields(owner) if field.name == key)
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default
