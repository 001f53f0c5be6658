# SPDX-License-Identifier: Apache-2.0
"""Formats that come and go while two switches are at work, on a wire between them (S1.6)."""

from __future__ import annotations

import time

import pytest

from tests.packets import tcp_segment
from tests.patience import PATIENCE_S
from tests.unit.rig import examples
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.errors import ConfigError
from vswitch.flow import DropReason, Output, SetTunnel
from vswitch.tunnel_formats import SHIPPED, Format

OWN = Format(
    name="own", outer_proto=17, opaque_len=18, id_offset=2, id_length=2, id_value=50000, flow_id_offset=10,
    flow_id_length=4, length_field=4, entropy_offset=0,
)  # fmt: skip
MACS = "02:00:00:00:00:01", "02:00:00:00:00:02"
STANDING, PASSING = 101, 201


class Two:
    """Two switches; `carry` sends a frame through a tunnel and tells what came out of which."""

    def __init__(self, directory):
        path = directory / "wire"
        self.switches = [
            Datapath(number, [parse_port(f"1=wire:{path},end={end}")]) for number, end in enumerate("ab", 1)
        ]
        for switch in self.switches:
            switch.start()
        self.refresh()

    def refresh(self):
        deadline = time.monotonic() + PATIENCE_S
        while not all(switch.ports()[0].up for switch in self.switches):
            assert time.monotonic() < deadline
            for switch in self.switches:
                switch.refresh_ports()

    def add_tunnel(self, port_no, format):
        first, second = (f"192.0.2.{number}" for number in (port_no, port_no + 1))
        ends = (first, second, *MACS), (second, first, *MACS[::-1])
        for switch, end in zip(self.switches, ends, strict=True):
            switch.add_tunnel(port_no, f"t{port_no}", format, *end, 1)

    def remove_tunnel(self, port_no):
        for switch in self.switches:
            switch.remove_tunnel(port_no)

    def carry(self, frame, port_no, vni):
        sender, receiver = self.switches
        sender.send(frame, (SetTunnel(vni), Output(port_no)))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for punt in receiver.poll_punts():
                receiver.discard(punt.packet, DropReason.RULE)
                return punt.key.in_port, punt.key.tunnel_id, punt.frame
            assert time.monotonic() < deadline, (sender.counters(), receiver.counters())

    def close(self):
        for switch in self.switches:
            switch.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    two = Two(tmp_path_factory.mktemp("wire"))
    two.add_tunnel(STANDING, "vxlan")
    yield two
    two.close()


def set_format(two, name, format):
    for switch in two.switches:
        switch.set_format(name, format)


def delete_format(two, name):
    for switch in two.switches:
        switch.delete_format(name)


@pytest.mark.parametrize("format", [*SHIPPED.values(), OWN], ids=lambda format: format.name)
def test_s1_6_frames_pass_in_every_format(two, format):
    set_format(two, format.name, format)
    two.add_tunnel(PASSING, format.name)
    vni = (1 << format.flow_id_bits) - 1
    frame = tcp_segment(500)
    in_port, tunnel_id, carried = two.carry(frame, PASSING, vni)
    assert (in_port, tunnel_id, carried[12:]) == (PASSING, vni, frame[12:])
    if format.inner != "ip":
        assert carried == frame
    info = next(port for port in two.switches[0].ports() if port.port_no == PASSING)
    assert info.mtu == 1500 - 20 - format.opaque_len - (14 if format.inner != "ip" else 0)
    two.remove_tunnel(PASSING)
    if format is OWN:
        delete_format(two, "own")


def test_s1_6_a_format_is_kept_while_a_tunnel_has_it(two):
    set_format(two, "own", OWN)
    two.add_tunnel(PASSING, "own")
    with pytest.raises(ConfigError, match="own: is used by t201: remove these tunnels first"):
        delete_format(two, "own")
    two.remove_tunnel(PASSING)
    delete_format(two, "own")
    assert two.switches[0].formats() == dict(sorted(SHIPPED.items()))
    with pytest.raises(ConfigError, match="'own' is not known"):
        two.add_tunnel(PASSING, "own")


def test_s1_6_formats_come_and_go_without_loss_to_others(two):
    """Each frame of the standing tunnel arrives, in order, whatever else happens; also the new format's."""
    for number in range(examples(300)):
        frame = tcp_segment(100, seed=number, sport=1024 + number)
        assert two.carry(frame, STANDING, 42) == (STANDING, 42, frame)
        if number % 3 == 0:
            set_format(two, "own", OWN)
            two.add_tunnel(PASSING, "own")
            assert two.carry(frame, PASSING, 7) == (PASSING, 7, frame)
        elif number % 3 == 1:
            two.remove_tunnel(PASSING)
            delete_format(two, "own")
    for switch in two.switches:
        counted = {name: count for name, count in switch.counters().items() if count}
        counted.pop("no_rule", None)  # what this test discards
        assert not [name for name in counted if not name.startswith(("gro_", "evicted"))], counted
