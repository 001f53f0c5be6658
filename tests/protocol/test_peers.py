# SPDX-License-Identifier: Apache-2.0
"""Real peers: ovs-ofctl against the listener, and Ryu's simple_switch_13 as the controller."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess

import pytest

from tests.patience import PATIENCE_S
from tests.protocol.frames import udp
from tests.protocol.harness import TO_CONTROLLER, add, m
from tests.protocol.live import Client, LiveAgent, eventually

RYU_MANAGER = """
import eventlet.wsgi
if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
    eventlet.wsgi.ALREADY_HANDLED = None
import sys
from ryu.cmd.manager import main
main(args=["--ofp-listen-host=127.0.0.1", "--ofp-tcp-listen-port", sys.argv[1], "ryu.app.simple_switch_13"])
"""


@pytest.fixture
def live():
    agent = LiveAgent(listeners=["ptcp:0"])
    yield agent
    agent.close()


@pytest.fixture
def ofctl(live):
    if shutil.which("ovs-ofctl") is None:
        pytest.skip("ovs-ofctl is not installed")

    def run(command, *args, check=True):
        target = f"tcp:127.0.0.1:{live.port}"
        done = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow13", command, target, *args],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def named(text):
    """With the ports' names replaced by their numbers."""
    for number in (1, 2, 3):
        text = text.replace(f'"tap{number}"', str(number)).replace(f"tap{number}", str(number))
    return text


def test_show(ofctl):
    text = ofctl("show")
    assert "dpid:0000000000000001" in text and "n_tables:254" in text
    assert "FLOW_STATS TABLE_STATS PORT_STATS" in text
    assert "1(tap1): addr:02:4f:00:00:01:01" in text
    assert "OFPT_GET_CONFIG_REPLY" in text and "frags=normal" in text


FLOWS = (
    "table=0, priority=7,ip,in_port=1,nw_dst=10.0.0.0/8 actions=output:2",
    "table=0, priority=6,tcp,tp_dst=80 actions=set_field:0x2a->tun_id,output:3,goto_table:1",
    "table=0, priority=5,arp,arp_tpa=10.0.0.2 actions=FLOOD",
    "table=0, priority=4,dl_vlan=5 actions=CONTROLLER:128",
    "table=1, priority=3,metadata=0x5/0xf actions=write_metadata:0x1/0x3,goto_table:9",
    "table=2, priority=2,icmp6,icmp_type=128 actions=drop",
    "table=9, priority=0 actions=write_actions(output:1)",
)


def test_add_and_dump_flows(ofctl):
    for flow in FLOWS:
        ofctl("add-flow", flow)
    dumped = named(ofctl("dump-flows"))
    for expected in (
        "priority=7,ip,in_port=1,nw_dst=10.0.0.0/8 actions=output:2",
        "priority=6,tcp,tp_dst=80 actions=set_field:0x2a->tun_id,output:3,goto_table:1",
        "priority=5,arp,arp_tpa=10.0.0.2 actions=FLOOD",
        "priority=4,dl_vlan=5 actions=CONTROLLER:128",
        "metadata=0x5/0xf actions=write_metadata:0x1/0x3,goto_table:9",
        "icmp6,icmp_type=128 actions=drop",
        "actions=write_actions(output:1)",
    ):
        assert expected in dumped


def test_traffic_is_counted_in_dump_flows_and_dump_ports(live, ofctl):
    ofctl("add-flow", "in_port=1 actions=output:2")
    live.receive(1, udp())
    eventually(lambda: live.datapath.sent, "the frame is forwarded")
    assert re.search(rf"n_packets=1, n_bytes={len(udp())}.*in_port=\"?(1|tap1)\"? ", ofctl("dump-flows"))
    assert re.search(r"port\s+\"?(1|tap1)\"?: rx pkts=1", ofctl("dump-ports"))
    assert re.search(r"port\s+\"?(2|tap2)\"?: rx pkts=0", ofctl("dump-ports", "2"))
    assert "packet_count=1" in ofctl("dump-aggregate")


def test_del_and_mod_flows(ofctl):
    ofctl("add-flow", "in_port=1,cookie=0x1 actions=output:2")
    ofctl("add-flow", "in_port=2,cookie=0x2 actions=output:1")
    ofctl("mod-flows", "in_port=1 actions=output:3")
    assert re.search(r"actions=output:\"?(3|tap3)", ofctl("dump-flows", "in_port=1"))
    ofctl("del-flows", "cookie=0x2/-1")
    assert "cookie=0x2" not in ofctl("dump-flows")
    ofctl("del-flows")
    assert "actions" not in ofctl("dump-flows")


def test_port_descriptions_and_mod_port(ofctl):
    assert "3(tap3): addr:02:4f:00:00:01:03" in ofctl("dump-ports-desc")
    ofctl("mod-port", "3", "no-forward")
    assert re.search(r"3\(tap3\).*\n\s+config:\s+NO_FWD", ofctl("dump-ports-desc"))


def test_dump_tables(ofctl):
    ofctl("add-flow", "table=4 actions=drop")
    assert "active=1" in ofctl("dump-tables")


def test_packet_out(live, ofctl):
    ofctl("packet-out", f"in_port=controller packet={udp().hex()} actions=output:2,output:3")
    assert eventually(lambda: live.datapath.take_sent(), "the frame is sent")[0].frame == udp()


def test_what_is_refused_is_said_so(ofctl):
    assert "OFPBAC_BAD_OUT_PORT" in ofctl("add-flow", "actions=TABLE", check=False)
    assert "OFPBAC_BAD_OUT_GROUP" in ofctl("add-flow", "actions=group:1", check=False)
    assert "OFPMMFC_UNKNOWN_METER" in ofctl("add-flow", "actions=meter:1,output:1", check=False)
    assert "OFPGMFC_UNKNOWN_GROUP" in ofctl("mod-group", "group_id=1,type=all", check=False)
    assert "OFPBMC_BAD_FIELD" in ofctl("add-flow", "ip,reg1=5 actions=drop", check=False)


def test_what_was_refused_is_printed_as_a_whole(ofctl):
    """`ovs-ofctl` decodes the request that an error carries."""
    outputs = ",".join(["set_field:5->tun_id,output:2"] * 40)
    text = ofctl("add-flow", f"ip,nw_dst=10.0.0.0/8,in_port=1 actions={outputs},group:9", check=False)
    (refused,) = re.findall("OFPBAC_BAD_OUT_GROUP.*?\n(.*)", text, re.DOTALL)
    assert "OFPT_FLOW_MOD" in refused and "nw_dst=10.0.0.0/8" in refused
    assert refused.count("output:2") == 40 and refused.rstrip().endswith("group:9")


def test_tables_have_no_names_at_the_prompt(ofctl):
    """Where `ovs-ofctl` shows names, as on a terminal, it shows a table by its number."""
    ofctl("add-flow", "table=3,actions=output:2")
    assert "table=3, n_packets" in ofctl("dump-flows", "--names")


def test_local_is_a_port(live, ofctl):
    shown = ofctl("show")
    assert re.search(
        r"LOCAL\(s1\): addr:02:4c:00:00:00:01\n\s+config:\s+PORT_DOWN\n\s+state:\s+LINK_DOWN", shown
    )
    ofctl("add-flow", "in_port=1 actions=LOCAL,output:2")
    assert "actions=LOCAL," in ofctl("dump-flows")
    live.receive(1, udp())
    eventually(lambda: live.datapath.sent, "the frame is forwarded")
    assert re.search(r"LOCAL: rx pkts=0.*\n\s+tx pkts=0, bytes=0, drop=1,", ofctl("dump-ports", "LOCAL"))
    ofctl("mod-port", "s1", "up")
    assert re.search(r"LOCAL\(s1\).*\n\s+config:\s+0\n\s+state:\s+LINK_DOWN", ofctl("dump-ports-desc"))


def test_groups(ofctl):
    ofctl("add-group", "group_id=1,type=select,bucket=weight:3,output:1,bucket=weight:1,output:2")
    ofctl("add-group", "group_id=2,type=ff,bucket=watch_port:1,output:1,bucket=watch_group:1,group:1")
    ofctl("add-flow", "ip actions=dec_ttl,group:2")
    dumped = named(ofctl("dump-groups"))
    assert "group_id=1,type=select,bucket=weight:3,actions=output:1,bucket=actions=output:2" in dumped
    assert "group_id=2,type=ff,bucket=watch_port:1,actions=output:1,bucket=watch_group:1,act" in dumped
    assert "group_id=1,duration=" in ofctl("dump-group-stats") and "ref_count=1" in ofctl("dump-group-stats")
    assert "Types:  0xf" in ofctl("dump-group-features")
    assert "OFPGMFC_CHAINED_GROUP" in ofctl("del-groups", "group_id=1", check=False)
    ofctl("del-groups")
    assert "group_id" not in ofctl("dump-groups") and "actions" not in ofctl("dump-flows")


def test_meters(ofctl):
    ofctl("add-meter", "meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=50")
    ofctl("add-meter", "meter=2,pktps,bands=type=dscp_remark,rate=10,prec_level=1")
    ofctl("add-flow", "actions=meter:1,output:1")
    dumped = ofctl("dump-meters")
    assert "meter=1 kbps burst stats bands=\ntype=drop rate=1000 burst_size=50" in dumped
    assert "type=dscp_remark rate=10 prec_level=1" in dumped
    assert "meter:1 flow_count:1 packet_in_count:0" in ofctl("meter-stats")
    assert "max_meter:1024 max_bands:8" in ofctl("meter-features")
    ofctl("mod-meter", "meter=1,kbps,bands=type=drop,rate=5")
    assert "rate=5" in ofctl("dump-meters", "meter=1")
    ofctl("del-meters")
    assert "meter=" not in ofctl("dump-meters") and "actions" not in ofctl("dump-flows")


def test_fragments_queues_and_tables(ofctl):
    ofctl("set-frags", "drop")
    assert "drop" in ofctl("get-frags")
    assert "0 queues" in ofctl("queue-stats")
    assert "table 0" in ofctl("dump-table-features") and "same" not in ofctl("dump-ports")
    assert ofctl("mod-table", "0", "continue", check=False) is not None


def test_monitor(live, tmp_path):
    """A tool that is sent packets, beside a controller."""
    target = f"tcp:127.0.0.1:{live.port}"
    if shutil.which("ovs-ofctl") is None:
        pytest.skip("ovs-ofctl is not installed")
    control = f"--unixctl={tmp_path}/ctl"
    command = ["ovs-ofctl", "-O", "OpenFlow13", control, "monitor", target, "65534"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as monitor:
        try:
            sessions = live.agent.switch.sessions
            eventually(lambda: any(s.miss_send_len == 65534 for s in sessions), "it is connected")
            client = Client.connect(live.port)
            client.say(add({}, TO_CONTROLLER, priority=0), m.BarrierRequest())
            client.hear(m.BarrierReply)
            live.receive(1, udp())
            client.hear(m.PacketIn)
            client.close()
            said = next(line for line in monitor.stdout if "OFPT_PACKET_IN" in line)
            assert "(via no_match)" in said and "in_port=1" in said
        finally:
            monitor.terminate()


def test_simple_switch_13(ryu_python, tmp_path):
    """Packet-in, flow-mod, packet-out by Ryu's own learning switch."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [ryu_python, "-W", "ignore", "-c", RYU_MANAGER, str(port)]
    with open(tmp_path / "ryu.log", "w") as log:
        manager = subprocess.Popen(command, stdout=log, stderr=log)
    live = LiveAgent(controllers=[f"tcp:127.0.0.1:{port}"])
    rules = live.agent.switch.tables
    try:
        eventually(lambda: len(list(rules)) == 1, "the table-miss rule came", timeout_s=20)
        live.receive(1, udp())
        eventually(lambda: {s.port for s in live.datapath.sent} == {2, 3}, "the first frame is flooded")
        live.datapath.take_sent()
        live.receive(2, udp(reverse=True))
        eventually(lambda: [s.port for s in live.datapath.sent] == [1], "the answer is sent to its port")
        eventually(lambda: len(list(rules)) == 2, "a rule is installed for the answer")
        live.datapath.take_sent()
        live.receive(1, udp())
        eventually(lambda: len(list(rules)) == 3, "a rule is installed for the way there")
        eventually(lambda: [s.port for s in live.datapath.sent] == [2], "the frame is sent to its port")
        misses = live.agent.switch.slowpath.misses
        live.datapath.take_sent()
        live.receive(1, udp())
        live.receive(2, udp(reverse=True))
        assert [s.port for s in live.datapath.take_sent()] == [2, 1]
        assert live.agent.switch.slowpath.misses == misses
    finally:
        live.close()
        manager.terminate()
        manager.wait(PATIENCE_S)
