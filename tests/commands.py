"""Commands as tests run them."""

from __future__ import annotations

import pytest

from routegym.cli.main import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a command prints; it must end with this exit code and without a traceback."""
    capsys.readouterr()
    try:
        main(list(arguments))
        ended = 0
    except SystemExit as stop:
        ended = stop.code if isinstance(stop.code, int) else 1
    shown = capsys.readouterr()
    assert ended == code, shown
    assert "Traceback" not in shown.err
    return shown.out + shown.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must fail with exit code 2 says: its last line on stderr."""
    message = said(capsys, *arguments, code=2).splitlines()[-1]
    assert message.startswith("error: ")
    return message
