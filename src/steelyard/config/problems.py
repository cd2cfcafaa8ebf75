"""Turns what pydantic finds wrong into one line for a person: where, what is wanted, what was given."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from steelyard.config.source import Source, nearest
from steelyard.config.units import shown
from steelyard.core.errors import SpecError

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} of them",
    "string_too_short": "a name",
    "string_pattern_mismatch": "a name of letters, digits, _ - and ., beginning with a letter or digit",
}


def unknown_key(key: str, known: Sequence[str]) -> PydanticCustomError:
    """To raise in a validator: `key` is not one of the mapping's."""
    return _problem("unknown key" + nearest(key, known), key)


def unwanted(message: str, key: str = "") -> PydanticCustomError:
    """To raise in a validator: what is wrong with the value, or with the value under its `key`."""
    return _problem(message, key)


def first_problem(error: ValidationError, source: Source) -> SpecError:
    """The error to show: the first one found, in the order of the schema."""
    details = error.errors(include_url=False)[0]
    path = _path(details["loc"], source.data)
    context = details.get("ctx", {})
    if details["type"] == "problem" and context["key"]:
        path = (*path, context["key"])
    if details["type"] == "missing":
        return source.error((*path, details["loc"][-1]), "required, but missing")
    return source.error(path, _message(details, context))


def _problem(message: str, key: str) -> PydanticCustomError:
    return PydanticCustomError("problem", "{message}", {"message": message, "key": key})


def _message(details: ErrorDetails, context: Mapping[str, Any]) -> str:
    kind, given = details["type"], details["input"]
    if kind == "problem":
        return str(context["message"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        known = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        if len(known) == 1:
            return f"want {known[0]}, got {shown(given)}"
        return f"unknown value {shown(given)}{nearest(given, known)}"
    if kind in _WANTED:
        return f"want {_WANTED[kind].format(**context)}, got {_given(given)}"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {_given(given)}"


def _given(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    return shown(value)


def _path(location: Sequence[str | int], data: Any) -> tuple[str | int, ...]:
    """The part of pydantic's location that exists in the file: its own tags for keys are left out."""
    path: list[str | int] = []
    for part in location:
        if isinstance(data, Mapping):
            if part not in data:
                continue
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            continue
        path.append(part)
    return tuple(path)
