"""Fetching a file from a server on this machine: resumed, verified, or refused in one line."""

import ast
import errno
import fcntl
import hashlib
import json
import shutil
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import adamesh
from adamesh.cli.main import main
from adamesh.data.fetch import fetch
from adamesh.data.sources import SOURCES, Listing, Published, Source, find_source
from adamesh.errors import ConfigurationError, DataError, DownloadError

CONTENT = bytes(range(256)) * 4000


@dataclass
class Site:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"v1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """After how many bytes the next answers break off."""
    codes: list[int] = field(default_factory=list)
    """What the next answers are, instead of the file."""
    asked: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request."""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(dict(self.headers))
            if site.codes:
                return self.send_error(site.codes.pop(0))
            start = self.start()
            body = site.content[start:]
            if start and not body:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)
            return None

        def start(self):
            """Where the wanted part begins: at 0 unless it is of the same version."""
            wanted = self.headers.get("Range")
            current = self.headers.get("If-Range") in (None, site.etag)
            return int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges and current else 0

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def source(site, content=CONTENT):
    published = Published(f"{site.url}/set.zip", "md5", hashlib.md5(content).hexdigest())
    return Source("set", "a set", published, "1 MiB", "be kind", "https://example.org/set", "use {path}")


def brought(site, folder, content=CONTENT, **more):
    waits: list[float] = []
    path = fetch(source(site, content), folder, more.pop("progress", lambda here, total: None), waits.append)
    return path, waits


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_under_its_own_name_and_leaves_nothing_else(site, tmp_path):
    seen: list[tuple[int, int | None]] = []
    path, _ = brought(site, tmp_path / "new", progress=lambda here, total: seen.append((here, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["set.zip"]
    assert (seen[0], seen[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    brought(site, tmp_path / "new")
    assert len(site.asked) == 1, "a file that is there and right is not asked for"


def test_a_broken_connection_is_taken_up_where_it_broke(site, tmp_path):
    site.cuts = [300_000, 5]
    path, waits = brought(site, tmp_path)
    assert path.read_bytes() == CONTENT
    assert [asked.get("Range") for asked in site.asked] == [None, "bytes=300000-", "bytes=300005-"]
    assert [asked.get("If-Range") for asked in site.asked] == [None, '"v1"', '"v1"']
    assert len(waits) == 2


def test_a_stopped_command_goes_on_with_what_is_there(site, tmp_path):
    def stop(here, total):
        if here > len(CONTENT) // 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        brought(site, tmp_path, progress=stop)
    there = (tmp_path / "set.zip.part").stat().st_size
    assert names(tmp_path) == ["set.zip.part", "set.zip.part.json"]
    path, _ = brought(site, tmp_path)
    assert path.read_bytes() == CONTENT
    assert site.asked[1]["Range"] == f"bytes={there}-"


@pytest.mark.parametrize("change", ["another version", "no ranges", "no version"])
def test_what_is_there_is_used_only_where_it_fits(site, tmp_path, change):
    (tmp_path / "set.zip.part").write_bytes(b"x" * 1000 if change == "another version" else CONTENT[:1000])
    note = {"url": f"{site.url}/set.zip", "version": '"v0"' if change == "another version" else '"v1"'}
    (tmp_path / "set.zip.part.json").write_text(json.dumps(note))
    if change == "no ranges":
        site.ranges = False
    if change == "no version":
        site.etag = None
        (tmp_path / "set.zip.part.json").write_text("not JSON")
    path, _ = brought(site, tmp_path)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("there", [len(CONTENT), len(CONTENT) + 7])
def test_a_part_that_is_whole_or_too_long_ends_well(site, tmp_path, there):
    (tmp_path / "set.zip.part").write_bytes((CONTENT + b"too long")[:there])
    path, _ = brought(site, tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_sets_the_file_aside(site, tmp_path):
    site.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=r"has md5 \w+ and not \w+, as published; it is set aside as .*rejected"):
        brought(site, tmp_path)
    assert names(tmp_path) == ["set.zip.rejected"]


def test_a_file_of_that_name_that_is_something_else_is_not_touched(site, tmp_path):
    (tmp_path / "set.zip").write_text("mine")
    with pytest.raises(DataError, match="move it away"):
        brought(site, tmp_path)
    assert (tmp_path / "set.zip").read_text() == "mine"
    assert not site.asked


def test_what_a_server_cannot_do_now_is_tried_again_and_what_it_does_not_have_is_not(site, tmp_path):
    site.codes = [503, 429]
    path, waits = brought(site, tmp_path / "one")
    assert path.read_bytes() == CONTENT
    assert waits == [1.0, 2.0]
    site.codes = [404]
    with pytest.raises(DownloadError, match=r"set\.zip answers 404 Not Found: it may have moved.*example\.org/set"):
        brought(site, tmp_path / "two")


def test_a_server_that_sends_nothing_more_is_given_up_and_what_came_is_kept(site, tmp_path):
    site.cuts = [1000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="4 times in a row; 1,000 bytes are kept"):
        brought(site, tmp_path)
    path, _ = brought(site, tmp_path)
    assert path.read_bytes() == CONTENT


def test_nobody_listening_is_one_clear_error(tmp_path):
    with pytest.raises(DownloadError, match=r"cannot be reached \(.*refused.*is there a network"):
        brought(Site(url="http://127.0.0.1:9"), tmp_path)


def test_no_room_is_said_before_and_during_the_transfer(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
        with pytest.raises(DownloadError, match="has 1,000 bytes free and 1,024,000 are still to come"):
            brought(site, tmp_path)

    def fill(here, total):
        if here > 500_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DownloadError, match="is full: make room, and the same command goes on"):
        brought(site, tmp_path, progress=fill)
    path, _ = brought(site, tmp_path)
    assert path.read_bytes() == CONTENT


def test_two_processes_do_not_append_to_one_file(site, tmp_path):
    with (tmp_path / "set.zip.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="being downloaded by another process"):
            brought(site, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="file/inside cannot be written"):
        brought(site, tmp_path / "file" / "inside")


def test_a_listing_names_the_newest_file_and_nothing_else(site, tmp_path):
    digest = hashlib.sha1(CONTENT).hexdigest()
    listing = f"{'0' * 40}  xwiki-20260101-other.xml.bz2\n{'0' * 40}  ../x\n{digest}  xwiki-20260101-pages.xml.bz2\n"
    where = Listing(f"{site.url}/sums.txt", "sha1", r"xwiki-(?P<date>\d{8})-pages\.xml\.bz2", f"{site.url}/{{date}}")
    found = where.choose(listing)
    assert found == Published(f"{site.url}/20260101/xwiki-20260101-pages.xml.bz2", "sha1", digest)
    assert where.choose(listing.replace(digest, "no digest")) is None
    site.content = b"<html>not a list</html>"
    with pytest.raises(DownloadError, match="lists no file like"):
        fetch(replace(source(site), origin=where), tmp_path, lambda here, total: None, lambda seconds: None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar", "did you mean cifar10"),
        ("wikipedia", "did you mean wikipedia:simple"),
        ("wikipedia:", "is not a Wikipedia's language"),
        ("wikipedia:../../etc", "is not a Wikipedia's language"),
    ],
)
def test_an_unknown_data_set_is_refused(name, message):
    with pytest.raises(ConfigurationError, match=message):
        find_source(name)


def test_every_data_set_is_found_by_its_name_and_comes_encrypted_with_a_digest():
    for known in SOURCES:
        assert find_source(known.name) is known
        assert isinstance(known.origin, Published)
        assert known.origin.url.startswith("https://")
        assert len(bytes.fromhex(known.origin.digest)) == hashlib.new(known.origin.algorithm).digest_size
    wikipedia = find_source("wikipedia:zh-min-nan").origin
    assert isinstance(wikipedia, Listing)
    assert wikipedia.url == "https://dumps.wikimedia.org/zh_min_nanwiki/latest/zh_min_nanwiki-latest-sha1sums.txt"


def test_the_command_shows_the_terms_fetches_and_says_what_to_do_next(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("adamesh.cli.data.find_source", lambda name: source(site))
    assert main(["data", "fetch", "set", "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.index("terms of use: be kind") < said.index(f"use it: use {tmp_path}/set.zip")
    site.codes = [404]
    assert main(["data", "fetch", "set", "--to", str(tmp_path / "other")]) == 1
    assert "adamesh: http" in capsys.readouterr().err.splitlines()[-1]


def test_the_command_lists_what_there_is_and_refuses_what_there_is_not(capsys):
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(known.name in listed for known in SOURCES)
    for arguments in (["fetsch"], ["fetch"], ["fetch", "ml-2m"], ["fetch", "--too", "x"]):
        assert main(["data", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_nothing_else_in_adamesh_speaks_http():
    speaking = []
    for file in Path(adamesh.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            if any(name.startswith(("urllib.request", "http.client", "requests", "httpx")) for name in imported):
                speaking.append(file.name)
    assert set(speaking) == {"fetch.py"}
