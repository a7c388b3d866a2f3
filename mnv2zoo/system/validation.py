"""Checks untrusted values (from an index, a `config.json` or a recipe) against declared types with msgspec.

Checks are strict: a boolean is not a number, a string is not a number, and NaN is outside all bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

Breach = tuple[str, str, object]  # field, expected, found
_JSON = (type(None), bool, int, str, dict)


def fits(value: object, kind: Any) -> bool:
    """Checks whether a value has a type and is within its bounds.

    Args:
        value: The value.
        kind: The type, with `msgspec.Meta` for bounds, lengths and patterns.

    Returns:
        True if the value fits.
    """
    # msgspec would also accept sets and decimals, for example, but no subclass of float, such as NumPy's.
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, float | list | tuple) or type(item) in _JSON for item in items):
        return False
    items = [float(item) if isinstance(item, float) else item for item in items]
    try:
        msgspec.convert(items if isinstance(value, list | tuple) else items[0], kind, strict=True)
    except msgspec.ValidationError:
        return False
    return True


def breaches(values: Mapping[str, Any], kinds: Mapping[str, Any], *names: str) -> Iterator[Breach]:
    """Finds the fields whose values do not fit their types.

    Args:
        values: The values by field. A missing value counts as None.
        kinds: The type of each field. The `description` of its outermost `Meta` is quoted after "expected".
        *names: The fields to check.

    Yields:
        The field, what is expected, and the value as Python code.
    """
    for name in names:
        if not fits(values.get(name), kinds[name]):
            yield name, description(kinds[name]), repr(values.get(name))


def bounded(kind: Any, low: float, high: float, text: str = "") -> Any:
    """Builds a type for numbers from `low` to `high`, inclusive.

    Args:
        kind: `int` or `float`. An integer is also a float.
        low: Minimum.
        high: Maximum.
        text: Description of valid values, for errors.

    Returns:
        The type.
    """
    return Annotated[kind, Meta(ge=low, le=high, description=text or None)]


def nullable(kind: Any, text: str = "") -> Any:
    """Builds a type for values that may be null.

    Args:
        kind: The type of other values.
        text: Description of valid values, for errors. Default: that of `kind`, plus "or null".

    Returns:
        The type.
    """
    return Annotated[kind | None, Meta(description=text or f"{description(kind)} or null")]


def one_of(values: Iterable[str]) -> Any:
    """Builds a type for the given strings. Errors list them."""
    return Annotated[Literal[tuple(values)], Meta(description=" or ".join(values))]


def list_of(kind: Any, low: int = 0, high: int | None = None, text: str = "") -> Any:
    """Builds a type for lists.

    Args:
        kind: The type of the items.
        low: Minimum number of items.
        high: Maximum number of items, if there is one.
        text: Description of valid values, for errors.

    Returns:
        The type.
    """
    return Annotated[list[kind], Meta(min_length=low, max_length=high, description=text or None)]


def text(pattern: str, description: str) -> Any:
    r"""Builds a type for strings that fully match a pattern, in which `\w` and similar mean ASCII characters.

    Args:
        pattern: A regular expression.
        description: Description of valid values, for errors.

    Returns:
        The type.
    """
    return Annotated[str, Meta(pattern=rf"(?a)\A(?:{pattern})\Z", description=description)]


def description(kind: Any) -> str:
    """Returns the description of a type's valid values, from its outermost `Meta`."""
    if get_origin(kind) is Annotated:
        _, *metas = get_args(kind)
        return next((meta.description for meta in reversed(metas) if meta.description), "")
    return ""


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Returns the members of a union. Any other type is its own only member."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choices_of(kind: Any) -> tuple[str, ...]:
    """Returns the strings that a type lists, without None. Empty for other types."""
    return tuple(word for one in alternatives(kind) if get_origin(one) is Literal for word in get_args(one))
