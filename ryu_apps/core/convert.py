# SPDX-License-Identifier: Apache-2.0
"""From plain values, as YAML and JSON have them, to the structures of the sections.

msgspec converts, and is quick; where it refuses, the value is gone through once more for a sentence that
names the path to the mistake, the wrong word and the nearest right one.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from ryu_apps.core import checks
from vswitch.errors import ConfigError
from vswitch.words import nearest

TRUTH_VALUES = ("true", "false", "on", "off", "yes", "no")
"""As YAML writes them."""

_T = TypeVar("_T")
_KINDS: dict[type[inspect.Type], tuple[tuple[type, ...], str]] = {
    inspect.BoolType: ((bool,), "true or false"),
    inspect.IntType: ((int,), "a whole number"),
    inspect.StrType: ((str,), "a text"),
    inspect.LiteralType: ((str,), "a text"),
    inspect.NoneType: ((type(None),), "nothing"),
    inspect.VarTupleType: ((list, tuple), "a list"),
    inspect.DictType: ((dict,), "a mapping of names"),
    inspect.StructType: ((dict,), "a mapping of names"),
}
"""By the kind of a structure's field: the types of the plain values that fit, and what to call them."""


def convert(path: str, value: object, kind: type[_T]) -> _T:
    """`value` as `kind`; raises ConfigError. path: where the value stands."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _require(path, value, inspect.type_info(kind))
        raise ConfigError(path, str(error)) from error


def _require(path: str, value: Any, kind: inspect.Type) -> None:
    """Raise for the first mistake in `value`."""
    kind = _alternative(path, value, kind)
    if isinstance(kind, inspect.LiteralType):
        checks.one_of(path, value, map(str, kind.values))
    elif isinstance(kind, inspect.VarTupleType):
        for index, item in enumerate(value):
            _require(f"{path}[{index}]", item, kind.item_type)
    elif isinstance(kind, inspect.DictType):
        for name, item in value.items():
            checks.name_in_text(path, name)
            _require(f"{path}.{name}", item, kind.value_type)
    elif isinstance(kind, inspect.StructType):
        fields = {field.name: field for field in kind.fields}
        checks.known_keys(path, value, fields)
        for name, field in fields.items():
            if name in value:
                _require(f"{path}.{name}", value[name], field.type)
            elif field.required:
                raise ConfigError(f"{path}.{name}", "is missing", "a value must be given")


def _alternative(path: str, value: object, kind: inspect.Type) -> inspect.Type:
    """Of the kinds that the value may be, the one that it is; raises when it is none of them."""
    alternatives = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    for alternative in alternatives:
        if _fits(value, alternative):
            return alternative
    allowed = " or ".join(_name(alternative) for alternative in alternatives)
    instead = ""
    if isinstance(value, str) and any(isinstance(one, inspect.BoolType) for one in alternatives):
        instead = "" if value in TRUTH_VALUES else nearest(value, TRUTH_VALUES)
    raise ConfigError(path, checks.what_it_is(value) + instead, allowed)


def _fits(value: object, kind: inspect.Type) -> bool:
    types, _ = _KINDS[type(kind)]
    return bool in types if isinstance(value, bool) else isinstance(value, types)


def _name(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.LiteralType):
        return checks.listing(map(str, kind.values))
    return _KINDS[type(kind)][1]
