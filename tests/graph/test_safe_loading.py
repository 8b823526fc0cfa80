"""R-16: nothing that is read can run code. The source says so, and planted payloads stay data."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from routegym.errors import RoutegymError
from routegym.graph import Recording

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("routegym", "envs", "policies")
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; the keyword's absence is None, anything computed is itself."""
    for entry in call.keywords:
        if entry.arg == name:
            return entry.value.value if isinstance(entry.value, ast.Constant) else entry.value
    return None


def unsafe(source: str) -> Iterator[str]:
    """What in this source could run code that comes with data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            last = name.rpartition(".")[2]
            if name in BUILTINS:
                yield name
            elif name.startswith("torch") and last == "load" and keyword(node, "weights_only") is not True:
                yield f"{name} without weights_only=True"
            elif last in ("load", "fromfile", "loadtxt") and keyword(node, "allow_pickle") not in (None, False):
                yield f"{name} with allow_pickle"
            elif last in ("read_pickle", "to_pickle", "unsafe_load", "full_load"):
                yield name
            elif name in ("yaml.load", "YAML.load") and "SafeLoader" not in dotted(
                node.args[1] if len(node.args) > 1 else keyword(node, "Loader") or ast.Name("")  # type: ignore[arg-type]
            ):
                yield f"{name} without SafeLoader"
            elif keyword(node, "trust_remote_code") not in (None, False):
                yield f"{name} with trust_remote_code"
            elif last == "load" and name.split(".")[0] in ("PPO", "MaskablePPO"):
                yield f"{name}: stable-baselines3 archives hold pickles"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import cloudpickle as c", "eval('1')", "exec(text)",
        "import torch; torch.load(path)", "torch.load(path, weights_only=False)", "np.load(p, allow_pickle=True)",
        "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)", "pd.read_pickle(p)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)", "MaskablePPO.load(path)", "np.load(p, allow_pickle=x)",
        "torch.load(path, weights_only=flag)",
    ],
)  # fmt: skip
def test_the_detector_sees(source: str) -> None:
    assert list(unsafe(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)", "np.load(p)", "yaml.safe_load(text)", "re.compile('x')",
        "yaml.load(t, Loader=yaml.SafeLoader)", "json.load(f)", "Recording.load(p)",
    ],
)  # fmt: skip
def test_the_detector_lets_pass(source: str) -> None:
    assert list(unsafe(source)) == []


def test_no_source_can_run_what_it_reads() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not path.is_symlink()]
    assert len(files) > 30
    found = {str(path.relative_to(ROOT)): list(unsafe(path.read_text(encoding="utf-8"))) for path in files}
    assert {path: what for path, what in found.items() if what} == {}


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_touch, (str(self.target),))


def _touch(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("place", ["meta.json", "tasks.parquet", "nodes.parquet", "edges.parquet"])
def test_planted_payloads_do_not_run(recordings: dict[str, Path], tmp_path: Path, place: str) -> None:
    import hashlib
    import shutil

    folder = tmp_path / "r"
    shutil.copytree(recordings["single_call"], folder)
    marker = tmp_path / "executed"
    content = pickle.dumps(Payload(marker))
    (folder / place).write_bytes(content)
    if place != "meta.json":
        meta = json.loads((folder / "meta.json").read_text())
        meta["files"][place] = hashlib.sha256(content).hexdigest()
        (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(RoutegymError):
        Recording.load(folder)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists(), "the payload itself works"


@pytest.mark.parametrize(
    "text",
    ['{"py/object": "os.system"}', "!!python/object/apply:os.system ['true']", "__import__('os').system('true')"],
)
def test_text_payloads_are_text(recordings: dict[str, Path], tmp_path: Path, text: str) -> None:
    """Provenance may say anything; it is kept as it is."""
    recording = Recording.load(recordings["single_call"])
    recording.provenance["note"] = text
    assert Recording.load(recording.save(tmp_path / "r")).provenance["note"] == text
