# SPDX-License-Identifier: Apache-2.0
"""Pipeline and dataplane together: the frames that leave are those of a naive OpenFlow switch."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.protocol.fake_datapath import FakeDatapath
from tests.protocol.test_cache import TUNNEL, Rig, Scenario
from tests.unit import rig as dataplane
from vswitch.flow import Output, PuntReason
from vswitch.layout import LOCAL_INDEX, PortKind
from vswitch.openflow.constants import Port
from vswitch.openflow.flow_mod import FlowMod

WIRES = 3


class RealFrames(FakeDatapath):
    """Its programs are run by the dataplane, on wires 1, 2 and 3."""

    def use(self, executor):
        self.executor = executor
        return self

    def _run(self, program, key, data):
        executor = self.executor
        in_port = key.in_port if key.in_port <= WIRES else 1
        program = tuple(Output(LOCAL_INDEX) if action == Output(Port.LOCAL) else action for action in program)
        executor.run(data, program, in_port)
        for number, port in enumerate(executor.wire_ports):
            for frame in executor.sent(number):
                self._output(port, frame, 0)
        for number, frame in executor.punted():
            self._punt(PuntReason.ACTION, key, frame, executor.store.controller(number))


def by_port(happened):
    """Outputs by port: ports do not wait for each other."""
    outputs, packet_ins, _macs = happened
    return sorted(((port, frame) for port, frame, _ in outputs), key=lambda output: output[0]), packet_ins


@pytest.fixture(scope="module")
def executor():
    with dataplane.Rig(wires=WIRES) as rig:
        rig.t["ports"][LOCAL_INDEX]["kind"] = PortKind.LOCAL
        yield rig


@settings(
    max_examples=dataplane.examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 1 << 32))
def test_frames_are_those_of_a_naive_switch(executor, seed):
    rig = Rig(datapath=lambda clock: RealFrames(clock).use(executor))
    rig.set_port(TUNNEL, False)
    scenario = Scenario(seed)
    for event in itertools.chain(
        scenario.start(), scenario.events(Scenario.group_change, Scenario.packet_out)
    ):
        match event:
            case FlowMod():
                rig.change_rules(event)
            case ("group", number, group):
                rig.change_group(number, group)
            case ("packet", data, in_port, _tunnel_id) if in_port in rig.datapath.infos:
                rig.settle()
                expected = rig.naive.possibilities(data, in_port)
                assert by_port(rig.receive(data, in_port)) in map(by_port, expected)
            case ("packet_out", data, in_port, actions):
                rig.settle()
                expected = rig.naive.possibilities(data, in_port, 0, actions)
                assert by_port(rig.packet_out(data, in_port, actions)) in map(by_port, expected)
