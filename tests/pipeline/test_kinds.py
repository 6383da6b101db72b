"""Every kind that the configuration knows has what belongs to it: a kind added by half is seen here.

Sections of the reference: test_config. Rows of docs/objectives.md: test_config. Rank cases: test_ranks.
"""

from typing import Any, get_args

import pytest

from kantor import config, losses, physics
from kantor.config.base import Settings
from kantor.data import sources
from kantor.data.sources import Source, make_source
from kantor.losses import terms
from kantor.models import transforms
from kantor.models.networks import factory
from kantor.models.transforms import chain
from kantor.physics import Physics
from kantor.physics.base import Modes, UniformAzimuth
from kantor.results import Column
from kantor.validation import checks
from kantor.validation.catalogue import STATISTICS


def members(union: Any) -> set[type[Settings]]:
    """The sections that a discriminated union of the schema consists of."""
    found = set(get_args(get_args(union)[0]))
    assert found
    return found


SOURCES = members(config.Dataset.__annotations__["source"])
PHYSICS = members(config.Physics)
COLUMNS = [Column(name="e", shape=(3, 4, 2)), Column(name="p", unit="GeV"), Column(name="eta")]


def test_every_kind_of_the_schema_is_in_its_table() -> None:
    assert set(sources._KINDS) == SOURCES
    assert set(physics._KINDS) == PHYSICS
    assert set(chain._KINDS) == members(config.Transform)
    assert set(transforms._MAPS) == members(config.AnyCoordinates)
    assert set(losses._KINDS) == members(config.Objective)
    assert set(terms._KINDS) == members(config.Term)
    assert set(factory._GENERATORS) == {config.GeneratorNetwork}
    assert set(factory._CRITICS) == {config.CriticNetwork}


@pytest.mark.parametrize("kind", sorted(SOURCES, key=str))
def test_sources_keep_their_protocol(kind: type[config.Source]) -> None:
    (name,) = get_args(kind.model_fields["kind"].annotation)
    required = {
        "file": {"paths": ["a.npz", "b.npz"], "features": ["x"], "conditions": ["c"]},
        "calochallenge": {"dataset": "1_pions"},
        "jetnet": {"jets": "g", "conditions": ["mass", "pt"]},
    }
    settings = kind.model_validate({"kind": name, **required.get(name, {})})
    source = make_source(settings, 1000)
    assert isinstance(source, Source)
    assert source.pieces >= 1
    assert source.describe()
    assert [column.name for column in source.conditions] == settings.condition_names
    assert source.origin(0)["source"]
    # What it knows of its physics is something that the validation can check.
    assert source.physics is None or type(source.physics) in PHYSICS


def test_every_check_has_statistics() -> None:
    assert set(checks._CHECKS) == {UniformAzimuth, Modes}


@pytest.mark.parametrize("kind", sorted(PHYSICS, key=str))
def test_what_a_physics_names_is_there(kind: type[Settings]) -> None:
    settings = {
        "dis": config.DisPhysics(),
        "mixture": config.MixturePhysics(kind="mixture", centres=[[0.0]], sigma=1),
        "showers": config.ShowerPhysics(kind="showers", layers=["e"]),
        "rich": config.RichPhysics(kind="rich", refractive_index=1.0014, photons=20),
    }
    (name,) = get_args(kind.model_fields["kind"].annotation)
    known: Physics = physics._KINDS[kind](settings[name], {}, COLUMNS)
    assert type(known) is not Physics
    derived = {observable.name for observable in known.observables}
    assert {name for plane in known.planes for name in plane} <= derived
    assert set(known.classified) <= derived
    assert all(type(check) in checks._CHECKS for check in known.checks)
    assert len({law.name for law in known.laws}) == len(known.laws)


def test_statistics_stand_under_their_names() -> None:
    assert all(statistic.name == name for name, statistic in STATISTICS.items())
    for statistic in STATISTICS.values():
        # A table of its own needs a heading and what its labels begin with.
        assert bool(statistic.title and statistic.short) == (statistic.section == "distance")
