# SPDX-License-Identifier: Apache-2.0
"""The test patterns: JSON files that ship in os-ken's wheel (Ryu's own, which Ryu's wheel leaves out).

They are downloaded once into a cache folder of the checkout that git does not see; nothing of them is part of
this project.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.errors import ConformanceError
from topologies.processes import run

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".conformance_cache"
WHEEL = "os-ken==4.2.2"
INSIDE = "os_ken/tests/switch/of13/"
TOTAL, REQUIRED_TOTAL = 991, 114
CATEGORIES = ("action", "set_field", "match", "group", "meter")

# What osrg's ryu-certification requires of a switch: these files, and in each only the tests whose packet is
# a plain Ethernet frame.
REQUIRED_FILES = {
    "action/00_OUTPUT",
    "group/00_ALL",
    "match/00_IN_PORT",
    "match/03_ETH_DST",
    "match/03_ETH_DST_Mask",
    "match/04_ETH_SRC",
    "match/04_ETH_SRC_Mask",
    "match/05_ETH_TYPE",
    "match/10_IP_PROTO_IPv4",
    "match/11_IPV4_SRC",
    "match/11_IPV4_SRC_Mask",
    "match/12_IPV4_DST",
    "match/12_IPV4_DST_Mask",
    "match/13_TCP_SRC_IPv4",
    "match/14_TCP_DST_IPv4",
    "match/15_UDP_SRC_IPv4",
    "match/16_UDP_DST_IPv4",
    "match/10_IP_PROTO_IPv6",
    "match/13_TCP_SRC_IPv6",
    "match/14_TCP_DST_IPv6",
    "match/15_UDP_SRC_IPv6",
    "match/16_UDP_DST_IPv6",
    "match/26_IPV6_SRC",
    "match/26_IPV6_SRC_Mask",
    "match/27_IPV6_DST",
    "match/27_IPV6_DST_Mask",
}
TAGGED = re.compile(r"/(vlan|svlan|mpls|itag|pbb)")


@dataclass(frozen=True)
class Pattern:
    """One test: the `index`-th of `file` (its path below the suite, without `.json`)."""

    file: str
    index: int
    description: str
    throughput: bool  # measures a rate for 30 s, where the others send one packet

    @property
    def category(self) -> str:
        return "set_field" if "SET_FIELD" in self.file else self.file.partition("/")[0]

    @property
    def required(self) -> bool:
        return self.file in REQUIRED_FILES and not TAGGED.search(self.description.partition("-->")[0])


def suite(cache: Path = CACHE) -> Path:
    """The folder of the patterns, downloaded when it is not there yet; raises ConformanceError."""
    folder = cache / WHEEL.replace("==", "-")
    if not folder.exists():
        unpacked = folder.with_suffix(".part")
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        (cache / ".gitignore").write_text("*\n")
        _unpack(_download(cache), unpacked)
        unpacked.rename(folder)
    return folder


def _download(cache: Path) -> Path:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    argv += ["--no-deps", "--only-binary=:all:", "--dest", str(cache), WHEEL]
    result = run(argv)
    wheels = sorted(cache.glob("os_ken-*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ConformanceError(f"the test patterns in {WHEEL} cannot be downloaded: {reason}")
    return wheels[-1]


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(INSIDE) and name.endswith(".json"):
                target = folder / name.removeprefix(INSIDE)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def load(folder: Path) -> list[Pattern]:
    """All tests of the suite in the tester's order; raises when the suite is not the known one."""
    patterns = [pattern for path in sorted(folder.rglob("*.json")) for pattern in _tests(folder, path)]
    if len(patterns) != TOTAL:
        raise ConformanceError(
            f"{folder} holds {len(patterns)} tests, but {TOTAL} are expected: remove it, and it is made anew"
        )
    return patterns


def _tests(folder: Path, path: Path) -> list[Pattern]:
    file = path.relative_to(folder).with_suffix("").as_posix()
    tests: list[dict[str, Any]] = [item for item in json.loads(path.read_text()) if isinstance(item, dict)]
    return [
        Pattern(file, index, test["description"], isinstance(test["tests"][0].get("egress"), dict))
        for index, test in enumerate(tests)
    ]


def select(
    patterns: Sequence[Pattern],
    categories: Sequence[str] = (),
    files: Sequence[str] = (),
    sample: int | None = None,
) -> list[Pattern]:
    """The tests of these categories and files (shell patterns); of those, `sample` spread evenly."""
    chosen = [
        pattern
        for pattern in patterns
        if (not categories or pattern.category in categories)
        and (not files or any(fnmatch.fnmatchcase(pattern.file, file) for file in files))
    ]
    if not chosen:
        raise ConformanceError(f"no test is in {' '.join([*categories, *files])}: see --list")
    return chosen if sample is None else spread(chosen, sample)


def spread(patterns: Sequence[Pattern], count: int) -> list[Pattern]:
    """About `count` of the tests, in order and evenly spaced, but only one rate test of each category."""
    rated = {pattern.category: pattern for pattern in reversed(patterns) if pattern.throughput}
    others = [pattern for pattern in patterns if not pattern.throughput]
    wanted = min(len(others), max(0, count - len(rated)))
    taken = {others[number * len(others) // wanted] for number in range(wanted)} | set(rated.values())
    return [pattern for pattern in patterns if pattern in taken]
