"""How a JSON object of the wire becomes a value with typed attributes, and stays the JSON object it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Self, Union, dataclass_transform, get_args, get_origin, get_type_hints

from agent_core.errors import BadActivity

JsonObject = dict[str, Any]

MAX_DEPTH = 64


class WireName(str):
    """Marks a field whose name on the wire is not its attribute in camelCase: `from_property = wire("from")`."""


def wire(name: str, *, default: Any = None) -> Any:
    """Declare a field's name on the wire where camelCase does not give it."""
    return WireName(name)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(wire,))
class WireObject:
    """A JSON object with typed attributes over it.

    The JSON object is the truth and the attributes are views: fields that the class does not know stay, at every
    depth, and so do spelling, order and precision of those it knows. A value never changes; `replace` copies.

    A subclass declares its fields with annotations; `snake_case` stands for `camelCase` on the wire. What is missing or
    null reads as the default: None, or () for a list.
    """

    __slots__ = ("_json",)
    _json: JsonObject
    _fields: dict[str, _Field] = {}  # noqa: RUF012  # replaced for each subclass, never changed

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        hints = get_type_hints(cls)
        fields = dict(cls._fields)
        for name in cls.__annotations__:
            declared = cls.__dict__.get(name)
            fields[name] = _Field(declared if isinstance(declared, WireName) else _camel(name), _kind(hints[name]))
            setattr(cls, name, fields[name])
        cls._fields = fields

    def __init__(self, **values: Any) -> None:
        self._json = {}
        self._set(values)

    @classmethod
    def from_dict(cls, json_object: Mapping[str, Any]) -> Self:
        """A value over a copy of this JSON object.

        Raises:
            BadActivity: a known field holds the wrong JSON type; the message names it.
        """
        _check(cls, json_object, "")
        return cls._over(_copy(json_object))

    @classmethod
    def from_json(cls, body: bytes | str) -> Self:
        """A value from JSON text (UTF-8, a byte order mark is allowed).

        Raises:
            BadActivity: not JSON, not an object, nested deeper than 64, or a known field of the wrong JSON type.
        """
        json_object = parse_object(body)
        _check(cls, json_object, "")
        return cls._over(json_object)

    @classmethod
    def _over(cls, json_object: JsonObject) -> Self:
        value = cls.__new__(cls)
        value._json = json_object
        return value

    def to_dict(self) -> JsonObject:
        """A copy of the JSON object."""
        copied: JsonObject = _copy(self._json)
        return copied

    def to_json(self) -> bytes:
        """The JSON object as UTF-8 text."""
        return dump(self._json)

    def replace(self, **changes: Any) -> Self:
        """A copy with these attributes changed; None takes a field out."""
        value = self._over(dict(self._json))
        value._set(changes)
        return value

    def _set(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            field = self._fields.get(name)
            if field is None:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            if value is None or (value == () and field.kind.is_list):
                self._json.pop(field.wire_name, None)
            else:
                plain = _plain(value)
                field.kind.check(plain, field.wire_name)
                self._json[field.wire_name] = plain

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WireObject) and type(other) is type(self) and self._json == other._json

    __hash__ = None  # type: ignore[assignment]  # the JSON under it has no hash

    def __repr__(self) -> str:
        # Never texts: a repr ends in logs.
        shown = ", ".join(f"{key}={self._json[key]!r}" for key in ("type", "id", "name") if key in self._json)
        return f"{type(self).__name__}({shown})"


class _Field:
    """The descriptor behind one attribute."""

    __slots__ = ("kind", "wire_name")

    def __init__(self, wire_name: str, kind: _Kind) -> None:
        self.wire_name = str(wire_name)
        self.kind = kind

    def __get__(self, instance: WireObject | None, owner: type[WireObject]) -> Any:
        if instance is None:
            return self
        return self.kind.read(instance._json.get(self.wire_name))

    def __set__(self, instance: WireObject, value: object) -> None:
        raise AttributeError(f"{type(instance).__name__} does not change; use replace(...), which copies")


class _Kind:
    """What a field may hold: how it is checked and how it is read."""

    __slots__ = ("allowed", "is_list", "item", "said")

    def __init__(
        self, allowed: tuple[type, ...], said: str, item: type[WireObject] | None = None, is_list: bool = False
    ) -> None:
        self.allowed = allowed
        self.said = said
        self.item = item
        self.is_list = is_list

    def read(self, value: Any) -> Any:
        if value is None:
            return () if self.is_list else None
        if self.is_list:
            item = self.item
            return tuple(item._over(each) for each in value if each is not None) if item else tuple(value)
        return self.item._over(value) if self.item else value

    def check(self, value: Any, path: str) -> None:
        if value is None or not self.allowed:
            return
        # bool is an int to Python, and neither is the other on the wire.
        fits = isinstance(value, self.allowed) and (bool in self.allowed or not isinstance(value, bool))
        if not fits:
            raise BadActivity(f"{path!r} must be {self.said}", code="BadSyntax")
        if self.item is not None:
            items: Sequence[Any] = value if self.is_list else (value,)
            for index, each in enumerate(items):
                inner = f"{path}[{index}]" if self.is_list else path
                if each is not None and not isinstance(each, dict):
                    raise BadActivity(f"{inner!r} must be an object", code="BadSyntax")
                if each is not None:
                    _check(self.item, each, inner + ".")


def _check(cls: type[WireObject], json_object: Mapping[str, Any], prefix: str) -> None:
    for field in cls._fields.values():
        if field.wire_name in json_object:
            field.kind.check(json_object[field.wire_name], prefix + field.wire_name)


def _kind(hint: Any) -> _Kind:
    if get_origin(hint) in (Union, UnionType):
        choices = [each for each in get_args(hint) if each is not NoneType]
        return _kind(choices[0])
    if get_origin(hint) is not None and issubclass(get_origin(hint), Sequence):
        item = get_args(hint)[0]
        wired = isinstance(item, type) and issubclass(item, WireObject)
        return _Kind((list, tuple), "a list", item if wired else None, is_list=True)
    if isinstance(hint, type) and issubclass(hint, WireObject):
        return _Kind((dict,), "an object", hint)
    simple: dict[Any, _Kind] = {
        str: _Kind((str,), "a string"),
        bool: _Kind((bool,), "true or false"),
        int: _Kind((int, float), "a number"),
        float: _Kind((int, float), "a number"),
    }
    return simple.get(hint, _Kind((), "any JSON value"))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _plain(value: Any) -> Any:
    """JSON for what a caller hands in: our values, mappings, lists and tuples of them, and plain JSON."""
    if isinstance(value, WireObject):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"JSON cannot hold a {type(value).__name__}; give it as a string, number, list or object")


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return value


def parse_object(body: bytes | str) -> JsonObject:
    """The JSON object in `body`.

    Raises:
        BadActivity: not UTF-8, not JSON (NaN and infinite numbers are not), not an object, or nested deeper than 64.
    """
    try:
        text = body.decode("utf-8-sig") if isinstance(body, bytes) else body
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise BadActivity(f"The JSON is nested deeper than {MAX_DEPTH} levels", code="TooDeep") from None
    except ValueError as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadActivity(f"The body is not valid JSON{where}", code="InvalidJson") from None
    if not isinstance(value, dict):
        raise BadActivity("The body must be a JSON object", code="NotAnObject")
    # Fewer brackets than levels cannot be deep; that spares the walk for nearly all.
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise BadActivity(f"The JSON is nested deeper than {MAX_DEPTH} levels", code="TooDeep")
    return value


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8; a lone surrogate, which UTF-8 cannot hold, stays escaped as it came in."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large for a number")
    return number


def _deeper_than(value: Any, depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    inner: Sequence[Any] = list(value.values()) if isinstance(value, dict) else value
    return [each for each in inner if isinstance(each, (dict, list))]
