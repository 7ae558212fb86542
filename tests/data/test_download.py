"""data/download.py: downloads that resume, checksums, and malicious archives, against a local server."""

import contextlib
import hashlib
import http.server
import random
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from data.download import ArchiveError, DownloadError, RemoteFile, fetch, unpack
from tests.helpers import REPOSITORY

PAYLOAD = hashlib.shake_256(b"payload").digest(3_000_000)


@dataclass
class Behaviour:
    """How the server answers its next requests."""

    files: dict[str, bytes]
    supports_range: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes after which each of the next answers is cut off
    statuses: list[int] = field(default_factory=list)  # status codes of the next answers, before it serves normally
    pause_s: float = 0.0  # before every 64 KiB
    ranges: list[str | None] = field(default_factory=list)  # Range header of each request seen
    url: str = ""

    def remote(self, name: str) -> RemoteFile:
        content = self.files[name]
        return RemoteFile(f"{self.url}/{name}", len(content), hashlib.sha256(content).hexdigest())


def _handler(behaviour: Behaviour) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.ranges.append(wanted)
            content = behaviour.files.get(self.path.lstrip("/"))
            status = behaviour.statuses.pop(0) if behaviour.statuses else 200
            if status == 200 and content is None:
                status = 404
            if status != 200 or content is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            if wanted and behaviour.supports_range:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            end = behaviour.break_after.pop(0) if behaviour.break_after else len(body)
            with contextlib.suppress(OSError):
                for at in range(0, min(end, len(body)), 65536):
                    self.wfile.write(body[at : min(at + 65536, end)])
                    time.sleep(behaviour.pause_s)
            if end < len(body):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Behaviour]:
    behaviour = Behaviour({"payload.zip": PAYLOAD})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(behaviour)) as running:
        behaviour.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield behaviour
        running.shutdown()
        thread.join()


def _zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_part_file_is_continued_with_a_range_request(server: Behaviour, tmp_path: Path) -> None:
    """Bytes that are already on disk are not requested again."""
    (tmp_path / "payload.zip.part").write_bytes(PAYLOAD[:1_000_000])
    path = fetch(server.remote("payload.zip"), tmp_path)
    assert path.read_bytes() == PAYLOAD
    assert server.ranges == ["bytes=1000000-"]
    assert not (tmp_path / "payload.zip.part").exists()


def test_a_server_that_ignores_range_does_not_garble_the_file(server: Behaviour, tmp_path: Path) -> None:
    """A complete answer to a request for the rest must not be appended to the existing bytes."""
    server.supports_range = False
    (tmp_path / "payload.zip.part").write_bytes(PAYLOAD[:1_000_000])
    assert fetch(server.remote("payload.zip"), tmp_path).read_bytes() == PAYLOAD


def test_broken_transfers_and_busy_servers_are_tried_again(server: Behaviour, tmp_path: Path) -> None:
    """Neither a connection that breaks twice nor a 503 loses bytes that have arrived."""
    server.break_after = [1_000_000, 500_000]
    server.statuses = [200, 503]
    assert fetch(server.remote("payload.zip"), tmp_path, pause_s=0.01).read_bytes() == PAYLOAD
    assert server.ranges[0] is None
    assert all(header is not None for header in server.ranges[1:])


def test_it_gives_up_after_failed_attempts_and_keeps_the_bytes(server: Behaviour, tmp_path: Path) -> None:
    """An outage ends in one error that says how to resume, not in an endless loop or a lost download."""
    server.break_after = [1_000_000]
    server.statuses = [200] + [503] * 10
    with pytest.raises(DownloadError, match=r"gave up after 3 attempts.*HTTP 503.*payload\.zip\.part"):
        fetch(server.remote("payload.zip"), tmp_path, attempts=3, pause_s=0.01)
    kept = (tmp_path / "payload.zip.part").read_bytes()
    assert len(kept) > 900_000
    assert kept == PAYLOAD[: len(kept)]


def test_a_killed_download_resumes(server: Behaviour, tmp_path: Path) -> None:
    """kill -9 in the middle loses nothing: the next run requests only the rest."""
    server.pause_s = 0.2
    remote = server.remote("payload.zip")
    code = (
        "from pathlib import Path; from data.download import RemoteFile, fetch; "
        f"fetch(RemoteFile({remote.url!r}, {remote.size}, {remote.sha256!r}), Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    part = tmp_path / "payload.zip.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 0 < have < len(PAYLOAD)
    server.pause_s = 0.0
    assert fetch(remote, tmp_path).read_bytes() == PAYLOAD
    assert server.ranges[-1] == f"bytes={have}-"


def test_a_file_with_a_wrong_checksum_is_renamed(server: Behaviour, tmp_path: Path) -> None:
    """A file of the right size with other bytes never gets the final name, and a second run starts over."""
    remote = server.remote("payload.zip")
    server.files["payload.zip"] = bytes(len(PAYLOAD))
    with pytest.raises(DownloadError, match=r"not the file expected: sha256 .*renamed to .*payload\.zip\.bad"):
        fetch(remote, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["payload.zip.bad"]
    server.files["payload.zip"] = PAYLOAD
    assert fetch(remote, tmp_path).read_bytes() == PAYLOAD


def test_a_file_copied_by_hand_is_checked_too(server: Behaviour, tmp_path: Path) -> None:
    """A final name is no proof: an incomplete archive that the user copied there is refused."""
    (tmp_path / "payload.zip").write_bytes(PAYLOAD[:100])
    with pytest.raises(DownloadError, match="100 bytes, expected 3000000 bytes"):
        fetch(server.remote("payload.zip"), tmp_path)
    assert server.ranges == []


def test_another_file_is_refused_before_it_is_downloaded(server: Behaviour, tmp_path: Path) -> None:
    """A login page or a new release in place of the archive is detected by its length, before gigabytes arrive."""
    remote = server.remote("payload.zip")
    server.files["payload.zip"] = PAYLOAD + b"x"
    with pytest.raises(DownloadError, match="'3000001' where '3000000' was expected"):
        fetch(remote, tmp_path)


def test_not_found_is_not_tried_again(server: Behaviour, tmp_path: Path) -> None:
    """An outdated address is reported at once, with what to do."""
    with pytest.raises(DownloadError, match="HTTP 404.*--mirror"):
        fetch(RemoteFile(f"{server.url}/gone.zip", 1, ""), tmp_path)
    assert len(server.ranges) == 1


def test_a_disk_that_is_too_small_is_refused_at_the_start(server: Behaviour, tmp_path: Path) -> None:
    """A disk that will be full is detected at the start instead of after hours."""
    with pytest.raises(DownloadError, match="bytes free"):
        fetch(RemoteFile(f"{server.url}/payload.zip", 1 << 60, ""), tmp_path)
    assert server.ranges == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../outside.avi", "leads out of its folder"),
        ("videos/../../outside.avi", "leads out of its folder"),
        ("/tmp/outside.avi", "is not a relative path"),
        ("..\\outside.avi", "is not a relative path"),
        ("C:/outside.avi", "is not a relative path"),
    ],
)
def test_an_entry_that_leaves_the_folder_stops_everything(tmp_path: Path, name: str, fault: str) -> None:
    """An archive with one escaping entry writes nothing at all, inside or outside."""
    archive = _zip(tmp_path / "evil.zip", {"good.avi": b"good", name: b"evil"})
    root = tmp_path / "a" / "root"
    with pytest.raises(ArchiveError, match=fault):
        unpack(archive, root)
    assert [path.name for path in tmp_path.rglob("*.avi")] == []


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    """A symlink entry, through which a later entry could be written elsewhere, is not created."""
    link = zipfile.ZipInfo("videos")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / "elsewhere"))
        archive.writestr("videos/a.avi", b"evil")
    with pytest.raises(ArchiveError, match="'videos' is a link"):
        unpack(tmp_path / "evil.zip", tmp_path / "root")
    assert not (tmp_path / "root" / "videos").exists()


def test_two_entries_for_one_file_are_refused(tmp_path: Path) -> None:
    """Entries that differ only in case would silently replace each other on some file systems."""
    archive = _zip(tmp_path / "twice.zip", {"v/A.avi": b"1", "v/a.avi": b"2"})
    with pytest.raises(ArchiveError, match="would both become v/a.avi"):
        unpack(archive, tmp_path / "root")


def test_unpacking_skips_complete_files_and_replaces_damaged_ones(tmp_path: Path) -> None:
    """A second run writes only missing and damaged files, and detects damage that keeps the size."""
    archive = _zip(tmp_path / "a.zip", {"v/a.avi": b"aaaa", "v/b.avi": b"bbbb", "v/c.avi": b"cccc"})
    root = tmp_path / "root"
    assert unpack(archive, root) == 3
    untouched = (root / "v/a.avi").stat().st_mtime_ns
    (root / "v/b.avi").write_bytes(b"bbXb")
    (root / "v/c.avi").unlink()
    assert unpack(archive, root) == 2
    assert [path.read_bytes() for path in sorted((root / "v").iterdir())] == [b"aaaa", b"bbbb", b"cccc"]
    assert (root / "v/a.avi").stat().st_mtime_ns == untouched


def test_place_selects_and_moves_entries(tmp_path: Path) -> None:
    """The caller decides which entries are unpacked, and where."""
    archive = _zip(tmp_path / "a.zip", {"a.avi": b"a", "readme.txt": b"r"})
    unpack(archive, tmp_path / "root", lambda path: PurePosixPath("c") / path if path.suffix == ".avi" else None)
    assert [path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*.*")] == ["c/a.avi"]


def test_a_damaged_entry_leaves_no_file(tmp_path: Path) -> None:
    """An entry whose bytes do not match its CRC is an error and leaves no video."""
    archive = _zip(tmp_path / "a.zip", {"a.avi": b"good bytes"})
    archive.write_bytes(archive.read_bytes().replace(b"good bytes", b"evil bytes"))
    with pytest.raises(ArchiveError, match="damaged.*CRC"):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


COMPRESSIONS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def _compressed(path: Path, compression: int) -> Path:
    """Write three files of 2,000 bytes each."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for number in range(3):
            content = random.Random(number).choices(b"abcd", k=2000)
            archive.writestr(f"v/{number}.avi", bytes(content))
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_damaged_entry_does_not_stop_the_others(tmp_path: Path, compression: int) -> None:
    """Whatever the compression, the damaged file is named, the others are unpacked, and nothing partial is left."""
    archive = _compressed(tmp_path / "a.zip", compression)
    content = bytearray(archive.read_bytes())
    start = content.index(b"v/1.avi") + 100
    content[start : start + 50] = bytes(50)
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"1 of 3 files are damaged, e.g. 'v/1.avi' \(.*The others were unpacked"):
        unpack(archive, tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root" / "v").iterdir()) == ["0.avi", "2.avi"]


def test_deflate64_is_refused_by_name(tmp_path: Path) -> None:
    """What Windows writes for large files can't be read: nothing is unpacked, and the message says what can."""
    archive = _zip(tmp_path / "a.zip", {"a.avi": b"a", "b.avi": b"b"})
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 10 : entry + 12] = (9).to_bytes(2, "little")
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"'b.avi' is compressed by method 9 \(9: Deflate64\).*7z"):
        unpack(archive, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_any_damage_to_an_archive_is_an_archive_error(tmp_path: Path) -> None:
    """Changed, lost and added bytes, mostly in the directory at the end, end in an ``ArchiveError`` or do no harm."""
    rng = random.Random(0)
    archives = [_compressed(tmp_path / "a.zip", compression).read_bytes() for compression in COMPRESSIONS]
    outcomes = Counter[str]()
    for number in range(300):
        content = bytearray(rng.choice(archives))
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            position = rng.randrange(len(content) - rng.choice([0, len(content) - 300]))
            position = len(content) - 1 - position
            kind = rng.randrange(3)
            content[position : position + (kind != 1)] = b"" if kind == 2 else rng.randbytes(1)
        (tmp_path / "damaged.zip").write_bytes(content)
        try:
            unpack(tmp_path / "damaged.zip", tmp_path / str(number % 10))
        except ArchiveError:
            outcomes["refused"] += 1
        else:
            outcomes["unpacked"] += 1
    assert min(outcomes["refused"], outcomes["unpacked"]) > 30, outcomes


def test_a_rar_file_is_refused_with_advice(tmp_path: Path) -> None:
    """A RAR archive, as the authors publish it, ends in advice and not in a traceback."""
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(ArchiveError, match="unrar"):
        unpack(tmp_path / "a.rar", tmp_path)


def test_a_killed_unpacking_leaves_only_complete_files_and_resumes(tmp_path: Path) -> None:
    """kill -9 while unpacking never leaves an incomplete video under a final name, and the next run adds the rest."""
    content = PAYLOAD[:200_000]
    names = [f"{number}.avi" for number in range(5)]
    archive = _zip(tmp_path / "a.zip", {f"v/{name}": content for name in names})
    root = tmp_path / "root"
    code = f"""
import os, pathlib, shutil, signal
from data.download import unpack

num_files = 0

def copy_and_die_in_the_third(source, sink, length):
    global num_files
    num_files += 1
    sink.write(source.read(100_000))
    sink.flush()
    if num_files == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    sink.write(source.read())

shutil.copyfileobj = copy_and_die_in_the_third
unpack(pathlib.Path({str(archive)!r}), pathlib.Path({str(root)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    incomplete = [path for path in (root / "v").iterdir() if path.stat().st_size != len(content)]
    assert len(incomplete) == 1
    assert incomplete[0].suffix != ".avi"
    assert unpack(archive, root) == 3
    assert {path.name: path.read_bytes() for path in (root / "v").iterdir()} == dict.fromkeys(names, content)
