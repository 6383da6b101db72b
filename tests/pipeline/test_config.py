"""The configuration: what is refused, how it is said, what equal means."""

from pathlib import Path

import pytest

from kantor.config import Config, DisSource, Training, Validation, load, parse
from kantor.errors import ConfigError
from kantor.reference import reference

ROOT = Path(__file__).parents[2]
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
    assert {training.objective.kind for training in shipped.trainings.values()} == {"wgan_gp", "cramer"}


def test_the_reference_is_the_schema() -> None:
    assert (ROOT / "config" / "README.md").read_text() == reference(), (
        "run: kantor config --reference > config/README.md"
    )


@pytest.mark.parametrize(
    ("replace", "by", "message"),
    [
        (
            "kind: dis}",
            "kind: dis, sede: 3}",
            "dis.source.sede = 3: unknown key\n    cure: did you mean 'seed'?",
        ),
        ("kind: wgan_gp", "kind: wgan", "trainings.w.objective.kind"),
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
