# SPDX-License-Identifier: Apache-2.0
"""A process of a lab that ends though nobody ended it: it is told where the user looks, and in its log."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess

import pytest
from mininet.log import StreamHandlerNoNewline, lg

from tests.mininet.mn_cli import MnCli
from tests.patience import PATIENCE_S
from topologies.controllers import Ryu
from topologies.nodes import VM, VSwitch
from topologies.processes import how_it_ended, poll_until
from vswitch.ctl import CtlError

pytestmark = pytest.mark.root

ENDS = {
    signal.SIGBUS: "s1 was killed by SIGBUS (memory that it had mapped is gone)",
    signal.SIGKILL: "s1 was killed by SIGKILL (by somebody, or by the kernel when memory ran out: see dmesg)",
    signal.SIGTERM: "s1 ended with exit status 0",
}


@pytest.fixture
def said():
    """What Mininet's log, which is what a user sees, gets during the test."""
    text = io.StringIO()
    handler = StreamHandlerNoNewline(text)
    lg.addHandler(handler)
    yield text.getvalue
    lg.removeHandler(handler)


def test_a_switch_that_dies_is_told_with_its_signal(net, said):
    switch = net.addSwitch("s1", cls=VSwitch)
    log = switch.lab.run_dir / "s1.log"
    switch.start([])
    for number, end in ENDS.items():
        news = f"\n*** {end}; its log is {log}; start it anew with s1.restart()\n"
        assert switch.process
        os.kill(switch.process.pid, number)
        assert poll_until(lambda news=news: news in said(), PATIENCE_S)
        lines = log.read_text().splitlines()
        assert re.fullmatch(rf"\d{{4}}-\S+ \S+ ERROR topologies.watch: {re.escape(end)}", lines[-1])
        assert number != signal.SIGBUS or "Fatal Python error: Bus error" in lines
        with pytest.raises(CtlError) as refused:
            switch.show()
        assert str(refused.value) == f"{end.partition(' (')[0]}: start it anew with s1.restart()"
        switch.restart()
        assert switch.show()["state"] == "ready"


def test_what_the_lab_itself_ends_is_no_news(net, said):
    switch, vm = net.addSwitch("s1", cls=VSwitch), net.addHost("vm1", cls=VM)
    net.addController(Ryu("c0", lab=switch.lab))
    net.start()
    switch.restart()
    switch.stop()
    switch.start([])
    assert vm.process
    net.stop()
    assert "ended" not in said()
    assert "killed" not in said()


@pytest.mark.parametrize("name", ["c0", "vm1"])
def test_controllers_and_servers_of_vms_are_told_too(net, said, name):
    switch = net.addSwitch("s1", cls=VSwitch)
    net.addHost("vm1", cls=VM)
    c0 = net.addController(Ryu("c0", lab=switch.lab))
    net.build()
    c0.start()
    log = switch.lab.run_dir / "c0.log"
    told = {
        "c0": f"c0 was killed by SIGSEGV; its log is {log}; start it anew with c0.start()",
        "vm1": "the iperf3 server of vm1 was killed by SIGSEGV; start another with vm1.cmd('iperf3 -s &')",
    }
    os.kill(net[name].process.pid, signal.SIGSEGV)
    assert poll_until(lambda: f"\n*** {told[name]}\n" in said(), PATIENCE_S)
    if name == "c0":
        c0.start()
        assert c0.process.poll() is None


def test_the_prompt_of_mn_tells_and_what_to_do_helps():
    with MnCli("--topo", "single,2", "--switch", "vswitch,failMode=standalone", "--controller", "none") as mn:
        assert "0% dropped" in mn.enter("pingall")
        said = [mn.enter("sh kill -BUS $(cat /run/mininet-offload/*/s1.pid)")]
        while "*** s1 was killed by SIGBUS" not in "".join(said):
            said.append(mn.enter("sh sleep 0.1"))
        assert "; start it anew with py s1.restart()\n" in "".join(said)
        mn.enter("py s1.restart()")
        assert "0% dropped" in mn.enter("pingall")
        mn.leave()


def test_a_switch_that_dies_while_it_starts(net):
    switch = net.addSwitch("s1", cls=VSwitch, batch=True)
    switch.start([])
    assert switch.process
    switch.process.send_signal(signal.SIGKILL)
    with pytest.raises(Exception, match=r"^s1 was killed by SIGKILL while it was starting; "):
        switch.await_ready()


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("exit 0", "ended with exit status 0"),
        ("exit 7", "ended with exit status 7"),
        ("kill -9 $$", "was killed by SIGKILL"),
        ("kill -40 $$", "was killed by signal 40"),
    ],
)
def test_ends_in_words(command, end):
    assert how_it_ended(subprocess.run(["sh", "-c", command], check=False).returncode) == end
