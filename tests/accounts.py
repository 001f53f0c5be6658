# SPDX-License-Identifier: Apache-2.0
"""The equations of docs/reference/counters.md: what became of every frame, by port and direction."""

from __future__ import annotations

from typing import Any

import numpy as np

NO_PORT = "no port"
FATES_ON_RECEIVING = (
    "rx_forwarded", "rx_not_forwarded", "rx_decapsulated", "rx_held", "rx_dropped", "rx_errors",
)  # fmt: skip
COUNTED = ("rx_packets", "rx_forwarded", "rx_decapsulated", "rx_held", "tx_requested", "tx_packets")
FATES_ON_SENDING = ("tx_packets", "tx_dropped", "tx_errors")


def unaccounted(counters: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Of what `vswitchctl counters` tells: the ports of which frames are missing, and how many that they
    received and that they were to send; where a fate was counted that no frame had, a negative number."""
    missing = {}
    for name, port in counters["ports"].items():
        received = port["rx_packets"] - sum(port[fate] for fate in FATES_ON_RECEIVING)
        to_send = port["tx_requested"] - sum(port[fate] for fate in FATES_ON_SENDING)
        drops = counters["drops"][name]
        by_reason = [sum(drops[direction].values()) for direction in ("receiving", "sending")]
        assert by_reason[0] == port["rx_not_forwarded"] + port["rx_dropped"] + port["rx_errors"]
        assert by_reason[1] == port["tx_dropped"] + port["tx_errors"]
        if received or to_send:
            missing[name] = received, to_send
    return missing


def imbalance(tables: np.ndarray) -> np.ndarray:
    """The same of the dataplane's tables, two numbers for each port's row."""
    ports = {name: tables["ports"][name].sum(axis=0) for name in COUNTED}
    received = ports["rx_packets"] - ports["rx_forwarded"] - ports["rx_decapsulated"] - ports["rx_held"]
    received -= tables["rx_drops"].sum(axis=(0, 2))
    to_send = ports["tx_requested"] - ports["tx_packets"] - tables["tx_drops"].sum(axis=(0, 2))
    return np.stack([received, to_send])
