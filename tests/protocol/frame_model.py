# SPDX-License-Identifier: Apache-2.0
"""A frame and what OpenFlow actions make of it, the slow and obvious way: lists of headers, bytes, RFC 1624.

Knows nothing of the switch: the oracle for its pipeline, and the muscles of the fake datapath.
"""

from __future__ import annotations

import struct

TPIDS = (0x8100, 0x88A8)
MPLS_TYPES = (0x8847, 0x8848)
PBB, IPV4, IPV6, ARP = 0x88E7, 0x0800, 0x86DD, 0x0806
PORTS = {6: "tcp", 17: "udp", 132: "sctp"}
CHECKSUM_AT = {6: 16, 17: 6, 1: 2, 58: 2}
VISIBLE_TAGS = 2


class Frame:
    """dst, src, VLAN tags, type, rest. Of an arriving frame two tags at most are looked through."""

    def __init__(self, data):
        self.dst, self.src = data[0:6], data[6:12]
        self.tags = []  # (tpid, tci), the outermost first
        (self.type,) = struct.unpack_from("!H", data, 12)
        self.rest = bytearray(data[14:])
        self._take_tags()

    def _take_tags(self):
        while len(self.tags) < VISIBLE_TAGS and self.type in TPIDS and len(self.rest) >= 4:
            tci, following = struct.unpack_from("!HH", self.rest)
            self.tags.append((self.type, tci))
            self.type = following
            del self.rest[:4]

    def __bytes__(self):
        return self.dst + self.src + self._from_type()

    def _from_type(self):
        tags = b"".join(struct.pack("!HH", tpid, tci) for tpid, tci in self.tags)
        return tags + struct.pack("!H", self.type) + bytes(self.rest)

    # --- where things are ---

    def l4(self):
        """(protocol, offset in rest, fragment: 0 no, 1 first, 3 later), or None without a sane IP header."""
        rest = self.rest
        if self.type == IPV4 and len(rest) >= 20:
            header = (rest[0] & 15) * 4
            total = int.from_bytes(rest[2:4], "big")
            if rest[0] >> 4 != 4 or header < 20 or not header <= total <= len(rest):
                return None
            fragment = int.from_bytes(rest[6:8], "big")
            return rest[9], header, 3 if fragment & 0x1FFF else 1 if fragment & 0x2000 else 0
        if self.type == IPV6 and len(rest) >= 40:
            if rest[0] >> 4 != 6 or 40 + int.from_bytes(rest[4:6], "big") > len(rest):
                return None
            proto, at, frag = rest[6], 40, 0
            for _ in range(8):
                if proto not in (0, 43, 44, 60) or at + 8 > len(rest):
                    break
                size = 8 if proto == 44 else 8 + rest[at + 1] * 8
                if at + size > len(rest):
                    break
                if proto == 44:
                    place = int.from_bytes(rest[at + 2 : at + 4], "big")
                    frag = 3 if place & 0xFFF8 else 1 if place & 0xFFF9 else frag
                proto, at = rest[at], at + size
                if frag == 3:
                    break
            return proto, at, frag
        return None

    def neighbour_options(self, at):
        """{type: offset of the option's address} of the ICMPv6 message at `at`."""
        found, place = {}, at + 24
        while place + 8 <= len(self.rest) and self.rest[place + 1]:
            found[self.rest[place]] = place + 2
            place += self.rest[place + 1] * 8
        return found

    # --- fields by the names of their OXMs ---

    def places(self):
        """{field: (offset in rest, bytes, shift, bits)} of the fields in `rest` that the frame has."""
        found = {}
        if self.type == ARP and len(self.rest) >= 28:
            found |= {
                "arp_op": (6, 2, 0, 16),
                "arp_sha": (8, 6, 0, 48),
                "arp_spa": (14, 4, 0, 32),
                "arp_tha": (18, 6, 0, 48),
                "arp_tpa": (24, 4, 0, 32),
            }
        if self.type in MPLS_TYPES and len(self.rest) >= 4:
            found |= {"mpls_label": (0, 4, 12, 20), "mpls_tc": (0, 4, 9, 3), "mpls_bos": (0, 4, 8, 1)}
        if self.type == PBB and len(self.rest) >= 4:
            found["pbb_isid"] = (0, 4, 0, 24)
        l4 = self.l4()
        if l4 is None:
            return found
        proto, at, frag = l4
        if self.type == IPV4:
            found |= {"ip_dscp": (1, 1, 2, 6), "ip_ecn": (1, 1, 0, 2), "ip_proto": (9, 1, 0, 8)}
            found |= {"ipv4_src": (12, 4, 0, 32), "ipv4_dst": (16, 4, 0, 32)}
        else:
            found |= {"ip_dscp": (0, 4, 22, 6), "ip_ecn": (0, 4, 20, 2), "ipv6_flabel": (0, 4, 0, 20)}
            found |= {"ipv6_src": (8, 16, 0, 128), "ipv6_dst": (24, 16, 0, 128)}
            if at == 40:
                found["ip_proto"] = (6, 1, 0, 8)
        if frag == 3 or at + 4 > len(self.rest):
            return found
        if proto in PORTS:
            name = PORTS[proto]
            found |= {f"{name}_src": (at, 2, 0, 16), f"{name}_dst": (at + 2, 2, 0, 16)}
        if proto == 1 and self.type == IPV4:
            found |= {"icmpv4_type": (at, 1, 0, 8), "icmpv4_code": (at + 1, 1, 0, 8)}
        if proto == 58 and self.type == IPV6:
            found |= {"icmpv6_type": (at, 1, 0, 8), "icmpv6_code": (at + 1, 1, 0, 8)}
            if self.rest[at] in (135, 136) and at + 24 <= len(self.rest):
                found["ipv6_nd_target"] = (at + 8, 16, 0, 128)
                options = self.neighbour_options(at)
                if self.rest[at] == 135 and 1 in options:
                    found["ipv6_nd_sll"] = (options[1], 6, 0, 48)
                if self.rest[at] == 136 and 2 in options:
                    found["ipv6_nd_tll"] = (options[2], 6, 0, 48)
        return found

    def fields(self):
        """All header fields that the frame has."""
        found = {
            "eth_dst": int.from_bytes(self.dst, "big"),
            "eth_src": int.from_bytes(self.src, "big"),
            "eth_type": self.type,
            "vlan_vid": 0x1000 | self.tags[0][1] & 0xFFF if self.tags else 0,
        }
        if self.tags:
            found["vlan_pcp"] = self.tags[0][1] >> 13
        l4 = self.l4()
        if l4 is not None:
            found["ip_proto"] = l4[0]
        for name, (at, size, shift, bits) in self.places().items():
            found[name] = int.from_bytes(self.rest[at : at + size], "big") >> shift & (1 << bits) - 1
        return found

    # --- actions ---

    def set_field(self, name, value):
        if name in ("eth_dst", "eth_src"):
            setattr(self, name[4:], value.to_bytes(6, "big"))
        elif name == "eth_type":
            self.type = value
            self._take_tags()
        elif name in ("vlan_vid", "vlan_pcp"):
            if self.tags:
                tpid, tci = self.tags[0]
                tci = tci & 0xF000 | value & 0xFFF if name == "vlan_vid" else tci & 0x1FFF | value << 13
                self.tags[0] = tpid, tci
        elif name in self.places():
            at, size, shift, bits = self.places()[name]
            word = int.from_bytes(self.rest[at : at + size], "big")
            word = word & ~((1 << bits) - 1 << shift) | value << shift
            self._write(at, word.to_bytes(size, "big"))

    def _write(self, at, data):
        """Write bytes of `rest`, and keep the checksums that cover them."""
        start = at & ~1
        end = at + len(data) + 1 & ~1
        l4 = self.l4()
        before = bytes(self.rest[start:end])
        self.rest[at : at + len(data)] = data
        after = bytes(self.rest[start:end])
        if l4 is None:
            return
        proto, l4_at, frag = l4
        if self.type == IPV4 and at < 20:
            self._adjust(10, before, after)
        in_pseudo_header = (12 <= at < 20) if self.type == IPV4 else (8 <= at < 40)
        if in_pseudo_header and proto == 1:
            in_pseudo_header = False
        if frag == 3 or not (in_pseudo_header or at >= l4_at):
            return
        if proto in CHECKSUM_AT and l4_at + CHECKSUM_AT[proto] + 2 <= len(self.rest):
            place = l4_at + CHECKSUM_AT[proto]
            if proto == 17 and self.rest[place : place + 2] == b"\0\0":
                return
            self._adjust(place, before, after)
            if proto == 17 and self.rest[place : place + 2] == b"\0\0":
                self.rest[place : place + 2] = b"\xff\xff"
        elif proto == 132 and at >= l4_at and not frag and l4_at + 12 <= len(self.rest):
            end = self._ip_end()
            self.rest[l4_at + 8 : l4_at + 12] = bytes(4)
            crc = crc32c(bytes(self.rest[l4_at:end]))
            self.rest[l4_at + 8 : l4_at + 12] = struct.pack("<I", crc)

    def _ip_end(self):
        if self.type == IPV4:
            return int.from_bytes(self.rest[2:4], "big")
        return 40 + int.from_bytes(self.rest[4:6], "big")

    def _adjust(self, place, before, after):
        """RFC 1624, equation 3."""
        total = ~int.from_bytes(self.rest[place : place + 2], "big") & 0xFFFF
        for word in struct.unpack(f"!{len(before) // 2}H", before):
            total += ~word & 0xFFFF
        total += sum(struct.unpack(f"!{len(after) // 2}H", after))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        self.rest[place : place + 2] = struct.pack("!H", ~total & 0xFFFF)

    def push(self, ethertype):
        if ethertype in TPIDS:
            self.tags.insert(0, (ethertype, self.tags[0][1] & 0xEFFF if self.tags else 0))
        elif ethertype in MPLS_TYPES:
            word = self._lse()
            below = 0 if self.type in MPLS_TYPES and not self.tags else 1
            if word is None:
                word = self._ip_ttl() or 0
            word = word & ~0x100 | below << 8
            self.rest = bytearray(struct.pack("!I", word) + self._from_type()[2:])
            self.type, self.tags = ethertype, []
        else:
            isid = int.from_bytes(self.rest[1:4], "big") if self.type == PBB else 0
            pcp = self.tags[0][1] >> 13 if self.tags else 0
            self.rest = bytearray(struct.pack("!I", pcp << 29 | isid) + bytes(self))
            self.type, self.tags = ethertype, []

    def pop_vlan(self):
        if self.tags:
            del self.tags[0]
            self._take_tags()

    def pop_mpls(self, ethertype):
        if self.type in MPLS_TYPES and len(self.rest) >= 4:
            del self.rest[:4]
            self.type = ethertype
            self._take_tags()

    def pop_pbb(self):
        if self.type == PBB and len(self.rest) >= 4 + 14:
            self.__init__(bytes(self.rest[4:]))

    # --- TTLs ---

    def _lse(self):
        return (
            int.from_bytes(self.rest[:4], "big") if self.type in MPLS_TYPES and len(self.rest) >= 4 else None
        )

    def _ip_ttl(self):
        return None if self.l4() is None else self.rest[8 if self.type == IPV4 else 7]

    def set_ttl(self, ttl, mpls):
        if mpls and self._lse() is not None:
            self.rest[3] = ttl
        elif not mpls and self.l4() is not None:
            self._write(8 if self.type == IPV4 else 7, bytes([ttl]))

    def dec_ttl(self, mpls):
        """False when the packet must not go on."""
        lse = self._lse()
        ttl = (None if lse is None else lse & 0xFF) if mpls else self._ip_ttl()
        if ttl is None:
            return True
        if ttl <= 1:
            return False
        self.set_ttl(ttl - 1, mpls)
        return True

    def copy_ttl(self, inwards):
        lse = self._lse()
        if lse is None:
            return
        inner = Frame(bytes(12) + struct.pack("!H", self._type_behind_label()) + bytes(self.rest[4:]))
        behind = inner._lse()
        if inwards:
            if behind is None and inner._ip_ttl() is None:
                return
            inner.set_ttl(lse & 0xFF, behind is not None)
            self.rest[4:] = inner.rest
        else:
            ttl = inner._ip_ttl() if behind is None else behind & 0xFF
            if ttl is not None:
                self.rest[3] = ttl

    def _type_behind_label(self):
        """MPLS, or what the first nibble of the payload looks like."""
        if not self._lse() & 0x100:
            return self.type
        return {4: IPV4, 6: IPV6}.get(self.rest[4] >> 4 if len(self.rest) > 4 else 0, 0)


def crc32c(data):
    """RFC 3309, bit by bit."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF
