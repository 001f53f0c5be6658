# SPDX-License-Identifier: Apache-2.0
"""What filters and LRO rules match on: the words of a flow key, under masks (S0.2, S0.3)."""

from vswitch.dataplane.compiled import compiled
from vswitch.layout import ANY_IP, KEY_WORDS

NO_MATCH = -1


@compiled
def first_filter(nic, packet, key):
    """Place of the first filter that takes the packet whose key is `key`, or NO_MATCH."""
    for place in range(nic["filter_count"]):
        if _matches(nic["filters"][place], packet, key):
            return place
    return NO_MATCH


@compiled
def first_rule(nic, queue, packet, key):
    """Place of the first LRO rule of a queue that takes the packet whose key is `key`, or NO_MATCH."""
    for place in range(nic["rule_count"]):
        rule = nic["rules"][place]
        if rule["queues"] >> queue & 1 and _matches(rule, packet, key):
            return place
    return NO_MATCH


@compiled
def _matches(wanted, packet, key):
    for word in range(KEY_WORDS):
        if key[word] & wanted["mask"][word] != wanted["value"][word]:
            return False
    if wanted["whole"] and packet["frag"]:
        return False
    version = wanted["ip_version"]
    if version == ANY_IP:
        return packet["ip_version"] != 0
    return version == 0 or version == packet["ip_version"]
