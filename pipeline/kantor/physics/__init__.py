"""What is known of each process, by its `kind` in the configuration."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kantor import config
from kantor.data.manifest import Manifest
from kantor.errors import InputError
from kantor.physics.base import Modes, Observable, Physics, UniformAzimuth
from kantor.physics.dis import Dis
from kantor.physics.mixtures import Mixture
from kantor.physics.rich import Rich
from kantor.physics.showers import Showers
from kantor.results import Column

__all__ = ["Modes", "Observable", "Physics", "UniformAzimuth", "physics_of"]

_KINDS: dict[type[config.Settings], Callable[[Any, Mapping[str, float], Sequence[Column]], Physics]] = {
    config.DisPhysics: Dis,
    config.MixturePhysics: Mixture,
    config.ShowerPhysics: Showers,
    config.RichPhysics: Rich,
}


def physics_of(manifest: Manifest, where: Path) -> Physics:
    """What is known of the physics of a dataset; nothing, where its configuration names none.

    Raises:
        InputError: the physics needs features that the dataset does not have; `where` is its manifest.
    """
    if manifest.physics is None:
        return Physics()
    columns = [*manifest.features, *manifest.conditions]
    try:
        physics = _KINDS[type(manifest.physics)](manifest.physics, manifest.constants, columns)
    except InputError as error:
        raise InputError(error.what, where=where, cure=error.cure) from error
    missing = [name for name in physics.features if name not in manifest.feature_names]
    if missing:
        names = ", ".join(physics.features)
        units = " and ".join(unit or "no unit" for unit in dict.fromkeys(physics.features.values()))
        raise InputError(
            f"its physics is '{manifest.physics.kind}', but it has no feature '{missing[0]}'",
            where=where,
            cure=f"name the features {names} [{units}], or leave out 'physics'",
        )
    return physics
