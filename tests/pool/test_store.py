from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_writer import ARM, call_of, completion_of

import routegym.pool.store
from routegym.errors import StoreError
from routegym.pool.backend import Attempt, Call, Completion
from routegym.pool.store import ResponseStore

WRITER = Path(__file__).parents[1] / "store_writer.py"

NAMES = [f"call {i}" for i in range(200)]
KEYS = {call_of(name).key: name for name in NAMES}


def fill(folder: Path, names: list[str] = NAMES) -> Path:
    """A closed store; the path of its file."""
    with ResponseStore(folder) as store:
        store.put_many([(call_of(name), completion_of(name)) for name in names])
    return max(folder.glob("responses-*.sqlite"), key=lambda path: path.stat().st_mtime_ns)


def run_writer(folder: Path, *arguments: object) -> dict[str, str]:
    """What `store_writer.py` acknowledged: names by key."""
    command = [sys.executable, str(WRITER), str(folder), *map(str, arguments)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=150).stdout
    return {key: name for name, key in (line.split(" ") for line in printed.splitlines())}


def as_other_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(routegym.pool.store.socket, "gethostname", lambda: name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    with ResponseStore(tmp_path / "store") as store:
        yield store


def test_what_was_put_is_got(store: ResponseStore) -> None:
    store.put(call_of("a"), completion_of("a"))
    store.put_many([(call_of(name), completion_of(name)) for name in NAMES])
    keys = [call_of(name).key for name in ["a", "unknown", *NAMES, "a"]]
    assert store.get_many(keys) == {call_of(name).key: completion_of(name) for name in ["a", *NAMES]}
    assert store.get_many([]) == {}
    assert len(store) == 201
    assert store.keys() == {call_of(name).key for name in ["a", *NAMES]}


odd_texts = st.text(st.characters(exclude_categories=()), max_size=20)
numbers = st.floats(allow_nan=False)
tokens = st.tuples(*[st.integers(0, 2**40)] * 4)
completions = st.builds(
    Completion,
    texts=st.lists(odd_texts, max_size=3).map(tuple),
    logprobs=st.lists(numbers, max_size=3).map(tuple),
    finish_reasons=st.lists(odd_texts, max_size=3).map(tuple),
    tokens=tokens,
    latency_s=numbers,
    gpu_s=numbers,
    lost=st.lists(st.builds(Attempt, odd_texts, odd_texts, odd_texts, tokens, numbers), max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(completion=completions, prompt=odd_texts, seed=st.integers(0, 10**9))
def test_every_completion_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, completion: Completion, prompt: str, seed: int
) -> None:
    call = Call(ARM, "openai", "m", (("user", prompt),), 8, seed=seed, stop=(prompt,), options={"logit_bias": {"7": 1}})
    folder = tmp_path_factory.mktemp("store")
    with ResponseStore(folder) as store:
        store.put(call, completion)
    with ResponseStore(folder) as store:
        assert store.get_many([call.key]) == {call.key: completion}
        (row,) = store.rows()
        assert row.completion == completion
        assert row.request["messages"] == [["user", prompt]]


def test_rows_carry_everything_that_was_sent(store: ResponseStore) -> None:
    before = time.time()
    store.put_many([(call_of(name), completion_of(name)) for name in NAMES])
    rows = list(store.rows())
    assert [row.key for row in rows] == sorted(KEYS)
    for row in rows:
        call = call_of(KEYS[row.key])
        assert row.arm == "smol/direct"
        assert row.completion == completion_of(KEYS[row.key])
        assert before <= row.created <= time.time()
        request = dict(row.request)
        messages = tuple((role, content) for role, content in request.pop("messages"))
        assert Call(ARM, messages=messages, stop=tuple(request.pop("stop")), **request) == call


def test_iteration_goes_on_while_rows_are_written(store: ResponseStore) -> None:
    store.put_many([(call_of(name), completion_of("a")) for name in map(str, range(1200))])
    seen = set()
    for row in store.rows():
        seen.add(row.key)
        store.put(call_of(row.key), completion_of("b"))
    assert {call_of(str(i)).key for i in range(1200)} <= seen


def test_the_first_answer_stays(store: ResponseStore) -> None:
    call = call_of("a")
    store.put(call, completion_of("a"))
    store.put(call, completion_of("b"))
    store.put_many([(replace(call, arm=replace(ARM, tier="other")), completion_of("c"))])
    assert store.get_many([call.key]) == {call.key: completion_of("a")}
    assert [row.arm for row in store.rows()] == ["smol/direct"]


def test_put_many_keeps_all_or_nothing(store: ResponseStore) -> None:
    class Broken(Completion):
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.put_many([(call_of("a"), completion_of("a")), (call_of("b"), Broken.__new__(Broken))])
    assert len(store) == 0


def test_a_batch_is_looked_up_and_kept_in_under_20_ms(store: ResponseStore) -> None:
    best = float("inf")
    for batch in range(20):
        results = [(call_of(f"{batch}-{i}"), completion_of("a")) for i in range(64)]
        started = time.perf_counter()
        assert not store.get_many([call.key for call, _ in results])
        store.put_many(results)
        best = min(best, time.perf_counter() - started)
    assert best < 0.02


def test_threads_share_a_store(store: ResponseStore) -> None:
    def work(thread: int) -> None:
        for i in range(25):
            store.put(call_of(f"{thread}-{i}"), completion_of(f"{thread}-{i}"))
            assert len(store.get_many([call_of(f"{thread}-{j}").key for j in range(i + 1)])) == i + 1

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 400


def test_forks_and_threads_share_a_store(tmp_path: Path) -> None:
    acknowledged = run_writer(tmp_path, "fork", 1)
    assert len(acknowledged) == (4 + 8) * 20 + 1
    with ResponseStore(tmp_path) as store:
        assert store.get_many(list(acknowledged)) == {key: completion_of(name) for key, name in acknowledged.items()}


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_no_kill_loses_an_acknowledged_row(tmp_path: Path, kills: int) -> None:
    """R-10: six writers, killed at random times, one by one and all at once."""
    acknowledged = run_writer(tmp_path, kills, seed := random.randrange(10**6))
    assert len(acknowledged) > 10 * kills, seed
    with ResponseStore(tmp_path, read_only=True) as reader:
        assert len(reader.get_many(list(acknowledged))) == len(acknowledged), seed
    with ResponseStore(tmp_path) as store:
        found = store.get_many(list(acknowledged))
        assert found == {key: completion_of(name) for key, name in acknowledged.items()}, seed
    assert not list(tmp_path.glob("*.damaged-*"))


def test_two_stores_of_one_folder_see_each_other(tmp_path: Path) -> None:
    with ResponseStore(tmp_path) as one, ResponseStore(tmp_path) as two:
        one.put(call_of("a"), completion_of("a"))
        assert two.get_many([call_of("a").key]) == {call_of("a").key: completion_of("a")}


def test_a_closed_store_is_an_error(store: ResponseStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed; open it again"):
        store.put(call_of("a"), completion_of("a"))


# Read-only folders and full disks


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 1 MB."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_loses_nothing(mounted: Path) -> None:
    (mounted / "filler").write_bytes(b"x" * 300_000)
    kept = []
    with ResponseStore(mounted / "store") as store:

        def put_until_full() -> None:
            for i in range(1000):
                store.put(call_of(f"{i}"), Completion(("x" * 5000,), (0.0,), ("stop",), (1, 0, 1, 0), 0.1))
                kept.append(call_of(f"{i}").key)

        with pytest.raises(StoreError, match=r"responses-.*\.sqlite: .*the disk is full or failing: make room"):
            put_until_full()
        assert len(kept) > 10
        assert len(store.get_many(kept)) == len(kept)
        (mounted / "filler").unlink()
        store.put(call_of("late"), completion_of("a"))
    with ResponseStore(mounted / "store") as store:
        assert store.keys() >= {*kept, call_of("late").key}


def test_a_limit_on_file_sizes_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    code = f"""
import resource, sys
sys.path.insert(0, {str(WRITER.parent)!r})
from routegym.errors import StoreError
from store_writer import ResponseStore, call_of, completion_of
store = ResponseStore({str(tmp_path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for i in range(10_000):
    try:
        store.put(call_of(str(i)), completion_of(str(i)))
    except StoreError as error:
        print(i, len(store), error)
        break
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    count, kept, message = printed.split(" ", 2)
    assert "the disk is full or failing" in message
    assert int(kept) == int(count) > 5
    with ResponseStore(tmp_path) as store:
        assert store.keys() == {call_of(str(i)).key for i in range(int(count))}


def test_a_folder_that_cannot_be_written(mounted: Path) -> None:
    path = fill(mounted / "store", NAMES[:20])
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(StoreError, match=r"(?s)store/responses-.*; give a folder that this user may write to"):
        ResponseStore(mounted / "store")
    with pytest.raises(StoreError, match=r"new: cannot be created \(Read-only file system\)"):
        ResponseStore(mounted / "new")
    with ResponseStore(mounted / "store", read_only=True) as store:
        assert store.get_many(list(KEYS)) == {call_of(name).key: completion_of(name) for name in NAMES[:20]}
    assert path.exists()


def test_a_folder_that_cannot_be_written_after_a_kill(mounted: Path, tmp_path: Path) -> None:
    acknowledged = run_writer(tmp_path / "killed", 6, 3)
    shutil.rmtree(mounted / "store", ignore_errors=True)
    subprocess.run(["mount", "-o", "remount,size=64m", str(mounted)], check=True)
    shutil.copytree(tmp_path / "killed", mounted / "store")
    assert list((mounted / "store").glob("*-wal"))
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with ResponseStore(mounted / "store", read_only=True) as store:
        assert len(store.get_many(list(acknowledged))) == len(acknowledged)


def test_read_only_adds_nothing(tmp_path: Path) -> None:
    path = fill(tmp_path)
    content = path.read_bytes()
    with ResponseStore(tmp_path, read_only=True) as store:
        assert len(store.get_many(list(KEYS))) == len(KEYS)
        with pytest.raises(StoreError, match="opened with read_only=True; open it without to keep responses"):
            store.put(call_of("new"), completion_of("new"))
    assert path.read_bytes() == content
    with pytest.raises(StoreError, match="no such folder"):
        ResponseStore(tmp_path / "missing", read_only=True)


def test_read_only_sees_what_is_being_written(tmp_path: Path) -> None:
    with ResponseStore(tmp_path) as writer, ResponseStore(tmp_path, read_only=True) as reader:
        writer.put(call_of("a"), completion_of("a"))
        reader.refresh()
        assert len(reader.get_many([call_of("a").key])) == 1
        writer.put(call_of("b"), completion_of("b"))
        assert len(reader.get_many([call_of("b").key])) == 1


# Damaged files


def damage(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if rng.random() < 0.15:
        del content[rng.randrange(len(content)) :]
    else:
        for _ in range(rng.choice([1, 1, 4, 64])):
            at = rng.randrange(len(content)) if rng.random() < 0.9 else rng.randrange(200)
            content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def break_a_row(path: Path) -> None:
    """One bit of what was asked in one call."""
    content = bytearray(path.read_bytes())
    content[content.index(b'"call 17"') + 2] ^= 1
    path.write_bytes(content)


def assert_right_or_missing(store: ResponseStore) -> int:
    """How many of the rows of `fill` are there; those that are there are right."""
    found = store.get_many(list(KEYS))
    assert found == {key: completion_of(KEYS[key]) for key in found}
    rows = {row.key: row.completion for row in store.rows()}
    assert rows.keys() & KEYS.keys() == found.keys()
    return len(found)


@pytest.mark.parametrize("trials", [15, pytest.param(500, marks=pytest.mark.slow)])
def test_a_damaged_file_never_gives_a_wrong_answer(tmp_path: Path, trials: int) -> None:
    """R-10: bits flipped and files cut at random; with and without rows that are still in the log."""
    clean = fill(tmp_path / "clean")
    with ResponseStore(tmp_path / "logged") as store:
        for name in NAMES:
            store.put(call_of(name), completion_of(name))
        shutil.copytree(tmp_path / "logged", tmp_path / "log", ignore=shutil.ignore_patterns("*-shm"))
    rng = random.Random(seed := random.randrange(10**6))
    kept, set_aside, refused = [], 0, 0
    for trial in range(trials):
        folder = tmp_path / f"trial{trial}"
        shutil.copytree(clean.parent if trial % 4 else tmp_path / "log", folder)
        damage(rng.choice([path for path in folder.iterdir() if path.stat().st_size]), rng)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                store = ResponseStore(folder)
            except StoreError as error:
                refused += str(folder) in str(error)
                continue
        with store:
            kept.append(assert_right_or_missing(store))
            store.put_many([(call_of(name), completion_of(name)) for name in NAMES])
            assert assert_right_or_missing(store) == len(NAMES), seed
        asides = [path.name for path in folder.glob("*.damaged-1")]
        assert len(asides) == len(caught), seed
        for aside, warning in zip(asides, caught, strict=True):
            assert f"the damaged file is {aside} now" in str(warning.message)
            assert f"{kept[-1]} rows were kept" in str(warning.message)
            assert warning.filename == __file__
            set_aside += 1
        if not asides:
            # Silence means that nothing is missing, except at the end of a log, which sqlite cuts off.
            assert kept[-1] == len(NAMES) or trial % 4 == 0, seed
        with ResponseStore(folder) as store:
            assert assert_right_or_missing(store) == len(NAMES), seed
        shutil.rmtree(folder)
    assert refused + len(kept) == trials, seed
    assert set_aside > 0, seed
    assert sum(kept) > 0.2 * trials * len(NAMES), seed


def test_damage_while_the_store_is_open(tmp_path: Path) -> None:
    """Every answer is right or an error that says what to do, and doing it helps."""
    clean = fill(tmp_path / "clean")
    rng = random.Random(seed := random.randrange(10**6))
    errors = 0
    for trial in range(6):
        folder = tmp_path / f"trial{trial}"
        shutil.copytree(clean.parent, folder)
        with ResponseStore(folder) as store:
            with (folder / clean.name).open("r+b") as file:
                for _ in range(100):
                    file.seek(rng.randrange(file.seek(0, os.SEEK_END)))
                    file.write(b"\x55")
            store._own.reopen()  # type: ignore[union-attr]
            try:
                assert_right_or_missing(store)
            except StoreError as error:
                errors += "stop all processes that use it and start again" in str(error)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ResponseStore(folder).close()
            except StoreError:
                continue
        with ResponseStore(folder) as store:
            assert_right_or_missing(store)
    assert errors > 0, seed


def test_one_broken_row_costs_one_row(tmp_path: Path) -> None:
    path = fill(tmp_path)
    break_a_row(path)
    with pytest.warns(RuntimeWarning, match=r"does not match its checksum\); 199 rows were kept, .*damaged-1 now"):
        store = ResponseStore(tmp_path)
    with store:
        assert set(KEYS) - store.keys() == {call_of("call 17").key}


def test_one_broken_page_costs_its_own_rows(tmp_path: Path) -> None:
    answer = completion_of("a")
    calls = [replace(call_of(""), seed=seed) for seed in range(6_000)]
    with ResponseStore(tmp_path) as store:
        store.put_many([(call, answer) for call in calls])
    (path,) = tmp_path.glob("*.sqlite")
    content = bytearray(path.read_bytes())
    start = content.index(calls[0].key.encode()) // 8192 * 8192
    page = bytes(content[start : start + 8192])
    content[start : start + 8192] = bytes(8192)
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="rows were kept"):
        store = ResponseStore(tmp_path)
    with store:
        lost = {call.key for call in calls} - store.keys()
    on_page = {call.key for call in calls if call.key.encode() in page}
    assert lost >= on_page
    assert len(lost - on_page) <= 2  # its neighbours
    assert len(lost) < 50


def test_a_damaged_file_waits_for_those_who_use_it(tmp_path: Path) -> None:
    path = fill(tmp_path)
    with ResponseStore(tmp_path) as user:
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        path.write_bytes(content)
        with ResponseStore(tmp_path) as second, pytest.raises(StoreError, match="stop all processes that use it"):
            second.get_many(list(KEYS))
        assert not list(tmp_path.glob("*.damaged*"))
        user.close()
    with pytest.warns(RuntimeWarning, match="rows were kept"):
        ResponseStore(tmp_path).close()


class Cut(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("step", range(1, 6))
def test_a_repair_that_is_cut_short_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with ResponseStore(tmp_path) as store:
        store.put_many([(call_of(name), completion_of(name)) for name in NAMES])
        store._own.reopen()  # type: ignore[union-attr]  # folds the log into the file
        store.put(call_of("late"), completion_of("late"))
        folder = shutil.copytree(tmp_path, tmp_path / "cut")
    (path,) = folder.glob("*.sqlite")
    break_a_row(path)
    replaced = []
    replace_file = os.replace

    def replace_until_cut(source: Path, target: Path) -> None:
        if len(replaced) == step - 1:
            raise Cut
        replaced.append(target)
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", replace_until_cut)
    with pytest.raises(Cut):
        ResponseStore(folder)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ResponseStore(folder)
    with store:
        assert {call_of("late").key, *KEYS} - store.keys() == {call_of("call 17").key}
    assert len(list(folder.glob("*.damaged-1"))) == 1
    ResponseStore(folder).close()


# Versions


def set_pragma(path: Path, name: str, value: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA {name} = {value}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("pragma", "value", "message"),
    [
        ("user_version", 2, "a response store of schema version 2; this routegym reads version 1: update routegym"),
        ("user_version", 0, "a response store of schema version 0; this routegym reads version 1: give another folder"),
        ("application_id", 7, r"not a response store \(application id 0x7, expected 0x[0-9a-f]+\); move it away"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_other_versions_are_refused_and_left_alone(
    tmp_path: Path, pragma: str, value: int, message: str, read_only: bool
) -> None:
    path = fill(tmp_path)
    set_pragma(path, pragma, value)
    content = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        ResponseStore(tmp_path, read_only=read_only)
    assert path.read_bytes() == content


def test_something_else_under_the_name_of_the_file(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.write_bytes(b"%PDF" + random.Random(0).randbytes(10_000))
    with pytest.warns(RuntimeWarning, match=r"damaged \(file is not a database\); 0 rows were kept"):
        store = ResponseStore(tmp_path)
    with store:
        assert len(store) == 0
    assert (tmp_path / f"{path.name}.damaged-1").read_bytes().startswith(b"%PDF")


# Several machines


def test_machines_read_each_others_files_and_write_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_other_machine(monkeypatch, "node/1")
    fill(tmp_path, NAMES[:10])
    theirs = (tmp_path / "responses-node_1.sqlite").read_bytes()
    as_other_machine(monkeypatch, "node2")
    with ResponseStore(tmp_path) as store:
        assert len(store.get_many(list(KEYS))) == 10
        store.put_many([(call_of(name), completion_of(name)) for name in NAMES[5:15]])
        assert len(store) == 15
        assert [row.key for row in store.rows()].sort() == sorted(KEYS)[:15].sort()
        assert len(store.get_many(list(KEYS))) == 15
    assert (tmp_path / "responses-node_1.sqlite").read_bytes() == theirs
    assert {path.name for path in tmp_path.glob("*.sqlite")} == {"responses-node_1.sqlite", "responses-node2.sqlite"}


def test_refresh_shows_what_other_machines_have_written_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResponseStore(tmp_path) as store:
        as_other_machine(monkeypatch, "elsewhere")
        with ResponseStore(tmp_path) as other:
            other.put(call_of("a"), completion_of("a"))
            store.refresh()  # what is in the other's log cannot be seen
            assert store.get_many([call_of("a").key]) == {}
        store.refresh()
        assert store.get_many([call_of("a").key]) == {call_of("a").key: completion_of("a")}
        fill(tmp_path, ["b"])
        store.refresh()
        assert len(store) == 2


def test_the_damaged_file_of_another_machine_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_other_machine(monkeypatch, "elsewhere")
    path = fill(tmp_path)
    break_a_row(path)
    monkeypatch.undo()
    with ResponseStore(tmp_path) as store:
        assert call_of("call 17").key not in store.get_many(list(KEYS))
        assert len(store.get_many(list(KEYS))) == 199
    path.write_bytes(b"x" * 10_000)
    with pytest.warns(RuntimeWarning, match=r"responses-elsewhere.sqlite: damaged .*; its rows are not used"):
        ResponseStore(tmp_path).close()
    assert path.read_bytes() == b"x" * 10_000


def test_the_newer_file_of_another_machine_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_other_machine(monkeypatch, "elsewhere")
    set_pragma(fill(tmp_path), "user_version", 9)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"elsewhere.sqlite: a response store of schema version 9.*update routegym"):
        ResponseStore(tmp_path)


def test_merge_copies_what_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host, names in [("a", NAMES[:100]), ("b", NAMES[50:])]:
        as_other_machine(monkeypatch, host)
        fill(tmp_path / "theirs", names)
    with ResponseStore(tmp_path / "ours") as store:
        store.put(call_of(NAMES[0]), completion_of("first"))
        assert store.merge(tmp_path / "theirs") == len(NAMES) - 1
        assert store.merge(tmp_path / "theirs") == 0
        assert store.get_many([call_of(NAMES[0]).key]) == {call_of(NAMES[0]).key: completion_of("first")}
        assert store.get_many([call_of(NAMES[1]).key]) == {call_of(NAMES[1]).key: completion_of(NAMES[1])}
        assert len(store) == len(NAMES)
        rows = {row.key: row for row in store.rows()}
    with ResponseStore(tmp_path / "theirs", read_only=True) as theirs:
        for row in theirs.rows():
            assert row.key == call_of(NAMES[0]).key or rows[row.key] == row


def test_merge_of_the_own_folder_copies_other_machines_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_other_machine(monkeypatch, "a")
    fill(tmp_path)
    as_other_machine(monkeypatch, "b")
    with ResponseStore(tmp_path) as store:
        assert store.merge(tmp_path) == len(NAMES)
    (tmp_path / "responses-a.sqlite").unlink()
    with ResponseStore(tmp_path) as store:
        assert assert_right_or_missing(store) == len(NAMES)


def test_merge_takes_rows_from_the_log_of_a_killed_writer(tmp_path: Path) -> None:
    acknowledged = run_writer(tmp_path / "killed", 6, 5)
    with ResponseStore(tmp_path / "ours") as store:
        assert store.merge(tmp_path / "killed") >= len(acknowledged)
        assert store.get_many(list(acknowledged)) == {key: completion_of(name) for key, name in acknowledged.items()}


def test_merge_refuses_what_is_no_store_or_damaged(tmp_path: Path) -> None:
    with ResponseStore(tmp_path / "ours") as store:
        with pytest.raises(StoreError, match=r"nowhere: no response store \(responses-\*.sqlite\)"):
            store.merge(tmp_path / "nowhere")
        path = fill(tmp_path / "theirs")
        break_a_row(path)
        with pytest.raises(StoreError, match=r"theirs/responses-.*checksum\); stop all processes that use it"):
            store.merge(tmp_path / "theirs")


def test_the_file_is_readable_with_any_sqlite_tool_and_holds_no_object(tmp_path: Path) -> None:
    connection = sqlite3.connect(fill(tmp_path))
    types = connection.execute("SELECT DISTINCT typeof(key), typeof(call), typeof(completion) FROM responses")
    assert types.fetchall() == [("text", "text", "text")]
    (call, completion) = connection.execute("SELECT call, completion FROM responses LIMIT 1").fetchone()
    assert json.loads(call)["arm"] == "smol/direct"
    assert json.loads(completion)["tokens"] == [7, 1, 2, 3]
    connection.close()
