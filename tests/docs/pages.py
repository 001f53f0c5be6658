# SPDX-License-Identifier: Apache-2.0
"""What the documentation's tests read: pages, code spans, tables, and what the sources define."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vswitch", "ryu_apps", "topologies", "experiments", "conformance")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


def page(name: str) -> str:
    """A page of docs/ by its path below it, without `.md`."""
    return (ROOT / "docs" / f"{name}.md").read_text()


def fences(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for kind, body in _FENCE.findall(text) if kind == language]


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """The code spans of the page's prose and tables."""
    return _SPAN.findall(prose(text))


def first_column(text: str, heading: str = "") -> set[str]:
    """The code spans in the first cells of all table rows, or of those below one heading only."""
    if heading:
        text = text.split(f"\n{heading}\n", 1)[1]
        text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\|((?:\\\||[^|])*)\|", text, re.MULTILINE)
    return {name for cell in cells for name in _SPAN.findall(cell)}


def slugs(text: str) -> set[str]:
    """The anchors that a page's headings make, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def module(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def definition(path: Path, name: str) -> ast.AST | None:
    """The function, class, method (`Class.method`) or assignment of this name in a source file."""
    scope: ast.AST | None = module(path)
    for part in name.split("."):
        scope = next((node for node in ast.iter_child_nodes(scope) if part in _names(node)), None)
        if scope is None:
            return None
    return scope


def _names(node: ast.AST) -> set[str]:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def mentions(node: ast.AST, name: str) -> bool:
    """Whether the code of `node` uses `name`, alone or as an attribute."""
    return any(
        (isinstance(part, ast.Name) and part.id == name)
        or (isinstance(part, ast.Attribute) and part.attr == name)
        for part in ast.walk(node)
    )


@cache
def functions() -> frozenset[str]:
    """Every function, class and `Class.method` of the project's packages."""
    return frozenset(name for path in _sources() for name in _defined(module(path)))


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{part.name}" for part in node.body if isinstance(part, _FUNCTIONS))
