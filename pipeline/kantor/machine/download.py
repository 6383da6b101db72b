"""Downloading published files: on request only, with a checksum, going on where the last attempt stopped."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from kantor.errors import InputError
from kantor.machine.cache import locked, user_cache
from kantor.machine.files import explained
from kantor.machine.packages import optional
from kantor.machine.progress import Progress, log

_EXTRA = "download"
_AT_ONCE = 1 << 20  # bytes
_SILENCE = 60.0  # after which a server is given up [s]
_MB = 1_000_000


@dataclass(frozen=True)
class Published:
    """A file: its name, its address, and its MD5; or the page of the record that knows it, as Zenodo's API has them."""

    name: str
    address: str
    md5: str | None = None
    record: str | None = None


def folder() -> Path:
    """Where downloaded files are."""
    return user_cache() / "kantor" / "downloads"


def downloaded(file: Published) -> Path:
    """The file in the user's cache, downloaded if it is not there whole; others that want it wait.

    Raises:
        InputError: it cannot be had, or is not what was published; a package is missing; the disk is full.
    """
    pooch = optional("pooch", _EXTRA, "downloading files")
    requests = optional("requests", _EXTRA, "downloading files")
    place = folder()
    path = place / file.name
    with explained(path), _failures(file, requests):
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / f".{file.name}.lock"):
            pooch.get_logger().setLevel(logging.WARNING)
            pooch.retrieve(
                file.address,
                known_hash=f"md5:{file.md5 or _published_md5(file, requests)}",
                fname=file.name,
                path=place,
                downloader=partial(_download, requests=requests, unfinished=place / f".{file.name}.unfinished"),
            )
    return path


def place_by_hand(file: Published) -> str:
    """How somebody without a network here gets the file."""
    return f"download it from {file.address} elsewhere and copy it to {folder() / file.name}, or name it by 'paths'"


def _published_md5(file: Published, requests: ModuleType) -> str:
    answer = requests.get(file.record, timeout=_SILENCE)
    answer.raise_for_status()
    checksums = {each["key"]: each["checksum"].removeprefix("md5:") for each in answer.json()["files"]}
    if file.name not in checksums:
        raise InputError(f"{file.record} lists no file {file.name}", where=file.address, cure=place_by_hand(file))
    return checksums[file.name]


def _download(address: str, whole: str, _: object, *, requests: ModuleType, unfinished: Path) -> None:
    """As pooch calls it: all of the file into `whole`. What has come is kept in `unfinished` until then."""
    there = unfinished.stat().st_size if unfinished.exists() else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    with requests.get(address, headers=headers, stream=True, timeout=_SILENCE) as answer:
        complete = answer.status_code == requests.codes.requested_range_not_satisfiable
        if not complete:
            answer.raise_for_status()
            # A server that knows no ranges sends all of it again.
            there = there if answer.status_code == requests.codes.partial_content else 0
            size = there + int(answer.headers.get("Content-Length", 0))
            log.info(
                f"downloading {address}, {size / _MB:,.1f} MB" + (f", from {there / _MB:,.1f} on" if there else "")
            )
            progress = Progress(
                f"downloading {unfinished.name.split('.')[1]}, MB", round(size / _MB), done=there // _MB
            )
            with unfinished.open("ab" if there else "wb") as file:
                for part in answer.iter_content(_AT_ONCE):
                    file.write(part)
                    progress.update(file.tell() // _MB)
            progress.close()
    unfinished.replace(whole)


@contextmanager
def _failures(file: Published, requests: ModuleType) -> Iterator[None]:
    """Say what went wrong, and what to do without a network."""
    try:
        yield
    except requests.RequestException as error:
        reason = type(error).__name__ if error.response is None else f"{error.response.status_code}"
        raise InputError(
            f"{file.name} cannot be downloaded ({reason}); what has come is kept, and the next attempt goes on",
            where=file.address,
            cure=f"try again; without a network here, {place_by_hand(file)}",
        ) from error
    except ValueError as error:
        # Of pooch, which has removed it.
        raise InputError(
            f"{file.name} is not what was published: {' '.join(str(error).split())}",
            where=file.address,
            cure=f"try again; if the page of the data shows this checksum, {place_by_hand(file)}",
        ) from error
