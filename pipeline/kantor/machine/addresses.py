"""Addresses, ports and interfaces of this machine."""

import fcntl
import os
import socket
import struct
from contextlib import ExitStack

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def address_towards(host: str, interface: str | None = os.environ.get("KANTOR_INTERFACE")) -> str:
    """This machine's IPv4 address on `interface`, else the one from which `host` is reached; nothing is sent.

    A host's own name often stands for its loopback address, which no other host can reach.
    """
    if interface:
        return _address_of(interface)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """The interface that has an IPv4 address."""
    for _, name in socket.if_nameindex():
        try:
            if _address_of(name) == address:
                return name
        except OSError:  # it has no IPv4 address
            continue
    return None


def free_ports(address: str, count: int) -> list[int]:
    """Different TCP ports that nothing uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in sockets]


def listens(address: str, port: int) -> bool:
    """Whether there is somebody at a port of this machine, even one too busy to answer."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    except TimeoutError:
        pass
    return True


def _address_of(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
