"""The configuration's reference as Markdown, made from the schema so that it cannot be wrong."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

from kantor.config.base import Settings
from kantor.config.study import Config

_HEAD = """# The configuration

`config.yaml` says what physics, which data, which models and which seeds. Where files go, how many ranks, threads and
how much memory are matters of the machine: the command line and `profiles/` say them, and they change no result.

An unknown key, a value out of range or a name that is not defined is an error that names the field and the cure:
`kantor config --check FILE`. `kantor config --schema` prints a JSON schema for editors. This page is
`kantor config --reference`.

The defaults of a training are those below, unless its objective or its `preset` has others, which stand in
[docs/objectives.md](../docs/objectives.md).

Write `1.0e-4` or `0.0001`; YAML reads a plain `1e-4` as text, which is accepted too.
"""


def reference() -> str:
    """Every key with its type, default, unit and meaning."""
    places: dict[type[Settings], list[str]] = {}
    _visit(Config, "", places)
    return "\n".join([_HEAD, *(_section(_title(kind, found), kind) for kind, found in places.items())])


def _visit(kind: type[Settings], place: str, places: dict[type[Settings], list[str]]) -> None:
    """Add where in the file each section stands: this one, then those below it, in the schema's order."""
    found = places.setdefault(kind, [])
    if place in found:
        return
    found.append(place)
    for name, field in kind.model_fields.items():
        for section, below in _sections(field.annotation, f"{place}.{name}".lstrip(".")):
            _visit(section, below, places)


def _sections(annotation: Any, place: str) -> Iterator[tuple[type[Settings], str]]:
    """The sections that a value of this type is or holds, and where they then stand."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation, place
        return
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        key, arguments = arguments[0], arguments[1:]
        place = f"{place}.{_key_name(key)}"
    elif get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    for argument in arguments:
        yield from _sections(argument, place)


def _key_name(key: Any) -> str:
    titles = [part.title for part in getattr(key, "__metadata__", ()) if getattr(part, "title", None)]
    return titles[0] if titles else "NAME"


def _title(kind: type[Settings], places: Sequence[str]) -> str:
    first, *others = places
    if not first:
        return "The file"
    parent = first.rpartition(".")[0]
    title = ", ".join([first, *(other.removeprefix(parent) for other in others)])
    choice = kind.model_fields.get("kind")
    kinds = () if choice is None else get_args(choice.annotation)
    return f"{title}, `kind: {kinds[0]}`" if len(kinds) == 1 else title


def _section(title: str, kind: type[Settings]) -> str:
    schema = kind.model_json_schema()
    lines = [f"## {title}", "", (kind.__doc__ or "").split("\n\n")[0], ""]
    if schema.get("properties"):
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    # A section that inherits keys has its kind behind them.
    for name, field in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] != "kind"):
        meaning = field.get("description", "see below").replace("|", "or")
        lines.append(f"| `{name}` | {_type(field)} | {_default(name, field, schema)} | {meaning} |")
    return "\n".join([*lines, ""])


def _type(field: Any) -> str:
    if "$ref" in field or "discriminator" in field or "oneOf" in field:
        return "section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    name = {"object": "mapping", "array": "list", "number": "number", "integer": "integer"}.get(
        field.get("type"), field.get("type", "any")
    )
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if key in field
    ]
    bounds += [f"multiple of {field['multipleOf']:g}"] if "multipleOf" in field else []
    return f"{name} {', '.join(bounds)}".strip()


def _default(name: str, field: Any, schema: Any) -> str:
    if name in schema.get("required", ()):
        return "required"
    default = field.get("default")
    if "const" in field:
        return f"`{field['const']}`"
    if isinstance(default, dict) and default:
        return "see below"
    if default is None or isinstance(default, bool):
        return "none" if default is None else f"`{str(default).lower()}`"
    return f"`{default}`"
