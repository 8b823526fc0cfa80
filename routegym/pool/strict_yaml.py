"""YAML as in files that people write by hand: a strict reading that names the line of what is wrong.

JSON is YAML. Numbers, ``true``, ``false`` and ``null`` are read as in JSON; everything else that is not quoted is
text, so ``no`` and ``2026-11-22`` mean what they say. A key may not occur twice.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from routegym.errors import PoolError

__all__ = ["BIDI", "line_of", "one_line", "read_yaml"]

#: Characters that make text read otherwise than it is. Written as an escape ("\u202e") they can be seen.
BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: What is larger was not written by hand.
_MOST_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Plain values only; scalars as in JSON, a key only once, no aliases of collections."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class has it

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's
            node = super().compose_node(parent, index)
            if not isinstance(node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="an alias of a mapping or list; write it out", problem_mark=mark)
            return node
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem="a key that is no plain text", problem_mark=key.start_mark)
            if key.value in seen:
                shown = key.value[:60]
                raise yaml.MarkedYAMLError(problem=f"key {shown!r} a second time", problem_mark=key.start_mark)
            seen.add(key.value)
        return {str(self.construct_yaml_str(key)): self.construct_object(value, deep=True) for key, value in node.value}


for _tag, _pattern, _first in (
    ("bool", r"^(true|false)$", "tf"),
    ("null", r"^(null|~|)$", ["n", "~", ""]),
    ("int", r"^-?(0|[1-9][0-9]*)$", "-0123456789"),
    (
        "float",
        r"^(-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF|Infinity)|\.nan|\.NaN|\.NAN|NaN)$",
        "-+.0123456789IN",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def read_yaml(path: Path) -> tuple[yaml.Node, Any]:
    """The file's nodes, for line numbers, and its values.

    Raises:
        PoolError: the file cannot be read, is too large or no YAML.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise PoolError(f"{path}: empty; expected a pool file as in docs/pool.md")
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise PoolError(
            f"{path}{where}: no valid pool file: {one_line(error.problem or error.context or 'wrong form')}; "
            "expected YAML, indented by spaces"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise PoolError(f"{path}: no valid pool file: {one_line(error)}; expected YAML in UTF-8") from None
    except RecursionError:
        raise PoolError(f"{path}: nested too deeply; expected a pool file as in docs/pool.md") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PoolError(f"{path}: cannot be read ({reason}); expected a pool file, check the path") from None
    if len(content) > _MOST_BYTES:
        raise PoolError(f"{path}: larger than {_MOST_BYTES:,} bytes; expected a pool file, which is written by hand")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PoolError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    found = BIDI.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        code = f"U+{ord(found[0]):04X}"
        raise PoolError(
            f"{path}, line {line}: invisible character {code} that changes the direction of text; remove it, "
            f'or write it as an escape in double quotes ("\\u{ord(found[0]):04x}")'
        )
    return text


def line_of(node: yaml.Node, loc: Sequence[Any]) -> int:
    """Line of a place, or of the innermost place around it that is in the file."""
    line = node.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def one_line(error: object) -> str:
    """An error's text in one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
