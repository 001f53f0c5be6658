# SPDX-License-Identifier: Apache-2.0
"""Tunnel formats as numbers (S1): what a format is, the shipped ones, and what makes a new one acceptable.

A packet is `outer IPv4 | opaque field | inner packet`. A format tells which outer protocol carries it, how
long the opaque field is, which of its bytes identify the format and which the virtual network, and which of
them are made anew for every packet. All else of the opaque field is sent as the template says. Pure data, so
that a controller without the dataplane can check formats too. The engine's side: `vswitch.dataplane.formats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from vswitch.errors import ConfigError
from vswitch.words import nearest

INNER = ETHERNET, IP, AUTO = "ethernet", "ip", "auto"
MAX_OPAQUE = 94
"""Bytes of an opaque field as it is sent: a tunnel's template, less outer Ethernet and IPv4."""
OUTER_IP, ETHERNET_HEADER = 20, 14
MAX_VALUE_LENGTH = 7
"""Bytes of an identifier: it is computed with in 64 bits with sign."""
UDP = 17
UDP_HEADER, UDP_LENGTH, UDP_CHECKSUM = 8, 4, 6
PLAIN_PROTOCOLS = {1: "ICMP", 6: "TCP"}


@dataclass(frozen=True)
class Format:
    """A tunnel format in numbers. Offsets count bytes from the start of the opaque field; -1: there is none.

    name: what tunnels call it.
    outer_proto: protocol in the outer IP header.
    opaque_len: bytes of the opaque field as it is sent, and as it must be received.
    self_describing: the first byte tells the length of a received opaque field instead (S1.1).
    id_offset, id_length, id_value: the bytes that identify the format.
    flow_id_offset, flow_id_length, flow_id_shift: the bytes that tell the virtual network (S1.2), which
        stands `flow_id_shift` bits from their right; the bits right of it are the template's.
    length_field: offset of 16 bits that hold the length of opaque field and inner packet, as UDP's do.
    entropy_offset: offset of 16 bits that tell the inner flow, for whoever spreads flows over paths.
    check: (offset, mask, value) of one more byte that must match on receiving.
    inner: what is inside: `ethernet`; `ip` (of either version) without an Ethernet header; or `auto`, which
        sends Ethernet and takes what comes for what its bytes say.
    outer_proto6: protocol in the outer IP header when IPv6 is inside, where it is another; 0: it is not.
    template: the opaque field as it is sent, before anything is filled in; empty: zeros.
    """

    name: str
    outer_proto: int
    opaque_len: int
    self_describing: bool = False
    id_offset: int = -1
    id_length: int = 0
    id_value: int = 0
    flow_id_offset: int = -1
    flow_id_length: int = 0
    flow_id_shift: int = 0
    length_field: int = -1
    entropy_offset: int = -1
    check: tuple[int, int, int] = (-1, 0, 0)
    inner: str = ETHERNET
    outer_proto6: int = 0
    template: bytes = b""

    @property
    def flow_id_bits(self) -> int:
        """Bits of the widest identifier of a virtual network that it carries; 0: it carries none."""
        return 8 * self.flow_id_length - self.flow_id_shift

    @property
    def protocols(self) -> set[int]:
        """The outer protocols that carry it."""
        return {self.outer_proto, self.outer_proto6 or self.outer_proto}

    def opaque(self) -> bytes:
        """The opaque field as it is sent, but for what differs from packet to packet."""
        field = bytearray(self.template or bytes(self.opaque_len))
        if self.id_length:
            end = self.id_offset + self.id_length
            field[self.id_offset : end] = self.id_value.to_bytes(self.id_length, "big")
        if self.check[0] >= 0:
            offset, mask, value = self.check
            field[offset] = field[offset] & ~mask | value
        if self.self_describing:
            field[0] = self.opaque_len
        return bytes(field)

    def fixed_bits(self) -> dict[int, tuple[int, int]]:
        """Offset to (mask, value) of the bits by which a receiver recognises it."""
        fixed = {}
        for index, byte in enumerate(self.id_value.to_bytes(self.id_length, "big")):
            fixed[self.id_offset + index] = (0xFF, byte)
        offset, mask, value = self.check
        if offset >= 0:
            known, byte = fixed.get(offset, (0, 0))
            fixed[offset] = (known | mask, byte | value)
        return fixed


def overhead(format: Format) -> int:
    """How many bytes longer an IP packet is on the way, its own Ethernet header included if it has one."""
    return OUTER_IP + format.opaque_len + (0 if format.inner == IP else ETHERNET_HEADER)


def are_twins(one: Format, other: Format) -> bool:
    """Whether one carries bare IP and the other does not, and they differ in nothing else that is received.

    Packets of twins are told apart by what is inside.
    """
    sent_only: dict[str, Any] = {"name": "", "template": b"", "entropy_offset": -1, "inner": ETHERNET}
    differ = (one.inner == IP) != (other.inner == IP)
    return differ and replace(one, **sent_only) == replace(other, **sent_only)


def check_format(new: Format, others: Iterable[Format] = ()) -> None:
    """Refuse numbers that make no format, or one that could be taken for another: ConfigError tells why."""
    _check_lengths(new)
    _check_places(new)
    _check_identification(new)
    for other in others:
        _check_difference(new, other)


def _refuse(new: Format, field: str, what: str, allowed: str = "") -> ConfigError:
    return ConfigError(f"formats.{new.name}.{field}", what, allowed)


def _check_lengths(new: Format) -> None:
    for field in ("outer_proto", "outer_proto6"):
        if not 0 <= getattr(new, field) <= 255:
            raise _refuse(new, field, f"{getattr(new, field)} is no IP protocol", "0 to 255")
    if not 0 <= new.opaque_len <= MAX_OPAQUE:
        raise _refuse(new, "opaque_len", f"{new.opaque_len} is out of range", f"0 to {MAX_OPAQUE}")
    if new.self_describing and new.opaque_len == 0:
        raise _refuse(new, "opaque_len", "a field of 0 bytes has no first byte that tells its length", "1 on")
    if new.template and len(new.template) != new.opaque_len:
        raise _refuse(new, "template", f"has {len(new.template)} bytes", f"{new.opaque_len}, the opaque_len")
    if new.inner not in INNER:
        instead = nearest(new.inner, INNER)
        raise _refuse(new, "inner", f"{new.inner!r} is not known{instead}", ", ".join(INNER))
    for field in ("id_length", "flow_id_length"):
        length = getattr(new, field)
        if not 0 <= length <= MAX_VALUE_LENGTH:
            raise _refuse(new, field, f"{length} is out of range", f"0 to {MAX_VALUE_LENGTH}")
    if not 0 <= new.id_value < 1 << 8 * new.id_length:
        raise _refuse(new, "id_value", f"{new.id_value} does not fit into {new.id_length} bytes")
    if not 0 <= new.flow_id_shift <= max(8 * new.flow_id_length - 1, 0):
        raise _refuse(new, "flow_id_shift", f"leaves no bits of {new.flow_id_length} bytes")


def _check_places(new: Format) -> None:
    """Every field lies inside the opaque field, and none upon another."""
    _, mask, value = new.check
    if not 0 <= mask <= 255 or value & ~mask:
        raise _refuse(new, "check", f"the value {value} has bits outside of the mask {mask}")
    taken: dict[int, str] = {0: "self_describing"} if new.self_describing else {}
    places = [
        ("id_offset", new.id_offset, new.id_length),
        ("flow_id_offset", new.flow_id_offset, new.flow_id_length),
        ("length_field", new.length_field, 2 if new.length_field >= 0 else 0),
        ("entropy_offset", new.entropy_offset, 2 if new.entropy_offset >= 0 else 0),
    ]
    for field, offset, length in places:
        if length == 0:
            if offset != -1:
                raise _refuse(new, field, f"is {offset}, but its length is 0", "-1: there is none")
            continue
        if offset < 0 or offset + length > new.opaque_len:
            raise _refuse(
                new, field, f"bytes {offset} to {offset + length - 1} leave the opaque field",
                f"within its {new.opaque_len} bytes",
            )  # fmt: skip
        for place in range(offset, offset + length):
            if place in taken:
                raise _refuse(new, field, f"byte {place} is part of {taken[place]} already")
            taken[place] = field
    _check_byte(new, taken)


def _check_byte(new: Format, taken: dict[int, str]) -> None:
    """The byte to check may share a byte with the flow identifier, but none of its bits."""
    offset, mask, _ = new.check
    if offset == -1:
        return
    if not 0 <= offset < new.opaque_len:
        raise _refuse(new, "check", f"byte {offset} leaves the opaque field", f"0 to {new.opaque_len - 1}")
    last = new.flow_id_offset + new.flow_id_length - 1
    below = (1 << max(min(new.flow_id_shift - 8 * (last - offset), 8), 0)) - 1
    if offset in taken and not (taken[offset] == "flow_id_offset" and mask & ~below == 0):
        raise _refuse(new, "check", f"byte {offset} is part of {taken[offset]} already")


def _check_identification(new: Format) -> None:
    """Formatted packets are never taken for plain ones (S1.2)."""
    for proto in sorted(new.protocols & PLAIN_PROTOCOLS.keys()):
        raise _refuse(new, "outer_proto", f"{proto} is plain {PLAIN_PROTOCOLS[proto]}", "a tunnel's protocol")
    if UDP not in new.protocols:
        return
    fixed = new.fixed_bits()
    if new.opaque_len < UDP_HEADER or any(fixed.get(byte, (0, 0))[0] != 0xFF for byte in (2, 3)):
        raise _refuse(
            new, "id_offset", "a format in UDP is told by its destination port", "bytes 2 and 3 identify it"
        )
    if new.length_field != UDP_LENGTH:
        raise _refuse(new, "length_field", "UDP has a length", f"{UDP_LENGTH}")
    if any(new.opaque()[UDP_CHECKSUM:UDP_HEADER]):
        raise _refuse(new, "template", "the UDP checksum is not computed", "zero in bytes 6 and 7")


def _check_difference(new: Format, other: Format) -> None:
    """No packet may be of both: some bits must be fixed by both, to different values, or they are twins."""
    if not new.protocols & other.protocols or are_twins(new, other):
        return
    ours, theirs = new.fixed_bits(), other.fixed_bits()
    for offset in ours.keys() & theirs.keys():
        (mask, value), (other_mask, other_value) = ours[offset], theirs[offset]
        if (value ^ other_value) & mask & other_mask:
            return
    proto = min(new.protocols & other.protocols)
    raise _refuse(
        new, "id_value", f"a packet of protocol {proto} could be of {new.name} and of {other.name}",
        f"an identifier or check that fixes bits which {other.name} fixes otherwise",
    )  # fmt: skip


# As plain values, for messages and files

PLAIN_FIELDS = {field.name: field for field in fields(Format) if field.name != "name"}


def parse_format(name: str, numbers: Mapping[str, object]) -> Format:
    """The format of plain values: numbers (or text, as "0x6558"), `check` as a list, `template` in hex."""
    where = f"formats.{name}"
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError("formats", f"{name!r} is no name for a format", "letters, digits, - and _")
    for key in numbers:
        if key not in PLAIN_FIELDS:
            raise ConfigError(
                f"{where}.{key}", f"is not known{nearest(key, PLAIN_FIELDS)}", ", ".join(PLAIN_FIELDS)
            )
    values: dict[str, object] = {}
    for key, field in PLAIN_FIELDS.items():
        if key in numbers:
            values[key] = _parse_value(f"{where}.{key}", field.default, numbers[key])
        elif field.default is MISSING:
            raise ConfigError(f"{where}.{key}", "is missing", "a number")
    return Format(name, **values)  # type: ignore[arg-type]


def _parse_value(where: str, default: object, value: object) -> object:
    """A value of the type that the field's default has."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            instead = nearest(str(value), ("true", "false"))
            raise ConfigError(where, f"{value!r} is neither true nor false{instead}", "true, false")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise ConfigError(where, f"{value!r} is no list of three numbers", "[offset, mask, value]")
        return tuple(_parse_number(where, part) for part in value)
    if isinstance(default, bytes):
        try:
            return bytes.fromhex(str(value))
        except ValueError:
            raise ConfigError(where, f"{value!r} is not hexadecimal", "pairs of digits") from None
    if isinstance(default, str):
        return str(value)
    return _parse_number(where, value)


def _parse_number(where: str, value: object) -> int:
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ConfigError(where, f"{value!r} is no number", "a whole number, as 4789 or 0x6558")


def format_numbers(format: Format) -> dict[str, object]:
    """The inverse of `parse_format`, without the name."""
    values = {key: getattr(format, key) for key in PLAIN_FIELDS}
    return values | {"check": list(format.check), "template": format.template.hex()}


# The shipped formats

_FORMATS = (
    # RFC 7348: UDP header, then flags (I: the VNI is valid), 24 reserved bits, VNI, 8 reserved bits
    Format(
        name="vxlan",
        outer_proto=UDP,
        opaque_len=16,
        id_offset=2,
        id_length=2,
        id_value=4789,
        flow_id_offset=12,
        flow_id_length=3,
        length_field=4,
        entropy_offset=0,
        check=(8, 0x08, 0x08),
    ),
    # RFC 2784 and 2890: flags (only the key is present) and version, protocol (Ethernet), key
    Format(
        name="gre",
        outer_proto=47,
        opaque_len=8,
        id_offset=0,
        id_length=4,
        id_value=0x2000_6558,
        flow_id_offset=4,
        flow_id_length=4,
    ),
    # RFC 4023: GRE without options, protocol MPLS, one label (S: the last of its stack). Sent is an Ethernet
    # pseudowire in raw mode (RFC 4448), without control word; who routes (vRouter) may send bare IP
    Format(
        name="mplsogre",
        outer_proto=47,
        opaque_len=8,
        id_offset=0,
        id_length=4,
        id_value=0x0000_8847,
        flow_id_offset=4,
        flow_id_length=3,
        flow_id_shift=4,
        check=(6, 0x01, 0x01),
        inner=AUTO,
        template=bytes.fromhex("00000000 00000140"),
    ),
    # RFC 7510: UDP header, one label; inside as above
    Format(
        name="mplsoudp",
        outer_proto=UDP,
        opaque_len=12,
        id_offset=2,
        id_length=2,
        id_value=6635,
        flow_id_offset=8,
        flow_id_length=3,
        flow_id_shift=4,
        length_field=4,
        entropy_offset=0,
        check=(10, 0x01, 0x01),
        inner=AUTO,
        template=bytes.fromhex("0000000000000000 00000140"),
    ),
    # RFC 2003, and RFC 4213 for IPv6 inside: nothing between the IP headers
    Format(name="ipip", outer_proto=4, opaque_len=0, inner=IP, outer_proto6=41),
    # S1.6, GRE with an opaque length of 16 and the flow identifier at offset 10. By RFC 1701 these are: flags
    # (routing and key are present), protocol, checksum and offset (unused), key, and the null entry that ends
    # the list of routes. The flow identifier is the key's lower half.
    Format(
        name="gre16",
        outer_proto=47,
        opaque_len=16,
        id_offset=0,
        id_length=4,
        id_value=0x6000_6558,
        flow_id_offset=10,
        flow_id_length=2,
    ),
    # S1.6, in UDP with an opaque length of 20: the format is told by the destination port (offset 2; the
    # first of the ports that IANA leaves to private use), the flow by source and target slot (16 bits each)
    Format(
        name="slots",
        outer_proto=UDP,
        opaque_len=20,
        id_offset=2,
        id_length=2,
        id_value=49152,
        flow_id_offset=12,
        flow_id_length=4,
        length_field=4,
        entropy_offset=0,
    ),
)
_BY_NAME = {format.name: format for format in _FORMATS}
# Layer-3 VPNs (RFC 4364) over the same two: bare IP behind the label, sent and received
_ROUTED = tuple(replace(_BY_NAME[name], name=f"{name}-ip", inner=IP) for name in ("mplsogre", "mplsoudp"))
SHIPPED = {format.name: format for format in (*_FORMATS, *_ROUTED)}
