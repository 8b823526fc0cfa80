"""Files that several threads and processes write at once: sqlite that survives forks, and locks on files."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakSet

from routegym.errors import StoreError

if sys.platform != "win32":
    import fcntl

__all__ = ["BUSY_S", "DamagedError", "Database", "FileLock", "Schema"]

#: Seconds that one transaction waits for those of other processes.
BUSY_S = 60.0


class DamagedError(StoreError):
    """The bytes of a file are not what was written."""


@dataclass(frozen=True)
class Schema:
    """What a file has to be. A file without any content becomes one on opening."""

    what: str
    """For messages, with its article: ``a response store``."""
    application_id: int
    """Told apart from other people's sqlite files by this number in the header."""
    version: int
    tables: tuple[str, ...]
    """Statements that create the tables."""
    pragmas: tuple[str, ...] = ()
    """Settings of each connection that writes."""


class Database:
    """One sqlite file.

    Threads of a process take turns at one connection; processes wait for each other's transactions for at most
    `BUSY_S` seconds. No connection is open while the process forks: sqlite's locks belong to a process, and a child
    that believes to hold those of its parent would lose rows.

    Args:
        path: The file.
        schema: What it has to be.
        mode: ``write`` creates the file where it is missing. ``read`` also sees what is not yet folded into the file
            itself, where the folder allows that. ``frozen`` reads the bare file and takes no lock, which is the only
            safe way to look at a file that another machine is writing.
        lock: Held (shared) as long as there may be a connection.

    Raises:
        StoreError: the file cannot be opened or is something else; `DamagedError` where its bytes are broken.
    """

    def __init__(
        self, path: Path, schema: Schema, mode: Literal["write", "read", "frozen"], lock: FileLock | None = None
    ) -> None:
        self.path = path
        self._schema = schema
        self._mode = mode
        self._lock = lock
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        with _no_fork:
            _databases.add(self)
            try:
                with self.read():
                    pass
            except StoreError:
                self.close()
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for some queries; sqlite's errors inside become `StoreError`."""
        with self._turn, _store_errors(self.path):
            yield self._connected()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: everything in it is kept, or nothing where it ends with an exception."""
        with self._turn, _store_errors(self.path):
            connection = self._connected()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                try:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                except sqlite3.Error:
                    self._disconnect()
                raise

    def close(self) -> None:
        """Close the connection and give up the lock; closing twice does nothing."""
        with self._turn:
            self._closed = True
            self._disconnect()
            if self._lock is not None:
                self._lock.release()

    def reopen(self) -> None:
        """See what has become of the file: the next use opens it again."""
        with self._turn:
            self._disconnect()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._closed:
                raise StoreError(f"{self.path}: closed; open it again to use it")
            if self._lock is not None:
                self._lock.share()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if self._mode == "read":
            try:
                return self._connect_as("mode=ro")
            except StoreError:
                # A folder where sqlite may not put its index of the log: what is in the file itself can be read.
                return self._connect_as("mode=ro&immutable=1")
        return self._connect_as("mode=rwc" if self._mode == "write" else "mode=ro&immutable=1")

    def _connect_as(self, how: str) -> sqlite3.Connection:
        give_up = time.monotonic() + BUSY_S
        while True:
            with _store_errors(self.path):
                connection = sqlite3.connect(
                    f"{self.path.absolute().as_uri()}?{how}",
                    uri=True,
                    timeout=BUSY_S,
                    isolation_level=None,
                    check_same_thread=False,
                )
                try:
                    # Broken text has to arrive here, where checksums are compared, and not end as a decoding error.
                    connection.text_factory = bytes
                    self._prepare(connection)
                    return connection
                except BaseException as error:
                    connection.close()
                    # While another process opens or closes the file, sqlite may refuse at once instead of waiting.
                    if _kind(error) not in _BUSY or time.monotonic() > give_up:
                        raise
            time.sleep(0.005)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._mode == "write":
            for pragma in self._schema.pragmas:
                connection.execute(f"PRAGMA {pragma}")
        if self._mode == "write" and _is_empty(connection):
            connection.execute("BEGIN IMMEDIATE")
            if _is_empty(connection):
                for statement in self._schema.tables:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self._schema.application_id}")
                connection.execute(f"PRAGMA user_version = {self._schema.version}")
            connection.execute("COMMIT")
        if self._mode == "write" or not _is_empty(connection):
            self._check_version(connection)

    def _check_version(self, connection: sqlite3.Connection) -> None:
        application_id, version = _header(connection)
        if application_id != self._schema.application_id:
            raise StoreError(
                f"{self.path}: not {self._schema.what} (application id {application_id:#x}, expected "
                f"{self._schema.application_id:#x}); move it away or give another folder"
            )
        if version != self._schema.version:
            remedy = "update routegym" if version > self._schema.version else "give another folder"
            raise StoreError(
                f"{self.path}: {self._schema.what} of schema version {version}; this routegym reads version "
                f"{self._schema.version}: {remedy}"
            )

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _before_fork(self) -> None:
        self._turn.acquire()
        self._disconnect()

    def _after_fork_in_parent(self) -> None:
        self._turn.release()

    def _after_fork_in_child(self) -> None:
        self._turn = threading.RLock()


class FileLock:
    """A lock on a file that the system gives back when the process dies, however it dies.

    Every instance counts for itself, also within a process; a forked child starts without it.

    Args:
        path: The file; created where it is missing.
        create: False = a missing file counts as locked by nobody and is not created.

    Raises:
        StoreError: the file cannot be opened, or its file system has no locks.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._create = create
        self._descriptor: int | None = None
        self._shared = False
        _locks.add(self)

    @property
    def held(self) -> bool:
        """Whether this process holds it, in either way."""
        return self._descriptor is not None

    def try_exclusive(self) -> bool:
        """Take it alone; False where somebody else holds it."""
        return self._take(alone=True)

    def share(self) -> None:
        """Take it beside others who share it; waits for whoever holds it alone."""
        if not (self.held and self._shared):
            self._take(alone=False)
            self._shared = self.held

    def release(self) -> None:
        """Give it up; giving up twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._shared = False

    def _take(self, alone: bool) -> bool:
        if sys.platform == "win32":
            raise StoreError(f"{self.path}: stores need the file locks of a POSIX system; use one (WSL is enough)")
        try:
            if self._descriptor is None:
                flags = os.O_RDWR | os.O_CREAT if self._create else os.O_RDONLY
                self._descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            self.release()
            return False
        except FileNotFoundError as error:
            if self._create:
                raise StoreError(f"{self.path}: {error.strerror}; give a folder that exists") from error
            return True
        except OSError as error:
            self.release()
            raise StoreError(
                f"{self.path}: cannot be locked ({error.strerror}); give a folder that this user may write to, "
                "on a file system with locks"
            ) from error
        return True


_databases: WeakSet[Database] = WeakSet()
_locks: WeakSet[FileLock] = WeakSet()
_forking: list[Database] = []
_no_fork = threading.RLock()


def _before_fork() -> None:
    _no_fork.acquire()
    for database in list(_databases):
        database._before_fork()
        _forking.append(database)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop()._after_fork_in_parent()
    _no_fork.release()


def _after_fork_in_child() -> None:
    global _no_fork
    _no_fork = threading.RLock()
    while _forking:
        _forking.pop()._after_fork_in_child()
    for lock in list(_locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    """Application id and version of the schema."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application_id, version


def _is_empty(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables == 0 and _header(connection) == (0, 0))


#: What passes when others have finished.
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def _kind(error: BaseException) -> int | None:
    """sqlite's primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        kind = _kind(error)
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DamagedError(f"{path}: damaged ({error})") from error
        if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            remedy = "the disk is full or failing: make room; what was acknowledged before is kept"
        elif kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            remedy = "it cannot be written: give a folder that this user may write to, or read_only=True"
        elif kind in _BUSY:
            remedy = f"another process has kept it locked for {BUSY_S:g} s: see which one hangs"
        else:
            remedy = "it cannot be used as it is: give another folder"
        raise StoreError(f"{path}: {error}; {remedy}") from error
