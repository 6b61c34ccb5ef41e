"""Downloads from a server that breaks off, changes its mind and lies."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ractd_core.data.fetch import fetch
from ractd_core.data.flat import DataError
from ractd_core.files import sha256
from tests.core.file_server import FileServer, serving

BODY = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(900_000)
BLOCK = 1 << 16


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(key, "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(files={"/data.hdf5": BODY}) as started:
        yield started


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "data.hdf5"


def get(server: FileServer, path: Path) -> str:
    return fetch(f"{server.url}/data.hdf5", path, pause=0)


def whole(path: Path, checksum: str, content: bytes = BODY) -> bool:
    """Only the file is there, it is right and so is its checksum."""
    assert path.read_bytes() == content
    assert checksum == hashlib.sha256(content).hexdigest() == sha256(path)
    return [file.name for file in path.parent.iterdir()] == [path.name]


def kept(path: Path) -> int:
    """How much of the file waits for the next try."""
    assert not path.exists()
    return path.with_name(f"{path.name}.part").stat().st_size


def test_a_file_arrives_whole_with_its_checksum(server: FileServer, path: Path) -> None:
    shown: list[tuple[int, int | None]] = []
    checksum = fetch(
        f"{server.url}/data.hdf5",
        path,
        progress=lambda done, total: shown.append((done, total)),
        pause=0,
    )
    assert whole(path, checksum)
    assert server.requests == [("/data.hdf5", None)]
    done = [count for count, _ in shown]
    assert done == sorted(done)
    assert shown[-1] == (len(BODY), len(BODY))


def test_a_file_that_is_there_is_not_asked_for(server: FileServer, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"here already")
    assert get(server, path) == hashlib.sha256(b"here already").hexdigest()
    assert server.requests == []


def test_a_broken_connection_is_resumed_where_it_broke(server: FileServer, path: Path) -> None:
    server.failures = [400_000, 300_000]
    assert whole(path, get(server, path))
    starts = [int(wanted[6:-1]) for _, wanted in server.requests[1:] if wanted]
    assert len(starts) == 2
    assert 400_000 - BLOCK <= starts[0] <= 400_000
    assert starts[0] + 300_000 - BLOCK <= starts[1] <= starts[0] + 300_000
    # Of each cut only a block is fetched twice.
    assert sum(server.sent) <= len(BODY) + 2 * BLOCK


def test_the_next_call_goes_on_from_what_is_kept(server: FileServer, path: Path) -> None:
    server.failures = [200_000] * 2 + [500] * 3
    with pytest.raises(DataError) as caught:
        get(server, path)
    message = str(caught.value)
    assert message.startswith(f"{server.url}/data.hdf5: the download broke off 5 times")
    assert "500" in message
    assert "kept" in message
    assert "--mirror" in message
    have = kept(path)
    assert have >= 400_000 - 2 * BLOCK
    assert whole(path, get(server, path))
    assert server.requests[-1] == ("/data.hdf5", f"bytes={have}-")
    assert server.sent[-1] == len(BODY) - have


def test_a_small_step_at_a_time_is_kept_too(server: FileServer, path: Path) -> None:
    server.failures = [BLOCK + 1000] * 5
    with pytest.raises(DataError, match="broke off 5 times"):
        get(server, path)
    assert kept(path) >= BLOCK * 5


def test_another_file_of_the_same_name_is_fetched_whole(server: FileServer, path: Path) -> None:
    server.failures = [400_000] + [503] * 4
    with pytest.raises(DataError, match="503"):
        get(server, path)
    assert kept(path) > 0
    server.files["/data.hdf5"] = OTHER
    server.requests.clear()
    assert whole(path, get(server, path), OTHER)
    assert [wanted is not None for _, wanted in server.requests] == [True]


def test_a_server_that_ignores_if_range_does_not_mix_two_files(
    server: FileServer, path: Path
) -> None:
    server.failures = [400_000] + [503] * 4
    with pytest.raises(DataError):
        get(server, path)
    server.files["/data.hdf5"] = OTHER
    server.ignores_if_range = True
    assert whole(path, get(server, path), OTHER)


@pytest.mark.parametrize("validator", [None, "weak"])
def test_without_a_promise_of_equal_bytes_it_starts_again(
    server: FileServer, path: Path, validator: str | None
) -> None:
    server.validator = validator
    server.failures = [400_000]
    assert whole(path, get(server, path))
    assert server.requests == [("/data.hdf5", None)] * 2


def test_what_came_from_another_address_is_not_continued(
    server: FileServer, path: Path, tmp_path: Path
) -> None:
    server.files["/mirror.hdf5"] = BODY
    server.failures = [400_000] + [503] * 4
    with pytest.raises(DataError):
        get(server, path)
    server.requests.clear()
    assert whole(path, fetch(f"{server.url}/mirror.hdf5", path, pause=0))
    assert server.requests == [("/mirror.hdf5", None)]


@pytest.mark.parametrize("about", ["", "{", "[]", "{}", '{"url": 1}', '{"version": "x"}'])
def test_a_damaged_note_on_what_is_kept_starts_again(
    server: FileServer, path: Path, about: str
) -> None:
    path.parent.mkdir()
    path.with_name("data.hdf5.part").write_bytes(b"?" * 1000)
    path.with_name("data.hdf5.part.json").write_text(about)
    assert whole(path, get(server, path))


def test_a_part_that_is_whole_already_does_not_block_the_way(
    server: FileServer, path: Path
) -> None:
    # Killed between the last byte and the rename: the server answers 416.
    path.parent.mkdir()
    path.with_name("data.hdf5.part").write_bytes(BODY)
    note = {"url": f"{server.url}/data.hdf5", "version": server.etag("/data.hdf5")}
    path.with_name("data.hdf5.part.json").write_text(json.dumps(note))
    assert whole(path, get(server, path))
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(BODY)}-", None]


@pytest.mark.parametrize("answer", ["bytes 0-999999/1000000", "bytes 7-9/10", "nonsense"])
def test_a_part_of_another_place_is_not_appended(
    server: FileServer, path: Path, answer: str
) -> None:
    server.content_range = answer
    server.failures = [400_000]
    assert whole(path, get(server, path))
    assert [wanted is not None for _, wanted in server.requests] == [False, True, False]


def test_an_absent_file_is_named_at_once(server: FileServer, path: Path) -> None:
    server.files.clear()
    with pytest.raises(DataError, match="404 Not Found, expected a file") as caught:
        get(server, path)
    assert f"{server.url}/data.hdf5" in str(caught.value)
    assert "--mirror" in str(caught.value)
    assert len(server.requests) == 1
    assert not path.exists()


@pytest.mark.parametrize("failures", [[500], [503, 429], [502] * 4])
def test_a_server_that_recovers_is_asked_again(
    server: FileServer, path: Path, failures: list[int]
) -> None:
    server.failures = list(failures)
    assert whole(path, get(server, path))
    assert len(server.requests) == len(failures) + 1


@pytest.mark.parametrize("status", [206, 301, 403, 416])
def test_an_answer_that_is_no_file_is_not_tried_again(
    server: FileServer, path: Path, status: int
) -> None:
    server.failures = [status]
    with pytest.raises(DataError, match=f"answered {status}"):
        get(server, path)
    assert len(server.requests) == 1


def test_a_body_shorter_than_promised_is_never_taken_for_the_file(
    server: FileServer, path: Path
) -> None:
    server.extra_length = 10
    with pytest.raises(DataError, match="broke off 5 times"):
        get(server, path)
    assert kept(path) <= len(BODY)
    server.extra_length = 0
    assert whole(path, get(server, path))


def test_an_address_that_nobody_serves(path: Path) -> None:
    with serving() as server:
        url = f"{server.url}/data.hdf5"
    with pytest.raises(DataError, match="broke off 5 times") as caught:
        fetch(url, path, pause=0)
    assert url in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "no-scheme/x.hdf5", "ftp://h/x", ""])
def test_only_web_addresses_are_fetched(path: Path, url: str) -> None:
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch(url, path, pause=0)
    assert not path.exists()


def test_a_killed_download_is_continued(server: FileServer, path: Path) -> None:
    server.chunk_pause = 0.02
    url = f"{server.url}/data.hdf5"
    code = (
        "import sys; from pathlib import Path; from ractd_core.data.fetch import fetch; "
        "fetch(sys.argv[1], Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url, str(path)])
    part = path.with_name("data.hdf5.part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 3 * BLOCK):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    have = kept(path)
    assert 3 * BLOCK <= have < len(BODY)
    server.chunk_pause = 0
    server.requests.clear()
    assert whole(path, get(server, path))
    assert server.requests == [("/data.hdf5", f"bytes={have}-")]
