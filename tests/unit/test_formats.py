# SPDX-License-Identifier: Apache-2.0
"""Which numbers make a tunnel format, and which are refused (S1.1, S1.6)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vswitch import layout
from vswitch.errors import ConfigError
from vswitch.format_table import FormatTable, outer_headers
from vswitch.layout import TEMPLATE_SIZE
from vswitch.tunnel_formats import MAX_OPAQUE, SHIPPED, Format, check_format, format_numbers, parse_format

OWN = Format(
    name="own", outer_proto=17, opaque_len=18, id_offset=2, id_length=2, id_value=50000, flow_id_offset=10,
    flow_id_length=4, length_field=4, entropy_offset=0,
)  # fmt: skip
MACS = bytes(6), bytes(6)


def refusal(format, others=()):
    with pytest.raises(ConfigError) as caught:
        check_format(format, others)
    return str(caught.value)


def test_s1_6_shipped_formats_are_accepted_beside_each_other():
    for name, format in SHIPPED.items():
        assert name == format.name
        check_format(format, (other for other in SHIPPED.values() if other is not format))
    assert (SHIPPED["gre16"].outer_proto, SHIPPED["gre16"].opaque_len, SHIPPED["gre16"].flow_id_offset) == (
        47, 16, 10,
    )  # fmt: skip
    slots = SHIPPED["slots"]
    assert (slots.outer_proto, slots.opaque_len, slots.id_offset) == (17, 20, 2)


def test_the_longest_opaque_field_fills_a_template():
    format = Format("long", outer_proto=253, opaque_len=MAX_OPAQUE)
    assert len(outer_headers(format, 0, 0, *MACS)) == TEMPLATE_SIZE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"opaque_len": 95}, "formats.own.opaque_len: 95 is out of range"),
        ({"outer_proto": 256}, "256 is no IP protocol"),
        ({"outer_proto": 6}, "plain TCP"),
        ({"outer_proto6": 1}, "plain ICMP"),
        ({"template": bytes(17)}, "has 17 bytes (allowed: 18, the opaque_len)"),
        ({"template": bytes(6) + b"\1" + bytes(11)}, "the UDP checksum is not computed"),
        ({"inner": "mpls"}, "'mpls' is not known (allowed: ethernet, ip, auto)"),
        ({"flow_id_length": 8}, "flow_id_length: 8 is out of range"),
        ({"flow_id_offset": 15}, "bytes 15 to 18 leave the opaque field"),
        ({"flow_id_offset": 3}, "byte 3 is part of id_offset already"),
        ({"flow_id_offset": -1}, "bytes -1 to 2 leave the opaque field"),
        ({"flow_id_length": 0}, "is 10, but its length is 0"),
        ({"flow_id_shift": 32}, "leaves no bits of 4 bytes"),
        ({"id_value": 65536}, "65536 does not fit into 2 bytes"),
        ({"id_offset": 8}, "destination port"),
        ({"length_field": -1}, "UDP has a length"),
        ({"length_field": 17}, "bytes 17 to 18 leave the opaque field"),
        ({"entropy_offset": 1}, "is part of id_offset already"),
        ({"check": (18, 1, 1)}, "byte 18 leaves the opaque field"),
        ({"check": (9, 1, 2)}, "has bits outside of the mask 1"),
        ({"check": (10, 1, 1)}, "byte 10 is part of flow_id_offset already"),
        ({"flow_id_shift": 4, "check": (13, 0x10, 0x10)}, "byte 13 is part of flow_id_offset already"),
        ({"self_describing": True}, "byte 0 is part of self_describing already"),
        ({"self_describing": True, "opaque_len": 0}, "has no first byte"),
    ],
    ids=str,
)
def test_s1_6_what_makes_no_format_is_refused_with_the_reason(change, reason):
    check_format(OWN)
    assert reason in refusal(replace(OWN, **change))


def test_a_check_may_stand_in_the_bits_that_the_shift_leaves():
    check_format(replace(OWN, flow_id_shift=4, check=(13, 0x0F, 0x01)))


@pytest.mark.parametrize(
    ("format", "other"),
    [
        (replace(OWN, id_value=4789), "vxlan"),
        (Format("own", outer_proto=47, opaque_len=4), "gre"),
        (Format("own", outer_proto=47, opaque_len=8, id_offset=2, id_length=2, id_value=0x6558), "gre"),
        (Format("own", outer_proto=4, opaque_len=4, id_offset=0, id_length=2, id_value=7), "ipip"),
        (Format("own", outer_proto=41, opaque_len=4), "ipip"),
    ],
)
def test_s1_6_a_format_that_could_be_taken_for_another_is_refused(format, other):
    assert f"could be of own and of {other}" in refusal(format, SHIPPED.values())


MPLS = SHIPPED["mplsogre"]


@pytest.mark.parametrize(("one", "other"), [("ethernet", "ip"), ("auto", "ip"), ("ip", "ethernet")])
def test_formats_that_differ_in_what_is_inside_are_told_by_it(one, other):
    """What is only sent may differ as well."""
    twins = (
        replace(OWN, name="one", inner=one),
        replace(OWN, inner=other, entropy_offset=-1, template=bytes(18)),
    )
    check_format(twins[1], twins[:1])


@pytest.mark.parametrize(("one", "other"), [("ethernet", "auto"), ("ethernet", "ethernet"), ("ip", "ip")])
def test_formats_that_both_take_frames_or_both_bare_ip_are_not_told_apart(one, other):
    assert "could be of own and of one" in refusal(
        replace(OWN, inner=other), [replace(OWN, name="one", inner=one)]
    )


@pytest.mark.parametrize(
    "change",
    [{"opaque_len": 20}, {"flow_id_offset": 12}, {"flow_id_shift": 4}, {"check": (8, 1, 1)}],
    ids=str,
)
def test_what_is_inside_tells_no_formats_apart_that_are_read_differently(change):
    assert "could be of own and of one" in refusal(
        replace(OWN, inner="ip", **change), [replace(OWN, name="one")]
    )


def test_routed_mpls_is_shipped_beside_bridged():
    for name in ("mplsogre", "mplsoudp"):
        bridged, routed = SHIPPED[name], SHIPPED[f"{name}-ip"]
        assert (bridged.inner, routed.inner) == ("auto", "ip")
        assert replace(routed, name=name, inner="auto") == bridged


def test_a_third_format_beside_twins_is_refused():
    for inner in ("ethernet", "ip", "auto"):
        own = replace(MPLS, name="own", inner=inner)
        taken = "mplsogre-ip" if inner == "ip" else "mplsogre"
        assert f"could be of own and of {taken}" in refusal(own, SHIPPED.values())


@pytest.mark.parametrize(
    "format",
    [
        OWN,
        Format("own", outer_proto=47, opaque_len=8, id_offset=2, id_length=2, id_value=0x1234),
        Format("own", outer_proto=47, opaque_len=8, check=(0, 0x0F, 0x01)),
        Format("own", outer_proto=99, opaque_len=0, inner="ip"),
    ],
)
def test_one_bit_that_both_fix_tells_formats_apart(format):
    check_format(format, SHIPPED.values())


def test_formats_are_plain_values_and_back():
    for name, format in SHIPPED.items():
        assert parse_format(name, format_numbers(format)) == format
    numbers = {"outer_proto": "0x2f", "opaque_len": 4, "template": "01 02 03 04", "check": [0, 1, 1]}
    parsed = parse_format("own", numbers)
    assert parsed == Format("own", 47, 4, template=b"\1\2\3\4", check=(0, 1, 1))


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"outer_proto": 47}, "formats.own.opaque_len: is missing"),
        ({"outer_proto": 47, "opaque_len": "four"}, "'four' is no number"),
        ({"outer_proto": True, "opaque_len": 4}, "True is no number"),
        ({"outer_proto": 47, "opaque_len": 4, "colour": 1}, "formats.own.colour: is not known"),
        ({"outer_proto": 47, "opaque_len": 4, "template": "xyz"}, "is not hexadecimal"),
        ({"outer_proto": 47, "opaque_len": 4, "check": 1}, "no list of three numbers"),
        ({"outer_proto": 47, "opaque_len": 4, "self_describing": 1}, "neither true nor false"),
    ],
)
def test_values_of_another_kind_are_refused(numbers, reason):
    with pytest.raises(ConfigError, match="own") as caught:
        parse_format("own", numbers)
    assert reason in str(caught.value)


def test_a_name_is_a_word():
    with pytest.raises(ConfigError, match="no name"):
        parse_format("a/b", {"outer_proto": 47, "opaque_len": 4})


# The table of a switch


@pytest.fixture
def table():
    return FormatTable(np.zeros(layout.MAX_FORMATS, layout.format_dtype))


def rejection(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


def test_s1_6_formats_come_and_go(table):
    places = {name: table.place(name) for name in SHIPPED}
    table.set("own", OWN, [])
    assert table["own"] == OWN and table.all() == SHIPPED | {"own": OWN}
    table.set("own", replace(OWN, id_value=50001), [])
    assert table["own"].id_value == 50001
    assert len({*places.values(), table.place("own")}) == len(SHIPPED) + 1
    table.delete("own", [])
    assert table.all() == SHIPPED
    assert {name: table.place(name) for name in SHIPPED} == places


def test_a_format_takes_the_name_that_it_is_given(table):
    table.set("other", OWN, [])
    assert table["other"].name == "other"


def test_formats_in_use_stay(table):
    table.set("own", OWN, [])
    table.set("own", OWN, ["t1"])  # the same again
    changed = replace(OWN, id_value=50001)
    assert "formats.own: is used by t1, t2" in rejection(table.set, "own", changed, ["t2", "t1"])
    assert "is used by t1" in rejection(table.delete, "own", ["t1"])
    assert table["own"] == OWN


def test_shipped_formats_stay(table):
    table.set("gre", SHIPPED["gre"], [])
    assert "built-in" in rejection(table.set, "gre", OWN, [])
    assert "built-in" in rejection(table.delete, "gre", [])
    assert "is not known" in rejection(table.delete, "geneve", [])
    assert "'geneve' is not known (allowed: gre, gre16, ipip" in rejection(table.__getitem__, "geneve")


def test_the_table_is_bounded(table):
    room = layout.MAX_FORMATS - len(SHIPPED)
    for number in range(room):
        table.set(f"own{number}", replace(OWN, id_value=50000 + number), [])
    assert "too many formats" in rejection(table.set, "one", replace(OWN, id_value=1), [])
    table.set("own0", replace(OWN, id_value=1), [])
