"""How a JSON object of the wire becomes a value with typed attributes, and stays the JSON object it was."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, TypeVar, Union, dataclass_transform, get_args, get_origin

from agent_core.activity.json_text import MAX_DEPTH, JsonObject, dump, parse, text_of
from agent_core.errors import BadActivity


class _Declared:
    def __init__(self, name: str, default: Any) -> None:
        self.name = name
        self.default = default


def wire(name: str, *, default: Any = None) -> Any:
    """Declare a field's name on the wire where camelCase does not give it."""
    return _Declared(name, default)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(wire,))
class WireObject:
    """A JSON object with typed attributes over it.

    The JSON object is the truth and the attributes are views: fields that the class does not know stay, at every
    depth, and so do spelling, order and precision of those it knows. A value never changes; `replace` copies, and what
    an attribute gives is a value again or a copy.

    A subclass declares its fields with annotations; `snake_case` stands for `camelCase` on the wire. What is missing or
    null reads as None, or as () for a list. Another default is written when a value is built, and never assumed of
    what came in.

    A subclass declared with `lenient=True` is never refused for what is in it: a field of the wrong JSON type stays as
    it is and reads as missing.
    """

    _fields: ClassVar[dict[str, _Field]] = {}
    _kinds: ClassVar[dict[str, _Kind]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}
    _lenient: ClassVar[bool] = False
    _json: JsonObject
    # The text it was read from: as long as nothing changed, that is what goes out, to the last digit.
    _text: str | None = None

    def __init_subclass__(cls, lenient: bool | None = None) -> None:
        super().__init_subclass__()
        if lenient is not None:
            cls._lenient = lenient
        fields, kinds, defaults = dict(cls._fields), dict(cls._kinds), dict(cls._defaults)
        for name, annotation in cls.__annotations__.items():
            if annotation.startswith("ClassVar"):
                continue
            declared = cls.__dict__.get(name)
            wire_name, default = _camel(name), declared
            if isinstance(declared, _Declared):
                wire_name, default = declared.name, declared.default
            kind = _kind_of(annotation, cls)
            field = (_LenientField if cls._lenient else _Field)(wire_name, kind)
            fields[name] = field
            setattr(cls, name, field)
            if kind.types:
                kinds[wire_name] = kind
            if default not in (None, ()):
                defaults[name] = default
        cls._fields, cls._kinds, cls._defaults = fields, kinds, defaults

    def __init__(self, **values: Any) -> None:
        json_object = self._changed({}, {**self._defaults, **values})
        object.__setattr__(self, "_json", json_object)

    @classmethod
    def from_dict(cls, json_object: Mapping[str, Any]) -> Self:
        """A value over a copy of this JSON object.

        Raises:
            BadActivity: it is no object, nested deeper than 64, or a known field holds the wrong JSON type; the
                message names it.
            TypeError: something in it that JSON cannot hold.
        """
        if not isinstance(json_object, Mapping):
            raise BadActivity("A JSON object is needed", code="NotAnObject")
        return cls._over(cls._checked(_plain(json_object)))

    @classmethod
    def from_json(cls, body: bytes | str) -> Self:
        """A value from JSON text (UTF-8, a byte order mark is allowed).

        Raises:
            BadActivity: not JSON, not an object, nested deeper than 64, or a known field of the wrong JSON type.
        """
        text = text_of(body)
        value = cls._over(cls._checked(parse(text)))
        if "\n" not in text and "\r" not in text:
            object.__setattr__(value, "_text", text)
        return value

    @classmethod
    def _over(cls, json_object: JsonObject) -> Self:
        value = cls.__new__(cls)
        object.__setattr__(value, "_json", json_object)
        return value

    @classmethod
    def _checked(cls, json_object: JsonObject, name: str = "") -> JsonObject:
        fault = None if cls._lenient else cls._fault(json_object)
        if fault is not None:
            raise BadActivity(f"{(name + fault[0]).removeprefix('.')!r} must be {fault[1]}", code="BadSyntax")
        return json_object

    @classmethod
    def _fault(cls, json_object: JsonObject) -> tuple[str, str] | None:
        """Where a known field has the wrong JSON type, and what it should be; None if all is well."""
        kinds = cls._kinds
        for name, value in json_object.items():
            kind = kinds.get(name)
            if kind is None or type(value) is kind.scalar:
                continue
            fault = kind.fault(value)
            if fault is not None:
                return f".{name}{fault[0]}", fault[1]
        return None

    def to_dict(self) -> JsonObject:
        """A copy of the JSON object."""
        copied: JsonObject = _copy(self._json)
        return copied

    def to_json(self) -> bytes:
        """The JSON object as UTF-8 text, in one line; unchanged, it is the text that came in."""
        if self._text is not None:
            try:
                return self._text.encode()
            except UnicodeEncodeError:
                pass
        return dump(self._json)

    def replace(self, **changes: Any) -> Self:
        """A copy with these attributes changed; None takes a field out."""
        changed = self._changed(dict(self._json), changes)
        # Nothing was there to be taken out: it still is what came in.
        return self if changed.keys() == self._json.keys() and _none(changes) else self._over(changed)

    def _changed(self, json_object: JsonObject, changes: Mapping[str, Any]) -> JsonObject:
        for name, value in changes.items():
            field = self._fields.get(name)
            if field is None:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            if value is None or (value == () and field.kind.is_list):
                json_object.pop(field.wire_name, None)
            else:
                plain = _plain(value, MAX_DEPTH - 1)
                fault = field.kind.fault(plain)
                if fault is not None:
                    raise BadActivity(f"{field.wire_name + fault[0]!r} must be {fault[1]}", code="BadSyntax")
                json_object[field.wire_name] = plain
        return json_object

    @classmethod
    def _without_nulls(cls, json_object: JsonObject) -> JsonObject:
        """The object without nulls and empty lists, down to what has no type of its own."""
        kept: JsonObject = {}
        for name, value in json_object.items():
            if value is None or value == []:
                continue
            kind = cls._kinds.get(name)
            kept[name] = kind.without_nulls(value) if kind else value
        return kept

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change; use replace({name}=…), which copies")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} does not change; use replace({name}=None), which copies")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self._json,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WireObject) and type(other) is type(self) and self._json == other._json

    __hash__ = None  # type: ignore[assignment]  # the JSON under it has no hash

    def __repr__(self) -> str:
        # Never texts: a repr ends in logs.
        shown = ", ".join(f"{key}={self._json[key]!r}" for key in ("type", "id", "name") if key in self._json)
        return f"{type(self).__name__}({shown})"


_Value = TypeVar("_Value", bound=WireObject)


def value_as(kind: type[_Value], value: Any, name: str) -> _Value:
    """What a field of any type holds, as a value of that class; it must be the caller's own copy.

    Raises:
        BadActivity: it is none; `name` is that of the field, for the message.
    """
    if type(value) is not dict:
        raise BadActivity(f"{name!r} must be an object", code="BadSyntax")
    return kind._over(kind._checked(value, name))


class _Field:
    """The descriptor behind one attribute."""

    __slots__ = ("kind", "wire_name")

    def __init__(self, wire_name: str, kind: _Kind) -> None:
        self.wire_name = wire_name
        self.kind = kind

    def __get__(self, instance: WireObject | None, owner: type[WireObject]) -> Any:
        if instance is None:
            return self
        value = instance._json.get(self.wire_name)
        return value if type(value) is str else self.kind.read(value)


class _LenientField(_Field):
    """One attribute of what is not checked when it comes in."""

    __slots__ = ()

    def __get__(self, instance: WireObject | None, owner: type[WireObject]) -> Any:
        if instance is None:
            return self
        value = instance._json.get(self.wire_name)
        return self.kind.read(value if self.kind.fault(value) is None else None)


class _Kind:
    """What a field may hold.

    Attributes:
        types: its JSON types; empty if it may hold anything.
        scalar: the type with which it is surely right, None where one has to look inside.
        item: what the objects in it are; for a list without one, `item_types` says what its values are.
    """

    __slots__ = ("is_list", "item", "item_types", "said", "said_of_item", "scalar", "types")

    def __init__(self, types: tuple[type, ...], said: str) -> None:
        self.types = types
        self.said = said
        self.scalar: type | None = types[0] if types else None
        self.item: type[WireObject] | None = None
        self.is_list = False
        self.item_types: tuple[type, ...] = ()
        self.said_of_item = ""

    @classmethod
    def of_object(cls, item: type[WireObject]) -> _Kind:
        kind = cls((dict,), "an object")
        kind.scalar, kind.item = None, item
        return kind

    @classmethod
    def of_list(cls, inner: _Kind) -> _Kind:
        kind = cls((list,), "a list")
        kind.scalar, kind.is_list, kind.item = None, True, inner.item
        if inner.item is None or not inner.item._lenient:
            kind.item_types, kind.said_of_item = inner.types, inner.said
        return kind

    def read(self, value: Any) -> Any:
        if self.is_list:
            return tuple(self._read_each(value)) if value else ()
        if value is None:
            return None
        return self.item._over(value) if self.item else _copy(value)

    def _read_each(self, values: list[Any]) -> list[Any]:
        item = self.item
        if item is not None:
            return [item._over(each) for each in values if type(each) is dict]
        return [_copy(each) for each in values if each is not None or not self.item_types]

    def fault(self, value: Any) -> tuple[str, str] | None:
        """Where in the value the wrong JSON type is, and what it should be; None if it may stand in this field."""
        if value is None or not self.types:
            return None
        # By identity, for a bool is an int to Python, and neither is the other on the wire.
        if type(value) not in self.types:
            return "", self.said
        if self.is_list:
            return self._fault_of_items(value) if self.item_types else None
        return self.item._fault(value) if self.item is not None and not self.item._lenient else None

    def _fault_of_items(self, values: list[Any]) -> tuple[str, str] | None:
        item = self.item
        for index, each in enumerate(values):
            if each is None:
                continue
            if type(each) not in self.item_types:
                return f"[{index}]", self.said_of_item
            fault = item._fault(each) if item is not None else None
            if fault is not None:
                return f"[{index}]{fault[0]}", fault[1]
        return None

    def without_nulls(self, value: Any) -> Any:
        item = self.item
        if item is None or item._lenient:
            return value
        if self.is_list:
            return [item._without_nulls(each) for each in value if each is not None]
        return item._without_nulls(value)


_SIMPLE: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int, float), "a number"),
    float: ((int, float), "a number"),
}


_COMMON = {f"{hint.__name__} | None": _Kind(*simple) for hint, simple in _SIMPLE.items()} | {"Any": _Kind((), "")}


def _kind_of(annotation: str, cls: type[WireObject]) -> _Kind:
    """What a field with this annotation may hold.

    Annotations are text here (PEP 563). Nearly all are one of a few; evaluating each, as `typing.get_type_hints` does,
    would be half of what importing this package costs.
    """
    known = _COMMON.get(annotation)
    return known if known is not None else _kind(eval(annotation, vars(sys.modules[cls.__module__])))


def _kind(hint: Any) -> _Kind:
    if get_origin(hint) in (Union, UnionType):
        return _kind(next(each for each in get_args(hint) if each is not NoneType))
    if get_origin(hint) is not None and issubclass(get_origin(hint), Sequence):
        return _Kind.of_list(_kind(get_args(hint)[0]))
    if isinstance(hint, type) and issubclass(hint, WireObject):
        return _Kind.of_object(hint)
    return _Kind(*_SIMPLE.get(hint, ((), "")))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _none(changes: Mapping[str, Any]) -> bool:
    return all(value is None for value in changes.values())


def _plain(value: Any, levels: int = MAX_DEPTH) -> Any:
    """JSON for what a caller hands in: our values, mappings, lists and tuples of them, and plain JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if type(value) is str else str.__str__(value)  # of an enumeration, say
    if isinstance(value, int):
        return value if type(value) is int else int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"JSON cannot hold {value}")
        return float(value)
    if isinstance(value, WireObject):
        value = value._json
    if isinstance(value, (Mapping, list, tuple)) and levels == 0:
        raise BadActivity(f"The JSON is nested deeper than {MAX_DEPTH} levels", code="TooDeep")
    if isinstance(value, Mapping):
        return {_name(key): _plain(each, levels - 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, levels - 1) for each in value]
    raise TypeError(f"JSON cannot hold a {type(value).__name__}; give it as a string, number, list or object")


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"The names in a JSON object are strings, not {type(key).__name__}")
    return str.__str__(key)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return value
