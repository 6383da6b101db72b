"""The configuration's reference as Markdown, made from the schema so that it cannot be wrong."""

from typing import Any

from kantor import config

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

_SECTIONS: list[tuple[str, type[config.Settings]]] = [
    ("The file", config.Config),
    ("datasets.NAME", config.Dataset),
    ("datasets.NAME.source, `kind: dis`", config.DisSource),
    ("datasets.NAME.source, `kind: ring`", config.RingSource),
    ("datasets.NAME.source, `kind: grid`", config.GridSource),
    ("datasets.NAME.source, `kind: swiss_roll`", config.SwissRollSource),
    ("datasets.NAME.source, `kind: file`", config.FileSource),
    ("datasets.NAME.split", config.Split),
    ("datasets.NAME.physics, `kind: dis`", config.DisPhysics),
    ("trainings.NAME", config.Training),
    ("trainings.NAME.transforms.COLUMN, `kind: standardise`", config.Standardise),
    ("trainings.NAME.transforms.COLUMN, `kind: log`", config.Log),
    ("trainings.NAME.transforms.COLUMN, `kind: log_distance`", config.LogDistance),
    ("trainings.NAME.transforms.COLUMN, `kind: quantile_normal`", config.QuantileNormal),
    ("trainings.NAME.generator", config.GeneratorNetwork),
    ("trainings.NAME.critic", config.CriticNetwork),
    ("trainings.NAME.objective, `kind: gan`", config.Gan),
    ("trainings.NAME.objective, `kind: ns_gan`", config.NsGan),
    ("trainings.NAME.objective, `kind: ls_gan`", config.LsGan),
    ("trainings.NAME.objective, `kind: sn_gan`", config.SnGan),
    ("trainings.NAME.objective, `kind: wgan`", config.Wgan),
    ("trainings.NAME.objective, `kind: wgan_gp`", config.WganGp),
    ("trainings.NAME.objective, `kind: cramer`", config.Cramer),
    ("trainings.NAME.objective, `kind: energy`", config.EnergyMatching),
    ("trainings.NAME.objective, `kind: mmd`", config.MmdMatching),
    ("trainings.NAME.objective.penalty", config.Penalty),
    ("trainings.NAME.terms, `kind: mmd`", config.MmdTerm),
    ("trainings.NAME.terms, `kind: feature_matching`", config.FeatureMatching),
    ("trainings.NAME.terms, `kind: constrainer`", config.Constrainer),
    ("trainings.NAME.instance_noise", config.InstanceNoise),
    ("trainings.NAME.head_start", config.HeadStart),
    ("trainings.NAME.critic_optimiser, .generator_optimiser, `kind: adam`", config.Adam),
    ("trainings.NAME.critic_optimiser, .generator_optimiser, `kind: rmsprop`", config.RmsProp),
    ("validation", config.Validation),
    ("targets.run, targets.physics, targets.toys", config.Target),
]


def reference() -> str:
    """Every key with its type, default, unit and meaning."""
    return "\n".join([_HEAD, *(_section(title, kind) for title, kind in _SECTIONS)])


def _section(title: str, kind: type[config.Settings]) -> str:
    schema = kind.model_json_schema()
    lines = [f"## {title}", "", (kind.__doc__ or "").split("\n\n")[0], ""]
    if schema.get("properties"):
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in schema.get("properties", {}).items():
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
