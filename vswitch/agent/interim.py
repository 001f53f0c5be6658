# SPDX-License-Identifier: Apache-2.0
"""Until the pipeline of groups and meters lands: the present slow path behind the interface to come."""

from vswitch.agent.pipeline import translate_packet_out
from vswitch.agent.slowpath import PacketInEvent, without_controller
from vswitch.agent.slowpath import SlowPath as Present
from vswitch.flow import Controller, FlowKey
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import Port


class SlowPath(Present):
    def __init__(self, datapath, tables, ports, groups, meters, packet_in, clock, proactive_reverse=True):
        super().__init__(datapath, tables, ports, packet_in, clock, proactive_reverse)
        self.drop_fragments = False
        self.changed_groups = []

    def groups_changed(self, groups):
        self.changed_groups += groups
        for group in groups:
            self._stale |= group.flows

    def meters_changed(self, meter_ids):
        pass

    def retire_ended(self):
        self.retire_evicted()

    def packet_out(self, frame, actions, in_port):
        key = FlowKey(*[0] * len(FlowKey._fields))._replace(in_port=in_port)
        if any(isinstance(action, Output) and action.port == Port.TABLE for action in actions):
            key = self.datapath.key_of(frame)._replace(in_port=in_port)
        translation = translate_packet_out(actions, key, self.tables, self.ports)
        self.count_packet_out(translation, frame)
        for action in translation.program:
            if isinstance(action, Controller):
                self.packet_in(PacketInEvent(key, 0, action, frame))
        program = without_controller(translation.program)
        if program:
            self.datapath.send(frame, program, in_port if in_port <= Port.MAX else 0)
