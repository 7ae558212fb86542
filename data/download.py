"""Get an archive and open it: a download that resumes, a checksum before use, unpacking that stays in its folder."""

import hashlib
import os
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from data.atomic import remove_abandoned, write_atomically
from data.records import DatasetError

CHUNK_BYTES = 1 << 16  # when a connection breaks, the chunk under way is lost: so not a large one
CONNECT_AND_READ_TIMEOUT_S = (10.0, 60.0)
RETRIED_STATUS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


class DownloadError(DatasetError):
    """The file could not be fetched, or what came is not the file that was asked for."""


class ArchiveError(DatasetError):
    """The archive is damaged, or holds an entry that must not be unpacked."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, and what it must be once it is here.

    Attributes:
        url: where it lies.
        size: in bytes.
        sha256: of its bytes, in hexadecimal.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]

    def at_mirror(self, base: str) -> "RemoteFile":
        """The same file, to be fetched from ``<base>/<name>``."""
        return RemoteFile(f"{base.rstrip('/')}/{self.name}", self.size, self.sha256)


def progress_bar(total: int, unit: str, what: str, done: int = 0) -> "tqdm[Any]":
    """A bar with rate and time left on a terminal; in a log, a line every half minute."""
    on_terminal = sys.stderr.isatty()
    scale = unit == "B"
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        unit_scale=scale,
        unit_divisor=1000,
        desc=what,
        mininterval=0.2 if on_terminal else 30.0,
        dynamic_ncols=on_terminal,
    )


def fetch(remote: RemoteFile, folder: Path, attempts: int = 6, pause_s: float = 1.0) -> Path:
    """The path of ``remote`` under ``folder``, downloaded if need be; its size and sha256 have been checked.

    The bytes go to ``<name>.part``; a broken transfer, or a killed process, goes on where it stopped. The final name is
    given only after the check. A file that fails it is set aside as ``<name>.bad``.

    Args:
        attempts: how many times in a row may bring no byte before it gives up.
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
    """Unpack a zip below ``folder`` and return how many files were written.

    All entries are looked at before the first is written. Each file is written aside and renamed, so that a killed run
    leaves no half file; one that is there already, with the right size and CRC, is skipped.

    Args:
        place: where an entry's file goes, relative to ``folder``; ``None`` leaves the entry out. By default, where the
            archive says.

    Raises:
        ArchiveError: not a zip, damaged, encrypted, or an entry is absolute, a link, contains ``..`` or has the same
            destination as another; or the disk is too small.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            planned = list(_plan(opened, archive, place))
            waiting = [(info, folder / path) for info, path in planned if not _is_unpacked(folder / path, info)]
            _require_space(folder, sum(info.file_size for info, _ in waiting), ArchiveError)
            remove_abandoned(folder)
            with progress_bar(len(planned), "file", f"unpacking {archive.name}", len(planned) - len(waiting)) as bar:
                for info, target in waiting:
                    _write_entry(opened, info, target)
                    bar.update()
    except zipfile.BadZipFile as error:
        raise ArchiveError(
            f"{archive} is not a whole zip file ({error}). Get it again; a .rar must be unpacked with unrar or 7z."
        ) from error
    return len(waiting)


def _download(remote: RemoteFile, part: Path, attempts: int, pause_s: float) -> None:
    """Fill ``part`` up to ``remote.size`` bytes."""
    import requests

    have = _size(part)
    if have > remote.size:
        part.unlink()
        have = 0
    _require_space(part.parent, remote.size - have, DownloadError)
    fruitless = 0
    with progress_bar(remote.size, "B", remote.name, have) as bar:
        while have < remote.size:
            try:
                reason = _request_rest(remote, part, have, bar)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                reason = str(error)
            arrived = _size(part)
            fruitless = 0 if arrived > have else fruitless + 1
            have = arrived
            if fruitless >= attempts:
                raise DownloadError(
                    f"{remote.url}: gave up after {attempts} attempts that brought nothing, with {have} of "
                    f"{remote.size} bytes here ({reason}). They are kept in {part}; run the same command to go on."
                )
            if have < remote.size:
                time.sleep(pause_s * 2**fruitless)


def _request_rest(remote: RemoteFile, part: Path, have: int, bar: "tqdm[Any]") -> str:
    """One request for the bytes from ``have`` on, appended to ``part``; returns why it ended, for the error message."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # a compressed answer has other lengths and offsets
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
                "Look whether the address still holds, or name another place with --mirror URL."
            )
        start = have if response.status_code == 206 else 0
        _require_expected_size(remote, response.headers, start, response.status_code == 206)
        # A server that does not know Range answers 200 and sends the whole file again.
        with part.open("ab" if start else "wb") as sink:
            bar.n = start
            for chunk in response.iter_content(CHUNK_BYTES):
                start += len(chunk)
                if start > remote.size:
                    raise DownloadError(f"{remote.url}: the server sends more than the {remote.size} bytes expected.")
                sink.write(chunk)
                bar.update(len(chunk))
    return "the server closed the connection early"


def _require_expected_size(remote: RemoteFile, headers: Any, start: int, partial: bool) -> None:
    """Refuse another file before its gigabytes have come over the line."""
    if partial:
        expected = f"bytes {start}-{remote.size - 1}/{remote.size}"
        offered = headers.get("Content-Range", "")
    else:
        expected = str(remote.size)
        offered = headers.get("Content-Length", expected)
    if offered != expected:
        raise DownloadError(
            f"{remote.url}: the server offers another file: {offered!r} where {expected!r} was expected. "
            "Name another place with --mirror URL."
        )


def _require_checksum(path: Path, remote: RemoteFile) -> None:
    """Raise, and set the file aside, unless size and sha256 are what they must be."""
    size = _size(path)
    found = f"{size} bytes"
    if size == remote.size:
        with path.open("rb") as source, progress_bar(size, "B", f"checking {remote.name}") as bar:
            digest = hashlib.sha256()
            for chunk in _chunks(source):
                digest.update(chunk)
                bar.update(len(chunk))
        if digest.hexdigest() == remote.sha256:
            return
        found = f"sha256 {digest.hexdigest()}"
    aside = path.with_name(f"{remote.name}.bad")
    os.replace(path, aside)
    raise DownloadError(
        f"{remote.name} from {remote.url} is not the file expected: {found}, expected {remote.size} bytes with sha256 "
        f"{remote.sha256}. Nothing was unpacked; it was set aside as {aside}. The same command downloads it afresh."
    )


def _require_space(folder: Path, needed: int, error: type[DatasetError]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise error(f"{folder} has {free} bytes free, {needed} are needed. Free some, or name another folder as root.")


def _plan(
    opened: zipfile.ZipFile, archive: Path, place: Callable[[PurePosixPath], PurePosixPath | None] | None
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files of the archive with their places below the folder; raises on the first that must not be unpacked."""
    taken: dict[str, str] = {}
    for info in opened.infolist():
        fault = _fault(info)
        if fault:
            raise ArchiveError(f"{archive}: {info.filename!r} {fault}. Nothing was unpacked; get another copy.")
        path = PurePosixPath(info.filename)
        destination = None if info.is_dir() else (place(path) if place else path)
        if destination is None:
            continue
        # Some file systems do not tell A from a: there the second would silently replace the first.
        other = taken.setdefault(str(destination).lower(), info.filename)
        if other is not info.filename:
            raise ArchiveError(f"{archive}: entries {other!r} and {info.filename!r} would both become {destination}.")
        yield info, destination


def _fault(info: zipfile.ZipInfo) -> str:
    """Why this entry must not be unpacked; empty where it may."""
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name:
        return "is not a relative path"
    if ".." in PurePosixPath(name).parts:
        return "leads out of its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 0x1:
        return "is encrypted"
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
