from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import FaultServer, serving

from routegym.errors import PoolError, RoutegymError
from routegym.pool.arms import Arm
from routegym.pool.backend import Call, Completion, Failure
from routegym.pool.openai import OpenAIEngine
from routegym.pool.secrets import redactor
from routegym.pool.store import ResponseStore

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "::1"])

CANARY = "sk-canary-7f3a+9/b2=c4d5e6f7"
CALL = Call(Arm("m", "direct", 0, 32), "openai", "m", (("user", "1+1="),), 32)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@pytest.fixture
def debugging(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that anything logs, asyncio's debugging included."""
    with caplog.at_level(logging.DEBUG):
        for name in ("asyncio", "httpcore", "httpx", "httpcore.http11", "httpcore.connection"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield caplog


def is_clean(text: str) -> bool:
    return CANARY not in text and CANARY[: len(CANARY) // 2] not in text


@pytest.mark.parametrize(
    "behaviour", ["ok", "echo", "parrot", "401", "500", "redirect", "html", "silent", "reset-after-headers", "no-http"]
)
def test_the_key_is_in_the_header_and_nowhere_else(
    behaviour: str,
    server: FaultServer,
    debugging: pytest.LogCaptureFixture,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    engine = OpenAIEngine(server.url(behaviour), api_key=CANARY, timeout_s=0.3, attempts=2)
    results: list[Completion | Failure] = []
    engine.complete([CALL] * 2, lambda _, result: results.append(result))
    assert server.headers[behaviour]["authorization"] == f"Bearer {CANARY}"
    seen = [repr(engine), str(engine), repr(engine._settings), *map(repr, results)]
    for result in results:
        if isinstance(result, Failure):
            seen += [str(result.error), *traceback.format_exception(result.error)]
            assert result.error.__cause__ is None
            assert result.error.__context__ is None
        else:
            with ResponseStore(tmp_path) as store:
                store.put(CALL, result)
            seen += [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir()]
    engine.close()
    records = [record for record in debugging.records if record.name.startswith("httpcore")]
    assert records
    seen += [record.getMessage() + repr(record.args) for record in debugging.records] + [debugging.text]
    seen += capfd.readouterr()
    assert all(map(is_clean, seen))
    if behaviour in ("echo", "parrot"):
        assert any("[redacted]" in text for text in seen)


def test_log_records_are_rewritten_only_while_an_engine_lives(server: FaultServer) -> None:
    logger = logging.getLogger("httpcore.http11")
    before = list(logger.filters)
    engine = OpenAIEngine(server.url(), api_key=CANARY)
    engine.complete([CALL], lambda _, result: None)
    assert len(logger.filters) == len(before) + 1
    engine.close()
    assert logger.filters == before


def test_the_environment_is_not_searched_for_keys(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    engine = OpenAIEngine(server.url())
    engine.complete([CALL], lambda _, result: None)
    assert not any(CANARY in value for value in server.headers["ok"].values())
    engine.close()


def test_errors_of_the_receiver_show_no_key(server: FaultServer) -> None:
    engine = OpenAIEngine(server.url(), api_key=CANARY)

    def on_result(index: int, result: Completion | Failure) -> None:
        raise KeyError(index)

    with pytest.raises(KeyError) as caught:
        engine.complete([CALL], on_result)
    assert is_clean("".join(traceback.format_exception(caught.value)))
    engine.close()


@pytest.mark.parametrize("form", ["http://127.0.0.1/{}/v1", "http://{}@127.0.0.1/v1", "http://127.0.0.1/v1?key={}"])
def test_a_key_in_the_address_is_refused(form: str) -> None:
    key = "sk-canary-7f3a9b2c4d5e6f7"
    with pytest.raises(RoutegymError) as caught:
        OpenAIEngine(form.format(key), api_key=key)
    assert key not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "key", ["", "with space in it", "line\r\nX-Injected: 1", "schlüssel-0123456789", "tab\t012345"]
)
def test_keys_that_fit_no_header_are_refused(key: str) -> None:
    with pytest.raises(PoolError, match="check the variable named by api_key_env") as caught:
        OpenAIEngine("http://127.0.0.1/v1", api_key=key)
    assert not key or key not in "".join(traceback.format_exception(caught.value))


def test_redaction() -> None:
    redact = redactor(CANARY)
    for text in (
        f"key {CANARY} end",
        f"twice {CANARY}{CANARY} end",
        "quoted sk-canary-7f3a%2B9%2Fb2%3Dc4d5e6f7 end",
        f"cut {CANARY[:-3]} end",
        f"cut {CANARY[:16]}... end",
    ):
        assert is_clean(redact(text))
        assert redact(text).endswith(" end")
        assert "[redacted]" in redact(text)
    assert redact(f'{{"key": "{CANARY}", "n": 1}}') == '{"key": "[redacted]", "n": 1}'
    assert redact("nothing sk-cana here") == "nothing sk-cana here"
    # Placeholders are words: answers must stay as they are.
    for key in (None, "EMPTY", "none"):
        assert redactor(key)("EMPTY and none") == "EMPTY and none"


def test_debugging_the_event_loop_shows_no_key(
    server: FaultServer, debugging: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    engine = OpenAIEngine(server.url("echo"), api_key=CANARY, attempts=1)
    engine.complete([CALL], lambda _, result: None)
    engine.close()
    assert is_clean(debugging.text)
