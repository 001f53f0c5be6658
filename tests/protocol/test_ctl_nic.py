# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl nic` and `format`: ethtool's words, from the command line to a NIC and back."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.protocol.live import LiveAgent
from vswitch import ctl, ctl_nic


@pytest.fixture
def live(tmp_path, monkeypatch):
    monkeypatch.delenv("VSWITCH_RUN_DIR", raising=False)
    monkeypatch.setenv("VSWITCH_CTL", str(tmp_path / "s1.ctl"))
    agent = LiveAgent(control_path=tmp_path / "s1.ctl")
    agent.datapath.infos[1] = agent.datapath.infos[1]._replace(kind="wire", name="uplink0")
    yield agent
    agent.close()


@pytest.fixture
def nic(live):
    return live.datapath.nic(1)


@pytest.fixture
def says(live, capsys):
    """Run a command; returns what it printed, which must be on stdout if it is `ok`."""

    def run(command, ok=True):
        status = ctl.main(shlex.split(command))
        printed = capsys.readouterr()
        assert (status == 0) == ok, printed
        return printed.out if ok else printed.err

    return run


def test_queues(says, nic):
    says("nic s1 uplink0 -L combined 4")
    assert nic.queue_count == 4
    assert says("nic uplink0 -l") == "combined: 4\n"


def test_uplinks_are_the_wires_in_turn(says, live):
    """Whatever they are called; a port that has such a name comes first."""
    for number, kind, name in [(1, "tap", "vm1"), (2, "wire", "s1-eth2"), (3, "wire", "s1-eth3")]:
        live.datapath.infos[number] = live.datapath.infos[number]._replace(kind=kind, name=name)
    says("nic s1 uplink1 -L combined 2")
    assert [says(f"nic {port} -l") for port in ("2", "3", "uplink0")] == [
        f"combined: {count}\n" for count in (1, 2, 1)
    ]
    assert "there is no port uplink2" in says("nic uplink2 -l", ok=False)
    live.datapath.infos[1] = live.datapath.infos[1]._replace(name="uplink1")
    assert says("nic uplink1 -l") == "combined: 1\n"


def test_table_and_key(says, nic):
    says("nic uplink0 -L combined 4")
    assert "    0:   0   1   2   3   0" in says("nic s1 uplink0 -X equal 4")
    says("nic uplink0 -X weight 3 1")
    assert nic.indirection.count(0) == 96
    says(f"nic uplink0 -X hkey {':'.join(['1f'] * 40)}")
    assert nic.key == b"\x1f" * 40 and nic.indirection.count(0) == 96
    assert "RSS hash key: 1f:1f:" in says("nic uplink0 -x")
    says("nic uplink0 -X default")
    assert nic.indirection == tuple(n % 4 for n in range(128))
    assert nic.key == b"\x1f" * 40  # `ethtool -X … default` is of the table alone


def test_workers(says, nic):
    says("nic uplink0 -L combined 3")
    assert [line.split()[-1] for line in says("nic s1 uplink0 workers 0 1 1").splitlines()] == [
        "worker", "0", "1", "1",
    ]  # fmt: skip
    says("nic uplink0 workers default")
    assert [s.worker for s in nic.settings()] == [0, 0, 0]


def test_filters(says, nic):
    says("nic uplink0 -L combined 4")
    says("nic s1 uplink0 -N flow-type tcp4 dst-ip 10.0.0.2 dst-port 80 action 2")
    says("nic uplink0 -N flow-type ether dst 00:00:00:00:00:01 vni 42 priority 7 action 1")
    says("nic uplink0 -N flow-type ip4 dst-ip 10.1.0.0 m 0.0.255.255 action 3")
    assert [(f.match.to_object(), f.queue, f.priority) for f in nic.filters()] == [
        ({"protocol": "tcp", "dst_ip": "10.0.0.2", "dst_port": 80}, 2, 0),
        ({"dst_mac": "00:00:00:00:00:01", "vni": 42}, 1, 7),
        ({"dst_ip": "10.1.0.0/16"}, 3, 0),
    ]
    shown = says("nic uplink0 -n").splitlines()
    assert shown[2].split() == ["2", "7", "1", "dst_mac=00:00:00:00:00:01,vni=42"]
    says("nic uplink0 -N delete 2")
    assert [f.id for f in nic.filters()] == [1, 3]


def test_lro_per_queue_several_and_all(says, nic):
    says("nic uplink0 -L combined 3")
    says("nic s1 uplink0 -K queue 1 lro off")
    assert [s.lro for s in nic.settings()] == ["on", "off", "on"]
    says("nic uplink0 -K queue 0,2 lro rules size 9000")
    assert [(s.lro, s.completion_size) for s in nic.settings()] == [
        ("rules", 9000), ("off", 65535), ("rules", 9000),
    ]  # fmt: skip
    says("nic uplink0 -K kind lro")
    assert [(s.lro, s.lro_kind) for s in nic.settings()] == [
        ("rules", "lro"),
        ("off", "lro"),
        ("rules", "lro"),
    ]
    assert says("nic uplink0 -k").splitlines()[2].split()[:4] == ["1", "off", "lro", "65535"]


def test_lro_rules(says, nic):
    says("nic uplink0 -L combined 4")
    says("nic s1 uplink0 lro add queue 1 tcp '*' '*' '*' 110")
    says("nic uplink0 lro add queue 1,2 mac 00:00:00:00:00:01 priority 5 off")
    says("nic uplink0 lro add vni 42")
    assert [(r.match.to_object(), r.queues, r.lro, r.priority) for r in nic.rules()] == [
        ({"protocol": "tcp", "dst_port": 110}, (1,), True, 0),
        ({"dst_mac": "00:00:00:00:00:01"}, (1, 2), False, 5),
        ({"vni": 42}, None, True, 0),
    ]
    listed = [line.split() for line in says("nic uplink0 lro list").splitlines()]
    assert listed[1:] == [
        ["1", "0", "1", "on", "protocol=tcp,dst_port=110"],
        ["2", "5", "1,2", "off", "dst_mac=00:00:00:00:00:01"],
        ["3", "0", "all", "on", "vni=42"],
    ]
    says("nic uplink0 lro del 2")
    assert [r.id for r in nic.rules()] == [1, 3]


def test_statistics(says, nic):
    says("nic uplink0 -L combined 2")
    lines = says("nic s1 uplink0 -S").splitlines()
    assert "rx_queue_0_frames: 100" in lines and "rx_queue_1_merged: 90" in lines
    assert "rx_queue_1_not_merged_flags: 1" in lines
    assert not any("rx_queue_0_not_merged" in line for line in lines)


def test_json(says, nic):
    assert json.loads(says("--json nic s1 uplink0 -k"))["queues"][0]["lro"] == "on"


def test_gro_is_short_for_the_queue_s_lro(says, live):
    says("gro s1 uplink0 off")
    assert live.datapath.lro(1) == "off"


def test_formats(says, live):
    says(
        "format add s1 mine outer_proto=200 opaque_len=8 id_offset=0 id_length=2 id_value=0x88b5 check=4,3,1"
    )
    row = live.datapath.formats()["mine"]
    assert (row.outer_proto, row.id_value, row.check) == (200, 0x88B5, (4, 3, 1))
    assert any(line.split()[:3] == ["mine", "200", "8"] for line in says("format list").splitlines())
    assert "vxlan" in says("--json format list s1")
    says("format del mine")
    assert "mine" not in live.datapath.formats()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("nic", "nic takes [SWITCH] PORT"),
        ("nic uplink0", "nic takes [SWITCH] PORT"),
        ("nic uplink0 -Z", "nic takes [SWITCH] PORT"),
        ("nic uplink9 -l", "there is no port uplink9 (allowed: 1 (uplink0)"),
        ("nic uplink0 -L combined many", "'many' is no number"),
        ("nic uplink0 -L combined 99", "count: expected int <= 8"),
        ("nic uplink0 -X equal 4", "has no queue 1"),
        ("nic uplink0 -X", "-X takes equal N"),
        ("nic uplink0 -N flow-type tcp4 action 3", "has no queue 3 (allowed: 0 to 0)"),
        ("nic uplink0 -N flow-type tcp5 action 0", "there is no flow-type tcp5"),
        ("nic uplink0 -N flow-type ip4 dst-ip 10.0.0.0 m 255.0.0.0 action 0", "255.0.0.0 is no mask"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 m 1 action 0", "only IP addresses have one"),
        ("nic uplink0 -N flow-type tcp4 dst-ip", "dst-ip needs a value"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80", "a filter ends in: action QUEUE"),
        ("nic uplink0 -N flow-type icmp dst-port 80 action 0", "there is no flow-type icmp"),
        ("nic uplink0 -N delete 9", "there is no filter 9"),
        ("nic 1 -K queue 5 lro on", "has no queue 5 (allowed: 0 to 0)"),
        ("nic uplink0 -K lro maybe", "lro: 'maybe' is not known (allowed: on, off, rules, default)"),
        ("nic uplink0 -K kind x", "kind: 'x' is not known (allowed: gro, lro)"),
        (
            "nic uplink0 -N flow-type tcp4 dst-ip fe80::1 action 0",
            "fe80::1 is no address of a flow-type tcp4",
        ),
        (
            "nic uplink0 -N flow-type ip6 src-ip 10.0.0.1 action 0",
            "10.0.0.1 is no address of a flow-type ip6",
        ),
        ("nic uplink0 workers", "workers takes one for each queue"),
        ("nic uplink0 workers 0 0", "workers: 2 are given"),
        ("nic uplink0 workers 9", "expected int <= 7"),
        ("nic uplink0 lro", "lro takes add"),
        ("nic uplink0 lro add tcp '*'", "a rule matches PROTOCOL"),
        ("nic uplink0 lro add queue 1 vni 4", "has no queue 1"),
        ("format add mine", "format add takes"),
        ("format add nosuch mine", "format add takes"),
        ("format del", "format del needs the name"),
        ("format list colour=1", "format takes list [SWITCH]"),
        ("format add mine outer_proto=47", "formats.mine.opaque_len: is missing"),
        ("format add mine outer_proto=200 opaque_len=8 colour=1", "formats.mine.colour: is not known"),
        ("format del vxlan", "there is no added format 'vxlan'"),
    ],
)
def test_an_error_is_one_sentence(says, command, sentence):
    error = says(command, ok=False)
    assert error.startswith("vswitchctl: ") and error.count("\n") == 1
    assert sentence in error


def test_a_mask_ignores_the_bits_that_are_set_as_ethtool_s_do():
    assert ctl_nic.flow("ip4", ["src-ip", "10.0.0.0", "m", "0.255.255.255"])[0] == {"src_ip": "10.0.0.0/8"}
    assert ctl_nic.flow("ip6", ["src-ip", "2001:db8::", "m", "::ffff"])[0] == {"src_ip": "2001:db8::/112"}
