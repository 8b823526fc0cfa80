"""Calls with known answers, and writers that get killed.

`python store_writer.py FOLDER KILLS SEED` lets six processes write into one store, kills them at random times, starts
others in their place and prints the key of every row that was acknowledged.

`python store_writer.py FOLDER fork SEED` writes from threads and from forks of that process with one store object.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from routegym.pool.arms import Arm
from routegym.pool.backend import Attempt, Call, Completion
from routegym.pool.store import ResponseStore

WRITERS = 6
ARM = Arm("smol", "direct", 135_000_000, 64)


def call_of(name: str) -> Call:
    return Call(ARM, "openai", "smol", (("system", "answer"), ("user", name)), 64, options={"top_p": 0.9})


def completion_of(name: str) -> Completion:
    """The only right answer to `call_of(name)`; from some bytes to several pages of the file."""
    rng = random.Random(name)
    text = name * rng.choice([1, 10, 100, 1000])
    lost = (Attempt(ARM.name, "CallTimeoutError", "none in 1 s", (3, 0, 64, 0), 1.0),) * rng.randrange(3)
    return Completion((text, "é\0"), (-rng.random(), 0.0), ("stop", "length"), (7, 1, 2, 3), rng.random(), 0.25, lost)


def acknowledge(store: ResponseStore, names: list[str]) -> None:
    store.put_many([(call_of(name), completion_of(name)) for name in names])
    os.write(1, "".join(f"{name} {call_of(name).key}\n" for name in names).encode())


def write_until_killed(folder: Path, number: int) -> None:
    with ResponseStore(folder) as store:
        for row in range(10**9):
            acknowledge(store, [f"{number}-{row}-{i}" for i in range(1 + 3 * (number % 2))])


def kill(pid: int) -> None:
    """Kill a writer, which must not have ended by itself."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(f"a writer ended with {status}")


def kill_writers(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    alive: list[int] = []
    started = killed = 0
    while killed < kills:
        while len(alive) < WRITERS:
            started += 1
            if (pid := os.fork()) == 0:
                write_until_killed(folder, 1000 * seed + started)
            alive.append(pid)
        time.sleep(rng.uniform(0.0, 0.15))
        # One goes while the others write on, or all at once, which leaves nobody who knows the state of the log.
        for pid in rng.sample(alive, rng.choice([1, 1, WRITERS])):
            kill(pid)
            alive.remove(pid)
            killed += 1
    for pid in alive:
        kill(pid)


def fork_while_writing(folder: Path, seed: int) -> None:
    def write(writer: str) -> None:
        for row in range(20):
            acknowledge(store, [f"{writer}-{row}"])
            time.sleep(0.005)

    with ResponseStore(folder) as store:
        threads = [threading.Thread(target=write, args=(f"{seed}-thread-{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for i in range(8):
            if (pid := os.fork()) == 0:
                write(f"{seed}-child-{i}")
                os._exit(0)
            children.append(pid)
        for thread in threads:
            thread.join()
        acknowledge(store, [f"{seed}-parent"])
    # The parent has closed the store; some of the children are still writing.
    sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in children))


if __name__ == "__main__":
    if sys.argv[2] == "fork":
        fork_while_writing(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        kill_writers(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
