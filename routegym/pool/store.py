"""The store of responses: what a call returned is kept for ever, so that no call is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from routegym.errors import StoreError
from routegym.pool.backend import Attempt, Call, Completion
from routegym.pool.database import DamagedError, Database, FileLock, Schema

__all__ = ["ResponseStore", "StoredCall"]

#: Room for a row of some 2 kB inside its page.
_PAGE_SIZE = "page_size = 8192"

SCHEMA = Schema(
    what="a response store",
    application_id=0x72676D73,  # "rgms"
    version=1,
    tables=(
        "CREATE TABLE responses (key TEXT PRIMARY KEY, call TEXT NOT NULL, completion TEXT NOT NULL, "
        "created REAL NOT NULL, checksum TEXT NOT NULL) WITHOUT ROWID",
    ),
    # A commit is in the system's hands before `put` returns, which is all that a killed process needs.
    pragmas=(_PAGE_SIZE, "journal_mode = WAL", "synchronous = NORMAL"),
)

#: key, call, completion, time of creation, checksum. Rows that were just read may hold anything; see `_is_intact`.
_Row = tuple[bytes, bytes, bytes, float, bytes]
_COLUMNS = "key, call, completion, created, checksum"
# Bytes in, bytes out, text in the file: any sqlite tool can read it, and no answer is too odd to be kept.
_INSERT = (
    f"INSERT OR IGNORE INTO responses ({_COLUMNS}) "
    "VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT))"
)
#: Keys in one query, and rows in one page of an iteration.
_CHUNK = 500


@dataclass(frozen=True)
class StoredCall:
    """One row of a store."""

    key: str
    """`routegym.pool.backend.Call.key`."""
    arm: str
    """Name of the arm that asked first; for information, since other arms may send the same call."""
    request: Mapping[str, Any]
    """Everything that was sent: the fields of `routegym.pool.backend.Call` without the arm."""
    completion: Completion
    created: float
    """Seconds since 1970."""


class ResponseStore:
    """Completions by the key of their call, in a folder.

    Every machine writes a file of its own there (``responses-HOST.sqlite``), shared by all its threads and processes,
    and reads those of the others. What `put` has acknowledged survives the death of the process at any moment. The
    first answer to a call stays; later ones are not kept.

    The process that opens a machine's file while no other has it open compares every row with its checksum. A damaged
    file is set aside (``*.damaged-N``, with a warning that names it) and what can be read of it goes into a fresh one.

    Args:
        folder: Created where it is missing, unless `read_only`.
        read_only: Add nothing and repair nothing, also in this machine's file; the folder may be read-only as well.

    Raises:
        StoreError: the folder cannot be used, or a file in it has another schema version.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.read_only = read_only
        self._own: Database | None = None
        self._others: dict[Path, Database] = {}
        name = f"responses-{_host()}.sqlite"
        self._own_path = self.folder / name
        if read_only:
            if not self.folder.is_dir():
                raise StoreError(f"{self.folder}: no such folder; give the folder of a response store")
        else:
            self._own = self._open_own(self.folder / f"{name}.lock")
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder itself."""
        return partial(ResponseStore, read_only=self.read_only), (self.folder,)

    def get_many(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The known completions among `keys`, by key; what is not known is missing.

        Raises:
            StoreError: this machine's file cannot be read or is damaged.
        """
        missing = dict.fromkeys(keys)
        found: dict[str, Completion] = {}
        for source in self._sources():
            if not missing:
                break
            for row in self._look_up(source, list(missing)):
                key = row[0].decode()
                if key in missing:
                    del missing[key]
                    found[key] = _completion(row)
        return found

    def put(self, call: Call, completion: Completion) -> None:
        """Keep what a call returned. When this returns, the death of this process cannot lose it.

        Raises:
            StoreError: it could not be kept: the store is read-only, the disk is full.
        """
        self.put_many([(call, completion)])

    def put_many(self, results: Iterable[tuple[Call, Completion]]) -> None:
        """Keep several at once: all of them or, where this raises, none.

        Raises:
            StoreError: they could not be kept: the store is read-only, the disk is full.
        """
        created = time.time()
        self._insert([_row(call, completion, created) for call, completion in results])

    def keys(self) -> set[str]:
        """The keys of all rows, those of other machines included."""
        keys: set[str] = set()
        for source in self._sources():
            try:
                with source.read() as connection:
                    keys.update(key.decode() for (key,) in connection.execute("SELECT key FROM responses"))
            except (DamagedError, UnicodeDecodeError, AttributeError) as error:
                if source is self._own:
                    raise _with_remedy(source.path, error) from error
        return keys

    def __len__(self) -> int:
        return len(self.keys())

    def rows(self) -> Iterator[StoredCall]:
        """All rows, this machine's first, each key once; in the order of the keys within a file."""
        seen: set[bytes] = set()
        for source in self._sources():
            for row in self._scan(source):
                if row[0] not in seen:
                    seen.add(row[0])
                    request = json.loads(row[1])
                    yield StoredCall(row[0].decode(), request.pop("arm"), request, _completion(row), row[3])

    def merge(self, folder: str | Path) -> int:
        """Copy the rows of all machines' files in another folder into this machine's file; the number of new ones.

        Rows that are here already stay as they are. With the store's own folder, what other machines wrote is copied.
        No process may be writing the files that are read.

        Raises:
            StoreError: there is no store, or a file in it is damaged; what was copied before stays.
        """
        paths = [path for path in _files(Path(folder)) if path.absolute() != self._own_path.absolute()]
        if not paths and not self._own_path.is_relative_to(Path(folder)):
            raise StoreError(f"{folder}: no response store (responses-*.sqlite); give the folder of one")
        added = 0
        for path in paths:
            with closing(Database(path, SCHEMA, "read")) as source:
                page: list[_Row] = []
                for row in () if _is_blank(source) else _pages(source):
                    if not _is_intact(row):
                        raise _with_remedy(path, f"damaged (row {row[0]!r} does not match its checksum)")
                    page.append(row)
                    if len(page) == _CHUNK:
                        added += self._insert(page)
                        page = []
                added += self._insert(page)
        return added

    def refresh(self) -> None:
        """Look again at what other machines have written since the store was opened.

        Raises:
            StoreError: the file of another machine has another schema version.
        """
        for source in self._others.values():
            source.reopen()
        for path in _files(self.folder):
            if path not in self._others and (self._own is None or path != self._own_path):
                other = self._open_other(path)
                if other is not None:
                    self._others = {**self._others, path: other}

    def close(self) -> None:
        """Close all files; closing twice does nothing."""
        for source in self._sources():
            source.close()

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_own(self, lock_path: Path) -> Database:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be created ({error.strerror}); give a folder that this user may write to"
            ) from error
        lock = FileLock(lock_path)
        try:
            if lock.try_exclusive():
                _repair(self._own_path)
            lock.share()
            return Database(self._own_path, SCHEMA, "write", lock)
        except BaseException:
            lock.release()
            raise

    def _open_other(self, path: Path) -> Database | None:
        """A file that this store only reads; None where there is nothing to read yet."""
        try:
            if path == self._own_path:
                source = Database(path, SCHEMA, "read", FileLock(path.with_name(f"{path.name}.lock"), create=False))
            else:
                source = Database(path, SCHEMA, "frozen")
        except DamagedError as error:
            message = f"{error}; its rows are not used, it is repaired when its own machine opens it"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
            return None
        if _is_blank(source):
            source.close()
            return None
        return source

    def _sources(self) -> list[Database]:
        return [*([] if self._own is None else [self._own]), *self._others.values()]

    def _look_up(self, source: Database, keys: list[str]) -> list[_Row]:
        """The rows of those of `keys` that a file has."""
        rows: list[_Row] = []
        try:
            with source.read() as connection:
                for at in range(0, len(keys), _CHUNK):
                    some = keys[at : at + _CHUNK]
                    query = f"SELECT {_COLUMNS} FROM responses WHERE key IN ({', '.join('?' * len(some))})"
                    rows += connection.execute(query, some).fetchall()
        except DamagedError as error:
            if source is self._own:
                raise _with_remedy(source.path, error) from error
        return self._intact(source, rows)

    def _scan(self, source: Database) -> Iterator[_Row]:
        try:
            for row in _pages(source):
                yield from self._intact(source, [row])
        except DamagedError as error:
            if source is self._own:
                raise _with_remedy(source.path, error) from error

    def _intact(self, source: Database, rows: list[_Row]) -> list[_Row]:
        """The rows that match their checksum. One that does not is an error in our own file.

        In another machine's it may be half written, and it is not ours to repair.
        """
        intact = [row for row in rows if _is_intact(row)]
        if len(intact) < len(rows) and source is self._own:
            raise _with_remedy(source.path, "damaged (a row does not match its checksum)")
        return intact

    def _insert(self, rows: list[_Row]) -> int:
        if self._own is None:
            raise StoreError(f"{self.folder}: opened with read_only=True; open it without to keep responses")
        if not rows:
            return 0
        try:
            with self._own.transaction() as connection:
                # rowcount counts what was not ignored
                return connection.executemany(_INSERT, rows).rowcount
        except DamagedError as error:
            raise _with_remedy(self._own_path, error) from error


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "localhost"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("responses-*.sqlite"))


def _with_remedy(path: Path, error: object) -> StoreError:
    text = str(error)
    return DamagedError(
        f"{text if str(path) in text else f'{path}: {text}'}; stop all processes that use it and start again: "
        "it is set aside then, and what can be read of it is kept"
    )


def _is_blank(source: Database) -> bool:
    """Whether the file has no table yet: its machine has not folded its log into it."""
    with source.read() as connection:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables == 0)


# Rows


def _row(call: Call, completion: Completion, created: float) -> _Row:
    request = {field.name: getattr(call, field.name) for field in fields(call) if field.name != "arm"}
    key = call.key.encode()
    call_json = _json({"arm": call.arm.name, **request})
    completion_json = _json(asdict(completion))
    return key, call_json, completion_json, created, _checksum(key, call_json, completion_json, created)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=dict).encode("utf-8", "surrogatepass")


def _checksum(key: bytes, call: bytes, completion: bytes, created: float) -> bytes:
    digest = hashlib.blake2b(struct.pack(">dQQQ", created, len(key), len(call), len(completion)), digest_size=16)
    for part in (key, call, completion):
        digest.update(part)
    return digest.hexdigest().encode()


def _is_intact(row: tuple[Any, ...]) -> bool:
    # A damaged file may give any type for any column.
    key, call, completion, created, checksum = row
    if not (all(isinstance(text, bytes) for text in (key, call, completion)) and isinstance(created, float)):
        return False
    return bool(_checksum(key, call, completion, created) == checksum)


def _completion(row: _Row) -> Completion:
    values = json.loads(row[2])
    return Completion(
        texts=tuple(values["texts"]),
        logprobs=tuple(values["logprobs"]),
        finish_reasons=tuple(values["finish_reasons"]),
        tokens=tuple(values["tokens"]),
        latency_s=values["latency_s"],
        gpu_s=values["gpu_s"],
        lost=tuple(Attempt(**{**attempt, "tokens": tuple(attempt["tokens"])}) for attempt in values["lost"]),
    )


def _pages(source: Database) -> Iterator[_Row]:
    """All rows as they are, page by page: no transaction stays open while the caller works on one."""
    query = f"SELECT {_COLUMNS} FROM responses WHERE key > ? ORDER BY key LIMIT {_CHUNK}"
    after = b""
    while True:
        with source.read() as connection:
            page: list[_Row] = connection.execute(query, (after.decode(errors="replace"),)).fetchall()
        yield from page
        if len(page) < _CHUNK:
            return
        last: Any = page[-1][0]
        if not isinstance(last, bytes) or last <= after:
            raise DamagedError(f"{source.path}: damaged (keys out of order)")
        after = last


# Repair, by a process that holds the file's lock alone


def _repair(path: Path) -> None:
    """Set a damaged file aside and put what can be read of it in its place; finish a repair that was cut short."""
    salvaged = path.with_name(f"{path.name}.salvaged")
    if salvaged.exists():
        _exchange(path, salvaged)
    if not path.exists():
        return
    damage = _damage(path)
    if damage is None:
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        leftover.unlink(missing_ok=True)
    count = _salvage(path, unfinished)
    os.replace(unfinished, salvaged)
    aside = _exchange(path, salvaged)
    warnings.warn(
        f"{path}: {damage}; {count} rows were kept, and the damaged file is {aside.name} now: what is not among the "
        "kept rows will be asked of the models again",
        RuntimeWarning,
        stacklevel=4,
    )


def _exchange(path: Path, salvaged: Path) -> Path:
    """Rename the damaged file, its log first, and then the salvaged one; the damaged one's new path.

    Cut short anywhere, the salvaged file is still there, complete, and the next process goes on.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(f"{path.name}{suffix}")
        if part.exists():
            os.replace(part, aside.with_name(f"{aside.name}{suffix}"))
    os.replace(salvaged, path)
    return aside


def _damage(path: Path) -> str | None:
    """What is wrong with a file; None = nothing."""
    try:
        with closing(Database(path, SCHEMA, "write")) as source:
            with source.read() as connection:
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != b"ok":
                return f"damaged ({verdict.decode(errors='replace')})"
            for row in _pages(source):
                if not _is_intact(row):
                    return "damaged (a row does not match its checksum)"
    except DamagedError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _salvage(path: Path, fresh: Path) -> int:
    """Copy every row that can be read and matches its checksum into a fresh file; how many."""
    with closing(Database(fresh, _SALVAGE, "write")) as target, target.transaction() as connection:
        try:
            source = Database(path, SCHEMA, "read")
        except StoreError:
            return 0  # not even the table can be found
        with closing(source):
            # Each range of keys is reached on its own way from the root: a broken page costs its rows and the two
            # beside them.
            return sum(
                connection.executemany(_INSERT, _readable(source, f"{start:03x}")).rowcount for start in range(4096)
            )


def _readable(source: Database, prefix: str) -> list[_Row]:
    """The intact rows whose key begins with `prefix`: from both ends up to what is broken."""
    rows: list[_Row] = []
    for order in ("ASC", "DESC"):
        query = f"SELECT {_COLUMNS} FROM responses WHERE key BETWEEN ? AND ? ORDER BY key {order}"
        try:
            with source.read() as connection:
                for row in connection.execute(query, (prefix, f"{prefix}g")):
                    if _is_intact(row):
                        rows.append(row)
            break
        except DamagedError:
            continue
    return rows


#: Without a log beside the file, so that it can be renamed.
_SALVAGE = replace(SCHEMA, pragmas=(_PAGE_SIZE,))
