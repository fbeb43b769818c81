"""Checks values against JSON Schema (json-schema.org, draft 2020-12), as far as schema.json uses it."""

from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
ANNOTATIONS = frozenset({"$schema", "title", "description"})
CHECKED = frozenset(
    {"type", "const", "enum", "required", "properties", "additionalProperties", "items", "minItems", "minimum"}
)


def problems(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with the value, each with where it is; none if the schema holds."""
    return list(_problems(value, schema, "the value"))


def _problems(value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if unknown := schema.keys() - CHECKED - ANNOTATIONS:
        raise ValueError(f"the schema has {sorted(unknown)[0]!r}, which is not checked here")
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted
    if names is not None and not any(_is(value, name) for name in names):
        yield f"{where} is not of type {' or '.join(names)}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {schema['enum']}"
    if "minimum" in schema and _is(value, "number") and value < schema["minimum"]:
        yield f"{where} is less than {schema['minimum']}"
    if isinstance(value, dict):
        yield from _object_problems(value, schema, where)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{where} has fewer than {schema['minItems']} items"
        if "items" in schema:
            for index, item in enumerate(value):
                yield from _problems(item, schema["items"], f"{where}[{index}]")


def _object_problems(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where} lacks {name!r}"
    known = schema.get("properties", {})
    further = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            yield from _problems(item, known[name], f"{where}.{name}")
        elif further is False:
            yield f"{where} has {name!r}, which is unknown"
        elif isinstance(further, dict):
            yield from _problems(item, further, f"{where}.{name}")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])
