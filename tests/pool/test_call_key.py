from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routegym.errors import PoolError
from routegym.pool.arms import Arm
from routegym.pool.backend import Call

ARM = Arm("smol", "direct", 135, 16)
CALL = Call(ARM, "openai", "smol", (("system", "be short"), ("user", "1+1?")), 16)

texts = st.text(max_size=8)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    Call,
    arm=st.just(ARM),
    engine=st.sampled_from(["openai", "vllm", "transformers"]),
    model=texts,
    messages=st.lists(st.tuples(st.sampled_from(["system", "user"]), texts), max_size=3).map(tuple),
    max_tokens=st.integers(1, 4096),
    revision=texts,
    adapter=texts,
    api=st.sampled_from(["chat", "completions"]),
    temperature=st.floats(0, 2),
    n=st.integers(1, 16),
    seed=st.integers(0, 2**31),
    stop=st.lists(texts, max_size=2).map(tuple),
    reasoning_effort=st.sampled_from([None, "low", "high", "None"]),
    options=st.dictionaries(texts, json_values, max_size=3),
)

CHANGES: list[tuple[str, Any]] = [
    ("engine", "vllm"),
    ("model", "smol2"),
    ("messages", (("system", "be long"), ("user", "1+1?"))),
    ("messages", (("system", "be short"), ("user", "1+1? "))),
    ("messages", (("user", "be short"), ("system", "1+1?"))),
    ("messages", (("user", "1+1?"), ("system", "be short"))),
    ("max_tokens", 17),
    ("revision", "q4_1"),
    ("adapter", "math"),
    ("api", "completions"),
    ("temperature", 0.7),
    ("n", 5),
    ("seed", 1),
    ("stop", ("\n",)),
    ("reasoning_effort", "low"),
    ("options", {"tools": []}),
    ("options", {"top_p": 0.9}),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_every_field_that_is_sent_changes_the_key(field: str, value: Any) -> None:
    assert replace(CALL, **{field: value}).key != CALL.key


def test_no_field_is_forgotten() -> None:
    assert {field for field, _ in CHANGES} == {field.name for field in fields(Call)} - {"arm"}


@quick
@given(call=calls, other=calls, field=st.sampled_from([field.name for field in fields(Call) if field.name != "arm"]))
def test_a_change_of_any_one_field_changes_the_key(call: Call, other: Call, field: str) -> None:
    changed = replace(call, **{field: getattr(other, field)})
    assert (changed.key == call.key) == same(getattr(call, field), getattr(other, field))


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values: unlike Python's, which takes True for 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


TOOLS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"a": "int", "b": "int"}}}],
    "top_p": 0.9,
}


@pytest.mark.parametrize(
    "tools",
    [
        [],
        [{"type": "function", "function": {"name": "add", "parameters": {"a": "int", "b": "str"}}}],
        [{"type": "function", "function": {"name": "mul", "parameters": {"a": "int", "b": "int"}}}],
        TOOLS["tools"] * 2,
    ],
)
def test_tools_are_part_of_the_key(tools: Any) -> None:
    assert replace(CALL, options={**TOOLS, "tools": tools}).key != replace(CALL, options=TOOLS).key


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(inner, rng)) for key, inner in value.items()]
        rng.shuffle(items)
        return dict(items)
    return [shuffled(inner, rng) for inner in value] if isinstance(value, list) else value


@quick
@given(call=calls, rng=st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_the_key(call: Call, rng: random.Random) -> None:
    assert replace(call, options=shuffled(dict(call.options), rng)).key == call.key


def test_another_way_to_write_the_same_request_does_not_change_the_key() -> None:
    call = replace(CALL, temperature=1.0, options={"top_p": 1.0, "stop_token_ids": [1, 2], "logit_bias": {"7": -0.0}})
    same_calls = [
        replace(call, temperature=1),
        replace(call, options={"stop_token_ids": (1, 2), "logit_bias": {7: 0}, "top_p": 1}),
        replace(call, options=MappingProxyType(dict(call.options))),
        replace(call, messages=[list(pair) for pair in call.messages]),  # type: ignore[arg-type]
    ]
    assert {other.key for other in same_calls} == {call.key}


def test_who_asks_and_what_it_costs_do_not_change_the_key() -> None:
    arms = [
        Arm("other", "tier", 1, 16),
        replace(ARM, charged_attempts=3, fallback="a/b", max_gpu_s=2.0),
    ]
    assert {replace(CALL, arm=arm).key for arm in arms} == {CALL.key}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object(), {"deep": [float("-inf")]}])
def test_what_json_cannot_express_is_refused(value: Any) -> None:
    options: Mapping[str, Any] = {"seed_of_tools": value}
    with pytest.raises(PoolError, match=r"smol/direct: its options are not JSON"):
        _ = replace(CALL, options=options).key


def test_lone_surrogates_have_a_key_of_their_own() -> None:
    split, whole = ("\ud83d" + "\ude00", "\U0001f600")
    keys = {replace(CALL, messages=(("user", text),)).key for text in (split, whole, "\ud83d")}
    assert len(keys) == 3


def test_a_hundred_thousand_calls_have_a_hundred_thousand_keys() -> None:
    rng = random.Random(0)
    seen: dict[str, tuple[Any, ...]] = {}
    for _ in range(100_000):
        values = (rng.choice("ab"), str(rng.randrange(1000)), rng.randrange(8), rng.random() < 0.5, rng.randrange(1000))
        model, prompt, n, tools, seed = values
        call = Call(ARM, "vllm", model, (("user", prompt),), 8, n=n, seed=seed, options={"tools": tools})
        assert seen.setdefault(call.key, values) == values
    assert len(seen) == len(set(seen.values()))


def test_the_key_is_the_same_in_every_process() -> None:
    code = (
        "from routegym.pool.arms import Arm; from routegym.pool.backend import Call; "
        "print(Call(Arm('smol', 'direct', 135, 16), 'openai', 'smol', (('user', 'é'),), 16, temperature=0.7, "
        "options={'b': {'y': 1, 'x': 2}, 'a': [1.5, None]}).key)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": utf8},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed, utf8 in [("0", "0"), ("1", "1"), ("4711", "0")]
    }
    options = {"a": [1.5, None], "b": {"x": 2, "y": 1}}
    here = Call(ARM, "openai", "smol", (("user", "é"),), 16, temperature=0.7, options=options)
    assert printed == {here.key}


def test_the_key_stays_what_it_was_when_stores_were_written() -> None:
    # A new form of the key would ask and pay for everything again. Change it only with the store's schema version.
    assert CALL.key == "955fe36a438871e482a2a69d2cb621a2f508ac519bd389dd8440b17e03be67bf"


def test_a_fork_while_another_thread_computes_a_key_does_not_hang() -> None:
    code = """
import os, signal, sys, threading
from dataclasses import replace
from routegym.pool.arms import Arm
from routegym.pool.backend import Call

call = Call(Arm("smol", "direct", 135, 16), "openai", "smol", (("user", "x" * 20_000),), 16)
done = threading.Event()

def work():
    while not done.is_set():
        replace(call).key

sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(10):
    if (pid := os.fork()) == 0:
        signal.alarm(10)
        replace(call).key
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        print("hung")
        break
done.set()
"""
    printed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == ""
