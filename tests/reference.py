# SPDX-License-Identifier: Apache-2.0
"""Slow, obvious twins of the dataplane's kernels, on bytes and scapy packets."""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache

from tests.packets import (
    ARP,
    ICMP,
    IP,
    REMEMBERED,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    IPv6,
    Packet,
    payload_of,
)
from vswitch.flow import FRAG_FIRST, FRAG_LATER, VLAN_PRESENT, FlowKey

MASK32 = 0xFFFFFFFF
MAX_IP_LEN = 65535


@lru_cache(256)
def _read(frame: bytes) -> Packet:
    """A frame as scapy reads it, to look at."""
    return Ether(frame)


def internet_sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def l4_checksum_right(frame: bytes) -> bool | None:
    """Whether the TCP or UDP checksum of a whole datagram is right; None where there is none."""
    packet = Ether(frame)
    ip = packet.getlayer(IP) or packet.getlayer(IPv6)
    if ip is None or (IPv6 in packet and TCP not in packet and UDP not in packet):
        return None
    if IP in packet:
        data = bytes(ip)[ip.ihl * 4 : ip.len]
        proto = ip.proto
        addresses = bytes(ip)[12:20]
    else:
        l4 = packet[TCP] if TCP in packet else packet[UDP]
        data = bytes(ip)[len(bytes(ip)) - len(bytes(l4)) : 40 + ip.plen]
        proto = 6 if TCP in packet else 17
        addresses = bytes(ip)[8:40]
    if proto not in (6, 17) or (proto == 17 and data[6:8] == b"\0\0"):
        return None
    return internet_sum(addresses + struct.pack("!HH", proto, len(data)) + data) == 0xFFFF


def flow_key(frame: bytes, in_port: int = 0, tunnel_id: int = 0) -> FlowKey:
    """The key of a well-formed frame, by scapy."""
    packet = Ether(frame)
    number = {
        "in_port": in_port,
        "tunnel_id": tunnel_id,
        "eth_dst": int(packet.dst.replace(":", ""), 16),
        "eth_src": int(packet.src.replace(":", ""), 16),
        "vlan_tci": 0,
        "vlan_inner": 0,
        "eth_type": packet.type,
        "ip_proto": 0,
        "ip_tos": 0,
        "ip_frag": 0,
        "ip_src": 0,
        "ip_dst": 0,
        "l4_src": 0,
        "l4_dst": 0,
    }
    layer = packet.payload
    for tag in ("vlan_tci", "vlan_inner"):
        if isinstance(layer, Dot1Q | Dot1AD):
            number[tag] = layer.prio << 13 | VLAN_PRESENT | layer.vlan
            number["eth_type"] = layer.type
            layer = layer.payload
    number |= _addresses(number["eth_type"], layer)
    return FlowKey(**number)


def _addresses(eth_type: int, layer: Packet) -> dict[str, int]:
    """What the key says of the header behind the tags."""
    number: dict[str, int] = {}
    if eth_type in (0x8847, 0x8848, 0x88E7) and len(bytes(layer)) >= 4:
        word = int.from_bytes(bytes(layer)[:4], "big")
        return {"ip_dst": word & 0xFFFFFF} if eth_type == 0x88E7 else {"ip_src": word >> 8}
    if isinstance(layer, ARP):
        number |= {"ip_proto": layer.op, "ip_src": _number(layer.psrc), "ip_dst": _number(layer.pdst)}
    elif isinstance(layer, IP):
        frag = FRAG_LATER if layer.frag else FRAG_FIRST if "MF" in layer.flags else 0
        number |= {"ip_proto": layer.proto, "ip_tos": layer.tos, "ip_frag": frag}
        number |= {"ip_src": _number(layer.src), "ip_dst": _number(layer.dst)}
        if frag != FRAG_LATER:
            number |= _ports(layer)
    elif isinstance(layer, IPv6):
        proto, frag = _ipv6_chain(layer)
        number |= {"ip_proto": proto, "ip_tos": layer.tc, "ip_frag": frag}
        number |= {"ip_src": _number6(layer.src), "ip_dst": _number6(layer.dst)}
        if frag != FRAG_LATER:
            number |= _ports(layer)
    return number


def _number(text: str) -> int:
    return int.from_bytes(bytes(map(int, text.split("."))), "big")


def _number6(text: str) -> int:
    return int(ipaddress.IPv6Address(text))


def _ipv6_chain(layer: Packet) -> tuple[int, int]:
    proto, frag = layer.nh, 0
    header = layer.payload
    while header.__class__.__name__.startswith("IPv6ExtHdr"):
        if header.__class__.__name__ == "IPv6ExtHdrFragment":
            frag = FRAG_LATER if header.offset else FRAG_FIRST if header.m else 0
        proto = header.nh
        header = header.payload
    return proto, frag


def _ports(layer: Packet) -> dict[str, int]:
    for kind in (TCP, UDP):
        if kind in layer:
            return {"l4_src": layer[kind].sport, "l4_dst": layer[kind].dport}
    if ICMP in layer:
        return {"l4_src": layer[ICMP].type, "l4_dst": layer[ICMP].code}
    return {}


# GRO


@lru_cache(REMEMBERED)
def fits_alone(frame: bytes) -> bool:
    """Whether a frame can be part of an aggregate at all (SEEDS.md, "What GRO must and must not merge")."""
    packet = _read(frame)
    if TCP not in packet or not l4_checksum_right(frame):
        return False
    tcp = packet[TCP]
    if set(str(tcp.flags)) & set("SRUC") or not payload_of(frame):
        return False
    if IP in packet and (packet[IP].ihl > 5 or packet[IP].frag or "MF" in packet[IP].flags):
        return False
    return [name for name, _ in tcp.options] in ([], ["NOP", "NOP", "Timestamp"])


def flow_of(frame: bytes) -> tuple:
    """What tells connections apart."""
    packet = _read(frame)
    ip = packet[IP] if IP in packet else packet[IPv6]
    tags = bytes(packet)[12 : len(bytes(packet)) - len(bytes(ip))]
    return packet.src, packet.dst, tags, ip.src, ip.dst, packet[TCP].sport, packet[TCP].dport


def may_join(group: list[bytes], frame: bytes) -> bool:
    """Whether a frame continues the aggregate of these frames, all of one flow."""
    first, last, new = _read(group[0]), _read(group[-1]), _read(frame)
    sizes = [len(payload_of(member)) for member in group]
    size = len(payload_of(frame))
    if sizes[-1] < sizes[0] or size > sizes[0] or set(str(last[TCP].flags)) & set("FP"):
        return False
    if new[TCP].seq != (first[TCP].seq + sum(sizes)) & MASK32:
        return False
    if set(str(new[TCP].flags)) - set("FP") != set(str(first[TCP].flags)) - set("FP"):
        return False
    for field in ("ack", "window", "options", "reserved", "urgptr"):
        if getattr(new[TCP], field) != getattr(first[TCP], field):
            return False
    if IP in first:
        one, other = first[IP], new[IP]
        if (one.tos, one.ttl, one.flags) != (other.tos, other.ttl, other.flags):
            return False
        if "DF" not in one.flags and other.id != (last[IP].id + 1) & 0xFFFF:
            return False
        header = 20 + first[TCP].dataofs * 4
    else:
        one, other = bytes(first[IPv6]), bytes(new[IPv6])
        header = len(one) - sizes[0]
        extensions = header - first[TCP].dataofs * 4
        if one[:4] + one[6:extensions] != other[:4] + other[6:extensions]:
            return False
    return header + sum(sizes) + size <= MAX_IP_LEN


def merged(frames: list[bytes]) -> list[list[int]]:
    """The groups, as lists of frame numbers, in the order of their first frames."""
    groups: list[list[int]] = []
    open_groups: dict[tuple, list[int]] = {}
    for number, frame in enumerate(frames):
        if TCP not in _read(frame):
            groups.append([number])
            continue
        flow = flow_of(frame)
        group = open_groups.get(flow)
        if fits_alone(frame):
            members = [frames[member] for member in group] if group else []
            if group and fits_alone(members[0]) and may_join(members, frame):
                group.append(number)
                continue
        open_groups[flow] = [number]
        groups.append(open_groups[flow])
    return groups


# NIC


def toeplitz(key: bytes, data: bytes) -> int:
    """The RSS hash, bit by bit: for each bit that is set, the 32 bits of the key from its place on."""
    bits = "".join(f"{byte:08b}" for byte in key)
    hashed = 0
    for place, bit in enumerate("".join(f"{byte:08b}" for byte in data)):
        if bit == "1":
            hashed ^= int(bits[place : place + 32], 2)
    return hashed


def rss_input(frame: bytes) -> bytes:
    """What the RSS hash is made of; empty where there is no IP."""
    packet = _read(frame)
    ip = packet.getlayer(IP) or packet.getlayer(IPv6)
    if ip is None:
        return b""
    fragment = bool(ip.frag or "MF" in ip.flags) if IP in packet else False
    data = b"".join(ipaddress.ip_address(address).packed for address in (ip.src, ip.dst))
    for kind in (TCP, UDP):
        if kind in packet and not fragment:
            data += struct.pack("!HH", packet[kind].sport, packet[kind].dport)
    return data


def nic_match(match: dict, frame: bytes, vni: int) -> bool:
    """Whether a frame that came through the virtual network `vni` is what a NIC's filter or rule names."""
    packet = _read(frame)
    ip = packet.getlayer(IP) or packet.getlayer(IPv6)
    l4 = packet.getlayer(TCP) or packet.getlayer(UDP)
    if IP in packet and (ip.frag or "MF" in ip.flags):
        l4 = None
    if "dst_mac" in match and packet.dst != match["dst_mac"]:
        return False
    if "vni" in match and vni != match["vni"]:
        return False
    if "protocol" in match:
        number = {"tcp": 6, "udp": 17}[match["protocol"]]
        if ip is None or number != (ip.proto if IP in packet else ip.nh):
            return False
    for name, of_frame in (("src_ip", ip and ip.src), ("dst_ip", ip and ip.dst)):
        if name in match:
            network = ipaddress.ip_network(match[name])
            if ip is None or ipaddress.ip_address(of_frame) not in network:
                return False
    for name, of_frame in (("src_port", l4 and l4.sport), ("dst_port", l4 and l4.dport)):
        if name in match and of_frame != match[name]:
            return False
    return True


def nic_kind(match: dict) -> int:
    """How specific a match is: 0 five-tuple, 1 destination IP, 2 MAC, 3 virtual network."""
    if {"protocol", "src_ip", "src_port", "dst_port"} & set(match):
        return 0
    return 1 if "dst_ip" in match else 2 if "dst_mac" in match else 3


def nic_first(entries: list[tuple[int, dict]], frame: bytes, vni: int) -> int | None:
    """Which of the entries (priority, match), by their place, takes a frame."""
    matching = [
        (-priority, nic_kind(match), place)
        for place, (priority, match) in enumerate(entries)
        if nic_match(match, frame, vni)
    ]
    return min(matching)[2] if matching else None
