# SPDX-License-Identifier: Apache-2.0
"""The reference pages list what the code has: nothing is missing, nothing is invented."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import time
from dataclasses import fields

import msgspec
import pytest

from experiments.command import MODULES
from experiments.metrics import METRICS
from ryu_apps.core import intent
from ryu_apps.resources import Resources
from tests.docs.pages import ROOT, first_column, page, spans
from tests.protocol.fake_datapath import FakeDatapath
from topologies.links import WIRE_SETTINGS
from vswitch import config
from vswitch.__main__ import _parser
from vswitch.agent.agent import Agent
from vswitch.cli.arguments import EVERYWHERE
from vswitch.cli.main import COMMANDS
from vswitch.flow import DropReason, PortCounters
from vswitch.layout import Counter, Merge
from vswitch.openflow.errors import ERROR_TYPES
from vswitch.openflow.experimenter import EXP_TYPES

SAID_BY_THE_AGENT = {
    "slow_path_misses", "slow_path_uncacheable", "packet_too_big_sent", "packet_ins_dropped",
    "notices_dropped", "snoop_messages_dropped",
}  # fmt: skip


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
    assert wire == {"name", "mtu", "mac", "end", "link", *WIRE_SETTINGS}
    some = dict.fromkeys(WIRE_SETTINGS, 0) | {"framing": "ethernet"}
    assert set(config.WireSettings().changed("w", some).__dict__) == {
        field.name for field in fields(config.WireSettings)
    }


def test_vswitchctl():
    options = {option for command in COMMANDS.values() for option in command.options} | {*EVERYWHERE}
    names = {name for option in options for name in option.names}
    listed = {text.split()[0] for text in first_column(page("reference/vswitchctl"))}
    assert listed == set(COMMANDS) | names


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
        ("## `nic`", intent.NicPolicy),
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


def test_openflow_is_what_the_code_says():
    check = subprocess.run([sys.executable, "scripts/describe_openflow.py", "--check"], cwd=ROOT, check=False)
    assert check.returncode == 0, "run .venv/bin/python scripts/describe_openflow.py"


def test_errors_of_what_is_left_out_exist():
    names = re.findall(r"`([A-Z_]+)/([A-Z_]+)`", page("openflow"))
    assert len(names) > 10
    codes = {kind.name: enumeration.__members__ for enumeration, kind in ERROR_TYPES.items()}
    for kind, code in names:
        assert code in codes[kind], f"{kind}/{code}"


def test_every_metric_is_explained():
    listed = first_column(page("reference/experiments"), "## `summary.json`")
    assert set(METRICS) <= listed


def test_experimenter_messages():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|([^|]*)\|", page("reference/experimenter"), re.MULTILINE)
    listed = {int(number): (name, re.findall(r"`(\w+)`", keys)) for number, name, keys in rows}
    assert listed == {
        number: (kind.__name__, list(kind.__struct_fields__)) for number, kind in EXP_TYPES.items()
    }


def test_rest():
    routes = {f"{method} {path}" for method, path in Resources(None, None, None).routes()}
    assert first_column(page("reference/rest"), "## Requests") == routes


@pytest.mark.parametrize("name", MODULES)
def test_experiment_options(name: str):
    experiment = importlib.import_module(MODULES[name]).EXPERIMENT
    listed = first_column(page("reference/experiments"), f"## `{name}`")
    switches = {"vswitch", "kernel", "bridge", "ovs-userspace"}
    loads = {"new flows", "cached flows", "flow-mods", "TCP", "host VXLAN", "UDP 64 bytes"}
    assert listed - switches - loads == set(experiment.options)


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
    (faucet,) = re.findall(r"^(\w+)==", (ROOT / "scripts/requirements-faucet.txt").read_text(), re.MULTILINE)
    assert first_column(text, "## Another controller, for its test (`.venv-faucet`)") == {faucet}
    setup = (ROOT / "scripts/setup.sh").read_text()
    debian = set(re.findall(r"[\w-]+:([\w-]+)", setup.partition("NEEDED=(")[2].partition(")")[0]))
    assert first_column(text, "## Debian packages") == debian | {"python3-venv"}


def test_the_pythons_that_readme_names_are_those_that_are_tried():
    project = (ROOT / "pyproject.toml").read_text()
    tried = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert f'requires-python = ">={tried[0]}"' in project
    assert f"Python {tried[0]} to {tried[-1]}" in (ROOT / "README.md").read_text()


def test_figures_have_their_places():
    text = page("performance")
    experiments = (
        "overlay-gro",
        "l2-forwarding",
        "flow-setup",
        "lro-rules",
        "stateless-tunnel",
        "forwarding-vm",
    )
    for figures in (*experiments, "bench"):
        assert f"<!-- figures: {figures} -->" in text
    assert "experiments run overlay-gro" in " ".join(spans(text)) or "experiments run overlay-gro" in text
