"""RouterEval: per split a list of prompts and a matrix of scores, prompts by models.

Schema seen in the code that reads the data sets and in one of them kept as JSON, both in a fork
(github.com/fidd1er5381/RouterEval: ``test_new_data.py``, ``data/router_dataset/router_extended_meta.json``); in
github.com/MilkThink-Lab/RouterEval only the README could be seen. Its data sets are pickles: ``model`` (names),
``prompt`` (``train_prompt``, ``val_prompt``, ``test_prompt``) and ``data`` (``train_score``, ``val_score``,
``test_score``, each (prompts, models)).

Taken: prompts, splits and scores. Not in the source: costs; tokens and times, which the fork has, are left out, because
nothing says what they count.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from routegym.errors import ImportDataError
from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Gathered, hashes, object_of
from routegym.graph.imports.reading import COLUMNS, Column, column_names
from routegym.graph.imports.wide import melt, read_wide

__all__ = ["CONVERT", "read"]

_SPLITS = ("train", "val", "test")
_SCORE = "score/"

#: Turns a pickle of RouterEval into Parquet files that `read` takes. Unpickling runs code: not where it could do harm.
CONVERT = """\
import pickle, sys, pandas

def convert(found, name):
    if not isinstance(found, dict):
        return
    if "data" not in found or "prompt" not in found:
        for key, inside in found.items():
            convert(inside, f"{name}_{key}")
        return
    parts = []
    for split in ("train", "val", "test"):
        scores = pandas.DataFrame(found["data"][split + "_score"])
        scores.columns = ["score/" + str(model) for model in found["model"]]
        scores.insert(0, "split", split)
        scores.insert(1, "prompt", list(found["prompt"][split + "_prompt"]))
        parts.append(scores)
    pandas.concat(parts, ignore_index=True).to_parquet(name + ".parquet")

with open(sys.argv[1], "rb") as file:
    convert(pickle.load(file), sys.argv[1].removesuffix(".pkl"))
"""


def read(source: Path | str) -> RoutingData:
    """A data set as JSON, or as the Parquet file that `CONVERT` makes of a pickle.

    Raises:
        ImportDataError: it is a pickle, and a note has the program that converts it; or naming file, row and field.
    """
    source = Path(source)
    if source.suffix == ".pkl":
        error = ImportDataError(
            f"{source}: a pickle runs code when it is opened, so it is not read; save the program below as convert.py "
            f"and run `python convert.py {source.name}` where nothing can be harmed (a container without network or "
            "secrets)"
        )
        error.add_note(f"\n{CONVERT}")
        raise error
    responses, queries, without = _object(source) if source.suffix == ".json" else _table(source)
    return RoutingData(
        name="routereval",
        responses=responses,
        queries=queries,
        dropped={"without a score": without},
        notes=("the source states no costs",),
        files=hashes(source, [source]),
    )


def _object(source: Path) -> tuple[pa.Table, pa.Table, int]:
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    whole = object_of(source)
    arms, prompts, data = whole.list("model"), whole.object("prompt"), whole.object("data")
    if not all(isinstance(arm, str) and arm for arm in arms) or len(set(arms)) < len(arms):
        raise whole.error("model", "the models' names, each once")
    for split in _SPLITS:
        texts, scores = prompts.list(f"{split}_prompt"), data.list(f"{split}_score")
        if len(texts) != len(scores):
            raise data.error(f"{split}_score", f"a row for each of {len(texts)} prompts, these are {len(scores)}")
        for number, (text, row) in enumerate(zip(texts, scores, strict=True)):
            query = f"{split}/{number}"
            if not isinstance(text, str) or not text.strip():
                raise prompts.error(f"{split}_prompt", f"texts; number {number + 1} is {text!r:.60}")
            queries.add(query=query, prompt=text, split=split)
            good = isinstance(row, list) and len(row) == len(arms)
            if not good or not all(isinstance(score, (int, float)) and 0 <= score <= 1 for score in row):
                raise data.error(
                    f"{split}_score", f"{len(arms)} numbers from 0 to 1 in every row; row {number + 1} is {row!r:.60}"
                )
            for arm, score in zip(arms, row, strict=True):
                responses.add(query=query, arm=arm, score=float(score))
    return responses.table(source), queries.table(source), 0


def _table(source: Path) -> tuple[pa.Table, pa.Table, int]:
    arms = [name.removeprefix(_SCORE) for name in column_names(source) if name.startswith(_SCORE)]
    if not arms:
        raise ImportDataError(f"{source}: no column begins with {_SCORE!r}; expected a file that `CONVERT` has made")
    table, found = read_wide(
        source,
        {"split": "split", "prompt": "prompt"},
        {arm: {"score": _SCORE + arm} for arm in arms},
        {**COLUMNS, "split": Column("name", most=40)},
    )
    seen = dict.fromkeys(_SPLITS, 0)
    ids = []
    for row, split in enumerate(table["split"].to_pylist(), 1):
        if split not in seen:
            raise ImportDataError(
                f"{source}, row {row}, field 'split': {split!r}; expected one of {', '.join(_SPLITS)}"
            )
        ids.append(f"{split}/{seen[split]}")
        seen[split] += 1
    table = table.append_column("query", pa.array(ids))
    responses, without = melt(table, found)
    return responses, table.select(["query", "prompt", "split"]), without
