"""Values from outside (an index, a `config.json`, a recipe), checked against declared types by msgspec.

Checks are strict: a boolean is not a number, text is not a number, and NaN is within no bounds.
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
        Whether it does.
    """
    # msgspec would also take sets and decimals, for example, but no subclass of float, such as NumPy's.
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
        values: The values by field. A missing one counts as None.
        kinds: The type of each field. The `description` of its outermost `Meta` says what is expected.
        *names: The fields to check.

    Yields:
        The field, what is expected, and the value in Python's notation.
    """
    for name in names:
        if not fits(values.get(name), kinds[name]):
            yield name, description(kinds[name]), repr(values.get(name))


def bounded(kind: Any, low: float, high: float, text: str = "") -> Any:
    """Makes the type of numbers from `low` to `high`, which are both included.

    Args:
        kind: `int` or `float`. A whole number is a float too.
        low: The lowest value.
        high: The highest value.
        text: What to say is expected.

    Returns:
        The type.
    """
    return Annotated[kind, Meta(ge=low, le=high, description=text or None)]


def nullable(kind: Any, text: str = "") -> Any:
    """Makes the type of values that may be null.

    Args:
        kind: The type of the others.
        text: What to say is expected; by default the description of that type, "or null".

    Returns:
        The type.
    """
    return Annotated[kind | None, Meta(description=text or f"{description(kind)} or null")]


def one_of(values: Iterable[str]) -> Any:
    """Makes the type of the given strings, which are also what to say is expected."""
    return Annotated[Literal[tuple(values)], Meta(description=" or ".join(values))]


def list_of(kind: Any, low: int = 0, high: int | None = None, text: str = "") -> Any:
    """Makes the type of lists.

    Args:
        kind: The type of the items.
        low: The fewest items.
        high: The most items, if there is a limit.
        text: What to say is expected.

    Returns:
        The type.
    """
    return Annotated[list[kind], Meta(min_length=low, max_length=high, description=text or None)]


def text(pattern: str, description: str) -> Any:
    r"""Makes the type of strings that match a pattern as a whole. In it, `\w` and the like mean ASCII characters.

    Args:
        pattern: A regular expression.
        description: What to say is expected.

    Returns:
        The type.
    """
    return Annotated[str, Meta(pattern=rf"(?a)\A(?:{pattern})\Z", description=description)]


def description(kind: Any) -> str:
    """What to say is expected where a value does not fit a type: the description of its outermost `Meta`."""
    if get_origin(kind) is Annotated:
        _, *metas = get_args(kind)
        return next((meta.description for meta in reversed(metas) if meta.description), "")
    return ""


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none is its own only member."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choices_of(kind: Any) -> tuple[str, ...]:
    """The strings that a type lists, None aside; empty for a type that lists none."""
    return tuple(word for one in alternatives(kind) if get_origin(one) is Literal for word in get_args(one))
