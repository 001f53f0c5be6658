# SPDX-License-Identifier: Apache-2.0
"""`mn`'s prompt: what is typed there of wires, TAPs and vswitchctl, and what is answered."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.mininet.mn_cli import MnCli
from topologies.errors import LabError
from topologies.prompt_links import read_settings

pytestmark = pytest.mark.root
LINE = ("--topo", "servers,servers=3,shape=line", "--switch", "vswitch", "--controller", "orchestrator")


@pytest.fixture(scope="module")
def mn():
    """vm1 - s1 == s2 == s3 - vm3; s2 has vm2."""
    with MnCli(*LINE) as cli:
        yield cli
        assert cli.enter("link s1 s2 loss 0 delay 0 jitter 0 bw 0").count(" -> ") == 2
        assert "0% dropped" in cli.enter("pingall")  # whatever was typed, the lab is whole
        cli.leave()
        assert cli.process.returncode == 0


TYPED = [
    # wires: what is set is said, of each direction
    ("link s1 s2 loss 5", "s1-eth1 -> s2-eth1: loss is 5 %\ns2-eth1 -> s1-eth1: loss is 5 %\n"),
    ("link s2 s1 loss 5%", "s1-eth1 -> s2-eth1: loss is 5 %\ns2-eth1 -> s1-eth1: loss is 5 %\n"),
    ("link s1 s2 loss=5", "s1-eth1 -> s2-eth1: loss is 5 %\ns2-eth1 -> s1-eth1: loss is 5 %\n"),
    ("link s1 s2 loss 0 from s1", "s1-eth1 -> s2-eth1: loss is 0 %\n"),
    ("link s1 s2 from s2-eth1 loss 0", "s2-eth1 -> s1-eth1: loss is 0 %\n"),
    ("link s1 s2 delay 10ms from s1", "s1-eth1 -> s2-eth1: delay is 10ms\n"),
    ("link s1 s2 delay 10 from s1", "s1-eth1 -> s2-eth1: delay is 10ms\n"),
    ("link s1 s2 delay 10 us from s1", "s1-eth1 -> s2-eth1: delay is 10us\n"),
    ("link s1 s2 delay .5s jitter 1ms from s1", "s1-eth1 -> s2-eth1: delay is 500ms, jitter is 1ms\n"),
    ("link s1 s2 delay 0 jitter 0 from s1", "s1-eth1 -> s2-eth1: delay is 0s, jitter is 0s\n"),
    ("link s1 s2 bw 100 from s1", "s1-eth1 -> s2-eth1: bw is 100 Mbit/s\n"),
    ("link s1 s2 bw 500kbit from s1", "s1-eth1 -> s2-eth1: bw is 0.5 Mbit/s\n"),
    ("link s1 s2 bw 1 Gbit/s from s1", "s1-eth1 -> s2-eth1: bw is 1000 Mbit/s\n"),
    (
        "link s1 s2 max_queue_size 100 ecn_threshold 50 from s1",
        "s1-eth1 -> s2-eth1: max_queue_size is 100 frames, ecn_threshold is 50 frames\n",
    ),
    (
        "link s1 s2 duplicate 0.5 reorder 1.5 seed 7 from s1",
        "s1-eth1 -> s2-eth1: duplicate is 0.5 %, reorder is 1.5 %, seed is 7\n",
    ),
    (
        "link s1 s2",
        "s1-eth1 -> s2-eth1: bw 1000 Mbit/s, max_queue_size 100 frames, duplicate 0.5 %, reorder 1.5 %, "
        "ecn_threshold 50 frames, seed 7\ns2-eth1 -> s1-eth1: ideal\n",
    ),
    (
        "link s1 s2 bw 0 max_queue_size 0 duplicate 0 reorder 0 ecn_threshold 0 seed 0 from s1",
        "s1-eth1 -> s2-eth1: bw is 0 Mbit/s, ",
    ),
    ("link s1 s2 down", ""),
    ("links", "s1-eth1<->s2-eth1 (DOWN DOWN) wire, ideal\n"),
    ("link s1 s2 up", ""),
    # words that mean nothing
    (
        "link s1 s2 los 5",
        "*** Error: s1-s2: a wire has no setting 'los', the nearest is 'loss' (allowed: bw, ",
    ),
    ("link s1 s2 dwon", "*** Error: s1-s2: a wire has no setting 'dwon', the nearest is 'down' (allowed: "),
    ("link s1 s2 mtu 9000", "*** Error: s1-s2: a wire has no setting 'mtu'"),
    ("link s1 s2 loss", "*** Error: s1-s2: loss needs a value\n"),
    ("link s1 s2 loss 5 loss 6", "*** Error: s1-s2: loss is given twice\n"),
    ("link s1 s2 loss 120", "*** Error: s1-s2.loss: '120' is out of range (allowed: a number from 0 to 100"),
    ("link s1 s2 loss 5 delay 10mss", "*** Error: s1-s2.delay: '10mss' is no duration"),
    ("link s1 s2 loss 5 down", "*** Error: s1-s2: down stands alone: link NODE1 NODE2 down\n"),
    ("link s1 s2 down loss 5", "*** Error: s1-s2: down stands alone"),
    (
        "link s1 s2 loss 5 from s3",
        "*** Error: s1-s2: nothing is sent from 's3' (allowed: s1, s1-eth1, s2, s2-eth1)\n",
    ),
    ("link s1 s2 loss 5 from", "*** Error: s1-s2: from needs a node\n"),
    ("link s1 s2 from s1", "*** Error: s1-s2: what s1 sends is to be set to what? As in: loss 5 from s1\n"),
    ("link s1 s9 loss 5", "*** Error: link: there is no node 's9'"),
    ("link s1", "*** Error: link takes two nodes, and what to do: link s1 s2 down, link s1 s2 loss 5"),
    ("link s1 s3 loss 5", "*** Error: s1-s3: there is no link between the two: `links` lists them\n"),
    ("link vm1 s1 loss 5", "*** Error: vm1-s1: a vNIC is not shaped, the wires between the servers are"),
    ("lnk s1 s2 loss 5", "*** Unknown command: lnk s1 s2 loss 5, the nearest is 'link'\n"),
    ("link s1 s2", "s1-eth1 -> s2-eth1: ideal\ns2-eth1 -> s1-eth1: ideal\n"),  # nothing came of all these
    # what a port is
    ("intfs", "s1: lo,s1-eth1 (wire to s2-eth1),s1-eth2 (port for the TAP vm1-eth0 of vm1)\n"),
    ("intfs", "vm1: vm1-eth0 (TAP, port s1-eth2 of s1)\n"),
    ("links", "vm1-eth0<->s1-eth2 (OK OK) TAP\n"),
    ("net", "s1 lo:  s1-eth1:s2-eth1 (wire) s1-eth2:vm1-eth0 (TAP)"),
    ("ports", "s1 lo:0 s1-eth1:1 (wire to s2-eth1) s1-eth2:2 (port for the TAP vm1-eth0 of vm1)"),
    (
        "dump",
        "<VSwitch s1: lo:127.0.0.1,s1-eth1 (wire to s2-eth1),s1-eth2 (port for the TAP vm1-eth0 of vm1) pid",
    ),
    (
        "s1 ip link show dev s1-eth1",
        "*** s1-eth1 is no device of the kernel: wire to s2-eth1. See: s1 vswitchctl wire 1; "
        "s1 vswitchctl capture 1 -w FILE\n",
    ),
    (
        "sh ip link show dev s1-eth2",
        "*** s1-eth2 is no device of the kernel: port for the TAP vm1-eth0 of vm1. "
        "See: vm1 ip link show vm1-eth0; s1 vswitchctl capture 2 -w FILE\n",
    ),
    # vswitchctl takes names of switches, which are no addresses there
    ("s1 vswitchctl show s1", "s1: ready, "),
    ("s1 vswitchctl wire s2 s2-eth1 loss=0", "s2-eth1: loss is 0 %"),
    ("s1 vswitchctl flows s1", "vswitchctl: there is no command 'flows', the nearest is 'flow'"),
]


@pytest.mark.parametrize(("typed", "answered"), TYPED)
def test_what_is_typed_at_the_prompt(mn, typed, answered):
    printed = mn.enter(typed).replace("\r", "")
    assert answered in printed
    assert "Traceback" not in printed
    if not answered:
        assert printed == ""
    if answered.startswith("***"):
        assert printed.count("***") == 1


def test_what_is_set_happens_to_packets(mn):
    """Delay in one direction, then loss in the other."""
    mn.enter("link s1 s2 delay 200ms from s1")
    slow = mn.enter("vm1 ping -c 3 -i 0.2 vm2")
    assert min(float(rtt) for rtt in re.findall(r"time=([\d.]+) ms", slow)) >= 200, slow
    mn.enter("link s1 s2 delay 0 from s1")
    mn.enter("link s1 s2 loss 100 from s2")
    assert "100% packet loss" in mn.enter("vm1 ping -c 2 -i 0.2 -W 0.5 vm2")
    mn.enter("link s1 s2 loss 0")
    assert " 0% packet loss" in mn.enter("vm1 ping -c 2 -i 0.2 vm2")


@pytest.mark.skipif(shutil.which("ovs-ofctl") is None, reason="ovs-ofctl is not installed")
def test_ovs_ofctl_takes_a_switch_s_name(mn):
    assert "OFPT_FEATURES_REPLY" in mn.enter("s1 ovs-ofctl -O OpenFlow13 show s1")


def test_an_error_of_a_command_does_not_end_the_lab(mn):
    assert mn.enter("py s1.attach('s1-eth9')").strip().startswith("s1-eth9: the ports of s1 are fixed")
    assert "s1: ready" in mn.enter("s1 vswitchctl show")


@pytest.mark.parametrize(
    ("words", "settings", "sender"),
    [
        ("loss 5", {"loss": "5"}, None),
        ("loss=5 delay=10ms", {"loss": "5", "delay": "10ms"}, None),
        ("loss 5 % delay 10 ms from s1", {"loss": "5%", "delay": "10ms"}, "s1"),
        ("from s1 bw 1 Gbit", {"bw": "1Gbit"}, "s1"),
        ("seed 1 max_queue_size 10", {"seed": "1", "max_queue_size": "10"}, None),
    ],
)
def test_words_of_settings(words, settings, sender):
    assert read_settings("s1-s2", words.split()) == (settings, sender)


@pytest.mark.parametrize(
    "words", ["loss", "loss 5 los 5", "loss 5 from", "from s1 from s2", "5", "loss 5 up"]
)
def test_words_that_are_no_settings(words):
    with pytest.raises(LabError, match=r"^s1-s2: "):
        read_settings("s1-s2", words.split())
