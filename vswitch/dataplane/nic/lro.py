# SPDX-License-Identifier: Apache-2.0
"""Whether a flow is coalesced, and where: in the NIC, or at the virtual switch's port in front of its VM.

The first position is the receive queue's, by its setting and rules (S0.3). What it leaves alone may be
coalesced at the second (S0.5): a TAP ("vif") has the same settings, and takes flows whose cached entry
delivers to it and to no other port.
"""

from vswitch.dataplane import flow_table
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.nic.match import NO_MATCH, first_rule
from vswitch.layout import OP_WORDS, GroupLro, Lro, Op, PortKind

NO_VIF = -1
OUTPUT, CONTROLLER, METER = Op.OUTPUT.value, Op.CONTROLLER.value, Op.METER.value


@compiled
def decide(mem, t, nic, group, packet):
    """Write into `group` whether its flow, that of `packet`, is coalesced, and how."""
    queue = packet["queue"]
    if nic["lro"][queue] == Lro.ON.value:
        _allow(nic, group, packet["port"], queue)
        return
    flow_table.make_key(mem, t, packet)
    if nic["lro"][queue] == Lro.RULES.value and _rules_allow(t, nic, queue, packet):
        _allow(nic, group, packet["port"], queue)
        return
    group["lro"] = GroupLro.DENIED.value
    if t["vif_count"] > 0:
        port = _only_vif(t)
        if port == NO_VIF:
            return
        vif = t["nics"][port, t["nic_rows"][port]]
        allowed = vif["lro"][0] == Lro.ON.value
        if allowed or (vif["lro"][0] == Lro.RULES.value and _rules_allow(t, vif, 0, packet)):
            _allow(vif, group, port, 0)


@compiled
def _rules_allow(t, nic, queue, packet):
    place = first_rule(nic, queue, packet, t["key"])
    return place != NO_MATCH and nic["rules"][place]["enabled"] != 0


@compiled
def _allow(nic, group, port, queue):
    group["lro"] = GroupLro.ALLOWED.value
    group["completion_size"] = nic["completion_size"][queue]
    group["plain"] = nic["plain"][queue]
    group["port"] = port
    group["queue"] = queue


@compiled
def _only_vif(t):
    """Index of the TAP that alone gets the packets of the flow whose key is `t['key']`, or NO_VIF."""
    place = flow_table.find(t, t["key"])
    if place == flow_table.NOT_FOUND:
        return NO_VIF
    flow = t["flows"][place]
    port = NO_VIF
    for step in range(flow_table.program_length(flow)):
        at = flow["program"] + OP_WORDS * step
        op = t["programs"][at]
        if op == CONTROLLER or op == METER:
            return NO_VIF  # which look at each frame
        if op == OUTPUT:
            if port != NO_VIF:
                return NO_VIF
            port = t["programs"][at + 1]
    if port == NO_VIF or t["ports"][port]["kind"] != PortKind.TAP.value:
        return NO_VIF
    return port
