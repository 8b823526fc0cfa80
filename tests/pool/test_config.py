"""The pool file: good ones are read, and each bad one is one clear line that names the field (R-27)."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from routegym.cli.main import main
from routegym.errors import PoolError, PriceError, RoutegymError
from routegym.pool import load_pool
from routegym.pool.backend import Request
from routegym.pool.config import pool_schema
from routegym.pool.protocol import request_body
from routegym.pool.strict_yaml import read_yaml

PRICE = {"prompt": 0.01, "cached": 0.001, "completion": 0.03, "reasoning": 0.03}
VALID: dict[str, Any] = {
    "schema_version": 2,
    "name": "laptop",
    "about": "a test",
    "prices": {"date": "2026-11-22", "note": "nominal"},
    "endpoints": {
        "local": {
            "backend": "openai",
            "base_url": "http://127.0.0.1:8000/v1",
            "api_key_env": "LOCAL_KEY",
            "concurrency": 32,
            "requests_per_minute": 600,
            "tokens_per_minute": 100000,
            "timeout_s": 60,
            "attempts": 4,
            "allow_private": False,
        },
        "here": {"backend": "transformers", "device": "cuda", "batch_size": 8},
        "gpu": {"backend": "vllm", "options": {"max_model_len": 1024}, "gpu_count": 1},
        "sums": {"backend": "arithmetic", "device": "cpu", "batch_size": 64},
    },
    "models": {
        "smol": {
            "endpoint": "local",
            "served_as": "SmolLM2",
            "revision": "q4_1",
            "api": "chat",
            "parameters": 135000000,
            "context_tokens": 1024,
            "about": "words",
            "training": {"seed": 0},
            "price": PRICE,
            "tiers": {
                "direct": {"template": "{prompt} only", "max_tokens": 16, "system": "Be brief.", "fallback": "gem/one"},
                "steps": {"template": "{prompt}", "max_tokens": 128, "answer": r"answer is (-?\d+)", "stop": ["\n\n"]},
                "vote5": {
                    "template": "{prompt}",
                    "max_tokens": 16,
                    "samples": 5,
                    "temperature": 0.7,
                    "fallback": "smol/direct",
                    "charged_attempts": 2,
                    "reasoning_effort": "low",
                    "options": {"top_p": 0.9},
                },
            },
        },
        "gem": {
            "endpoint": "here",
            "folder": "weights/gem",
            "price": {"gpu_usd_per_hour": 2.5, "max_gpu_s": 60},
            "tiers": {"one": {"template": "{prompt}", "max_tokens": 16}},
        },
        "base": {
            "endpoint": "gpu",
            "folder": "weights/base",
            "adapter": "adapters/sql",
            "price": PRICE,
            "tiers": {"one": {"template": "{prompt}", "max_tokens": 16}},
        },
        "nano": {
            "endpoint": "sums",
            "folder": "nano",
            "api": "completions",
            "price": PRICE,
            "tiers": {"one": {"template": "{prompt}", "max_tokens": 4, "options": {"template": "direct"}}},
        },
    },
}

Path_ = tuple[str, ...]


def at(content: Any, path: Path_) -> Any:
    for part in path:
        content = content[part]
    return content


def changed(path: Path_, value: Any) -> dict[str, Any]:
    """The valid file with one value replaced; ... removes it."""
    content = copy.deepcopy(VALID)
    holder = at(content, path[:-1])
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return content


def leaves(content: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    for key, value in content.items():
        yield (*path, key), value
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


#: Places that may hold anything, or be missing.
FREE = {("models", "smol", "training"), ("models", "smol", "training", "seed")}
OPTIONS = ("options", "top_p"), ("options", "max_model_len"), ("options", "template")
REQUIRED = {
    *("schema_version", "name", "prices", "endpoints", "models", "date", "note", "backend", "base_url", "endpoint"),
    *("price", "tiers", "template", "max_tokens", "folder", "prompt", "cached", "completion", "reasoning"),
    *("gpu_usd_per_hour", "max_gpu_s"),
}


def mutations() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name of the mutation, broken file, last part of the field that the message has to name."""
    for path, value in leaves(VALID):
        name = ".".join(path)
        if path in FREE or path[-2:] in OPTIONS:
            continue
        field = path[-1]
        if field in REQUIRED and path != ("models", "base", "folder"):  # vllm may name a model instead
            yield f"{name} missing", changed(path, ...), field
        wrong: list[Any] = [{"x": 1}, [1, 2], math.nan]
        if isinstance(value, bool):
            wrong += [0, "yes", None]
        elif isinstance(value, (int, float)):
            wrong += [-1, "1", math.inf, True, "NaN"]
        elif isinstance(value, str):
            wrong += [1, True, ""] if field not in ("about", "revision") else [1, True]
            if field not in ("about", "revision", "note", "template", "system", "device"):
                wrong += ["\u202ex", "a\tb c"] if field in STRICT else []
        elif isinstance(value, list):
            wrong = [{"x": 1}, "text", [1], [""], math.nan]
        elif isinstance(value, dict):
            wrong = ["text", 5, [1], math.nan]
            if field != "options":
                yield f"{name} with an unknown key", changed((*path, "surprise"), 1), "surprise"
                yield f"{name} with a secret", changed((*path, "api_key"), "sk-canary-123456"), "api_key"
            if path == ("endpoints",) or path == ("models",) or field == "tiers":
                wrong.append({})
        for number, bad in enumerate(wrong):
            if field == "options" and isinstance(bad, dict):
                continue
            yield f"{name} = {bad!r} ({number})", changed(path, bad), field


STRICT = {"schema_version", "name", "date", "backend", "base_url", "api_key_env", "endpoint", "api", "fallback"}

KEYS = [
    (("models", "smol", "tiers", "direct"), "max_token", "max_tokens"),
    (("models", "smol", "tiers", "direct"), "tempreature", "temperature"),
    (("models", "smol"), "tier", "tiers"),
    (("endpoints", "local"), "concurency", "concurrency"),
    (("models", "smol", "price"), "input", None),
    ((), "endpoint", "endpoints"),
]

BAD: list[tuple[Path_, Any, str]] = [
    (("schema_version",), 1, r"schema_version is 1; this routegym reads version 2"),
    (("name",), "a/b", r"name is 'a/b'"),
    (("prices", "date"), "2026-02-31", r"prices\.date is '2026-02-31': there is no such day"),
    (("endpoints", "local", "backend"), "openia", r"backend is 'openia' \(did you mean 'openai'\?\); expected one of"),
    (("endpoints", "local", "base_url"), "127.0.0.1:8000", r"base_url is .*expected http:// or https://"),
    (("endpoints", "local", "base_url"), "file:///etc", r"base_url is .*expected http:// or https://"),
    (("endpoints", "local", "base_url"), "http://h/v1?x=1", r"base_url is \(not shown\).*without '\?'"),
    (("models", "smol", "endpoint"), "locl", r"endpoint is 'locl' \(did you mean 'local'\?\); expected one of local"),
    (("models", "smol", "price"), {"genai_prices": "gpt-4o"}, r"price\.genai_prices is 'gpt-4o'"),
    (("models", "smol", "price"), {**PRICE, "prompt": -1}, r"price\.prompt is -1: it should be greater than or equal"),
    (("models", "smol", "price"), {"gpu_usd_per_hour": 1, "max_gpu_s": 1}, r"by GPU time, which is not measured"),
    (("endpoints", "here", "device"), "cpu", r"models\.gem\.price is by GPU time, which is not measured on a CPU"),
    (("models", "smol", "folder"), "x", r"folder is given for a model on a server"),
    (("models", "gem", "adapter"), "x", r"adapter is given, and only vllm takes one"),
    (("models", "other"), {**VALID["models"]["base"], "folder": "b"}, r"models\.other is another model than base"),
    (
        ("models", "gem", "tiers", "one", "fallback"),
        "smol/vote5",
        r"fallback is given for a model paid by GPU time",
    ),
    (
        ("models", "smol", "tiers", "vote5", "options"),
        {"service_tier": "priority"},
        r"options .*service_tier would change what a call costs",
    ),
    (("models", "smol", "tiers", "vote5", "options"), {"seed": 1}, r"options .*seed is filled in by routegym"),
    (
        ("models", "smol", "tiers", "direct", "template"),
        "no place",
        r"template is 'no place': \{prompt\} occurs 0 times",
    ),
    (("models", "smol", "tiers", "direct", "template"), "{prompt}{prompt}", r"\{prompt\} occurs 2 times"),
    (("models", "smol", "tiers", "steps", "answer"), "(", r"answer is '\(': no regular expression"),
    (("models", "smol", "tiers", "steps", "answer"), r"\d+", r"answer is .*has no group"),
    (("models", "smol", "tiers", "vote5", "temperature"), 0, r"vote5 is .*5 samples at temperature 0 are all the same"),
    (("models", "smol", "tiers", "vote5", "charged_attempts"), 5, r"charged_attempts is 5, .* makes 4 attempts"),
    (("models", "gem", "tiers", "one", "charged_attempts"), 2, r"charged_attempts is 2, .* makes 1 attempts"),
    (("models", "smol", "tiers", "vote5", "fallback"), "smol/diret", r"'smol/diret' \(did you mean 'smol/direct'\?\)"),
    (("models", "smol", "tiers", "direct", "fallback"), "smol/direct", r"leads back .*smol/direct -> smol/direct"),
    (("models", "smol", "tiers", "direct", "fallback"), "smol/vote5", r"fallback leads back to the arm itself \("),
    (("models", "smol", "tiers", "direct", "max_tokens"), 1024, r"max_tokens is 1024, which leaves no room"),
    (("models", "nano", "tiers", "one", "system"), "x", r"system is given, and a plain completion has none"),
    (
        ("models", "smol", "tiers", "vote5", "options"),
        {"max_tokens": 9},
        r"options .*max_tokens is filled in by routegym",
    ),
    (("models", "smol", "tiers", "vote5", "options"), {"a": [math.nan]}, r"options .*JSON"),
    (("models", "a b"), VALID["models"]["smol"], r"models\.a b is no name"),
    (("models", "smol", "tiers", "a/b"), {"template": "{prompt}", "max_tokens": 1}, r"tiers\.a/b is no name"),
]


def write(folder: Path, content: Any) -> Path:
    path = folder / "pool.yaml"
    # json.dumps writes NaN and Infinity as the loader must refuse them
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_valid_file_is_valid(tmp_path: Path) -> None:
    pool = load_pool(write(tmp_path, VALID))
    assert len(pool.arms) == 6
    Draft202012Validator(pool_schema()).validate(VALID)


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_bad_values_are_named(tmp_path: Path, path: Path_, value: Any, message: str) -> None:
    with pytest.raises(PoolError, match=rf"pool\.yaml, line \d+: .*{message}|pool\.yaml: {message}"):
        load_pool(write(tmp_path, changed(path, value)))


@pytest.mark.parametrize(("path", "key", "meant"), KEYS)
def test_unknown_keys_bring_a_suggestion(tmp_path: Path, path: Path_, key: str, meant: str | None) -> None:
    with pytest.raises(PoolError) as caught:
        load_pool(write(tmp_path, changed((*path, key), 1)))
    field = ".".join((*path, key))
    assert f": {field} is no known field" in str(caught.value)
    assert (f"(did you mean {meant!r}?)" in str(caught.value)) == (meant is not None)


def test_every_mutation_of_a_valid_file_is_one_clear_line(tmp_path: Path) -> None:
    cases = list(mutations())
    assert len(cases) >= 500
    for name, content, field in cases:
        path = write(tmp_path, content)
        with pytest.raises(RoutegymError) as caught:
            load_pool(path)
        message = str(caught.value)
        assert str(path) in message, name
        assert field in message, (name, message)
        assert "\n" not in message, name
        assert len(message) < 1000, name
        assert "canary" not in message, name
        price = ".price." in f".{name}." and "surprise" not in name
        assert not price or isinstance(caught.value, PriceError), name


def test_the_command_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = list(mutations())
    for name, content, field in cases[:: len(cases) // 10]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["pool", "check", str(write(tmp_path, content))])
        shown = capsys.readouterr()
        assert stop.value.code == 2, name
        assert shown.err.startswith("error: "), name
        assert shown.err.count("\n") == 1, name
        assert field in shown.err, name
        assert "Traceback" not in shown.err + shown.out, name


TEXT = yaml.safe_dump(json.loads(json.dumps(VALID)), sort_keys=False, allow_unicode=True)


def text_file(folder: Path, content: bytes) -> Path:
    path = folder / "pool.yaml"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected a pool file"),
        (b"\n# nothing\n", "empty; expected a pool file"),
        (b"[]", "schema_version is empty"),
        (b"just words", "schema_version is empty"),
        (b"schema_version: 2\n\tname: x\n", r"line 2, column 1: no valid pool file: .*'\\t'.*indented by spaces"),
        (b'{"schema_version": 2', "no valid pool file"),
        (b"schema_version: 2\nname: a\nname: b\n", "line 3, column 1: .*key 'name' a second time"),
        (b"a: {b: 1, c: 2, b: 3}\n", "key 'b' a second time"),
        (b"a: &x {b: 1}\nc: *x\n", "line 2, column 4: .*alias of a mapping"),
        (b"a: *x\n", "undefined alias"),
        (b"a: &a [*a]\n", "alias of a mapping or list"),
        (b"? [1, 2]\n: x\n", "key that is no plain text"),
        (b"a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (b"a: !!float nonsense\n", "no valid pool file"),
        (b"a: 1\n---\nb: 2\n", "no valid pool file"),
        (b"name: caf\xe9\n", "line 1: not UTF-8"),
        ("schema_version: 2\n".encode("utf-16"), "not UTF-8"),
        (b"a: \x00\n", "no valid pool file"),
        ("schema_version: 2\nname: a\u202eb\n".encode(), r"line 2: invisible character U\+202E"),
        (b"schema_version: 2\n#" + b"x" * 10_000_000, "larger than 1,000,000 bytes"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: " + b"9" * 5000, "no valid pool file"),
    ],
)
def test_what_is_no_pool_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(PoolError, match=rf"pool\.yaml.*{message}"):
        load_pool(text_file(tmp_path, content))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"nothing\.yaml: cannot be read \(No such file"):
        load_pool(tmp_path / "nothing.yaml")
    with pytest.raises(PoolError, match="cannot be read"):
        load_pool(tmp_path)
    with pytest.raises(PoolError, match="cannot be read"):
        load_pool("a\0b")


def test_other_systems_line_ends_and_marks_are_read(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    assert len(load_pool(text_file(tmp_path, content)).arms) == 6


def test_scalars_are_read_as_in_json(tmp_path: Path) -> None:
    text = TEXT.replace("name: laptop", "name: no").replace("date: '2026-11-22'", "date: 2026-11-22")
    text = text.replace("prompt: 0.01", "prompt: 1e-2")
    pool = load_pool(text_file(tmp_path, text.encode()))
    assert pool.name == "no"
    assert pool.prices.date == "2026-11-22"
    assert pool.prices.prices["smol"].prompt == 0.01
    for number in ("0x10", "1_000", "1:30", "010", "+5"):
        with pytest.raises(PoolError, match=r"max_tokens is '.*valid integer"):
            load_pool(text_file(tmp_path, text.replace("max_tokens: 128", f"max_tokens: {number}").encode()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("endpoints", "local", "api_key"), "sk-canary-123456"),
        (("endpoints", "local", "apikey"), "canary"),
        (("endpoints", "local", "headers"), {"Authorization": "Bearer canary"}),
        (("endpoints", "local", "api_key_env"), "sk-canary-123456"),
        (("endpoints", "local", "base_url"), "http://user:canary@host/v1"),
        (("endpoints", "local", "base_url"), "http://canary@host/v1"),
        (("endpoints", "local", "base_url"), "https://host/v1?key=canary"),
        (("endpoints", "local"), {"backend": "openai", "base_url": 5, "api_key": "canary"}),
        (("models", "smol", "endpoint"), "https://user:canary@host"),
        (("models", "smol", "api"), "sk-canary-1234567890"),
        (("models", "smol", "tiers", "direct", "options"), {"extra_headers": {"authorization": "canary"}}),
        (("endpoints", "gpu", "options"), {"api_key": "canary"}),
        (("endpoints", "gpu", "options"), {"hf_token": "canary"}),
        (("endpoints", "gpu", "options"), {"x": ["https://u:canary@host/v1"]}),
        (("models", "smol", "tiers", "direct", "options"), {"extra_headers": {"X-Api-Key": "canary"}}),
        (("models", "smol", "tiers", "direct", "options"), {"X-Api-Key": "canary"}),
        (("models", "smol", "tiers", "direct", "options"), {"auth": "canary"}),
        (("models", "smol", "tiers", "direct", "options"), {"x": "Bearer canary"}),
        (("models", "smol", "tiers", "direct", "options"), {"x": [{"y": "sk-live-canary-1234567"}]}),
        (("endpoints", "local", "base_url"), "https://host/sk-live-canary-1234567/v1"),
    ],
)
def test_secrets_are_refused_and_not_shown(
    tmp_path: Path, path: Path_, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, changed(path, value))
    with pytest.raises(PoolError) as caught:
        load_pool(file)
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in f"{error} {error!r}"
        assert error.__suppress_context__ or error.__context__ is None
        error = error.__cause__
    with pytest.raises(SystemExit):
        main(["pool", "check", str(file)])
    shown = capsys.readouterr()
    assert "canary" not in shown.out + shown.err


@pytest.mark.parametrize("name", ["temperature", "seed", "logprobs"])
def test_a_field_that_a_server_does_not_take_can_be_left_out(tmp_path: Path, name: str) -> None:
    pool = load_pool(write(tmp_path, changed(("models", "smol", "tiers", "vote5", "options"), {name: None})))
    (tier,) = [tier for tier in pool.tiers.values() if tier.arm.name == "smol/vote5"]
    assert name not in json.loads(request_body(tier.to_call(Request(tier.arm, "hello"))))


def test_equal_names_at_two_endpoints_are_told_apart_by_a_revision(tmp_path: Path) -> None:
    content = changed(("endpoints", "second"), VALID["endpoints"]["local"])
    other = {**VALID["models"]["smol"], "endpoint": "second", "tiers": VALID["models"]["base"]["tiers"]}
    content["models"]["other"] = other
    with pytest.raises(
        PoolError, match=r"models\.other is 'SmolLM2' at endpoint second, as is a model at local; .*revision"
    ):
        load_pool(write(tmp_path, content))
    content["models"]["other"] = {**other, "revision": "v2"}
    load_pool(write(tmp_path, content))


def test_other_weights_are_another_call(tmp_path: Path) -> None:
    keys = set()
    for folder in ("weights/v1", "weights/v2"):
        pool = load_pool(write(tmp_path, changed(("models", "gem", "folder"), folder)))
        keys.add(pool.tiers["gem/one"].to_call(Request(pool.arm("gem/one"), "hello")).key)
    assert len(keys) == 2


def test_the_published_schema_is_current() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "pool.schema.json"
    if not path.parent.exists():
        pytest.skip("docs/ is not part of the installed package")
    assert json.loads(path.read_text(encoding="utf-8")) == pool_schema()


def test_the_schema_says_what_every_field_is() -> None:
    schema = pool_schema()
    Draft202012Validator.check_schema(schema)
    for name, definition in {**schema["$defs"], "PoolConfig": schema}.items():
        assert definition["description"], name
        assert definition["additionalProperties"] is False
        for field, about in definition["properties"].items():
            assert about.get("description"), f"{name}.{field}"
    refused = [changed(path, value) for path, value, _ in BAD[:6]]
    valid = [Draft202012Validator(schema).is_valid(content) for content in refused]
    assert not any(valid[:2])


def test_the_examples_of_the_page_are_valid(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "pool.md"
    if not page.exists():
        pytest.skip("docs/ is not part of the installed package")
    examples = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        path = text_file(tmp_path, example.encode())
        assert load_pool(path).arms
        Draft202012Validator(pool_schema()).validate(read_yaml(path)[1])
