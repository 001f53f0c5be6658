# SPDX-License-Identifier: Apache-2.0
"""The reference pages list what the code has: nothing is missing, nothing is invented."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import fields

import msgspec
import pytest

from experiments.overlay_gro import OPTIONS
from ryu_apps.core import intent
from ryu_apps.rest import RestApi
from tests.docs.pages import ROOT, first_column, page, spans
from tests.protocol.fake_datapath import FakeDatapath
from topologies.links import WIRE_SETTINGS
from vswitch import config, ctl
from vswitch.__main__ import _parser
from vswitch.agent.admission import ACTIONS, INSTRUCTIONS
from vswitch.agent.agent import Agent
from vswitch.agent.fields import MATCHABLE
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.flow import DropReason, PortCounters
from vswitch.layout import Counter, Merge
from vswitch.openflow.constants import MessageType
from vswitch.openflow.experimenter import EXP_TYPES

SAID_BY_THE_AGENT = {"slow_path_misses", "packet_ins_dropped"}


def test_counters():
    counters = {counter.name.lower() for counter in Counter} - {"gro_first"}
    reasons = {merge.name for merge in Merge} - {"YES"}
    drops = {reason.name for reason in DropReason}
    listed = first_column(page("reference/counters"))
    assert listed == counters | SAID_BY_THE_AGENT | reasons | drops | set(PortCounters._fields)


def test_gro_rules():
    assert first_column(page("explanation/gro")) == {merge.name for merge in Merge} - {"YES", "NEW_FLOW"}


def test_switch_options():
    parser = _parser()
    assert first_column(page("reference/vswitch"), "## Options") == _options(parser)


def test_wire_settings():
    wire = first_column(page("reference/vswitch"), "### Wire")
    assert wire == {"name", "mtu", "mac", "end", *WIRE_SETTINGS}
    assert set(config.WireSettings().changed("w", dict.fromkeys(WIRE_SETTINGS, 0)).__dict__) == {
        field.name for field in fields(config.WireSettings)
    }


def test_vswitchctl():
    commands, options = ctl.COMMANDS, _options(ctl._parser())
    listed = {text.split()[0] for text in first_column(page("reference/vswitchctl"))}
    assert listed == set(commands) | options | {"-r"}


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser."""
    strings = {text for action in parser._actions for text in action.option_strings}
    return {text for text in strings if text.startswith("--")} - {"--help"}


def test_control_methods():
    agent = Agent(FakeDatapath(time.monotonic_ns), "s1", 1)
    assert first_column(page("reference/control-socket")) == set(agent._methods())


@pytest.mark.parametrize(
    ("heading", "structure"),
    [
        ("## `virtual_networks`", intent.VirtualNetwork),
        ("## `servers`", intent.Server),
        ("## `vms`", intent.VM),
        ("## `tunnel`", intent.TunnelPolicy),
        ("## `offload`", intent.OffloadPolicy),
    ],
)
def test_intent_keys(heading: str, structure: type[msgspec.Struct]):
    assert first_column(page("reference/intent"), heading) == set(structure.__struct_fields__)


def test_intent_sections():
    headings = set(re.findall(r"^## `(\w+)`$", page("reference/intent"), re.MULTILINE))
    assert headings == set(intent.Intent.__struct_fields__)


def test_intent_example_is_valid():
    (example,) = re.findall(r"```yaml\n(.*?)```", page("reference/intent"), re.DOTALL)
    assert set(intent.from_yaml(example).vms) == {"vm1", "vm2"}


def test_openflow():
    text = page("reference/openflow")
    messages = first_column(text, "## Messages")
    refused = {"GROUP_MOD", "METER_MOD", "TABLE_MOD", "QUEUE_GET_CONFIG_REQUEST"}
    refused |= {"GET_ASYNC_REQUEST", "SET_ASYNC"}
    handled = {kind.name for kind in OpenFlowSwitch.HANDLERS} | {"HELLO", "ECHO_REQUEST", "ECHO_REPLY"}
    assert messages == handled | refused
    sent = {"FEATURES_REPLY", "GET_CONFIG_REPLY", "MULTIPART_REPLY", "BARRIER_REPLY", "ROLE_REPLY"}
    sent |= {"PACKET_IN", "FLOW_REMOVED", "PORT_STATUS", "QUEUE_GET_CONFIG_REPLY", "GET_ASYNC_REPLY"}
    assert {kind.name for kind in MessageType} == messages | sent
    assert first_column(text, "### Match fields") == MATCHABLE
    assert first_column(text, "### Instructions") == {kind.name for kind in INSTRUCTIONS}
    assert first_column(text, "### Actions") == {kind.name for kind in ACTIONS}
    (row,) = re.findall(r"^\| `MULTIPART_REQUEST` \|(.*)\|$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == {kind.name for kind in OpenFlowSwitch.MULTIPART}


def test_experimenter_messages():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|([^|]*)\|", page("reference/experimenter"), re.MULTILINE)
    listed = {int(number): (name, re.findall(r"`(\w+)`", keys)) for number, name, keys in rows}
    assert listed == {
        number: (kind.__name__, list(kind.__struct_fields__)) for number, kind in EXP_TYPES.items()
    }


def test_rest():
    routes = {f"{method} {path}" for method, path in RestApi(None)._routes}
    assert first_column(page("reference/rest")) == routes


def test_experiment_options():
    text = page("reference/experiments")
    assert first_column(text, "## `overlay-gro`") - {"vswitch", "kernel", "ovs-userspace"} == set(OPTIONS)


def test_dependencies():
    text = page("reference/dependencies")
    project = (ROOT / "pyproject.toml").read_text()
    required, _, rest = project.partition("[project.optional-dependencies]")
    package = re.compile(r'^    "([\w-]+)[<>=]', re.MULTILINE)
    assert first_column(text, "## Python packages of the project (`.venv`)") == set(package.findall(required))
    tests = package.findall(rest.partition("\n]\n")[0])
    assert first_column(text, "## For tests") == set(tests)
    lines = (ROOT / "scripts/requirements-ryu.txt").read_text().splitlines()
    controller = {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    listed = first_column(text, "## Python packages of the controller (`.venv-ryu`)")
    assert listed - {"setuptools", "wheel"} == controller
    setup = (ROOT / "scripts/setup.sh").read_text()
    debian = set(re.findall(r"[\w-]+:([\w-]+)", setup.partition("NEEDED=(")[2].partition(")")[0]))
    assert first_column(text, "## Debian packages") == debian | {"python3-venv"}


def test_figures_have_their_places():
    text = page("performance")
    for figures in ("overlay-gro", "bench"):
        assert f"<!-- figures: {figures} -->" in text
    assert "experiments run overlay-gro" in " ".join(spans(text)) or "experiments run overlay-gro" in text
