"""What services of tracking have on the disk, read without them: W&B's transaction log, TensorBoard's event files."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_QUIET_S = 2.0


def wandb_records(run_folder: Path) -> list[Any]:
    """The records of the only offline run in a run folder.

    Its file is a header of seven bytes and then a log in LevelDB's format: blocks of 32 KiB, in which every fragment
    has a checksum, a length and a type (1 whole, 2 first, 3 middle, 4 last), and what they make up is a protobuf.
    W&B's own process writes it, and on a busy machine not at once: it is read when it has its last record, or, of a
    run that was killed, when nothing more comes.
    """
    (path,) = (run_folder / "wandb").glob("offline-run-*/run-*.wandb")
    found, since = _parsed(data := path.read_bytes()), time.monotonic()
    while time.monotonic() - since < _QUIET_S and not any(one.WhichOneof("record_type") == "exit" for one in found):
        time.sleep(0.05)
        if (now := path.read_bytes()) != data:
            found, data, since = _parsed(now), now, time.monotonic()
    return found


def _parsed(data: bytes) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    if not data:
        return []
    assert data[:4] == b":W&B"
    place, parts, found = 7, b"", []
    while place + 7 <= len(data):
        left = _BLOCK - place % _BLOCK
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if left < 7 or kind == 0:
            place += left
            continue
        if place + 7 + length > len(data):
            break  # cut off by a kill
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def wandb_history(run_folder: Path) -> list[dict[str, Any]]:
    """Rows of the history, each with its ``_step``; names of nested values are joined by dots."""
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(run_folder)
        if record.WhichOneof("record_type") == "history"
    ]


def wandb_curves(run_folder: Path) -> dict[tuple[int, int, str], float]:
    """Numbers by seed, step and name."""
    found = {}
    for row in wandb_history(run_folder):
        for name, value in row.items():
            seed, _, rest = name.partition("/")
            if seed.startswith("seed_") and rest != "step":
                key = (int(seed.removeprefix("seed_")), row[f"{seed}/step"], rest)
                assert key not in found, f"{key} twice"
                found[key] = value
    return found


def tensorboard_curves(run_folder: Path) -> dict[tuple[int, int, str], float]:
    """The same of TensorBoard."""
    found = {}
    for folder in sorted((run_folder / "tensorboard").glob("seed-*")):
        events = _events(folder)
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                key = (int(folder.name.removeprefix("seed-")), event.step, name)
                assert key not in found, f"{key} twice"
                found[key] = event.value
    return found


def tensorboard_results(run_folder: Path) -> tuple[dict[str, float], list[str], list[str]]:
    """Scalars under ``results/``, and names of pictures and texts."""
    events = _events(run_folder / "tensorboard" / "results")
    tags = events.Tags()
    scalars = {name.removeprefix("results/"): events.Scalars(name)[-1].value for name in tags["scalars"]}
    return scalars, tags["images"], [name.removesuffix("/text_summary") for name in tags["tensors"]]


def jsonl_curves(run_folder: Path) -> dict[tuple[int, int, str], float]:
    """The same of ``metrics.jsonl``."""
    return dict(_jsonl(run_folder))


def _jsonl(run_folder: Path) -> Iterator[tuple[tuple[int, int, str], float]]:
    for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        seed, step = record.pop("seed"), record.pop("step")
        yield from (((seed, step, name), value) for name, value in record.items() if value is not None)


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events
