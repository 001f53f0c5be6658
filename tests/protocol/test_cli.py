# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl`: what is typed, what is printed, and the exit status."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.protocol.live import LiveAgent, eventually
from vswitch import ctl
from vswitch.cli import counters
from vswitch.cli.arguments import EVERYWHERE
from vswitch.cli.main import COMMANDS
from vswitch.flow import DropReason, PortAccount, PortCounters


@pytest.fixture
def live(tmp_path, monkeypatch):
    monkeypatch.delenv("VSWITCH_RUN_DIR", raising=False)
    monkeypatch.setenv("VSWITCH_CTL", str(tmp_path / "s1.ctl"))
    agent = LiveAgent(wire=2, control_path=tmp_path / "s1.ctl")
    agent.datapath.infos[2] = agent.datapath.infos[2]._replace(name="s1-eth2")
    yield agent
    agent.close()


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


def count(live, number):
    """Frames that came in at port 1 and were dropped as table misses."""
    live.datapath.discarded += [DropReason.TABLE_MISS] * number
    before = live.datapath.infos[1].counters
    after = before._replace(rx_packets=before.rx_packets + number, rx_bytes=before.rx_bytes + 100 * number)
    live.datapath.infos[1] = live.datapath.infos[1]._replace(counters=after)


# --- counters --------------------------------------------------------------------------------------------


def test_counters_show_what_is_not_zero_and_what_has_changed(says, live):
    assert says("counters") == "nothing was counted yet (--all shows the zeros)\n"
    count(live, 2)
    table = [["reason", "packets"], ["table_miss", "2"], [], ["port", "rx_bytes", "rx_packets"]]
    table.append(["tap1", "200", "2"])
    lines = says("counters s1").splitlines()
    assert [line.split() for line in lines[:6]] == [*table, []]
    assert re.fullmatch(r"since the last look, [\d.]+ s ago:", lines[6])
    assert [line.split() for line in lines[7:]] == table
    count(live, 1)
    text, _, since = says("counters").partition("since the last look")
    assert ["table_miss", "3"] in [line.split() for line in text.splitlines()]
    assert ["table_miss", "1"] in [line.split() for line in since.splitlines()]
    assert "no change since the last look, " in says("counters").splitlines()[-1]


def test_who_asks_for_json_does_not_look(says, live):
    says("counters")
    count(live, 1)
    assert json.loads(says("counters --json"))["reasons"]["table_miss"] == 1
    assert "since the last look" in says("counters")


def test_counters_tell_which_port_dropped_what_on_which_way(says, live, monkeypatch):
    drops = [{"rx_too_short": 3}, {"mtu_exceeded": 1}]
    monkeypatch.setattr(live.datapath, "accounts", lambda: {"tap1": PortAccount(PortCounters(), *drops)})
    lines = [line.split() for line in says("counters").splitlines()]
    assert lines[-3:] == [
        ["port", "dropped", "on", "reason", "packets"],
        ["tap1", "receiving", "rx_too_short", "3"],
        ["tap1", "sending", "mtu_exceeded", "1"],
    ]
    drops[1] = {"mtu_exceeded": 1, "wire_loss": 5}
    _, _, since = says("counters").partition("since the last look")
    assert [line.split() for line in since.splitlines()[2:]] == [["tap1", "sending", "wire_loss", "5"]]


def test_all_counters(says, live):
    lines = [line.split() for line in says("counters --all").splitlines()]
    assert ["slow_path_misses", "0"] in lines
    (wire,) = (line for line in lines if line[:1] == ["s1-eth2"])
    assert set(wire[1:]) == {"0"}


def test_watch_goes_on_with_what_changes(says, live, monkeypatch):
    """What happens between two looks, until Ctrl-C."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 1:
            count(live, 1)
        if len(slept) == 3:
            raise KeyboardInterrupt

    count(live, 2)
    monkeypatch.setattr(counters, "sleep", sleep)
    watched = says("counters s1 --watch 5")
    assert slept == [5, 5, 5]
    total, changed, nothing = (part for part in re.split(r"(?m)^\d\d:\d\d:\d\d, in ", watched))
    assert ["table_miss", "2"] in [line.split() for line in total.splitlines()]
    assert ["table_miss", "1"] in [line.split() for line in changed.splitlines()]
    assert nothing.splitlines()[1] == "nothing has changed"


def test_watch_prints_an_object_a_line_as_json(says, live, monkeypatch):
    def sleep(seconds):
        assert seconds == counters.INTERVAL_S
        if live.datapath.discarded:
            raise KeyboardInterrupt
        count(live, 1)

    monkeypatch.setattr(counters, "sleep", sleep)
    total, changed = map(json.loads, says("counters --json --watch s1").splitlines())
    assert (total["reasons"]["slow_path_misses"], total["ports"]["tap1"]["rx_packets"]) == (0, 0)
    assert changed["reasons"] == {"table_miss": 1}
    assert changed["ports"]["tap1"]["rx_packets"] == 1


def test_ctrl_c_ends_watching(live, tmp_path):
    """The program itself, and the signal."""
    with subprocess.Popen(
        [sys.executable, "-m", "vswitch.ctl", "counters", "--all", "--watch", "0.1"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    ) as watching:
        assert watching.stdout.readline() and watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
    assert watching.returncode == 0


def test_a_switch_that_ends_ends_watching(says, live, monkeypatch):
    monkeypatch.setattr(counters, "sleep", lambda _seconds: live.close())
    assert ctl.main(["counters", "--watch"]) == 1


# --- wires -----------------------------------------------------------------------------------------------


def test_wire(says, live):
    assert says("wire 2 loss=1.5 delay=5ms") == "s1-eth2: loss is 1.5 %, delay is 5ms\n"
    assert says("wire s1 s1-eth2 bw=100") == "s1-eth2: bw is 100 Mbit/s\n"
    assert live.datapath.wires == {2: {"loss": 1.5, "delay": "5ms", "bw": 100}}
    title, headings, *lines = says("wire uplink0").splitlines()
    assert title == "s1-eth2, for what this switch sends:"
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert headings.split() == ["setting", "value"]
    assert shown["loss"] == "1.5 %" and shown["delay"] == "5ms" and shown["jitter"] == "0s"
    assert shown["bw"] == "100 Mbit/s" and shown["link"] == "up" and shown["max_queue_size"] == "0 frames"
    assert json.loads(says("wire uplink0 --json"))["loss"] == 1.5
    assert json.loads(says("--json wire 2 seed=7")) == {"port": 2, "name": "s1-eth2", "seed": 7}


@pytest.mark.parametrize(
    ("port", "name"),
    [
        ("2", "s1-eth2"),
        ("s1-eth2", "s1-eth2"),
        ("uplink0", "s1-eth2"),
        ("1", "tap1"),
        ("s1-eth1", "tap1"),
        ("tap1", "tap1"),
        ("LOCAL", "s1"),
    ],
)
def test_names_of_a_port(says, live, port, name):
    assert says(f"trace in_port={port}").startswith("packet: ")
    assert live.agent._methods()["capture.stop"](port=port)["name"] == name


# --- the words of a line ---------------------------------------------------------------------------------

WRONG = [
    # nothing, commands
    ("", 2, "a command is missing (allowed: show, counters, "),
    ("--json", 2, "a command is missing"),
    ("shwo", 2, "there is no command 'shwo', the nearest is 'show' (allowed: show, "),
    ("flows s1", 2, "there is no command 'flows', the nearest is 'flow'"),
    ("SHOW", 2, "there is no command 'SHOW', the nearest is 'show'"),
    ("s1 show", 2, "there is no command 's1'"),
    ("ca", 2, "there is no command 'ca', the nearest is 'capture'"),
    ("x", 2, "there is no command 'x' (allowed: "),
    # options
    (
        "show --jsn",
        2,
        "show has no option '--jsn', the nearest is '--json' (allowed: --json, -r",
    ),
    ("--jsn show", 2, "vswitchctl has no option '--jsn', the nearest is '--json'"),
    ("show --all", 2, "show has no option '--all'"),
    ("--all counters", 2, "--all stands behind the command whose option it is"),
    ("--json=yes show", 2, "--json takes no value, and 'yes' is given"),
    ("show --json --json", 2, "--json is given twice"),
    ("show -r", 2, "-r needs a value: -r, --run-dir RUN_DIR"),
    ("show --run-dir=/nonexistent", 1, "no switch is running (looked in /nonexistent)"),
    ("-r /nonexistent show", 1, "no switch is running (looked in /nonexistent)"),
    ("show s1 -r /nonexistent", 1, "no switch named s1 is running (looked in /nonexistent)"),
    ("counters --wach", 2, "counters has no option '--wach', the nearest is '--watch'"),
    ("counters --watch 0", 2, "--watch: 0 s is out of range (allowed: 0.1 to 3600)"),
    ("counters --watch nan", 2, "--watch: nan s is out of range"),
    ("counters --watch=soon", 2, "--watch: 'soon' is no number"),
    ("flow --lst", 2, "flow has no option '--lst', the nearest is '--list'"),
    # switches and ports
    ("show s9", 1, "no switch named s9 is running (looked in "),
    ("show s1 s2", 2, "'s2' is one word too many: show takes [SWITCH]"),
    ("counters s1=2", 2, "'s1=2' is no name: counters takes [SWITCH]"),
    ("wire nine loss=1", 1, "there is no port nine (allowed: 1 (tap1), 2 (s1-eth2), 3 (tap3))"),
    ("wire s1-et2", 1, "there is no port s1-et2, the nearest is 's1-eth2' (allowed: 1 (tap1)"),
    ("wire local", 1, "there is no port local, the nearest is 'LOCAL'"),
    ("wire 1", 1, "port 1 is no wire"),
    ("wire 1 loss=1", 1, "port 1 is no wire"),
    # wires
    ("wire", 2, "a word is missing: wire takes [SWITCH] PORT [KEY=VALUE…], as in: wire s1 2 loss=1"),
    ("wire loss=1", 2, "a word is missing: wire takes"),
    ("wire s1 2 3", 2, "'3' is one word too many: wire takes"),
    ("wire s1 loss=1 2", 2, "'2' stands behind a KEY=VALUE: wire takes"),
    ("wire 2 los=1", 1, "s1-eth2: a wire has no setting 'los', the nearest is 'loss' (allowed: bw, "),
    ("wire 2 method=2 path=3", 1, "s1-eth2: a wire has no setting 'method'"),
    ("wire 2 loss=1 loss=2", 2, "loss is given twice: '1' and '2'"),
    ("wire 2 port=2", 2, "'port' is no setting of a wire: wire takes"),
    ("wire 2 =1", 2, "'' is no setting of a wire: wire takes"),
    ("wire 2 loss=", 1, "s1-eth2.loss: '' is out of range"),
    ("wire 2 loss=120", 1, "s1-eth2.loss: 120 is out of range (allowed: a number from 0 to 100"),
    ("wire 2 delay=5mss", 1, "s1-eth2.delay: '5mss' is no duration"),
    ("wire 2 link=dwon", 1, "s1-eth2.link: there is no 'dwon', the nearest is 'down' (allowed: up, down)"),
    # trace
    ("trace", 2, "the fields are missing: trace takes [SWITCH] FIELDS"),
    ("trace s1 in_port=1 tcp", 2, "'tcp' is one word too many"),
    ("trace in_prot=1", 1, "flow: there is no field 'in_prot', the nearest is 'in_port'"),
    ("trace in_port=1,tpc", 1, "flow: there is no kind of packet 'tpc', the nearest is 'tcp'"),
    ("trace in_port=tap9", 1, "there is no port tap9, the nearest is 'tap"),
    ("trace in_port=s2-eth1", 1, "there is no port s2-eth1, the nearest is 's1-eth"),
    ("trace in_port=1 --frame 0", 1, "frame: this is no frame"),
    ("trace in_port=1 --fram 00", 2, "trace has no option '--fram', the nearest is '--frame'"),
    ("trace in_port=1 --frame", 2, "--frame needs a value: --frame HEX"),
    # capture
    ("capture 2", 2, "one of -w FILE and --stop is needed: capture takes [SWITCH] PORT (-w FILE"),
    ("capture 2 -w x --stop", 2, "one of -w FILE and --stop is needed"),
    ("capture 2 --stop -t 5", 2, "--stop takes no -t SECONDS"),
    ("capture -w x", 2, "a word is missing"),
    ("capture 2 -w x -t long", 2, "--seconds: 'long' is no number"),
    ("capture 2 -w x -t 0", 1, "seconds: 0.0 is out of range"),
    ("capture 2 -w x -s 5", 2, "capture has no option '-s'"),
    ("capture s1-eth4 -w x", 1, "there is no port s1-eth4, the nearest is 's1-eth"),
]


@pytest.mark.parametrize(("line", "status", "sentence"), WRONG)
def test_a_wrong_word_is_refused_by_name(says, line, status, sentence):
    error = says(line, status)
    assert error.startswith("vswitchctl: ") and error.count("\n") == 1
    assert sentence in error


@pytest.mark.parametrize("line", ["--json {}", "{} --json", "{} --json s1", "{} s1 --json"])
@pytest.mark.parametrize("command", ["show", "counters", "rules", "port", "flow"])
def test_json_may_stand_anywhere(says, command, line):
    json.loads(says(line.format(command)))


@pytest.mark.parametrize("line", ["-r {} show", "show -r {}", "show s1 --run-dir={}", "--run-dir {} show s1"])
def test_the_run_folder_may_stand_anywhere(says, monkeypatch, tmp_path, line):
    monkeypatch.delenv("VSWITCH_CTL")
    assert says(line.format(tmp_path)).startswith("s1: ready")


def test_help_explains_each_command(says):
    overview = says("-h")
    for name, command in COMMANDS.items():
        assert f"  {name} " in overview
        explained = says(f"{name} -h")
        assert explained == says(f"--help {name}")
        assert explained.startswith(f"usage: vswitchctl {name} {command.usage}\n")
        for option in (*command.options, *EVERYWHERE):
            assert option.usage in explained


def test_stop(says, live):
    assert says("stop") == "the switch ends\n"
    eventually(lambda: not live._thread.is_alive(), "the agent has ended")


def test_which_switch_is_meant_when_there_are_several(says, monkeypatch, tmp_path):
    (tmp_path / "s2.ctl").touch()
    monkeypatch.delenv("VSWITCH_CTL")
    monkeypatch.setenv("VSWITCH_RUN_DIR", str(tmp_path))
    assert says("show s1").startswith("s1: ready")
    error = says("show", 1)
    assert "there is more than one: " in error and "name the switch or use -r RUN_DIR" in error
    assert "no switch named server1 is running" in says("show server1", 1)
    (tmp_path / "server2.ctl").touch()
    assert "no switch named server1 is running, the nearest is 'server2'" in says("show server1", 1)
