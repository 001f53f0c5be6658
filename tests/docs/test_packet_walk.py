# SPDX-License-Identifier: Apache-2.0
"""What the pages say of files, functions and calls is so, and their links lead somewhere.

A `calls` block is a tree: each function, indented below the one that uses it, as `path/file.py::name`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, definition, fences, functions, mentions, page, prose, slugs, spans

LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = "vswitch|ryu_apps|topologies|experiments|tests|scripts|docs"
PATH = re.compile(rf"(?:{FOLDERS})/[\w./-]*\w/?|\.ci/run|Makefile|LICENSE|pyproject\.toml")
FILE_IN_COMMAND = re.compile(rf"(?<![\w/.$]){PATH.pattern}(?=[\s,`\"']|$)")
CALL = re.compile(r"[A-Za-z_][\w.]*\(\)")
STEP = re.compile(r"( *)(\S+\.py)::([\w.]+)")

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@every_page
def test_links_lead_somewhere(path: Path):
    for target in LINK.findall(prose(path.read_text())):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"the link {target} leads nowhere"
        assert not anchor or anchor in slugs(found.read_text()), f"there is no heading for {target}"


@every_page
def test_files_and_names_exist(path: Path):
    for span in spans(path.read_text()):
        file, _, name = span.partition("::")
        if PATH.fullmatch(file):
            assert (ROOT / file).exists(), f"there is no {file}"
            assert not name or definition(ROOT / file, name) is not None, f"there is no {span}"


@every_page
def test_files_in_commands_exist(path: Path):
    text = path.read_text()
    for block in [*fences(text, "bash"), *fences(text, "console")]:
        for file in FILE_IN_COMMAND.findall(block):
            assert (ROOT / file).exists(), f"there is no {file}"


@every_page
def test_functions_exist(path: Path):
    for span in spans(path.read_text()):
        if CALL.fullmatch(span):
            assert span[:-2] in functions(), f"nothing defines {span}"


@every_page
def test_calls_are_made(path: Path):
    for block in fences(path.read_text(), "calls"):
        callers: list[tuple[int, str, object]] = []
        for line in block.splitlines():
            step = STEP.fullmatch(line.rstrip())
            assert step, f"not path/file.py::name: {line}"
            indent, file, name = len(step[1]), step[2], step[3]
            node = definition(ROOT / file, name) if (ROOT / file).exists() else None
            assert node is not None, f"there is no {file}::{name}"
            while callers and callers[-1][0] >= indent:
                callers.pop()
            if callers:
                _, caller, body = callers[-1]
                assert mentions(body, name.rpartition(".")[2]), f"{caller} does not use {name}"
            callers.append((indent, name, node))


def test_every_page_is_reachable_from_the_index():
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(page("index"))}
    assert {path for path in PAGES if path.parent != ROOT} - {index} <= reached
