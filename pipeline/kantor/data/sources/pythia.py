"""PYTHIA 8, as every source that runs it starts it."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kantor.errors import InputError
from kantor.machine.packages import optional

BLOCKS_PER_SEED = 1_000_000


def block_seed(seed: int, block: int) -> int:
    """PYTHIA's seed of a block; a seed of ours, 0 to 899, has a million of them."""
    return seed * BLOCKS_PER_SEED + block + 1


def start(cards: Sequence[str], seed: int, refused: InputError) -> Any:
    """A PYTHIA with these settings, initialised.

    Raises:
        InputError: it is not installed or does not know a setting; `refused`, if it cannot be initialised.
    """
    # The banner is off; an empty path lets PYTHIA find the data of its own wheel.
    pythia = _module().Pythia("", False)
    for line in ("Print:quiet = on", "Random:setSeed = on", f"Random:seed = {seed}", *cards):
        if not pythia.readString(line):
            raise InputError(f"PYTHIA does not know the setting '{line}'", cure="pip install 'kantor[dis]'")
    if not pythia.init():
        raise refused
    return pythia


def version() -> str:
    return f"{_module().Pythia('', False).settings.parm('Pythia:versionNumber'):.3f}"


def _module() -> ModuleType:
    return optional("pythia8mc", "dis", "generating events with PYTHIA 8")
