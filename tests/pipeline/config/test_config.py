"""The configuration: what is refused, how it is said, what equal means."""

import json
import re
from pathlib import Path
from typing import Literal, get_args

import pytest

from kantor.config import (
    Adam,
    AnyCoordinates,
    Config,
    DisSource,
    Objective,
    Penalty,
    Term,
    Training,
    Validation,
    load,
    parse,
    schema,
)
from kantor.config.documentation import reference
from kantor.config.presets import PRESETS
from kantor.errors import ConfigError

ROOT = Path(__file__).parents[3]
VALID = """
datasets:
  dis: {source: {kind: dis}}
trainings:
  w: {dataset: dis, objective: {kind: wgan_gp}}
targets:
  run: {trainings: [w]}
"""


def config(text: str, tmp_path: Path) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(path)


def test_the_shipped_configuration_is_valid() -> None:
    shipped = load(ROOT / "config" / "config.yaml")
    assert shipped.targets["run"].seeds == [1]
    assert shipped.targets["physics"].seeds == [1, 2, 3]
    run, toys = ([shipped.trainings[name] for name in shipped.targets[target].trainings] for target in ("run", "toys"))
    assert {training.objective.kind for training in run} == {"wgan_gp", "cramer"}
    assert {training.dataset for training in toys} == {"ring", "grid"}


def test_the_reference_is_the_schema() -> None:
    assert (ROOT / "config" / "README.md").read_text() == reference(), (
        "run: kantor config --reference > config/README.md"
    )


def test_the_reference_has_every_key_of_the_schema() -> None:
    """pydantic's own walk through the schema, which knows nothing of how the reference finds its sections."""
    document, page = json.loads(schema()), reference()
    sections = {"Config": document, **document["$defs"]}
    keys = {(name, key) for name, section in sections.items() for key in section.get("properties", {})}
    tables = [set(re.findall(r"^\| `(\w+)` \|", part, re.M)) for part in page.split("\n## ")[1:]]
    assert len(tables) == len(sections) > 30
    assert len(keys) == sum(map(len, tables))
    for name, section in sections.items():
        assert set(section.get("properties", {})) in tables, name


def test_targets_have_any_name_but_run_is_one_of_them(tmp_path: Path) -> None:
    both = VALID + "  my-study.2: {trainings: [w], seeds: [7]}\n"
    assert config(both, tmp_path).targets["my-study.2"].seeds == [7]
    with pytest.raises(ConfigError, match="'run' is missing, the target of `snakemake` without a name"):
        config(VALID.replace("run:", "other:"), tmp_path)
    with pytest.raises(ConfigError, match="targets"):
        config(VALID + "  'two words': {trainings: [w]}\n", tmp_path)


@pytest.mark.parametrize(
    ("replace", "by", "message"),
    [
        (
            "kind: dis}",
            "kind: dis, sede: 3}",
            "dis.source.sede = 3: unknown key\n    cure: did you mean 'seed'?",
        ),
        ("kind: wgan_gp", "kind: wgan_pg", "trainings.w.objective.kind"),
        ("dataset: dis,", "dataset: dsi,", "names 'dsi', which is not defined; did you mean 'dis'?"),
        ("dataset: dis,", "dataset: dis, batch: -4,", "trainings.w.batch = -4: Input should be greater than 0"),
        ("dataset: dis,", "dataset: dis, batch: 0,", "trainings.w.batch = 0: Input should be greater than 0"),
        ("dataset: dis,", "dataset: dis, batch: 3,", "multiple of 2"),
        ("dataset: dis,", "dataset: dis, critic: {norm: batch},", "BatchNorm couples the rows of a batch"),
        ("dataset: dis,", "dataset: dis, critic: {norm: BatchNorm},", "BatchNorm couples the rows of a batch"),
        ("dataset: dis,", "dataset: dis, steps: .inf,", "trainings.w.steps"),
        ("dataset: dis,", 'dataset: dis, critic_features: {a: "import os"},', "is not an expression"),
        ("dataset: dis,", 'dataset: dis, critic_features: {a: "open(px)"},', "which expressions do not know"),
        ("kind: dis}", "kind: dis}, split: {train: 0.9}", "add up to 1.3, more than 1"),
        ("[w]", "[v]", "targets.run.trainings names 'v'"),
        ("dataset: dis, objective: {kind: wgan_gp}", "dataset: dis", "trainings.w.objective: is missing"),
        ("targets:", "trainings: {}\ntargets:", "'trainings' stands twice"),
        ("targets:", "targets: [", "is not valid YAML"),
    ],
)
def test_errors_name_field_value_and_cure(replace: str, by: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        config(VALID.replace(replace, by), tmp_path)
    assert message in str(error.value)
    assert "config.yaml" in str(error.value)
    assert error.value.exit_code == 2


def training(**settings: object) -> Training:
    return Training.model_validate({"dataset": "d", "objective": {"kind": "wgan_gp"}} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic": {"norm": "batch"}}, "BatchNorm couples the rows of a batch"),
        ({"generator": {"norm": "BatchNorm"}}, "BatchNorm couples the rows of a batch"),
        ({"critic": {"minibatch_std": 4}}, "minibatch_std couples the rows .* set minibatch_std to 0"),
        (
            {"objective": {"kind": "mmd", "embedding": 8}, "critic": {"minibatch_std": 4}},
            "penalty of 'mmd' is defined row by row",
        ),
        (
            {"objective": {"kind": "ns_gan"}, "critic": {"minibatch_std": 6}},
            "batch = 512 is no multiple of critic.minibatch_std = 6",
        ),
        ({"objective": {"kind": "wgan"}, "critic": {"spectral_norm": True}}, "take objective 'sn_gan'"),
        ({"objective": {"kind": "wgan"}, "critic": {"norm": "layer"}}, "take objective 'wgan_gp'"),
        ({"objective": {"kind": "sn_gan"}, "critic": {"spectral_norm": False}}, "set it to true, or take 'ns_gan'"),
        ({"objective": {"kind": "cramer", "critic": "surrogate", "pairs": "all"}}, "take 'critic: energy'"),
        ({"objective": {"kind": "energy"}, "n_critic": 5}, "n_critic = 5, but 'energy' on features has no critic"),
        ({"objective": {"kind": "energy"}, "head_start": {}}, "has no critic to be ahead"),
        ({"objective": {"kind": "mmd", "penalty": {"weight": 1}}}, "has no critic to penalise"),
        (
            {"objective": {"kind": "ns_gan", "penalty": {"kind": "r1"}}, "critic": {"minibatch_std": 4}},
            "penalty of 'ns_gan' is defined row by row",
        ),
        ({"objective": {"kind": "gan", "penalty": {"kind": "r1", "target": 1}}}, "remove target, or take 'kind: gp'"),
        (
            {"objective": {"kind": "wgan_gp", "penalty": {"kind": "gp", "one_sided": True}}},
            "contradict each other: remove one_sided; 'kind: lp' is",
        ),
        ({"objective": {"kind": "wgan_gp", "penalty": {"kind": "r2", "one_sided": False}}}, "remove one_sided"),
        ({"objective": {"kind": "wgan_gp", "penalty": {"one_sided": 2}}}, "one_sided must be true or false"),
        ({"objective": {"kind": "wgan_gp", "penalty": {"schedule": "exponential", "final": 0}}}, "never reaches zero"),
        ({"objective": {"kind": "mmd_gan", "scaled": 1, "penalty": {}}}, "remove one of them"),
        ({"objective": {"kind": "mmd_gan", "penalty": None}}, "give a penalty, or 'scaled'"),
        ({"objective": {"kind": "mmd_gan", "scaled": 1, "kernel": "laplacian"}}, "take gaussian or rational_quadratic"),
        ({"objective": {"kind": "mmd_gan", "scaled": 1}, "critic": {"minibatch_std": 4}}, "is defined row by row"),
        ({"objective": {"kind": "engression"}, "n_critic": 5}, "no critic: set n_critic to 0\n"),
        ({"objective": {"kind": "engression"}, "instance_noise": {"deviation": 1}}, "instance_noise is on what"),
        ({"objective": {"kind": "energy"}, "critic": {"pack": 2}}, "pack = 2, but 'energy' on features has no critic"),
        ({"objective": {"kind": "gan"}, "critic": {"pack": 2, "minibatch_std": 4}}, "several events: remove one"),
        ({"critic": {"pack": 2, "dropout": 0.1}}, "dropout has a mask for each event"),
        ({"critic": {"pack": 2}, "terms": [{"kind": "feature_matching"}]}, "feature_matching looks at single events"),
        ({"critic": {"pack": 3}}, "batch = 512 is no multiple of 6"),
        ({"n_critic": 0}, "the critic of 'wgan_gp' has to learn"),
        ({"objective": {"kind": "mmd"}, "terms": [{"kind": "feature_matching"}]}, "feature_matching needs a critic"),
        ({"precision": "float64", "autocast": "bfloat16"}, "contradicts itself"),
        ({"keep": "last", "patience": 3}, "patience looks for the best generator"),
        ({"generator_optimiser": {"schedule": "exponential", "final": 0}}, "an exponential never reaches zero"),
        ({"critic_optimiser": {"warm_up": 4000}}, "warm_up lasts 4000 steps, the whole run"),
        ({"objective": {"kind": "gan", "real_label": 0.4}}, "greater than 0.5"),
        ({"preset": "fat_gun"}, "'fat_gan', 'wgan_gp_toy' or 'rich'"),
        ({"critic_optimiser": {"kind": "sgd"}}, "'adam', 'rmsprop'"),
    ],
)
def test_parts_that_disagree_are_refused_with_a_cure(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Training, {"dataset": "d", "objective": {"kind": "wgan_gp"}} | settings, "test")


FILE = """
datasets:
  d: {source: {kind: file, paths: [a.csv], features: [x], weight: w}}
trainings:
  t: {dataset: d, objective: {kind: cramer, critic: surrogate}}
targets:
  run: {trainings: [t]}
"""


def test_what_a_training_s_data_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainings.t: the surrogate critic with weights .* signed_weights to clip"):
        config(FILE, tmp_path)
    config(FILE.replace("dataset: d,", "dataset: d, signed_weights: clip,"), tmp_path)
    constrained = FILE.replace("critic: surrogate", "critic: energy").replace(
        "dataset: d,", "dataset: d, terms: [{kind: constrainer, conditions: [p]}],"
    )
    with pytest.raises(ConfigError, match="a constrainer regresses conditions, and dataset 'd' has none"):
        config(constrained, tmp_path)
    packed = FILE.replace("critic: surrogate}", "critic: energy}, critic: {pack: 2}")
    config(packed, tmp_path)
    with pytest.raises(ConfigError, match=r"trainings.t: critic.pack = 2 joins events, whose conditions \(q\) differ"):
        config(packed.replace("features: [x],", "features: [x], conditions: [q],"), tmp_path)
    with pytest.raises(ConfigError, match=r"terms: conditions names 'p', which is not defined"):
        config(constrained.replace("features: [x],", "features: [x], conditions: [q],"), tmp_path)


def test_a_penalty_is_one_sided_by_its_kind() -> None:
    old, new = (
        training(objective={"kind": "wgan_gp", "penalty": penalty | {"weight": 3}})
        for penalty in ({"one_sided": True}, {"kind": "lp"})
    )
    assert old.canonical() == new.canonical()
    # As bundles of before have it.
    whole = {"weight": 10.0, "target": 1.0, "one_sided": False}
    assert training(objective={"kind": "wgan_gp", "penalty": whole}) == training()
    assert Penalty(kind="r1").target == 0
    assert Penalty.model_validate(Penalty(kind="r1").model_dump()) == Penalty(kind="r1")


def test_an_objective_brings_its_paper_s_defaults() -> None:
    wgan = training(objective={"kind": "wgan"})
    assert (wgan.n_critic, wgan.critic_optimiser.kind, wgan.generator_optimiser.learning_rate) == (5, "rmsprop", 5e-5)
    assert training(objective={"kind": "ns_gan"}).n_critic == 1
    assert training(objective={"kind": "sn_gan"}).critic.spectral_norm
    assert training(objective={"kind": "energy"}).n_critic == 0
    assert training(objective={"kind": "engression"}).n_critic == 0
    mmd_gan = training(objective={"kind": "mmd_gan", "embedding": 8, "scaled": 2})
    assert (mmd_gan.n_critic, mmd_gan.generator_optimiser) == (5, Adam(learning_rate=1e-4, betas=(0.5, 0.9)))
    assert parse(Training, mmd_gan.canonical(), "test") == mmd_gan
    r3gan = training(objective={"kind": "r3gan", "penalty": {"weight": 0.5}})
    assert (r3gan.n_critic, r3gan.critic_optimiser, r3gan.generator_optimiser) == (1, Adam(), Adam())
    assert r3gan.objective.penalises == Penalty(kind="r1r2", weight=0.5)
    assert training(objective={"kind": "energy", "embedding": 8}).n_critic == 5
    mine = training(objective={"kind": "wgan"}, n_critic=3, critic_optimiser={"learning_rate": 1e-3})
    assert mine.n_critic == 3
    assert (mine.critic_optimiser.kind, mine.critic_optimiser.learning_rate) == ("rmsprop", 1e-3)
    assert training(objective={"kind": "wgan"}, critic_optimiser={"kind": "adam"}).critic_optimiser == Adam()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_stand_under_the_user_s_keys(preset: str) -> None:
    recipe = parse(Training, {"dataset": "d", "preset": preset}, "test")
    assert recipe.generator.width == PRESETS[preset]["generator"]["width"]
    mine = parse(
        Training, {"dataset": "d", "preset": preset, "generator": {"width": 7}, "objective": {"kind": "ls_gan"}}, "test"
    )
    assert (mine.generator.width, mine.generator.depth) == (7, recipe.generator.depth)
    assert mine.objective.kind == "ls_gan"
    assert parse(Training, recipe.canonical(), "test") == recipe


def test_every_preset_can_be_named() -> None:
    assert [name for name in get_args(Training.model_fields["preset"].annotation) if name is not type(None)] == [
        Literal[*PRESETS]
    ]


def test_every_kind_of_coordinates_has_a_row_in_the_documentation() -> None:
    page = (ROOT / "docs" / "coordinates.md").read_text()
    kinds = [get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(AnyCoordinates)[0])]
    assert kinds
    assert not [name for name in kinds if f"\n| `{name}` |" not in page]


def test_every_objective_and_preset_has_a_row_in_the_documentation() -> None:
    page = (ROOT / "docs" / "objectives.md").read_text()
    kinds = [get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(Objective)[0])]
    terms = [get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(Term)[0])]
    assert not [name for name in (*kinds, *terms, *PRESETS) if f"\n| `{name}`" not in page]


def test_every_wrong_field_is_said_at_once(tmp_path: Path) -> None:
    text = VALID.replace("kind: dis}", "kind: dis, events: 0}").replace("dataset: dis,", "dataset: dis, steps: 0,")
    with pytest.raises(ConfigError, match="2 fields are not valid"):
        config(text, tmp_path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "text"])
def test_a_file_without_keys(content: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no keys"):
        config(content, tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "nowhere.yaml")


def test_equal_settings_written_differently_are_the_same(tmp_path: Path) -> None:
    spelled = VALID.replace("kind: dis}", "kind: dis, events: 100000, q2_min: 2, electron_energy: 5e1}")
    assert config(VALID, tmp_path).datasets["dis"].canonical() == config(spelled, tmp_path).datasets["dis"].canonical()


def test_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    text = VALID.replace("dataset: dis,", "dataset: dis, critic_optimiser: {learning_rate: 1e-4},")
    assert config(text, tmp_path).trainings["w"].critic_optimiser.learning_rate == 1e-4


def test_settings_survive_the_way_through_json() -> None:
    training = Training.model_validate({"dataset": "dis", "objective": {"kind": "cramer", "critic": "surrogate"}})
    assert parse(Training, training.canonical(), "test") == training


def test_laws_come_with_the_generator() -> None:
    laws = DisSource(electron_energy=18, proton_energy=275).physics()
    assert (laws.electron_energy, laws.proton_energy) == (18, 275)


def test_observables_of_other_datasets_do_not_count() -> None:
    settings = Validation(observables={"dis": {"a": "px"}, "other": {"b": "py"}})
    assert settings.for_dataset("dis").observables == {"dis": {"a": "px"}}
    assert settings.for_dataset("third").canonical() == Validation().canonical()
