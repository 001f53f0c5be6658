# SPDX-License-Identifier: Apache-2.0
"""Random intents for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ryu_apps.core.intent import Intent, from_object


def formats() -> st.SearchStrategy[dict[str, Any]]:
    """Up to two formats, of protocols of their own, so that none is taken for another."""
    numbers = st.tuples(st.integers(200, 204), st.integers(0, 20))
    return st.dictionaries(
        st.sampled_from("abc"), numbers.map(lambda drawn: {"outer_proto": drawn[0], "opaque_len": drawn[1]}),
        max_size=2,
    ).filter(lambda drawn: len({row["outer_proto"] for row in drawn.values()}) == len(drawn))  # fmt: skip


@st.composite
def nics(draw: st.DrawFn, count: int) -> dict[str, Any]:
    """A NIC of so many queues, with an RSS table, filters, rules, and queues that are set by hand."""
    ports = draw(st.lists(st.integers(1, 60), max_size=4, unique=True))
    queue = st.integers(0, count - 1)
    return {
        "queues": count,
        "rss": draw(st.sampled_from([{}, {"equal": 1}, {"weights": [3, 1]}, {"hash_key": "1f" * 40}])),
        "filters": [{"protocol": "tcp", "dst_port": port, "queue": draw(queue)} for port in ports],
        "lro": draw(
            st.lists(
                st.builds(
                    lambda number, lro: {"queues": [number], "lro": lro},
                    queue,
                    st.sampled_from([True, False, "rules"]),
                ),
                max_size=3,
                unique_by=lambda entry: entry["queues"][0],
            )
        ),
        "rules": [{"protocol": "tcp", "dst_port": port, "lro": draw(st.booleans())} for port in ports],
    }


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
    queues = {server: draw(st.integers(1, 4)) for server in servers}
    for vm in vms.values():
        vm["role"] = draw(st.sampled_from(["terminating", "forwarding"]))
        vm["vif_lro"] = draw(st.booleans())
        vm["lro"] = draw(st.sampled_from([None, None, True, False]))
    overrides = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "server": st.sampled_from(servers),
                    "port": st.just(1),
                    "queue": st.just(0),
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
            "tunnel": {"packet_too_big": draw(st.booleans())},
            "formats": draw(formats()),
            "nic": {server: draw(nics(queues[server])) for server in servers if queues[server] > 1},
            "offload": {"gro": draw(st.booleans()), "overrides": overrides},
        }
    )
