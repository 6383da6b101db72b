"""Reading a configuration: YAML, validation, and errors that name the field, its value and the cure."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from kantor.config.base import Settings
from kantor.config.presets import merged
from kantor.config.study import Config
from kantor.errors import ConfigError

S = TypeVar("S", bound=Settings)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{min(twice)}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it cannot be read, or is not YAML, or holds no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError as error:
        raise ConfigError("there is no such file", where=path, cure="give the path of a configuration") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not valid YAML: {error}", where=path, cure="mend the line named above") from error
    if not isinstance(content, dict):
        raise ConfigError("holds no keys", where=path, cure="start from config/config.yaml")
    return content


def parse(kind: type[S], content: Any, where: object) -> S:
    """Validate `content` (a mapping, or its JSON text) as `kind`.

    Raises:
        ConfigError: with one line for each field that is wrong: its name, its value and the cure.
    """
    try:
        return kind.model_validate_json(content) if isinstance(content, str) else kind.model_validate(content)
    except ValidationError as error:
        lines = [_explain(detail, kind) for detail in error.errors()]
        count = f"{len(lines)} fields are" if len(lines) > 1 else "a field is"
        raise ConfigError(f"{count} not valid\n" + "\n".join(lines), where=where) from error


def load(path: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Read and validate a configuration file: the only way in, for the command line and the workflow alike.

    Args:
        changes: keys that stand in place of those of the file, sections key by key.
    """
    return parse(Config, merged(read_yaml(path), changes or {}), path)


def schema() -> str:
    """The JSON schema of the configuration, for editors."""
    return json.dumps(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}, indent=2
    )


def _explain(detail: Any, kind: type[Settings]) -> str:
    field, known = _locate(kind, detail["loc"])
    value = detail["input"]
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool | None) else ""
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
            message = "unknown key"
            cure = (
                f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}" if known else "remove it"
            )
            if detail["loc"] == ("pathvars",):
                cure = "paths belong to the machine: snakemake --config 'pathvars={results: ...}'"
        case "missing":
            shown, message, cure = "", "is missing", "add this key"
        case "union_tag_invalid" | "union_tag_not_found":
            field, shown = f"{field}.kind", ""
            cure = f"choose one of {detail['ctx'].get('expected_tags', 'the kinds in config/README.md')}"
        case _:
            cure = getattr(detail.get("ctx", {}).get("error"), "cure", "see this key in config/README.md")
    return f"  {field}{shown}: {message}\n    cure: {cure}"


def _locate(kind: type[Settings], location: tuple[Any, ...]) -> tuple[str, list[str]]:
    """The dotted path of a field without pydantic's union tags, and the keys known beside it."""
    document = kind.model_json_schema()
    node: Any = document
    path, known = [], []
    for part in location:
        node = _resolved(node, document)
        if part in node.get("discriminator", {}).get("mapping", {}):
            node = {"$ref": node["discriminator"]["mapping"][part]}
            continue
        choice = next((each for each in node.get("oneOf", ()) if each.get("$ref", "").endswith(f"/{part}")), None)
        if choice is not None:
            node = choice
            continue
        known = sorted(node.get("properties", {}))
        path.append(str(part))
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        named = next(iter(node.get("patternProperties", {}).values()), None)
        node = inner or named or node.get("additionalProperties") or {}
    return ".".join(path), known


def _resolved(node: Any, document: Any) -> Any:
    while "$ref" in node:
        node = document["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node
