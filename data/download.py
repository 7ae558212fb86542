"""Fetch and unpack archives: downloads resume, checksums are verified, and nothing is unpacked outside its folder."""

import errno
import hashlib
import lzma
import os
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from data.atomic import remove_abandoned, write_atomically
from data.progress import Progress
from data.records import DatasetError

CHUNK_BYTES = 1 << 16  # a broken connection loses the current chunk, so chunks are small
CONNECT_AND_READ_TIMEOUT_S = (10.0, 60.0)
# What zipfile raises for a damaged archive: damage may be anywhere in its directory, or in data of any compression.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(NotImplementedError, struct.error, UnicodeDecodeError, OverflowError),
)
_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
RETRIED_STATUS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


class DownloadError(DatasetError):
    """The file could not be downloaded, or it is not the file that was expected."""


class ArchiveError(DatasetError):
    """The archive is damaged, or contains an entry that must not be unpacked."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        url: its address.
        size: its size in bytes.
        sha256: its checksum, in hexadecimal.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]

    def at_mirror(self, base: str) -> "RemoteFile":
        """Return the same file with the address ``<base>/<name>``."""
        return RemoteFile(f"{base.rstrip('/')}/{self.name}", self.size, self.sha256)


def fetch(remote: RemoteFile, folder: Path, attempts: int = 6, pause_s: float = 1.0) -> Path:
    """Download ``remote`` into ``folder`` unless it is there, check its size and sha256, and return its path.

    The bytes are written to ``<name>.part``, so that a broken transfer or a killed process resumes. The file gets its
    final name after the check. A file that fails the check is renamed to ``<name>.bad``.

    Args:
        remote: the file to download.
        folder: the folder to put it in; created if needed.
        attempts: number of attempts in a row that may bring no byte before the download gives up.
        pause_s: seconds before the second attempt; doubled for each further one.

    Raises:
        DownloadError: the server refuses, offers another file, or stops answering; the disk is too small; the
            checksum is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / remote.name
    if target.exists():
        _require_checksum(target, remote)
        return target
    part = folder / f"{remote.name}.part"
    _download(remote, part, attempts, pause_s)
    _require_checksum(part, remote)
    os.replace(part, target)
    return target


def unpack(archive: Path, folder: Path, place: Callable[[PurePosixPath], PurePosixPath | None] | None = None) -> int:
    """Unpack a zip below ``folder`` and return the number of files written.

    All entries are checked before the first is written. Each file is written under a temporary name and renamed, so
    that a killed run leaves no incomplete file. Files that exist with the right size and CRC are skipped. A file that
    is damaged in the archive does not keep the others from being unpacked.

    Args:
        archive: the zip file.
        folder: the folder to unpack into.
        place: maps an entry's path to its destination relative to ``folder``, or to ``None`` to leave the entry out.
            By default, the path in the archive.

    Raises:
        ArchiveError: the file is not a zip, is damaged or encrypted; an entry is absolute, a link, contains ``..``, has
            the same destination as another or an unknown compression; the disk is too small.
    """
    damaged: list[str] = []
    try:
        with zipfile.ZipFile(archive) as opened:
            planned = list(_plan(opened, archive, place))
            waiting = [(info, folder / path) for info, path in planned if not _is_unpacked(folder / path, info)]
            _require_space(folder, sum(info.file_size for info, _ in waiting), ArchiveError)
            remove_abandoned(folder)
            num_done = len(planned) - len(waiting)
            with closing(Progress(len(planned), "file", num_done, f"unpacking {archive.name}")) as progress:
                for info, target in waiting:
                    try:
                        _write_entry(opened, info, target)
                    except (*_DAMAGED, OSError) as error:
                        # In damaged data, bz2 raises OSError without a number, and a wrong offset is EINVAL.
                        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                            raise
                        damaged.append(f"{info.filename!r} ({error})")
                    progress.advance()
    except _DAMAGED as error:
        raise ArchiveError(
            f"{archive} is not a zip file, or is damaged ({error}). Get it again; unpack a .rar with unrar or 7z."
        ) from error
    if damaged:
        raise ArchiveError(
            f"{archive}: {len(damaged)} of {len(planned)} files are damaged, e.g. {', '.join(damaged[:3])}. The others "
            "were unpacked. Get the archive again, and run the same command for the rest."
        )
    return len(waiting)


def _download(remote: RemoteFile, part: Path, attempts: int, pause_s: float) -> None:
    """Append to ``part`` until it has ``remote.size`` bytes."""
    import requests

    have = _size(part)
    if have > remote.size:
        part.unlink()
        have = 0
    _require_space(part.parent, remote.size - have, DownloadError)
    failures = 0
    while have < remote.size:
        try:
            reason = _request_rest(remote, part, have)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            reason = str(error)
        arrived = _size(part)
        failures = 0 if arrived > have else failures + 1
        have = arrived
        if failures >= attempts:
            raise DownloadError(
                f"{remote.url}: gave up after {attempts} attempts without a byte, at {have} of {remote.size} bytes "
                f"({reason}). They are kept in {part}; run the same command again to resume."
            )
        if have < remote.size:
            time.sleep(pause_s * 2**failures)


def _request_rest(remote: RemoteFile, part: Path, have: int) -> str:
    """Request the bytes from ``have`` on and append them to ``part``; return why the request ended, for messages."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # compression would change lengths and offsets
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(remote.url, headers=headers, stream=True, timeout=CONNECT_AND_READ_TIMEOUT_S) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
        if response.status_code in RETRIED_STATUS:
            return f"HTTP {response.status_code} {response.reason}"
        if response.status_code not in (200, 206):
            raise DownloadError(
                f"{remote.url}: HTTP {response.status_code} {response.reason}. "
                "Check that the address is still valid, or name another one with --mirror URL."
            )
        start = have if response.status_code == 206 else 0
        _require_expected_size(remote, response.headers, start, response.status_code == 206)
        # A server that does not support Range answers 200 and sends the whole file again.
        mode = "ab" if start else "wb"
        with part.open(mode) as sink, closing(Progress(remote.size, "B", start, remote.name)) as progress:
            for chunk in response.iter_content(CHUNK_BYTES):
                start += len(chunk)
                if start > remote.size:
                    raise DownloadError(f"{remote.url}: the server sends more than the {remote.size} bytes expected.")
                sink.write(chunk)
                progress.advance(len(chunk))
    return "the server closed the connection early"


def _require_expected_size(remote: RemoteFile, headers: Any, start: int, partial: bool) -> None:
    """Refuse a wrong file by its length, before gigabytes are downloaded."""
    if partial:
        expected = f"bytes {start}-{remote.size - 1}/{remote.size}"
        offered = headers.get("Content-Range", "")
    else:
        expected = str(remote.size)
        offered = headers.get("Content-Length", expected)
    if offered != expected:
        raise DownloadError(
            f"{remote.url}: the server offers another file: {offered!r} where {expected!r} was expected. "
            "Name another address with --mirror URL."
        )


def _require_checksum(path: Path, remote: RemoteFile) -> None:
    """Rename the file to ``<name>.bad`` and raise unless its size and sha256 are right."""
    size = _size(path)
    found = f"{size} bytes"
    if size == remote.size:
        digest = hashlib.sha256()
        with path.open("rb") as source, closing(Progress(size, "B", what=f"checking {remote.name}")) as progress:
            for chunk in _chunks(source):
                digest.update(chunk)
                progress.advance(len(chunk))
        if digest.hexdigest() == remote.sha256:
            return
        found = f"sha256 {digest.hexdigest()}"
    aside = path.with_name(f"{remote.name}.bad")
    os.replace(path, aside)
    raise DownloadError(
        f"{remote.name} from {remote.url} is not the file expected: {found}, expected {remote.size} bytes with sha256 "
        f"{remote.sha256}. Nothing was unpacked; the file was renamed to {aside}. Run the same command to download it "
        "again."
    )


def _require_space(folder: Path, needed: int, error: type[DatasetError]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise error(f"{folder} has {free} bytes free, {needed} are needed. Free some, or name another --root.")


def _plan(
    opened: zipfile.ZipFile, archive: Path, place: Callable[[PurePosixPath], PurePosixPath | None] | None
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Yield the archive's files with their destinations; raise at the first that must not be unpacked."""
    taken: dict[str, str] = {}
    for info in opened.infolist():
        fault = _fault(info)
        if fault:
            raise ArchiveError(f"{archive}: {info.filename!r} {fault}. Nothing was unpacked. Get another copy.")
        path = PurePosixPath(info.filename)
        destination = None if info.is_dir() else (place(path) if place else path)
        if destination is None:
            continue
        # On a case-insensitive file system the second would silently replace the first.
        other = taken.setdefault(str(destination).lower(), info.filename)
        if other is not info.filename:
            raise ArchiveError(
                f"{archive}: entries {other!r} and {info.filename!r} would both become {destination}. Nothing was "
                "unpacked. Get another copy."
            )
        yield info, destination


def _fault(info: zipfile.ZipInfo) -> str:
    """Return why this entry must not be unpacked; empty if it may be."""
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not name:
        return "has no name"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name:
        return "is not a relative path"
    if ".." in PurePosixPath(name).parts:
        return "leads out of its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in _COMPRESSIONS:
        return f"is compressed by method {info.compress_type} (9: Deflate64), which only 7z or unzip can unpack"
    return ""


def _is_unpacked(target: Path, info: zipfile.ZipInfo) -> bool:
    if not target.is_file() or target.stat().st_size != info.file_size:
        return False
    crc = 0
    with target.open("rb") as source:
        for chunk in _chunks(source):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _write_entry(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    def copy(temporary: Path) -> None:
        with opened.open(info) as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)

    write_atomically(target, copy)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk
