"""Addresses in an object store, and what becomes of a server that fails."""

import os
import sys
import threading
from pathlib import Path

import pytest

from data import objects
from data.objects import ObjectNameError, ObjectPath, ObjectStoreError, map_places, parse_place
from tests.helpers.object_server import PAGE, ObjectServer

ODD = ["plain.avi", "a b#é%20*?[x]~\"'<>.avi", "deep/er/日本.avi", "-x", "..a", "a+b&c=d", "back\\slash"]
FAULTS = [(503, "SlowDown"), (500, "InternalError"), "cut", "torn"]


@pytest.fixture
def folder(bucket: str, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    monkeypatch.setattr(objects, "SECONDS_OF_RETRIES", 20.0)
    return ObjectPath.parse(f"{bucket}/some/prefix")


def test_objects_are_written_read_listed_and_removed(folder: ObjectPath, object_server: ObjectServer) -> None:
    """Names may contain what file names do; a listing has sizes, and reaches neighbours of a similar name never."""
    for name in ODD:
        (folder / name).write_bytes(name.encode())
    (folder.parent / "prefix-of-another").write_bytes(b"")
    assert {found.path: found.st_size for found in folder.walk()} == {folder / n: len(n.encode()) for n in ODD}
    assert all((folder / name).read_bytes() == name.encode() for name in ODD)
    assert (folder / ODD[0]).read_bytes(4) == b"plain"[:4] and (folder / ODD[0]).read_bytes(99) == b"plain.avi"
    assert [path.name for path in folder.folders()] == ["deep"] and folder.is_dir()
    before = (folder / "-x").stat()
    (folder / "-x").write_bytes(b"another")
    assert (folder / "-x").stat().version != before.version
    (folder / "-x").unlink()
    (folder / "-x").unlink()
    assert not (folder / "-x").exists() and (folder / "..a").exists()
    with pytest.raises(FileNotFoundError):
        (folder / "-x").read_bytes()


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.avi"), "line\nbreak", "x" * 1025])
def test_impossible_names_are_told_from_other_errors(folder: ObjectPath, name: str) -> None:
    """A video with such a name fails alone."""
    with pytest.raises(ObjectNameError, match=name[:3]):
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_failures_that_pass_are_retried(
    folder: ObjectPath, object_server: ObjectServer, fault: "tuple[int, str] | str"
) -> None:
    """A busy server and a cut connection cost time, and neither data nor the work."""
    content = os.urandom(100_000)
    object_server.fail(2, fault, "PUT")
    (folder / "a").write_bytes(content)
    object_server.fail(2, fault, "GET", "/a")
    assert (folder / "a").read_bytes() == content
    object_server.fail(2, fault, "GET", "list-type")
    assert [found.st_size for found in folder.walk()] == [len(content)]
    object_server.fail(1, fault, "HEAD")
    assert (folder / "a").exists()
    assert object_server.count("PUT") == 3 and object_server.count("GET", "list-type") == 3


def test_a_torn_listing_continues_after_its_last_page(
    folder: ObjectPath, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No object is listed twice or left out."""
    monkeypatch.setattr(objects, "_PAGE", PAGE)
    for number in range(3 * PAGE):
        (folder / f"{number:02}").write_bytes(b"1")
    listing = folder.walk()
    names = [next(listing).path.name]
    object_server.fail(1, "torn", "GET", "list-type")
    names += [found.path.name for found in listing]
    assert names == [f"{number:02}" for number in range(3 * PAGE)]
    assert object_server.count("GET", "start-after") >= 1


@pytest.mark.parametrize("fault", ["cut", "torn", (503, "SlowDown")], ids=str)
def test_nothing_torn_is_an_object(
    folder: ObjectPath, object_server: ObjectServer, fault: "tuple[int, str] | str", monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object whose write failed is not there, and the error says that the store does not answer."""
    monkeypatch.setattr(objects, "SECONDS_OF_RETRIES", 0.5)
    object_server.fail(999, fault, "PUT")
    with pytest.raises(ObjectStoreError, match="does not answer"):
        (folder / "a").write_bytes(bytes(100_000))
    assert object_server.count("PUT") >= 2
    assert not (folder / "a").exists() and not folder.is_dir()


@pytest.mark.parametrize(("status", "code"), [(403, "ExpiredToken"), (400, "ExpiredToken"), (403, "AccessDenied")])
def test_refused_credentials_are_named_and_never_mean_missing(
    folder: ObjectPath, object_server: ObjectServer, status: int, code: str
) -> None:
    """Every request says at once what to renew: features that can't be asked for must not be extracted again."""
    (folder / "a").write_bytes(b"1")
    object_server.fail(99, (status, code))
    requests = [(folder / "a").read_bytes, lambda: (folder / "a").write_bytes(b"2"), folder.is_dir, folder.folders]
    for request in requests:
        with pytest.raises(ObjectStoreError, match=f"AWS_SESSION_TOKEN.*{code}: made by a test"):
            request()
    for request in ((folder / "a").exists, (folder / "a").unlink):  # these get no body, or no error that S3 would give
        with pytest.raises(ObjectStoreError):
            request()


def test_a_missing_bucket_is_named(object_server: ObjectServer) -> None:
    """It differs from a missing object in the text of the answer alone."""
    nowhere = ObjectPath.parse("s3://no-such-bucket/x")
    for request in (nowhere.read_bytes, lambda: nowhere.write_bytes(b""), nowhere.is_dir, nowhere.folders):
        with pytest.raises(ObjectStoreError, match="no bucket s3://no-such-bucket"):
            request()


def test_a_store_without_obstore_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """obstore is installed by those who need it."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ObjectStoreError, match=r"\[objects\]"):
        ObjectPath.parse("s3://bucket").exists()


@pytest.mark.parametrize("address", ["s3://", "s3:///x", "ftp://host/x", "s3://bucket/../x", "s3://bucket//x"])
def test_unusable_addresses_are_refused(address: str) -> None:
    """Before anything is requested."""
    with pytest.raises(ObjectStoreError, match="s3://BUCKET/PREFIX"):
        parse_place(address)


def test_paths_and_addresses_are_told_apart() -> None:
    """A folder stays a folder, and an address keeps its text."""
    assert parse_place("s3/cache") == Path("s3/cache")
    address = parse_place("s3://bucket/a/b/")
    assert (str(address), address.name, str(address.parent)) == ("s3://bucket/a/b", "b", "s3://bucket/a")
    assert str(address.parent.parent) == "s3://bucket" and address.parent / "b" == address


def test_requests_run_at_the_same_time_and_a_few_ahead() -> None:
    """Results keep their order, and a long list is not read to its end before the first result."""
    taken = []
    together = threading.Barrier(objects.NUM_REQUESTS, timeout=30)

    def items() -> "list[int]":
        for number in range(10 * objects.NUM_REQUESTS):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        together.wait()
        return number

    results = map_places(ObjectPath("s3://bucket"), work, items())
    assert next(results) == 0
    assert len(taken) <= 3 * objects.NUM_REQUESTS
    assert list(results) == list(range(1, 10 * objects.NUM_REQUESTS))
