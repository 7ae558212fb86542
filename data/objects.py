"""Addresses in an object store, such as ``s3://bucket/prefix``, where a setting names a folder or such an address.

An ``ObjectPath`` has those methods of ``pathlib.Path`` that the feature store uses. The client is obstore, because one
library without dependencies of its own speaks to S3 and what is compatible with it, Google Cloud Storage and Azure,
retries with back-off, and lists in pages.
"""

import functools
import hashlib
import itertools
import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator
from tyro.constructors import PrimitiveConstructorSpec

from data.atomic import write_atomically
from data.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

NUM_REQUESTS = 32  # at a time: an object store answers many at once, each after tens of milliseconds
MAX_KEY_BYTES = 1024  # of S3, Google and Azure
SECONDS_OF_RETRIES = 120.0  # after errors 5xx and cut connections
_PAGE = 1000  # objects per listing: as many as S3 puts into one
_TIMEOUT = "5min"  # of one request, which may carry the features of a long video
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# S3 answers some of these with status 400.
_REFUSED = (
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied"
    r"|40[13] [FU]|169\.254\.169\.254"  # the latter is where a machine in AWS asks for credentials
)
_TORN = "response body"
_NO_BUCKET = r"NoSuchBucket|ContainerNotFound|bucket does not exist"


class ObjectStoreError(UserError):
    """The object store refuses a request or does not answer. The message says what to do."""


class ObjectNameError(ObjectStoreError):
    """No object can have this name; others can be stored."""


@dataclass(frozen=True)
class ObjectStatus:
    """An object's size and time, named as ``os.stat`` names them; ``version`` differs if the content does."""

    path: "ObjectPath"
    st_size: int
    st_mtime: float
    version: int

    @property
    def st_mtime_ns(self) -> int:
        return round(self.st_mtime * 1e9)


@dataclass(frozen=True)
class ObjectPath:
    """The address of an object, or of all objects whose names continue with a slash: a folder.

    All methods raise ``ObjectStoreError``, and ``FileNotFoundError`` only where the store says that there is no such
    object.
    """

    bucket: str
    """with the scheme: ``s3://bucket``"""
    key: str = ""

    @classmethod
    def parse(cls, address: str) -> "ObjectPath":
        """Raises ``ObjectStoreError`` if the scheme is unknown, or the address has no bucket or an unusable part."""
        scheme, _, rest = address.partition("://")
        bucket, *parts = rest.rstrip("/").split("/")
        if scheme not in _CREDENTIALS or not bucket or not {"", ".", ".."}.isdisjoint(parts):
            raise ObjectStoreError(
                f"{address} is not an address of an object store: write s3://BUCKET/PREFIX (S3 and what is compatible "
                "with it), gs://BUCKET/PREFIX (Google) or az://CONTAINER/PREFIX (Azure)."
            )
        return cls(f"{scheme}://{bucket}", "/".join(parts))

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}".lstrip("/"))

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def absolute(self) -> "ObjectPath":
        return self

    def exists(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is an object in this folder."""
        return any(True for _ in self.walk())

    def stat(self) -> ObjectStatus:
        # Not HEAD, whose answer has no body that says why it was refused.
        return _status(self, self._request(lambda store, client: store.get(client, self._usable_key()).meta))

    def read_bytes(self, limit: int | None = None, offset: int = 0) -> bytes:
        """The content, or at most ``limit`` bytes of it from ``offset`` on."""
        options = None if limit is None else {"range": (offset, offset + limit)}
        return self._request(
            lambda store, client: store.get(client, self._usable_key(), options=options).bytes().to_bytes()
        )

    def write_bytes(self, content: bytes) -> None:
        """Put the object: readers see all of it or nothing. Raises ``ObjectNameError`` if its name is unusable."""
        # Not in parts: those of a killed process would stay, unlisted, and cost money.
        self._request(lambda store, client: store.put(client, self._usable_key(), content, use_multipart=False))

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the object. That it is missing is no error, because S3 does not say so."""
        with suppress(FileNotFoundError):
            self._request(lambda store, client: store.delete(client, self._usable_key()))

    def folders(self) -> list["ObjectPath"]:
        """The folders in this folder."""
        listed = self._request(lambda store, client: store.list_with_delimiter(client, self.key or None))
        return [ObjectPath(self.bucket, prefix.rstrip("/")) for prefix in listed["common_prefixes"]]

    def walk(self) -> Iterator[ObjectStatus]:
        """All objects in this folder and the folders in it, a thousand per request."""
        pages: Iterator[Any] | None = None
        last = None

        def next_page(store: Any, client: Any) -> Any:
            nonlocal pages
            try:
                pages = pages or iter(store.list(client, self.key or None, offset=last, chunk_size=_PAGE))
                return next(pages, None)
            except store.exceptions.BaseError:
                pages = None  # it ends here; another one continues after the last page
                raise

        while page := self._request(next_page):
            last = page[-1]["path"]
            for found in page:
                yield _status(ObjectPath(self.bucket, found["path"]), found)

    def _usable_key(self) -> str:
        try:
            num_bytes = len(self.key.encode())
        except UnicodeEncodeError as error:
            raise ObjectNameError(f"{self.key!r} is not UTF-8, so no object can have this name. Rename it.") from error
        if num_bytes > MAX_KEY_BYTES:
            raise ObjectNameError(f"{self.key!r} has {num_bytes} bytes; an object's name has at most {MAX_KEY_BYTES}.")
        return self.key

    def _request(self, ask: Callable[[Any, Any], Result]) -> Result:
        """The result of ``ask(obstore, client)``. What obstore raises is raised as this module's errors."""
        try:
            import obstore
            import obstore.exceptions as errors
        except ImportError as missing:
            raise ObjectStoreError(
                f"{self.bucket} needs obstore, which is not installed: pip install -e '.[objects]'"
            ) from missing
        started = time.monotonic()
        for num_torn in itertools.count():
            try:
                return ask(obstore, _client(self.bucket))
            except UserError:
                raise
            except ValueError as error:
                if "parse path" not in str(error):
                    raise
                raise ObjectNameError(
                    f"no object can be named {self.key!r} ({_first_line(error)}). Rename it."
                ) from error
            except (FileNotFoundError, errors.BaseError) as error:
                # obstore retries what has no answer, and an object whose answer is torn, but no such listing.
                if re.search(_TORN, str(error)) and time.monotonic() < started + SECONDS_OF_RETRIES:
                    time.sleep(min(0.1 * 2**num_torn, 15))
                    continue
                if isinstance(error, FileNotFoundError) and not re.search(_NO_BUCKET, str(error)):
                    raise
                is_refused = isinstance(error, errors.PermissionDeniedError | errors.UnauthenticatedError)
                raise self._named(error, is_refused) from error
        raise AssertionError

    def _named(self, error: Exception, is_refused: bool) -> ObjectStoreError:
        text = str(error)
        if re.search(_NO_BUCKET, text):
            return ObjectStoreError(f"there is no bucket {self.bucket}. Create it, or correct --cache.")
        if is_refused or re.search(_REFUSED, text):
            scheme = self.bucket.partition(":")[0]
            advice = (
                "the credentials are missing, expired or do not allow this. Set or renew them in the environment: "
                f"{_CREDENTIALS[scheme]}"
            )
        else:
            advice = "the store does not answer. Check the network (for S3, AWS_REGION and AWS_ENDPOINT_URL, too)"
        said = re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL)
        reason = f"{said[1]}: {said[2]}" if said else _first_line(error)
        return ObjectStoreError(f"{self}: {advice}, then run the same command again: finished work is kept. ({reason})")


@functools.cache
def _client(bucket: str) -> Any:
    from obstore.store import from_url

    # Who names a server without TLS wants to talk to it.
    allow_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    options: Any = {"timeout": _TIMEOUT, "allow_http": allow_http}
    # Each pause is drawn between the first and the base times the last one: on average twice the last one.
    backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=15), "base": 4}
    retries: Any = {"max_retries": 1000, "retry_timeout": timedelta(seconds=SECONDS_OF_RETRIES), "backoff": backoff}
    return from_url(bucket, client_options=options, retry_config=retries)


def _status(path: ObjectPath, found: Any) -> ObjectStatus:
    modified = found["last_modified"].timestamp()
    tag = hashlib.sha256(str(found["e_tag"] or modified).encode()).digest()
    return ObjectStatus(path, found["size"], modified, int.from_bytes(tag[:8], "big") >> 1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]


def parse_place(value: str | Path | ObjectPath) -> Path | ObjectPath:
    """Raises ``ObjectStoreError`` if an address is unusable."""
    if isinstance(value, ObjectPath):
        return value
    return ObjectPath.parse(value) if isinstance(value, str) and "://" in value else Path(value)


Place = Annotated[
    Path | ObjectPath,
    PlainValidator(parse_place),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: parse_place(words[0]),
        is_instance=lambda value: isinstance(value, Path | ObjectPath),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A folder, or an address in an object store; as a type of a setting, too."""


def write_place(place: Place, content: bytes) -> None:
    """Write a file or an object that is complete, or not there. Raises ``OSError`` or ``ObjectStoreError``."""
    if isinstance(place, ObjectPath):
        place.write_bytes(content)
    else:
        write_atomically(place, lambda temporary: temporary.write_bytes(content))


def subfolders(place: Place) -> list[Path] | list[ObjectPath]:
    """The folders in a folder, in no order."""
    if isinstance(place, ObjectPath):
        return place.folders()
    return [path for path in place.iterdir() if path.is_dir()]


def local_folder(place: Place) -> Path:
    """Where on this machine files lie that belong to ``place`` and must be local: in the user's cache folder."""
    if isinstance(place, ObjectPath):
        return user_cache_folder().joinpath(*place.bucket.split("://"), place.key)
    return place


def user_cache_folder() -> Path:
    # XDG Base Directory Specification: a relative path is invalid.
    parent = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not parent.is_absolute():
        parent = Path("~/.cache").expanduser()
    return parent / "np-rnn-action-recognition"


def map_places(
    place: Place, function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """``map``; with requests to an object store, in threads, a few items ahead. Results are in the items' order."""
    if isinstance(place, Path):
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(NUM_REQUESTS)
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            while waiting and (waiting[0].done() or len(waiting) >= 2 * NUM_REQUESTS):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
