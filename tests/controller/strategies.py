# SPDX-License-Identifier: Apache-2.0
"""Random intents for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ryu_apps.core.intent import Intent, from_object


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    """Up to five servers, three virtual networks and ten VMs; MAC addresses may repeat between networks."""
    networks = [f"net{i}" for i in range(draw(st.integers(1, 3)))]
    vnis = draw(st.lists(st.integers(1, 0xFFFFFF), min_size=3, max_size=3, unique=True))
    dpids = draw(st.lists(st.integers(1, 0x1FFFF), min_size=1, max_size=5, unique=True))
    servers = [f"s{i}" for i in range(len(dpids))]
    vms: dict[str, Any] = {}
    for index, (server, network, address) in enumerate(
        draw(
            st.lists(
                st.tuples(st.sampled_from(servers), st.sampled_from(networks), st.integers(1, 20)),
                max_size=10,
                unique_by=lambda vm: vm[1:],
            )
        )
    ):
        vms[f"vm{index}"] = {
            "server": server,
            "port": 2 + index,
            "network": network,
            "mac": f"00:00:00:00:00:{address:02x}",
            "ip": f"10.0.0.{address}",
        }
    overrides = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "server": st.sampled_from(servers),
                    "port": st.just(1),
                    "queue": st.integers(0, 3),
                    "gro": st.booleans(),
                }
            ),
            max_size=3,
            unique_by=lambda override: (override["server"], override["queue"]),
        )
    )
    return from_object(
        {
            "virtual_networks": {name: {"vni": vni} for name, vni in zip(networks, vnis, strict=False)},
            "servers": {
                name: {"dpid": dpid, "underlay_ip": f"192.168.0.{index + 1}", "uplink_port": 1}
                for index, (name, dpid) in enumerate(zip(servers, dpids, strict=True))
            },
            "vms": vms,
            "offload": {"gro": draw(st.booleans()), "overrides": overrides},
        }
    )
