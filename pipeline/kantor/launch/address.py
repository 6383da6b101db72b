"""Which Ray a training uses, looked at before Ray is asked: Ray itself tries a dead address for minutes."""

import os
import socket
from collections.abc import Mapping

from kantor.doctor.machine import temporary_directory
from kantor.doctor.processes import Trouble, probe
from kantor.errors import InputError

MARK = "KANTOR_RAY"
"""Set by `kantor ray` to the address that it sets itself."""

# How long a port may take to accept, and Ray to answer [s].
_CONNECT, _ANSWER = 5.0, 25.0
_LOOK = """
import json, sys
import ray
ray.init(sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
print(json.dumps(ray.is_initialized()))
"""


def ray_address(asked_for: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The address of the Ray to be used, `local` for one of the training's own.

    One that `kantor ray` has started, or that is asked for, is used. Outside of a job RAY_ADDRESS asks, as it does for
    all of Ray; a SLURM job may have inherited it from anywhere, and another's Ray would not be in the job's nodes.

    Args:
        asked_for: by --ray-address, if it was.

    Raises:
        InputError: Ray could not start here, or the one that is named does not answer or was not asked for.
    """
    found = environment.get("RAY_ADDRESS")
    address = asked_for or found
    if not address or address == "local":
        finding = temporary_directory()
        if finding.status == "failure":
            raise InputError(finding.found, where="Ray", cure=finding.cure)
        return "local"
    if address == environment.get(MARK):
        return address
    if asked_for is None and "SLURM_JOB_ID" in environment:
        raise InputError(
            f"RAY_ADDRESS names a Ray at {address} that this job has not started",
            where="Ray",
            cure=f"unset RAY_ADDRESS; or, if it is meant: --ray-address {address}",
        )
    _check(address, "--ray-address" if asked_for else "RAY_ADDRESS")
    return address


def _check(address: str, name: str) -> None:
    """Raise `InputError` unless a driver can join the Ray at `address` from here."""

    def unusable(why: str) -> InputError:
        cure = "unset RAY_ADDRESS" if name == "RAY_ADDRESS" else "leave out --ray-address"
        return InputError(why, where=f"{name} = {address}", cure=f"{cure}: a Ray of the training's own is then started")

    if address != "auto":
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit()) or "/" in address:
            raise unusable("is no address of a Ray, which has the form host:port")
        try:
            socket.create_connection((host, int(port)), _CONNECT).close()
        except (OSError, OverflowError) as error:
            raise unusable(f"no Ray answers there ({error})") from error
    try:
        probe(_LOOK, _ANSWER, None, address)
    except Trouble as error:
        raise unusable(f"the Ray there cannot be used from here: {error}") from error
