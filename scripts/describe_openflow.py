# SPDX-License-Identifier: Apache-2.0
"""`.venv/bin/python scripts/describe_openflow.py [--check]`: fills the tables of docs/openflow.md from the
tables of the code. With --check it changes nothing, and fails when they differ.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from enum import IntFlag
from pathlib import Path

from vswitch.agent.admission import ACTIONS, INSTRUCTIONS, OUTPUT_PORTS, SETTABLE
from vswitch.agent.buffers import BUFFERS
from vswitch.agent.fields import MATCHABLE, OUTSIDE, PLACES
from vswitch.agent.groups import MAX_BUCKETS, MAX_CHAIN, MAX_GROUPS
from vswitch.agent.meters import BAND_TYPES, FLAGS, MAX_METERS
from vswitch.agent.pipeline import MAX_OPERATIONS
from vswitch.agent.statistics import GROUP_CAPABILITIES, Statistics
from vswitch.agent.switch import CAPABILITIES, OpenFlowSwitch
from vswitch.agent.tables import MAX_RULES
from vswitch.flow import MAX_BANDS
from vswitch.openflow.constants import TABLE_COUNT, Capability, GroupCapability, GroupType, MeterFlag
from vswitch.openflow.oxm import FIELDS, Field

PAGE = Path(__file__).resolve().parent.parent / "docs" / "openflow.md"
SECTION = re.compile(r"(<!-- from the code: ([\w ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def match_fields() -> str:
    """Each of the specification's fields: mask, prerequisites, set-field, where it is looked at."""
    lines = ["| field | bits | mask | needs | set-field | looked at |", "|---|---|---|---|---|---|"]
    for field in FIELDS:
        supported = field.name in MATCHABLE
        path = "slow path" if supported and PLACES[field.name].slot >= OUTSIDE else "cached"
        lines.append(
            f"| `{field.name}` | {field.bits} | {_yes(field.maskable)} | {_needs(field)} "
            f"| {_yes(field.name in SETTABLE)} | {path if supported else 'refused'} |"
        )
    return _text(lines)


def _needs(field: Field) -> str:
    return ", ".join(
        f"`{name}`" if values is None else f"`{name}` {' or '.join(_number(name, v) for v in sorted(values))}"
        for name, values in field.requires
    )


def _number(name: str, value: int) -> str:
    return f"{value:#06x}" if name == "eth_type" else str(value)


def _yes(value: bool) -> str:
    return "yes" if value else ""


def requests() -> str:
    """The messages that the switch acts on."""
    handled = sorted(OpenFlowSwitch.HANDLERS)
    return _text([f"{_list(kind.name for kind in handled)}."])


def multipart() -> str:
    """The kinds of multipart request that are answered."""
    return _text([f"{_list(kind.name for kind in sorted(Statistics.ANSWERS))}."])


def instructions() -> str:
    return _text([f"{_list(kind.name for kind in sorted(INSTRUCTIONS))}."])


def actions() -> str:
    return _text([f"{_list(kind.name for kind in sorted(ACTIONS))}."])


def ports() -> str:
    return _text([f"{_list(port.name for port in sorted(OUTPUT_PORTS))}; in a packet-out also `TABLE`."])


def limits() -> str:
    """What there is of everything."""
    rows = {
        "flow tables": TABLE_COUNT,
        "rules in a table": MAX_RULES,
        "packet buffers": BUFFERS,
        "groups": MAX_GROUPS,
        "buckets in a group": MAX_BUCKETS,
        "groups in a chain": MAX_CHAIN,
        "operations for one packet": MAX_OPERATIONS,
        "meters": MAX_METERS,
        "bands in a meter": MAX_BANDS,
    }
    return _text(["| | at most |", "|---|--:|", *(f"| {what} | {count} |" for what, count in rows.items())])


def capabilities() -> str:
    return _text(
        [
            "| | |",
            "|---|---|",
            f"| capabilities | {_flags(Capability, CAPABILITIES)} |",
            f"| group types | {_list(kind.name for kind in GroupType)} |",
            f"| group capabilities | {_flags(GroupCapability, GROUP_CAPABILITIES)} |",
            f"| meter bands | {_list(kind.name for kind in sorted(BAND_TYPES))} |",
            f"| meter flags | {_flags(MeterFlag, FLAGS)} |",
        ]
    )


def _flags(kind: type[IntFlag], value: int) -> str:
    return _list(flag.name or "" for flag in kind if flag and flag & value)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "requests": requests,
    "multipart": multipart,
    "match fields": match_fields,
    "instructions": instructions,
    "actions": actions,
    "ports": ports,
    "capabilities": capabilities,
    "limits": limits,
}


def filled(text: str) -> str:
    """The page with its tables as the code has them."""
    return SECTION.sub(lambda found: f"{found[1]}\n{SECTIONS[found[2]]()}\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    text = PAGE.read_text()
    if arguments == ["--check"]:
        return int(filled(text) != text)
    PAGE.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
