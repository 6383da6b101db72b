"""Geant4 in a process of its own for each block of showers.

Geant4 has one run manager in a process, keeps random numbers and tables from run to run, and ends the process where it
does not like something. In a fresh process a block depends on its settings only, and a failure is an error that says
why. The process writes what it made, or the error, pickled to its output; what Geant4 prints goes to standard error.
"""

import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from kantor.config import Geant4Source, parse
from kantor.data.geant4 import tables
from kantor.errors import InputError, KantorError

_MODULE = "geant4_pybind"
_INSTALL = f"pip install 'kantor[{tables.EXTRA}]'"
_SHOWN = 4  # lines of what Geant4 said last


@dataclass(frozen=True)
class Showers:
    """A block: deposits (n, *shape) [MeV] of each section by name, and `energy` (n,) [GeV]; Geant4's version."""

    columns: dict[str, np.ndarray]
    version: str


def check() -> None:
    """Refuse what can be refused before any work, and make the tables where they are not there.

    Raises:
        InputError: a package is missing, or the tables cannot be had.
    """
    # Importing it here would ask whether to download gigabytes.
    if find_spec(_MODULE) is None:
        raise InputError(f"simulating showers with Geant4 needs the package '{_MODULE}'", cure=_INSTALL)
    tables.environment()


def data_tables() -> str:
    """Which data tables Geant4 reads here, for people."""
    return tables.describe(tables.environment())


def showers(source: Geant4Source, block: int) -> Showers:
    """One block, from a process of its own; the last block may be shorter.

    Raises:
        InputError: Geant4 refuses the settings, or would download data.
        KantorError: the process ended for another reason.
    """
    check()
    done = subprocess.run(
        [sys.executable, "-m", __name__, source.canonical(), str(block), str(os.getpid())],
        env=tables.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise _explained(done.returncode, done.stderr.decode("utf-8", "replace"))
    made = pickle.loads(done.stdout)
    if isinstance(made, KantorError):
        raise made
    return made


def _explained(code: int, said: str) -> KantorError:
    if "Would you like to download" in said:
        return InputError(
            "Geant4 asks whether to download data sets, and Kantor downloads nothing by itself",
            where=_MODULE,
            cure=f"{_INSTALL}: that release needs none; or set the variables of all data sets of this one",
        )
    issued = re.search(r"issued by : (\S+)\n(.*?)(?:\*\*\*|-------- WWWW|-------- EEEE)", said, re.DOTALL)
    text = f"{issued[1]}: {issued[2]}" if issued else "\n".join(said.strip().splitlines()[-_SHOWN:])
    ended = f"by signal {-code}" if code < 0 else f"with code {code}"
    return KantorError(
        f"Geant4 ended {ended}: {' '.join(text.split())}",
        cure="check the detector; where it is right, please report this",
    )


def main() -> None:
    """Simulate a block: the arguments are its settings, its number, and the process that waits for it."""
    # The result has the output to itself.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        try:
            from kantor.data.geant4.simulation import simulate

            settings, block, parent = sys.argv[1:]
            made = simulate(parse(Geant4Source, settings, "--settings"), int(block), int(parent))
        except KantorError as error:
            made = error
        output.write(pickle.dumps(made))
    # Geant4 and Python do not agree on who removes what at the end.
    os._exit(0)


if __name__ == "__main__":
    # The classes of this module are those that the reader of the output knows.
    from kantor.data.geant4.process import main as run

    run()
