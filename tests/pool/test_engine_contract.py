"""The engine of the embedded pool keeps the contract of all engines; the others' own tests run it as well."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import engine_contract as contract
import pytest
from engine_contract import Subject

from routegym.pool.arithmetic import ArithmeticEngine


@pytest.fixture(scope="module")
def arithmetic() -> Subject:
    folder = Path(str(files("routegym"))) / "data" / "pool" / "nano"
    return Subject(
        ArithmeticEngine({"nano": folder}),
        "arithmetic",
        "nano",
        prompts=("1+1", "12+30", "700-2", "34*56", "999+999"),
        fields={"api": "chat", "options": {"template": "direct"}},
        max_tokens=4,
        too_long=None,
    )


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, arithmetic: Subject) -> None:
    check(arithmetic)
