# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl nic` and `format`: ethtool's words, from the command line to a NIC and back."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.protocol.live import LiveAgent
from vswitch import ctl
from vswitch.cli import nic_words
from vswitch.cli.ethtool import ALIASES, ELSEWHERE, FEATURES_ELSEWHERE


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
    """Run a command, whose status must be `status`; returns what it printed."""

    def run(command, status=0):
        ended = ctl.main(shlex.split(command))
        printed = capsys.readouterr()
        assert ended == status, printed
        assert (printed.err if status == 0 else printed.out) == ""
        return printed.out or printed.err

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
    assert "there is no port uplink2" in says("nic uplink2 -l", status=1)
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


def test_what_is_done_is_said_in_words(says):
    """A change without a table of its own is one sentence, and what is added tells its number."""
    for command, sentence in (
        ("nic uplink0 -L combined 4", "uplink0 has 4 receive queues"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 action 2", "uplink0: filter 1 added"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 action 2", "uplink0: filter 1 is there already"),
        (
            "nic uplink0 -N flow-type tcp4 dst-port 80 action 3",
            "uplink0: filter 2 added in place of filter 1",
        ),
        ("nic uplink0 -N delete 2", "uplink0: filter 2 deleted"),
        ("nic uplink0 -n", "port1 has no filters"),
        ("nic uplink0 lro add queue 2,1 vni 42", "uplink0: rule 3 added"),
        ("nic uplink0 lro add queue 1,2 vni 42", "uplink0: rule 3 is there already"),
        ("nic uplink0 lro add queue 1,2 vni 42 off", "uplink0: rule 4 added in place of rule 3"),
        ("nic uplink0 lro del 4", "uplink0: rule 4 deleted"),
        ("nic uplink0 lro list", "port1 has no LRO rules"),
        ("nic uplink0 -L combined 1", "uplink0 has 1 receive queue"),
        ("gro uplink0 off", "uplink0: coalescing of queue 0 is off"),
        (
            "format add mine outer_proto=200 opaque_len=8 id_offset=0 id_length=2 id_value=0x88b5",
            "format mine added",
        ),
        ("format del mine", "format mine deleted"),
    ):
        assert says(command) == f"{sentence}\n"


def test_the_number_of_what_is_added_is_in_json_too(says):
    says("nic uplink0 -L combined 4")
    added = json.loads(says("nic uplink0 -N flow-type tcp4 dst-port 80 action 2 --json"))
    assert (added["number"], added["before"]) == (1, None)


@pytest.mark.parametrize("line", ["--json {}", "nic --json {}", "nic {} --json", "nic uplink0 --json -k"])
def test_json_may_stand_anywhere(says, line):
    words = "uplink0 -k" if line.startswith("nic") else "nic uplink0 -k"
    assert json.loads(says(line.format(words)))["queues"][0]["lro"] == "on"


@pytest.mark.parametrize(
    ("typed", "same_as"),
    [
        ("-u", "-n"),
        ("--show-nfc", "-n"),
        ("--show-features", "-k"),
        ("--statistics", "-S"),
        ("--show-channels", "-l"),
        ("--show-rxfh", "-x"),
    ],
)
def test_ethtool_s_other_names(says, typed, same_as):
    says("nic uplink0 -L combined 2")
    says("nic uplink0 -U flow-type tcp4 dst-port 80 action 1")
    assert says(f"nic uplink0 {typed}") == says(f"nic uplink0 {same_as}")


def test_every_name_of_ethtool_s_means_one_thing():
    assert not ALIASES.keys() & ELSEWHERE.keys()
    assert set(ALIASES.values()) == {"-l", "-L", "-x", "-X", "-n", "-N", "-k", "-K", "-S", "-i"}


@pytest.mark.parametrize("option", sorted(ELSEWHERE))
def test_what_stands_for_ethtool_s_other_options(says, option):
    """Also with words behind it, as it would be typed."""
    for words in ("", " rx-usecs 50"):
        assert (
            says(f"nic s1 uplink0 {option}{words}", status=2)
            == f"vswitchctl: {option}: {ELSEWHERE[option]}\n"
        )


@pytest.mark.parametrize("feature", sorted(FEATURES_ELSEWHERE))
def test_what_stands_for_ethtool_s_other_features(says, feature):
    said = says(f"nic s1 uplink0 -K {feature} off", status=2)
    assert said == f"vswitchctl: -K {feature}: {FEATURES_ELSEWHERE[feature]}\n"


def test_driver(says, live):
    live.datapath.infos[1] = live.datapath.infos[1]._replace(peer="/dev/shm/w")
    assert says("nic uplink0 -i") == "driver: vswitch-wire\nversion: 0.1.0\nbus-info: /dev/shm/w\n"


@pytest.mark.parametrize(
    ("words", "lro", "kind"),
    [
        ("gro on", "on", "gro"),
        ("gro off", "off", "lro"),
        ("gro rules", "rules", "gro"),
        ("rx-gro-hw on", "on", "gro"),
        ("generic-receive-offload on", "on", "gro"),
        ("large-receive-offload off", "off", "lro"),
        ("lro on", "on", "lro"),
        ("lro off kind gro", "off", "gro"),
        ("queue 0 gro on", "on", "gro"),
    ],
)
def test_gro_and_lro_are_one_setting(says, nic, words, lro, kind):
    says("nic uplink0 -K lro rules kind lro")
    says(f"nic uplink0 -K {words}")
    assert [(s.lro, s.lro_kind) for s in nic.settings()] == [(lro, kind)]


def test_all_reasons(says):
    says("nic uplink0 -L combined 2")
    assert "rx_queue_0_not_merged_flags: 0" in says("nic uplink0 -S --all").splitlines()


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        ("nic", 2, "nic takes [SWITCH] PORT"),
        ("nic uplink0", 2, "nic takes [SWITCH] PORT"),
        ("nic -k uplink0", 2, "the port stands before -k: nic takes [SWITCH] PORT"),
        ("nic uplink0 worker", 2, "'worker' is nothing that a NIC does, the nearest is 'workers'"),
        ("nic s1 uplink0 2 -k", 2, "'2' is one word too many before -k"),
        ("nic uplink0 -Z", 2, "a NIC has no option '-Z'"),
        ("nic uplink0 --show-chanels", 2, "no option '--show-chanels', the nearest is '--show-channels'"),
        ("nic uplink0 -k --all", 2, "--all goes with -S, not with -k"),
        ("nic uplink0 -k queue", 2, "-k takes no word, and 'queue' is given"),
        ("nic uplink9 -l", 1, "there is no port uplink9, the nearest is 'uplink0' (allowed: 1 (uplink0)"),
        ("nic s2 uplink0 -l", 1, "no switch named s2 is running (looked in "),
        ("nic uplink0 -L combined many", 2, "'many' is no number"),
        (
            "nic uplink0 -L combind 2",
            2,
            "there is no 'combind', the nearest is 'combined': -L takes combined N",
        ),
        ("nic uplink0 -L rx 2", 2, "-L rx: a queue here receives and sends"),
        ("nic uplink0 -L combined 99", 1, "count: expected int <= 8"),
        ("nic uplink0 -X equal 4", 1, "has no queue 1"),
        ("nic uplink0 -X", 2, "-X takes equal N"),
        ("nic uplink0 -X wieght 1", 2, "there is no 'wieght', the nearest is 'weight': -X takes"),
        ("nic uplink0 -N flow-type tcp4 action 3", 1, "has no queue 3 (allowed: 0 to 0)"),
        ("nic uplink0 -N flow-type tcp5 action 0", 2, "there is no 'tcp5', the nearest is 'tcp"),
        ("nic uplink0 -N flow-tpe tcp4 action 0", 2, "there is no 'flow-tpe', the nearest is 'flow-type'"),
        ("nic uplink0 -N flow-type tcp4 dst-prot 80 action 0", 2, "'dst-prot', the nearest is 'dst-port'"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 acton 0", 2, "'acton', the nearest is 'action'"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 dst-port 81 action 0", 2, "dst-port is given twice"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 action 0 action 0", 2, "action is given twice"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 action 0 loc 4", 2, "loc: filters are numbered"),
        ("nic uplink0 -N rx-flow-hash tcp4 sdfn", 2, "rx-flow-hash: the hash is of"),
        ("nic uplink0 -N flow-type ip4 dst-ip 10.0.0.0 m 255.0.0.0 action 0", 2, "255.0.0.0 is no mask"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 m 1 action 0", 2, "only IP addresses have one"),
        ("nic uplink0 -N flow-type tcp4 dst-ip", 2, "dst-ip needs a value"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80", 2, "a filter ends in: action QUEUE"),
        ("nic uplink0 -N flow-type icmp dst-port 80 action 0", 2, "flow-type: there is no 'icmp'"),
        ("nic uplink0 -N delete 9", 1, "there is no filter 9"),
        ("nic 1 -K queue 5 lro on", 2, "has no queue 5 (allowed: 0 to 0)"),
        ("nic uplink0 -K lro maybe", 2, "-K lro: there is no 'maybe' (allowed: on, off, rules, default)"),
        ("nic uplink0 -K gro onn", 2, "-K gro: there is no 'onn', the nearest is 'on'"),
        ("nic uplink0 -K gro on rx-gro-hw off", 2, "gro is given twice"),
        ("nic uplink0 --jsn -k", 2, "a NIC has no option '--jsn', the nearest is '--json'"),
        ("nic -kk uplink0", 2, "a NIC has no option '-kk'"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 action -1", 2, "action -1: a filter chooses a queue"),
        ("nic uplink0 -N flow-type tcp4 dst-port 80 action -2", 1, "queue: expected int >= 0"),
        ("nic uplink0 -K kind x", 2, "-K kind: there is no 'x' (allowed: gro, lro)"),
        ("nic uplink0 -K lro on gro off", 2, "gro and lro are one setting here"),
        ("nic uplink0 -K lro on lro off", 2, "lro is given twice"),
        ("nic uplink0 -K lor on", 2, "there is no 'lor', the nearest is 'lro': -K takes"),
        ("nic uplink0 -K queue 0", 2, "-K takes [queue Q] lro|gro"),
        (
            "nic uplink0 -N flow-type tcp4 dst-ip fe80::1 action 0",
            2,
            "fe80::1 is no address of a flow-type tcp4",
        ),
        (
            "nic uplink0 -N flow-type ip6 src-ip 10.0.0.1 action 0",
            2,
            "10.0.0.1 is no address of a flow-type ip6",
        ),
        ("nic uplink0 workers", 2, "workers takes one for each queue"),
        ("nic uplink0 workers 0 0", 1, "workers: 2 are given"),
        ("nic uplink0 workers 9", 1, "workers[0]: expected int <= 7"),
        ("nic uplink0 lro", 2, "lro takes add"),
        ("nic uplink0 lro ad vni 4", 2, "there is no 'ad', the nearest is 'add': lro takes add"),
        ("nic uplink0 lro add tcp '*'", 2, "a rule matches PROTOCOL"),
        ("nic uplink0 lro add vmi 42", 2, "'vmi 42' is no match, the nearest is 'vni': a rule matches"),
        ("nic uplink0 lro add flow-type tcp4 dst-port 80 action 1", 2, "there is no 'action'"),
        ("nic uplink0 lro add queue 1 vni 4", 1, "has no queue 1"),
        ("gro 1 maybe", 2, "'maybe' is neither on nor off: gro takes [SWITCH] PORT on|off"),
        ("gro 1 on -q two", 2, "'two' is no number"),
        ("gro 1 on --quue 0", 2, "gro has no option '--quue', the nearest is '--queue'"),
        ("format", 2, "there is no action ''"),
        ("format ad mine", 2, "there is no action 'ad', the nearest is 'add' (allowed: list, add, del)"),
        ("format add mine", 2, "add needs the numbers of 'mine': format takes"),
        ("format add s1 mine two outer_proto=47", 2, "'two' is one word too many"),
        ("format add", 2, "add needs the name"),
        ("format del", 2, "del needs the name"),
        ("format list colour=1", 2, "list takes no colour=…: format takes list [SWITCH]"),
        ("format add mine outer_proto=47 outer_proto=48", 2, "outer_proto is given twice"),
        ("format add mine outer_proto=47", 1, "formats.mine.opaque_len: is missing"),
        (
            "format add mine outer_prot=200 opaque_len=8",
            1,
            "formats.mine.outer_prot: is not known",
        ),
        ("format del vxlan", 1, "there is no added format 'vxlan'"),
    ],
)
def test_an_error_is_one_sentence(says, command, status, sentence):
    error = says(command, status)
    assert error.startswith("vswitchctl: ") and error.count("\n") == 1
    assert sentence in error


def test_a_mask_ignores_the_bits_that_are_set_as_ethtool_s_do():
    assert nic_words.flow("ip4", ["src-ip", "10.0.0.0", "m", "0.255.255.255"], ())[0] == {
        "src_ip": "10.0.0.0/8"
    }
    assert nic_words.flow("ip6", ["src-ip", "2001:db8::", "m", "::ffff"], ())[0] == {
        "src_ip": "2001:db8::/112"
    }
