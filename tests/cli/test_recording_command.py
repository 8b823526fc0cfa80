"""`routegym recording` and `routegym export` as a user meets them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import helpers
import pyarrow.parquet as pq
import pytest
from commands import said

from routegym.graph import Recording, keep_arms


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 100 columns without colours."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")


def test_info(capsys: pytest.CaptureFixture[str], recordings: dict[str, Path]) -> None:
    path = recordings["cascade"]
    recording = Recording.load(path)
    text = said(capsys, "recording", "info", str(path))
    assert recording.content_hash in text
    assert "kind cascade, complete" in text
    assert f"{recording.graph.n_nodes:,}, " in text
    for name in recording.action_names[:3]:
        assert len([line for line in text.splitlines() if name in line]) >= 2
    assert "oracle" in text
    tables = [line for line in text.splitlines() if line and line[0] in "│┃┡└┏"]
    assert max(map(len, tables)) <= 100
    assert all(re.fullmatch(r"[│┃].*[│┃]|[┡└┏].*[┩┘┓]", line.rstrip()) for line in tables)  # none is folded


def test_text_with_markup_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], recordings: dict[str, Path], tmp_path: Path
) -> None:
    recording = Recording.load(recordings["single_call"])
    recording.provenance["licence"] = "[red]MIT[/red]"
    recording.save(tmp_path / "r")
    assert "[red]MIT[/red]" in said(capsys, "recording", "info", str(tmp_path / "r"))


def test_info_of_a_shipped_recording_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "recording", "info", "single_call")
    assert "python scripts/build_recordings.py --kinds single_call" in text
    assert "small/vote5" in text


@pytest.mark.slow
def test_info_of_a_large_recording_takes_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1,176,144" in said(capsys, "recording", "info", "agent_steps")


def test_validate(capsys: pytest.CaptureFixture[str], recordings: dict[str, Path], tmp_path: Path) -> None:
    good = recordings["cascade"]
    text = said(capsys, "recording", "validate", str(good), "single_call")
    assert [line.partition(":")[0] for line in text.splitlines()] == [str(good), "single_call"]
    assert text.count("sound") == 2

    damaged = Path(shutil.copytree(good, tmp_path / "damaged"))
    content = bytearray((damaged / "edges.parquet").read_bytes())
    content[100] ^= 1
    (damaged / "edges.parquet").write_bytes(content)
    renamed = Path(shutil.copytree(good, tmp_path / "renamed"))
    meta = json.loads((renamed / "meta.json").read_text())
    (renamed / "meta.json").write_text(json.dumps(meta | {"content_hash": "0" * 64}))
    names = [str(damaged), str(good), str(renamed), str(tmp_path / "nowhere")]
    lines = said(capsys, "recording", "validate", *names, code=2).splitlines()
    assert [line.startswith(f"{name}: ") for line, name in zip(lines, names, strict=True)] == [True] * 4
    assert "BAD: " in lines[0]
    assert "sha256 is not the one in meta.json" in lines[0]
    assert "sound" in lines[1]
    assert "content_hash is '000000000000' in meta.json" in lines[2]
    assert "no such file" in lines[3]
    assert "no recording is named" in said(capsys, "recording", "validate", code=2)


@pytest.fixture
def halves(recordings: dict[str, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """A recording; one with nothing but its starts; and one in which answers have changed places."""
    whole = Recording.load(recordings["single_call"])
    start, _ = helpers.start("single_call")
    start.fix_scales()
    other = Recording.load(recordings["single_call"])
    edges = other.graph.edges
    row = next(row for row in range(len(edges) - 1) if edges["next"][row] != edges["next"][row + 1])
    edges["next"][[row, row + 1]] = edges["next"][[row + 1, row]]
    return whole.save(tmp_path / "whole"), start.save(tmp_path / "start"), other.save(tmp_path / "other")


def test_merge(capsys: pytest.CaptureFixture[str], halves: tuple[Path, Path, Path], tmp_path: Path) -> None:
    whole, start, other = halves
    text = said(capsys, "recording", "merge", str(start), str(whole), "-o", str(tmp_path / "m"))
    merged = Recording.load(tmp_path / "m")
    assert merged.content_hash == Recording.load(whole).content_hash
    assert merged.content_hash[:12] in text
    assert merged.name == "m"
    assert merged.provenance["made_by"] == "routegym recording merge single_call single_call -o m"

    refused = said(capsys, "recording", "merge", str(whole), str(other), "-o", str(tmp_path / "n"), code=2)
    assert refused.startswith(f"error: 2 contradiction(s) between {whole}, {other}: task 'arith-")
    assert not (tmp_path / "n").exists()
    said(capsys, "recording", "merge", str(other), str(whole), "-o", str(tmp_path / "n"), "--prefer", "first")
    assert Recording.load(tmp_path / "n").content_hash == Recording.load(other).content_hash
    assert "kind: single_call and cascade" in said(
        capsys, "recording", "merge", "single_call", "cascade", "-o", str(tmp_path / "o"), code=2
    )
    assert "no recordings to merge" in said(capsys, "recording", "merge", "-o", str(tmp_path / "o"), code=2)


def test_merge_overwrites_nothing(
    capsys: pytest.CaptureFixture[str], halves: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    whole, start, other = halves
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in (start, other, tmp_path / "folder", tmp_path / "file"):
        text = said(capsys, "recording", "merge", str(start), str(whole), "-o", str(out), code=2)
        assert text == f"error: {out}: exists; name another folder with --out, or delete it\n"
        assert "exists" in said(capsys, "recording", "merge", "nowhere", "-o", str(out), code=2)  # before it is read
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_diff(capsys: pytest.CaptureFixture[str], halves: tuple[Path, Path, Path], tmp_path: Path) -> None:
    whole, _, other = halves
    assert "the same content" in said(capsys, "recording", "diff", str(whole), str(whole))
    text = said(capsys, "recording", "diff", str(whole), str(other), code=1)
    assert "2 lead elsewhere" in text
    assert "~ task arith-" in text
    assert "'= " in text
    assert "m2/direct" in text
    found = json.loads(said(capsys, "recording", "diff", str(whole), str(other), "--json", "--named", "1", code=1))
    assert found["answers_differ"] == 2
    assert len(found["choices"]["names"]) == 1
    assert json.loads(said(capsys, "recording", "diff", str(whole), str(whole), "--json"))["same"] is True
    fewer = keep_arms(Recording.load(whole), ["m2/direct"]).save(tmp_path / "fewer")
    assert "- m0/direct" in said(capsys, "recording", "diff", str(whole), str(fewer), code=1)
    assert "named = -1" in said(capsys, "recording", "diff", str(whole), str(fewer), "--named", "-1", code=2)


def test_card(capsys: pytest.CaptureFixture[str], recordings: dict[str, Path], tmp_path: Path) -> None:
    path = str(recordings["agent_steps"])
    text = said(capsys, "recording", "card", path)
    assert text.startswith("# Recording `agent_steps`\n")
    said(capsys, "recording", "card", path, "-o", str(tmp_path / "CARD.md"))
    assert (tmp_path / "CARD.md").read_text(encoding="utf-8") == text


def test_a_recording_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["info"], ["card"], ["diff", "cascade"]):
        message = said(capsys, "recording", *command, "cascad", code=2)
        assert message.startswith("error: recording 'cascad': no folder of this path")
        assert "did you mean 'cascade'?" in message


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_export_of_a_table(
    capsys: pytest.CaptureFixture[str], recordings: dict[str, Path], tmp_path: Path, form: str
) -> None:
    path = tmp_path / f"t.{form}"
    text = said(capsys, "export", str(recordings["cascade"]), "--format", form, "-o", str(path))
    assert text == f"{path}: 180 rows\n"
    if form == "parquet":
        assert pq.read_table(path).num_rows == 180
    else:
        assert len(path.read_text().splitlines()) == 180 + (form == "csv")
    content = path.read_bytes()
    said(capsys, "export", str(recordings["cascade"]), "-o", str(path))  # the ending says the format
    assert path.read_bytes() == content


def test_export_writes_no_format_that_is_not_meant(
    capsys: pytest.CaptureFixture[str], recordings: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "t"
    for ending, form, message in (
        (".csv", ["--format", "parquet"], "format = 'parquet', but its ending says csv; change one of them"),
        (".JSONL", ["--format", "csv"], "format = 'csv', but its ending says jsonl"),
        (".csv", ["--format", "minari"], "minari writes a folder, but its ending says a table"),
        ("", [], "its ending names no format; expected one of .parquet, .csv, .jsonl, or give the format"),
        (".xlsx", [], "its ending names no format"),
    ):
        path = place.with_suffix(ending)
        text = said(capsys, "export", str(recordings["cascade"]), "-o", str(path), *form, code=2)
        assert text.startswith(f"error: {path}: {message}")
        assert not path.exists()
    said(capsys, "export", str(recordings["cascade"]), "-o", str(place), "--format", "csv")
    assert place.read_text().startswith('"task_id",')


def test_export_of_episodes_of_a_trained_policy(
    capsys: pytest.CaptureFixture[str], trained: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    arguments = ["export", str(recording), "--format", "minari", "-o", str(tmp_path), "--episodes", "20"]
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    text = said(capsys, *arguments, "--split", "test", "--policy", str(trained))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    name = "routegym/agent_steps/maskable_ppo-seed0-v0"
    assert f'minari.load_dataset("{name}")' in text
    dataset = minari.load_dataset(name)
    assert dataset.total_episodes == 20
    assert dataset.spec.env_spec.kwargs["recording"] == str(recording)
    assert "policy_seed = 9; this run has [0, 1]" in said(
        capsys, *arguments, "--policy", str(trained), "--policy-seed", "9", code=2
    )
    assert "trained on a recording with content hash" in said(
        capsys, "export", "cascade", "--format", "minari", "-o", str(tmp_path), "--policy", str(trained), code=2
    )


def test_places_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], recordings: dict[str, Path], tmp_path: Path
) -> None:
    source, folder, file = str(recordings["single_call"]), tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "kept").touch()
    file.touch()
    for arguments in (
        ["export", source, "--format", "csv", "-o", str(folder)],
        ["export", source, "-o", str(file / "t.parquet")],
        ["recording", "card", source, "-o", str(folder)],
        ["recording", "card", source, "-o", str(file / "CARD.md")],
        ["recording", "merge", source, "-o", str(file / "merged")],
        ["export", source, "--format", "minari", "-o", str(file), "--episodes", "1"],
    ):
        assert "cannot be written" in said(capsys, *arguments, code=2), arguments
    assert [path.name for path in folder.iterdir()] == ["kept"]
    said(capsys, "recording", "card", source, "-o", str(tmp_path / "new" / "CARD.md"))
    assert (tmp_path / "new" / "CARD.md").is_file()
    assert "a table has none" in said(capsys, "export", source, "-o", str(file), "--policy", "runs/x", code=2)
