# SPDX-License-Identifier: Apache-2.0
"""Tests for `mn --test`."""

from __future__ import annotations

import json

from mininet.log import info, output
from mininet.net import Mininet

from topologies.errors import LabError


def iperf3(net: Mininet, seconds: int = 2, flows: int = 1) -> float:
    """TCP throughput from the first host to the last, in bit/s: `mn … --test iperf3,seconds=5,flows=4`.

    Raises LabError when nothing passes. The last host must run an iperf3 server, as a VM does.
    """
    client, server = net.hosts[0], net.hosts[-1]
    info(f"*** iperf3 from {client} to {server}\n")
    text = client.cmd(f"iperf3 -c {server.IP()} -t {seconds} -P {flows} -J")
    try:
        report = json.loads(text)
        rate_bps = report["end"]["sum_received"]["bits_per_second"]
    except (ValueError, KeyError):
        raise LabError(f"iperf3 from {client} to {server} failed: {_complaint(text)}") from None
    output(f"*** {client} to {server}, {flows} flow{'s' * (flows > 1)}: {rate_bps / 1e9:.2f} Gbit/s\n")
    return rate_bps


def _complaint(text: str) -> str:
    """What iperf3 says of its failure, in JSON or not."""
    try:
        return json.loads(text)["error"]
    except (ValueError, KeyError):
        return text.strip()[-200:] or "it printed nothing"
