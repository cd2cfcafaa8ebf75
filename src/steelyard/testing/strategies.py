"""Hypothesis strategies for every value that crosses a boundary, derived from their types.

A new event or command, or a new field of one, is covered without a change here. Numbers are finite, and texts
short; sizes are small, since what tests vary is structure.
"""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from steelyard.core.commands import Command
from steelyard.core.events import Event

_finite = st.floats(allow_nan=False, allow_infinity=False)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def values_of(wanted: Any) -> st.SearchStrategy[Any]:
    """Values of a type: structs, named tuples, unions and what they are made of.

    Raises:
        TypeError: the type has a part that no rule is known for.
    """
    return _of(inspect.type_info(wanted))


def events() -> st.SearchStrategy[Event]:
    """Any event of any machine."""
    return values_of(Event)


def commands() -> st.SearchStrategy[Command]:
    """Any command of any machine."""
    return values_of(Command)


def _of(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(-(2**53), 2**53)
        case inspect.FloatType():
            return _finite
        case inspect.StrType():
            return st.text(max_size=8)
        case inspect.AnyType():
            return _plain
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.UnionType(types=types):
            return st.one_of([_of(part) for part in types])
        case inspect.TupleType(item_types=items):
            return st.tuples(*[_of(item) for item in items])
        case inspect.VarTupleType(item_type=item):
            return st.lists(_of(item), max_size=3).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=3)
        case inspect.StructType(cls=cls, fields=fields) | inspect.NamedTupleType(cls=cls, fields=fields):
            return _built(cls, fields)
        case _:
            raise TypeError(f"no strategy for {info}")


def _built(cls: type, fields: tuple[inspect.Field, ...]) -> st.SearchStrategy[Any]:
    parts = {}
    for field in fields:
        part = _of(field.type)
        if field.default is not msgspec.NODEFAULT:
            part = part | st.just(field.default)
        parts[field.name] = part
    return st.builds(cls, **parts)
