"""Downloads from a server of this machine: resumed, checked, and explained where there is none."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kantor.errors import InputError
from kantor.machine.download import Published, downloaded, folder

pytest.importorskip("pooch")
CONTENT = bytes(range(256)) * 20_000  # 5 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Sends CONTENT, and its record; after `breaks_after` bytes it hangs up once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks_after: int | None = None
        self.knows_ranges = True
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/record":
            self._send(json.dumps({"files": [{"key": "data.hdf5", "checksum": f"md5:{MD5}"}]}).encode(), 200)
            return
        asked = self.headers.get("Range") if self.server.knows_ranges else None
        self.server.asked.append(asked)
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self._send(CONTENT[begin:], (206 if begin < len(CONTENT) else 416) if asked else 200)

    def _send(self, content: bytes, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        ends, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(content[:ends])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def file(server: Server, **changes: Any) -> Published:
    return Published(**{"name": "data.hdf5", "address": f"{server.address}/data.hdf5", "md5": MD5, **changes})


def test_a_file_comes_once(server: Server) -> None:
    path = downloaded(file(server))
    assert path == folder() / "data.hdf5"
    assert path.read_bytes() == CONTENT
    assert downloaded(file(server)) == path
    assert server.asked == [None]


def test_an_interrupted_download_goes_on(server: Server) -> None:
    server.breaks_after = 3_000_000
    with pytest.raises(InputError, match=r"data.hdf5 cannot be downloaded \(ChunkedEncodingError\)") as caught:
        downloaded(file(server))
    assert caught.value.exit_code == 2
    assert not (folder() / "data.hdf5").exists()
    assert downloaded(file(server)).read_bytes() == CONTENT
    first, second = server.asked
    assert first is None
    assert second is not None
    assert 2_000_000 <= int(second.removeprefix("bytes=").removesuffix("-")) <= 3_000_000
    assert sorted(path.name for path in folder().iterdir()) == [".data.hdf5.lock", "data.hdf5"]


def test_a_server_without_ranges_begins_again(server: Server) -> None:
    server.breaks_after, server.knows_ranges = 3_000_000, False
    with pytest.raises(InputError):
        downloaded(file(server))
    assert downloaded(file(server)).read_bytes() == CONTENT


def test_a_file_that_came_whole_is_only_checked(server: Server) -> None:
    """The process was killed between the last byte and the rename."""
    folder().mkdir(parents=True)
    (folder() / ".data.hdf5.unfinished").write_bytes(CONTENT)
    assert downloaded(file(server)).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_checksum(server: Server) -> None:
    with pytest.raises(InputError, match="is not what was published: ") as caught:
        downloaded(file(server, md5="0" * 32))
    assert MD5 in str(caught.value)
    assert not (folder() / "data.hdf5").exists()


def test_the_record_knows_the_checksum(server: Server) -> None:
    known = file(server, md5=None, record=f"{server.address}/record")
    assert downloaded(known).read_bytes() == CONTENT
    with pytest.raises(InputError, match="lists no file other"):
        downloaded(file(server, name="other.hdf5", md5=None, record=f"{server.address}/record"))


def test_without_a_network_it_says_what_to_do(server: Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}/data.hdf5"
        with pytest.raises(InputError, match="cannot be downloaded") as caught:
            downloaded(file(server, address=address))
    said = str(caught.value)
    assert address in said
    assert str(folder() / "data.hdf5") in said
    assert not (folder() / "data.hdf5").exists()
