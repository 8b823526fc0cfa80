"""Files that are odd and right are read right, and a mistake in them is found at its line."""

from __future__ import annotations

import csv
import decimal
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routegym.errors import ImportDataError
from routegym.graph.imports import RoutingData, read_outcomes, read_prices, read_steps, to_recording
from routegym.graph.imports.objects import Entry
from routegym.graph.imports.reading import COLUMNS, file_sha256, read_table
from routegym.graph.imports.tables import read_turns

PLAIN = "query,arm,score,cost_usd\nq1,small,1,0.1\nq1,large,0,0.2\nq2,small,0.5,0.3\nq2,large,1,0.4\n"
EXPECTED = [
    {"query": "q1", "arm": "small", "score": 1.0, "cost_usd": 0.1},
    {"query": "q1", "arm": "large", "score": 0.0, "cost_usd": 0.2},
    {"query": "q2", "arm": "small", "score": 0.5, "cost_usd": 0.3},
    {"query": "q2", "arm": "large", "score": 1.0, "cost_usd": 0.4},
]


def outcomes(path: Path, content: str | bytes, **options: Any) -> list[dict[str, Any]]:
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return list(read_outcomes(path, **options).responses.to_pylist())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", PLAIN),
        ("r.csv.gz", PLAIN),
        ("r.CSV", PLAIN),
        ("r.csv", PLAIN.rstrip("\n")),
        ("r.csv", PLAIN.replace("\n", "\r\n")),
        ("r.csv", PLAIN.replace("\n", "\r")),
        ("r.csv", PLAIN.replace("\n", "\n\n")),
        ("r.csv", "\n\n" + PLAIN),
        ("r.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("r.csv.gz", b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode()),
        ("r.csv", "".join(f'"{line}"\n'.replace(",", '","') for line in PLAIN.splitlines())),
        ("r.csv", "".join(f"{number},{line}\n" for number, line in enumerate(PLAIN.splitlines()))),
        ("r.tsv", PLAIN.replace(",", "\t")),
        ("r.tsv.gz", PLAIN.replace(",", "\t")),
        ("r.csv", PLAIN.replace("0.5", " 0.5 ").replace("0.1", "1e-1")),
        ("r.jsonl", "".join(json.dumps(row) + "\n" for row in EXPECTED)),
        ("r.jsonl.gz", "".join(json.dumps(row) + "\r\n\r\n" for row in EXPECTED)),
        ("r.jsonl", b"\xef\xbb\xbf" + "\n".join(json.dumps(row) for row in EXPECTED).encode()),
        ("r.jsonl", "".join(json.dumps(row | {"more": {"a": [1]}}) + "\n" for row in EXPECTED)),
    ],
)
def test_forms_of_one_table(name: str, content: str | bytes, tmp_path: Path) -> None:
    assert outcomes(tmp_path / name, content) == EXPECTED


@pytest.mark.parametrize("mark", [";", "|", "\t", " "])
def test_another_delimiter_is_named(mark: str, tmp_path: Path) -> None:
    assert outcomes(tmp_path / "r.csv", PLAIN.replace(",", mark), delimiter=mark) == EXPECTED
    if mark != " ":
        with pytest.raises(ImportDataError, match=r"separated by .*say so \(--delimiter\)"):
            read_outcomes(tmp_path / "r.csv")
    for wrong in ("", ";;", '"', "\n", "\u00a7"):
        with pytest.raises(ImportDataError, match="one ASCII character"):
            read_outcomes(tmp_path / "r.csv", delimiter=wrong)


def columns(**changed: pa.Array) -> pa.Table:
    table = pa.Table.from_pylist(EXPECTED)
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


ARMS = [row["arm"] for row in EXPECTED]
SCORES = [row["score"] for row in EXPECTED]


@pytest.mark.parametrize(
    "table",
    [
        columns(),
        columns(arm=pa.array(ARMS).dictionary_encode()),
        columns(arm=pa.array(ARMS, pa.large_string())),
        columns(arm=pa.array(ARMS, pa.string_view())),
        columns(arm=pa.array(ARMS, pa.large_string()).dictionary_encode()),
        columns(score=pa.array(SCORES, pa.float32())),
        columns(score=pa.array([str(score) for score in SCORES])),
        columns(score=pa.array([str(score) for score in SCORES], pa.large_string())),
        columns(score=pa.array([decimal.Decimal(str(score)) for score in SCORES])),
    ],
)
def test_types_of_parquet(table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "r.parquet", row_group_size=3)
    assert read_outcomes(tmp_path / "r.parquet").responses.to_pylist() == EXPECTED


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_numbers_as_ids_and_truth_values_as_scores(form: str, tmp_path: Path) -> None:
    rows = [{"query": query, "arm": arm, "score": query == arm, "cost_usd": 1} for query in (1, 2) for arm in (1, 2)]
    path = tmp_path / f"r.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("query,arm,score,cost_usd\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows))
    found = read_outcomes(path).responses
    assert found["query"].to_pylist() == ["1", "1", "2", "2"]
    assert found["arm"].to_pylist() == ["1", "2", "1", "2"]
    assert found["score"].to_pylist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["None", "nan", "NaN", "null", "NULL", "NA", "n/a", "-", "#N/A", "true", "1e5", "007"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_names_that_other_readers_lose(name: str, form: str, tmp_path: Path) -> None:
    rows = [{"query": name, "arm": arm, "score": 1, "cost_usd": 0.1} for arm in (name, "other")]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    if form == "csv":
        content = "query,arm,score,cost_usd\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    found = outcomes(tmp_path / f"r.{form}", content)
    assert [row["arm"] for row in found] == [name, "other"]
    assert found[0]["query"] == name


def test_empty_cells_stay_unknown(tmp_path: Path) -> None:
    text = "query,arm,score,cost_usd,prompt_tokens,latency_s\nq1,a,1,,5,\nq2,a,0,0.2, ,\n"
    path = tmp_path / "r.csv"
    assert outcomes(path, text) == [
        {"query": "q1", "arm": "a", "score": 1.0, "cost_usd": None, "prompt_tokens": 5},
        {"query": "q2", "arm": "a", "score": 0.0, "cost_usd": 0.2, "prompt_tokens": None},
    ]
    imported = to_recording(read_outcomes(path), text="none")
    assert imported.recording.tasks.ids == ("q2",)
    assert imported.dropped == {"without a cost": 1}


def test_turns_of_which_one_has_no_cost_have_no_sum(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(
        "query,arm,turn,feedback,score,cost_usd\nq,a,0,ok,0,0.5\nq,a,1,ok,1,\nr,a,0,ok,0,0.5\nr,a,1,ok,1,0.25\n"
    )
    found = {row["query"]: row for row in read_steps(path).responses.to_pylist()}
    assert found["q"]["cost_usd"] is None
    assert found["r"]["cost_usd"] == 0.75
    assert found["r"]["score"] == 1.0


def test_an_arm_without_any_turns_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("query,arm,score,cost_usd\nq,a,1,1\nq,b,0,1\n")
    (tmp_path / "t.csv").write_text("query,arm,turn,feedback\nq,a,0,ok\n")
    data = read_outcomes(tmp_path / "r.csv", turns=tmp_path / "t.csv")
    for missing in ("drop", "mask"):
        with pytest.raises(ImportDataError, match="no attempt of arm 'b' has its turns; name the other arms"):
            to_recording(data, "attempts", missing=missing, text="none")
    assert [arm.model for arm in to_recording(data, "attempts", arms=["a"], text="none").recording.arms] == ["a"]


def test_columns_of_other_names_in_all_files_and_in_one(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("id,arm,ok,cost_usd\nq1,a,1,0.1\n")
    (tmp_path / "q.jsonl").write_text('{"id": "q1", "text": "why?"}\n')
    (tmp_path / "p.csv").write_text("model,usd_in_per_m,usd_out_per_m\na,1,2\n")
    names = {"query": "id", "score": "ok", "queries.prompt": "text", "prices.arm": "model"}
    data = read_outcomes(tmp_path / "r.csv", tmp_path / "q.jsonl", prices=tmp_path / "p.csv", columns=names)
    assert data.responses.to_pylist() == [{"query": "q1", "arm": "a", "score": 1.0, "cost_usd": 0.1}]
    assert data.queries.to_pylist() == [{"query": "q1", "prompt": "why?"}]
    assert data.prices == {"a": (1.0, 2.0)}
    for wrong in ("quary", "price.arm", "prices.prompt", ".arm"):
        with pytest.raises(ImportDataError, match="columns names"):
            read_outcomes(tmp_path / "r.csv", columns=names | {wrong: "x"})


def test_steps_are_turns_that_may_be_named_so(tmp_path: Path) -> None:
    source, queries = tmp_path / "steps.csv", tmp_path / "q.csv"
    source.write_text("query,model,step,obs,score,cost_usd\nq,a,1,ok,1,1\nq,a,0,ok,0,1\n")
    queries.write_text("id,prompt\nq,why?\n")
    columns = {"turns.arm": "model", "turns.turn": "step", "feedback": "obs", "queries.query": "id"}
    data = read_steps(source, queries, columns=columns)
    assert data.turns is not None
    assert data.turns["turn"].to_pylist() == [1, 0]
    assert data.responses.to_pylist() == [{"query": "q", "arm": "a", "score": 1.0, "cost_usd": 2.0}]
    with pytest.raises(ImportDataError, match=r"columns names 'paid' as turns\.reward, but no table of turns has a"):
        read_steps(source, queries, columns={**columns, "turns.reward": "paid"})
    with pytest.raises(ImportDataError, match=r"columns names 'turns\.score'; expected some of"):
        read_steps(source, queries, columns={**columns, "turns.score": "points"})


def test_columns_that_make_an_arm_together(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("query,model,effort,score,cost_usd\nq,a,low,1,1\nq,a,high,1,2\nq,b,,0,3\n")
    data = read_outcomes(path, columns={"arm": "model+effort"})
    assert data.responses["arm"].to_pylist() == ["a/low", "a/high", "b"]
    assert set(data.responses.column_names) == {"query", "arm", "score", "cost_usd"}
    with pytest.raises(ImportDataError, match=r"r\.csv, line 1: no column 'efort'|no value in any of the columns"):
        read_outcomes(path, columns={"arm": "modle+efort"})
    empty = tmp_path / "empty.csv"
    empty.write_text("query,model,effort,score,cost_usd\nq,a,low,1,1\nq,,,1,2\n")
    with pytest.raises(
        ImportDataError, match=r"empty.csv, line 3, field 'model\+effort': ''; expected a value in one of"
    ):
        read_outcomes(empty, columns={"arm": "model+effort"})
    with pytest.raises(ImportDataError, match="part of a name"):
        read_outcomes(path, columns={"arm": "query+effort"})


def test_kinds_and_splits_in_the_table_itself(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("query,arm,score,cost_usd,split,kind\nq,a,1,1,test,sum\nq,b,1,1,test,sum\nr,a,1,1,train,sum\n")
    assert read_outcomes(path).queries.to_pylist() == [
        {"query": "q", "kind": "sum", "split": "test", "prompt": "q"},
        {"query": "r", "kind": "sum", "split": "train", "prompt": "r"},
    ]
    path.write_text("query,arm,score,cost_usd,prompt\nq,a,1,1,why?\nr,b,1,1,who?\nq,b,1,1,when?\n")
    with pytest.raises(ImportDataError, match=r"r\.csv, line 4, field 'prompt': 'when\?'; expected the same as"):
        read_outcomes(path)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    tables = {
        "answers": "query,arm,score,prompt_tokens,completion_tokens\nq,a,1,1,1\n",
        "asked": "query,prompt\nq,why?\n",
        "prices": "arm,usd_in_per_m,usd_out_per_m\na,1,2\n",
        "deep/prices": "query,arm,turn,feedback\nq,a,0,ok\n",
    }
    for folder, content in tables.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "t.csv").write_text(content)
    answers, asked, prices, turns = (tmp_path / folder / "t.csv" for folder in tables)
    files = read_outcomes(answers, asked, turns, prices).files
    digests = [file_sha256(path) for path in (answers, asked, turns, prices)]
    names = ["t.csv", "asked/t.csv", "prices/t.csv", f"{tmp_path.name}/prices/t.csv"]
    assert files == dict(zip(names, digests, strict=True))
    same = answers.with_name("all.csv")
    same.write_text("query,arm,score,cost_usd,prompt\nq,a,1,1,why?\n")
    assert read_outcomes(same, same).files == {"all.csv": file_sha256(same)}


@pytest.mark.parametrize("mark", ["\u00ad", "\u200b", "\u2028", "\u2029", "\u202e"])
def test_names_with_characters_that_nobody_sees_are_refused(mark: str, tmp_path: Path) -> None:
    with pytest.raises(ImportDataError, match="characters that are invisible"):
        outcomes(tmp_path / "r.csv", PLAIN.replace("small", f"sm{mark}all", 1))
    entry = Entry(tmp_path / "r.json", "", {"arm": f"sm{mark}all"})
    with pytest.raises(ImportDataError, match="invisible characters"):
        entry.cell("arm", COLUMNS["arm"])


def test_an_arm_has_one_price(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("arm,usd_in_per_m,usd_out_per_m\na,1,2\nb,1,2\na,3,4\n")
    with pytest.raises(ImportDataError, match=r"p\.csv, line 4, field 'arm': 'a'; expected one price"):
        read_prices(path)


def test_a_prompt_of_ten_megabytes_is_refused_and_a_long_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    for length, line in ((10_000_000, 4), (20_000_000, None)):
        path.write_text(f"query,prompt\nq1,short\n\nq2,{'word ' * (length // 5)}\n")
        with pytest.raises(ImportDataError, match=r"q\.csv") as caught:
            read_table(path, {"query": COLUMNS["query"], "prompt": COLUMNS["prompt"]})
        assert len(str(caught.value)) < 400
        if line:
            assert f"line {line}, field 'prompt'" in str(caught.value)
            assert "10,000,000" in str(caught.value)
    path.write_text("query,prompt\nq1," + "x" * 999_999 + "\n")
    table = read_table(path, {"query": COLUMNS["query"], "prompt": COLUMNS["prompt"]})
    assert len(table["prompt"][0].as_py()) == 999_999


def test_prompts_may_hold_anything(tmp_path: Path) -> None:
    prompts = [
        'a "quoted" one, with commas',
        "lines\r\nand\nlines",
        "\u202eback",
        "\u00e9\u4e16\U0001f600",
        " ",
        "a\tb",
    ]
    prompts[4] = " spaced "
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["query", "prompt"])
    writer.writerows([f"q{number}", prompt] for number, prompt in enumerate(prompts))
    (tmp_path / "q.csv").write_bytes(text.getvalue().encode())
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"query": f"q{number}", "prompt": prompt}) + "\n" for number, prompt in enumerate(prompts))
    )
    for name in ("q.csv", "q.jsonl"):
        table = read_table(tmp_path / name, {"query": COLUMNS["query"], "prompt": COLUMNS["prompt"]})
        assert table["prompt"].to_pylist() == prompts


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@given(cells=st.lists(CELL, min_size=1, max_size=12), end=st.sampled_from(["\n", "\r\n"]), data=st.data())
def test_the_line_of_a_mistake_is_the_line_of_its_row(
    cells: list[str], end: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in the other cells, line breaks and quotation marks too."""
    wrong = data.draw(st.integers(0, len(cells) - 1))
    text, line = f"note,score{end}", 2
    for number, cell in enumerate(cells):
        blank = data.draw(st.integers(0, 2))
        text, line = text + end * blank, line + blank
        row = f'"{cell.replace(chr(34), chr(34) * 2)}",{"bad" if number == wrong else "1"}{end}'
        if number == wrong:
            expected = line
        text, line = text + row, line + row.replace("\r\n", "\n").replace("\r", "\n").count("\n")
    path = tmp_path_factory.mktemp("lines") / "t.csv"
    path.write_bytes(text.encode())
    with pytest.raises(ImportDataError, match=f"line {expected}, field 'score': 'bad'"):
        read_table(path, {"score": COLUMNS["score"]})


def test_an_even_number_of_stray_quotation_marks_swallows_no_rows(tmp_path: Path) -> None:
    rows = "prompt,query,arm,score,cost_usd\nfirst,q0,a,1,0.1\n"
    stray = '"one,q1,a,1,0.1\ntwo,q2,a,1,0.1\n"three,q3,a,1,0.1\n'
    with pytest.raises(ImportDataError, match=r"r.csv, line 3: a quotation mark is not closed, or not doubled"):
        outcomes(tmp_path / "r.csv", rows + stray)
    whole = stray.replace('"one', '"one ""1"""').replace('"three', '"three"')
    assert [row["query"] for row in outcomes(tmp_path / "r.csv", rows + whole)] == ["q0", "q1", "q2", "q3"]


def test_a_column_that_was_named_and_is_nowhere_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    for columns, table in (({"split": "my_split"}, "table"), ({"turns.turn": "step"}, "table of turns")):
        with pytest.raises(ImportDataError, match=rf"columns names '\w+' as .*, but no {table} has a value"):
            outcomes(path, PLAIN, columns=columns)
    queries = tmp_path / "q.csv"
    queries.write_text("query,prompt,part\nq1,one,train\nq2,two,test\n", encoding="utf-8")
    found = read_outcomes(path, queries, columns={"split": "part"})  # in one of the tables
    assert found.queries["split"].to_pylist() == ["train", "test"]
    steps = tmp_path / "s.csv"
    steps.write_text("query,arm,turn,feedback,score,cost_usd\nq1,a,0,ok,1,1\n", encoding="utf-8")
    for name in ("reward", "turns.reward"):
        with pytest.raises(ImportDataError, match="columns names 'shown'"):
            read_steps(steps, columns={name: "shown"})


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_empty_text_that_may_be_missing_is_missing(form: str, tmp_path: Path) -> None:
    rows = [
        {"query": query, "arm": "a", "score": 1, "cost_usd": 1, "prompt": prompt, "kind": kind}
        for query, prompt, kind in (("q1", "one", ""), ("q2", "", " "), ("q3", None, "odd"))
    ]
    queries = read_outcomes(write_form(tmp_path / f"r.{form}", rows)).queries.sort_by("query")
    assert queries["prompt"].to_pylist() == ["one", "q2", "q3"]  # the id is all that is known
    assert queries["kind"].to_pylist() == [None, None, "odd"]


def test_the_tokens_of_an_attempt_sum_to_a_number_that_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    turns = "".join(f"q1,a,{turn},ok,1,2000000000,5\n" for turn in range(2))
    path.write_text(f"query,arm,turn,feedback,score,prompt_tokens,completion_tokens\n{turns}", encoding="utf-8")
    message = "query 'q1', arm 'a': prompt_tokens come to 4,000,000,000; expected at most 2,147,483,647"
    with pytest.raises(ImportDataError, match=message):
        read_steps(path)
    rows = tmp_path / "r.csv"
    rows.write_text("query,arm,score,cost_usd\nq1,a,1,1\n", encoding="utf-8")
    with pytest.raises(ImportDataError, match=message):
        read_outcomes(rows, turns=path)


def test_tokens_that_no_recording_holds_are_refused_wherever_they_come_from() -> None:
    asked = pa.table({"query": ["q"], "prompt": ["p"]})
    most = 2**31 - 1
    for tokens in (most, most + 1):
        rows = pa.table(
            {"query": ["q"], "arm": ["a"], "score": [1.0], "cost_usd": [1.0], "completion_tokens": [tokens]}
        )
        if tokens == most:
            recording = to_recording(RoutingData("hand", rows, asked), text="none").recording
            assert recording.graph.edges["tokens"].tolist() == [[0, 0, most, 0]]
        else:
            with pytest.raises(
                ImportDataError, match="hand: query 'q', arm 'a': completion_tokens come to 2,147,483,648"
            ):
                RoutingData("hand", rows, asked)


def write_form(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the form that the name of the file says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_one_column_may_have_two_roles(form: str, tmp_path: Path) -> None:
    rows = [row | {"query": f"what is {row['query']}?"} for row in EXPECTED]
    data = read_outcomes(write_form(tmp_path / f"r.{form}", rows), columns={"prompt": "query"})
    assert data.responses.to_pylist() == rows
    assert data.queries["prompt"].to_pylist() == data.queries["query"].to_pylist() == ["what is q1?", "what is q2?"]
    turns = [
        {"query": "q", "arm": "a", "turn": turn, "feedback": "ok", "cost_usd": 0.1, "reward": 0.5 * turn}
        for turn in range(3)
    ]
    steps = read_steps(write_form(tmp_path / f"s.{form}", turns), columns={"score": "reward"})
    assert steps.responses["score"].to_pylist() == [1.0]
    assert steps.turns is not None
    assert steps.turns["reward"].to_pylist() == [0.0, 0.5, 1.0]


def test_rewards_of_steps_stand_for_scores_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"

    def steps(*rewards: str, score: str = "", **options: Any) -> RoutingData:
        rows = "".join(f"q,a,{turn},ok,1,{reward}{',0.25' if score else ''}\n" for turn, reward in enumerate(rewards))
        path.write_text(f"query,arm,turn,feedback,cost_usd,reward{score}\n{rows}", encoding="utf-8")
        return read_steps(path, **options)

    said = "no score: the reward of the last turn of an attempt is its score"
    found = steps("1", "0.5")
    assert found.responses["score"].to_pylist() == [0.5]
    assert said in found.notes
    found = steps("1", "0.5", score=",score")  # which wins
    assert found.responses["score"].to_pylist() == [0.25]
    assert said not in found.notes
    for wrong in ("-0.5", "2", ""):
        with pytest.raises(ImportDataError, match=r"s.csv, line 3, field 'reward': .* there is no column 'score'"):
            steps("1", wrong)
    with pytest.raises(ImportDataError, match="line 1: no column 'grade'"):
        steps("1", columns={"score": "grade"})
    path.write_text("query,arm,turn,feedback,cost_usd\nq,a,0,ok,1\n", encoding="utf-8")
    with pytest.raises(ImportDataError, match="line 1: no column 'score'"):
        read_steps(path)


@pytest.mark.parametrize("also", ["", ",reward"])
def test_turns_count_from_0_and_rewards_are_measured_like_scores(also: str, tmp_path: Path) -> None:
    def turns(*numbers: int, reward: str = "0.5") -> Path:
        rows = "".join(f"q,{arm},{turn},ok,1,1{also and ',' + reward}\n" for arm in "ab" for turn in numbers)
        path = tmp_path / "s.csv"
        path.write_text(f"query,arm,turn,feedback,cost_usd,score{also}\n{rows}", encoding="utf-8")
        return path

    assert len(read_steps(turns(1, 0, 2)).responses) == 2  # in any order
    for reader in (read_steps, read_turns):
        with pytest.raises(ImportDataError, match=r"s.csv, line 2, field 'turn': 1; .* there is no turn 0 of it"):
            reader(turns(1, 2))
        with pytest.raises(ImportDataError, match=r"s.csv, line 3, field 'turn': 3; .* there is no turn 2 of it"):
            reader(turns(0, 3))
        if also:
            with pytest.raises(ImportDataError, match=r"s.csv, line 2, field 'reward': 70.0; .* at most 1"):
                reader(turns(0, reward="70"))
            reader(turns(0, reward="-3"))  # a penalty


def test_a_trial_that_is_not_named_is_trial_0(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("query,arm,score,cost_usd,trial\nq,a,1,1,\nq,a,1,1,0\n", encoding="utf-8")
    with pytest.raises(ImportDataError, match=r"r.csv, line 3, field 'trial': 0; .*first in line 2"):
        read_outcomes(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "r.csv",
            PLAIN.replace("0.5", "87"),
            "line 4, .*: 87.0; expected a number from 0 to 1; divide percentages by 100$",
        ),
        ("r.csv", PLAIN.replace("0.5", "870"), "line 4, .*: 870.0; expected a number from 0 to 1$"),
        ("r.csv", PLAIN.replace("0.5", "-1"), "line 4, .*: -1.0; expected a number from 0 to 1$"),
        ("r.csv", PLAIN.replace("0.5", "yes"), r"line 4, .*: 'yes'; expected a number, .* \(or true or false\)$"),
        ("r.csv", PLAIN.replace("0.3", "dear"), "line 4, .*: 'dear'; expected a number, .* separator$"),
        ("r.csv", PLAIN.replace("q2,small", "q1,small"), r"line 4, .*: first in line 2\)$"),
        ("r.jsonl", '{"query": "q", "score": 1}\n', r"no field 'arm'; it has query, score; name it \(--columns\)$"),
        (
            "r.jsonl",
            '{"query": "q", "arm": "a", "score": 1}\n{"query": "q", "score": 1}\n',
            "line 2: no field 'arm'; it has query, score; fill it in, or drop the line$",
        ),
    ],
)
def test_remedies(name: str, content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ImportDataError, match=said):
        outcomes(tmp_path / name, content)


def test_what_has_no_prompts_says_so(tmp_path: Path) -> None:
    path, queries, steps = tmp_path / "r.csv", tmp_path / "q.csv", tmp_path / "s.csv"
    path.write_text(PLAIN, encoding="utf-8")
    queries.write_text("query,prompt\nq1,one\nq2,two\n", encoding="utf-8")
    steps.write_text("query,arm,turn,feedback,score,cost_usd\nq1,a,0,ok,1,1\n", encoding="utf-8")
    none = "no prompts: a router sees nothing of a query; "
    assert read_outcomes(path).notes == (f"{none}name the column (--columns prompt=...)",)
    assert read_steps(steps).notes == (f"{none}give their table (--queries)",)
    for data in (
        read_outcomes(path, columns={"prompt": "query"}),
        read_outcomes(path, queries),
        read_steps(steps, queries),
    ):
        assert data.notes == ()


def test_a_turn_without_a_number_of_trial_is_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("query,arm,turn,feedback,score,cost_usd,trial\nq,a,0,ok,0,1,0\nq,a,1,ok,1,1,\nq,a,0,ok,0,1,1\n")
    found = read_steps(path).responses.to_pylist()
    assert [(row["trial"], row["score"], row["cost_usd"]) for row in found] == [(0, 1.0, 2.0), (1, 0.0, 1.0)]
