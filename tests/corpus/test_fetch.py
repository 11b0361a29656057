"""Fetching a corpus, from a server of the test's own."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lmbench.corpus import data_get, open_corpus, sources
from lmbench.corpus.fetch import fetch
from lmbench.corpus.sources import REGISTRY, Archive, PlainFiles, Remote, RemoteFile
from lmbench.errors import LmbenchError

TEXTS = {
    "train": "once upon a time\n" * 20_000,
    "valid": "there was a word\n",
    "test": "and then another\n",
}
MEMBERS = {split: f"wiki.{split}.tokens" for split in TEXTS}


@dataclass
class Server:
    """What the server answers: its files, which of them it breaks off, and who asked for what."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    broken_off: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args: object) -> None:
        self.world = server
        super().__init__(*args)  # pyright: ignore[reportArgumentType]

    def do_GET(self) -> None:
        agent = self.headers.get("User-Agent", "")
        self.world.requests.append((self.path, agent))
        content = self.world.files.get(self.path)
        if content is None or agent.startswith("Python-urllib"):
            self.send_error(404 if content is None else 403)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path in self.world.broken_off:
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    world = Server()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, world)
    ) as listening:
        world.address = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield world
        listening.shutdown()
        thread.join()


def zipped(texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split, text in texts.items():
            archive.writestr(f"wikitext-2/wiki.{split}.tokens", text)
    return buffer.getvalue()


def plain_source(server: Server) -> PlainFiles:
    files: dict[str, RemoteFile] = {}
    for split, text in TEXTS.items():
        content = text.encode()
        server.files[f"/{split}.txt"] = content
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        files[split] = RemoteFile(f"{server.address}/{split}.txt", checksum, len(content))
    return PlainFiles("first.example", files)


def archive_source(server: Server) -> Archive:
    content = zipped(TEXTS)
    server.files["/v1.zip"] = content
    checksum = f"md5:{hashlib.md5(content).hexdigest()}"
    return Archive("second.example", RemoteFile(f"{server.address}/v1.zip", checksum), MEMBERS)


def both_sources(server: Server) -> Remote:
    return Remote("wikitext-2", "a test's own", (plain_source(server), archive_source(server)))


def assert_whole(folder: Path) -> None:
    """The three splits and nothing else, neither there nor beside it."""
    found = {entry.name: entry.read_text() for entry in folder.iterdir()}
    assert found == {f"{split}.txt": text for split, text in TEXTS.items()}
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("which", [0, 1])
def test_each_kind_of_source_gives_the_three_files(server: Server, home: Path, which: int) -> None:
    remote = both_sources(server)
    fetch(replace(remote, sources=(remote.sources[which],)), home / "data" / "wikitext-2")
    assert_whole(home / "data" / "wikitext-2")


def test_the_first_source_suffices_when_it_answers(server: Server, home: Path) -> None:
    fetch(both_sources(server), home / "data" / "wikitext-2")
    assert {path for path, _ in server.requests} == {"/train.txt", "/valid.txt", "/test.txt"}


def test_the_server_is_told_who_asks(server: Server, home: Path) -> None:
    fetch(both_sources(server), home / "data" / "wikitext-2")
    assert {agent for _, agent in server.requests} == {"lmbench"}


@pytest.mark.parametrize("trouble", ["missing", "wrong bytes", "broken off"])
def test_the_second_source_is_taken_when_the_first_fails(
    server: Server, home: Path, trouble: str
) -> None:
    remote = both_sources(server)
    if trouble == "missing":
        del server.files["/valid.txt"]
    elif trouble == "wrong bytes":
        server.files["/valid.txt"] = b"something else\n"
    else:
        server.broken_off.add("/train.txt")

    fetch(remote, home / "data" / "wikitext-2")

    assert "/v1.zip" in {path for path, _ in server.requests}
    assert_whole(home / "data" / "wikitext-2")


def test_when_every_source_fails_one_line_gives_the_reasons_and_the_way_out(
    server: Server, home: Path
) -> None:
    remote = both_sources(server)
    server.files["/valid.txt"] = b"something else\n"
    server.broken_off.add("/v1.zip")
    folder = home / "data" / "wikitext-2"

    with pytest.raises(LmbenchError) as error:
        fetch(remote, folder)

    line = str(error.value)
    assert "\n" not in line
    assert "first.example: the checksum does not match" in line
    assert "second.example: " in line
    assert f"put train.txt, valid.txt, test.txt into {folder}" in line
    assert list((home / "data").iterdir()) == []


def test_an_http_error_is_named_by_its_number(server: Server, home: Path) -> None:
    remote = both_sources(server)
    server.files.clear()
    with pytest.raises(LmbenchError, match=r"first\.example: HTTP 404; second\.example: HTTP 404"):
        fetch(remote, home / "data" / "wikitext-2")


def test_a_zip_that_lacks_a_split_is_refused(server: Server, home: Path) -> None:
    content = zipped({"train": "a\n", "valid": "a\n"})
    server.files["/v1.zip"] = content
    checksum = f"md5:{hashlib.md5(content).hexdigest()}"
    source = Archive("host", RemoteFile(f"{server.address}/v1.zip", checksum), MEMBERS)
    with pytest.raises(LmbenchError, match=r"no wiki\.test\.tokens in the zip"):
        fetch(Remote("wikitext-2", "", (source,)), home / "data" / "wikitext-2")
    assert list((home / "data").iterdir()) == []


def test_without_a_network_one_line_says_where_to_put_the_files(home: Path) -> None:
    # Nothing listens on port 1 of this machine.
    files = {split: RemoteFile("http://127.0.0.1:1/x", "md5:0") for split in TEXTS}
    remote = Remote("wikitext-2", "", (PlainFiles("host", files),))
    with pytest.raises(LmbenchError, match=r"host: no connection.*put train\.txt, .* into .*data"):
        fetch(remote, home / "data" / "wikitext-2")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_fetch_leaves_nothing(
    server: Server, home: Path, stop: type[BaseException]
) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if "valid" in what:
            raise stop

    with pytest.raises(stop):
        fetch(both_sources(server), home / "data" / "wikitext-2", interrupt)
    assert list((home / "data").iterdir()) == []


def test_progress_goes_up_to_the_size_of_each_file(server: Server, home: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []

    fetch(both_sources(server), home / "data" / "wikitext-2", lambda *call: calls.append(call))

    train = [call for call in calls if call[0] == "fetching wikitext-2 train.txt"]
    size = len(TEXTS["train"])
    done = [call[1] for call in train]
    assert done == sorted(done)
    assert done[-1] == size
    assert len(set(done)) > 3
    assert {total for _, _, total in train} == {size}


def test_files_of_the_users_own_beside_the_corpus_stay(server: Server, home: Path) -> None:
    folder = home / "data" / "wikitext-2"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("mine")

    fetch(both_sources(server), folder)

    assert (folder / "README.md").read_text() == "mine"
    assert open_corpus(str(folder), home).counts["valid"] == 5


def test_a_folder_with_a_file_of_a_corpus_is_refused_and_left_as_it_is(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmbench.corpus.catalogue.REGISTRY", {"wikitext-2": both_sources(server)})
    train = home / "data" / "wikitext-2" / "train.txt"
    train.parent.mkdir(parents=True)
    train.write_text("mine")

    with pytest.raises(LmbenchError, match=r"has no valid\.txt and no test\.txt: put it beside"):
        data_get("wikitext-2", home)

    assert train.read_text() == "mine"
    assert server.requests == []


def test_a_read_only_data_folder_is_refused_before_anything_is_fetched(
    server: Server, home: Path
) -> None:
    (home / "data").mkdir()
    (home / "data").chmod(0o555)
    try:
        with pytest.raises(LmbenchError, match="read-only; set LMBENCH_HOME"):
            fetch(both_sources(server), home / "data" / "wikitext-2")
    finally:
        (home / "data").chmod(0o755)
    assert server.requests == []


def test_a_corpus_that_is_there_is_not_fetched_again(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = both_sources(server)
    for module in ("catalogue", "corpus", "sources"):
        monkeypatch.setattr(f"lmbench.corpus.{module}.REGISTRY", {"wikitext-2": remote})

    opened = open_corpus("wikitext-2", home)
    asked = len(server.requests)
    again = data_get("wikitext-2", home)

    assert asked == 3
    assert len(server.requests) == asked
    assert opened.path == again == home / "data" / "wikitext-2"
    assert open_corpus(None, home).name == "wikitext-2"


def test_a_name_that_cannot_be_fetched_lists_those_that_can(home: Path) -> None:
    with pytest.raises(LmbenchError, match="there are wikitext-2, wikitext-103, pydoc"):
        data_get("penn", home)


def test_every_registered_file_has_a_checksum_and_https() -> None:
    files = [
        file
        for remote in REGISTRY.values()
        for source in remote.sources
        for file in (source.files.values() if isinstance(source, PlainFiles) else (source.file,))
    ]
    digits = {"sha256": 64, "md5": 32}
    for file in files:
        algorithm, _, checksum = file.checksum.partition(":")
        assert len(checksum) == digits[algorithm]
        assert file.url.startswith("https://")
    assert len(sources.REGISTRY["wikitext-2"].sources) == 2
