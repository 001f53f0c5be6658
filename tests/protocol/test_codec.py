# SPDX-License-Identifier: Apache-2.0
"""The codec against Ryu's: the same bytes for the same message, the same fields for the same bytes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.agent.features import table_features
from vswitch.openflow import actions as a
from vswitch.openflow import groups as g
from vswitch.openflow import instructions as i
from vswitch.openflow import messages as m
from vswitch.openflow import meters as mt
from vswitch.openflow import multipart as mp
from vswitch.openflow import queues as q
from vswitch.openflow.constants import MultipartType, PortReason
from vswitch.openflow.flow_mod import FlowMod, FlowRemoved
from vswitch.openflow.message import decode_message
from vswitch.openflow.oxm import BY_NAME, FIELDS, Field, Match, Oxm
from vswitch.openflow.table_features import TableFeaturesRequest

XID = 0x01020304
MAC = bytes.fromhex("0200000000fe")
PORT = m.PortDesc(7, MAC, "eth7", 1, 4, 64, 0, 0, 0, 1000, 2000)
MATCH = Match.of(in_port=3, eth_type=0x800, ipv4_dst=(0x0A000000, 0xFF000000))
RYU_MATCH = "OFPMatch(in_port=3, eth_type=0x800, ipv4_dst=('10.0.0.0','255.0.0.0'))"
RYU_PORT = "OFPPort(7, '02:00:00:00:00:fe', b'eth7', 1, 4, 64, 0, 0, 0, 1000, 2000)"

ACTIONS = (
    (a.Output(5, 128), "OFPActionOutput(5, 128)"),
    (a.CopyTtlOut(), "OFPActionCopyTtlOut()"),
    (a.CopyTtlIn(), "OFPActionCopyTtlIn()"),
    (a.SetMplsTtl(64), "OFPActionSetMplsTtl(64)"),
    (a.DecMplsTtl(), "OFPActionDecMplsTtl()"),
    (a.PushVlan(0x8100), "OFPActionPushVlan(0x8100)"),
    (a.PopVlan(), "OFPActionPopVlan()"),
    (a.PushMpls(0x8847), "OFPActionPushMpls(0x8847)"),
    (a.PopMpls(0x800), "OFPActionPopMpls(0x800)"),
    (a.SetQueue(3), "OFPActionSetQueue(3)"),
    (a.Group(9), "OFPActionGroup(9)"),
    (a.SetNwTtl(17), "OFPActionSetNwTtl(17)"),
    (a.DecNwTtl(), "OFPActionDecNwTtl()"),
    (a.PushPbb(0x88E7), "OFPActionPushPbb(0x88e7)"),
    (a.PopPbb(), "OFPActionPopPbb()"),
    (a.SetField(Oxm(BY_NAME["tunnel_id"], 42)), "OFPActionSetField(tunnel_id=42)"),
    (a.SetField(Oxm(BY_NAME["vlan_vid"], 0x1005)), "OFPActionSetField(vlan_vid=0x1005)"),
    (a.SetField(Oxm(BY_NAME["ipv6_dst"], 1)), "OFPActionSetField(ipv6_dst='::1')"),
    (a.SetField(Oxm(BY_NAME["pbb_isid"], 9)), "OFPActionSetField(pbb_isid=9)"),
    (a.Experimenter(0xABCD, b"12345678"), "OFPActionExperimenterUnknown(0xabcd, b'12345678')"),
)
INSTRUCTIONS = (
    (i.GotoTable(7), "OFPInstructionGotoTable(7)"),
    (i.WriteMetadata(5 << 32, 0xFF << 32), "OFPInstructionWriteMetadata(5 << 32, 0xff << 32)"),
    (
        i.WriteActions((a.Output(1, 0),)),
        "OFPInstructionActions(3, [OFPActionOutput(1, 0)])",
    ),
    (
        i.ApplyActions(tuple(action for action, _ in ACTIONS)),
        f"OFPInstructionActions(ofp.OFPIT_APPLY_ACTIONS, [{', '.join(text for _, text in ACTIONS)}])",
    ),
    (i.ClearActions(), "OFPInstructionActions(ofp.OFPIT_CLEAR_ACTIONS, [])"),
    (i.Meter(6), "OFPInstructionMeter(6)"),
)
ALL_INSTRUCTIONS = i.Instructions.of(*(item for item, _ in INSTRUCTIONS))
RYU_INSTRUCTIONS = f"[{', '.join(text for _, text in INSTRUCTIONS)}]"

BUCKETS = (g.Bucket((a.Output(1), a.Group(2)), 3, 4, 5), g.Bucket())
RYU_BUCKETS = "[OFPBucket(3, 4, 5, [OFPActionOutput(1, 65535), OFPActionGroup(2)]), OFPBucket(actions=[])]"
BANDS = (mt.Band(1, 1000, 7), mt.Band(2, 500, 0, 2))

REQUESTS = (
    (m.Hello(None), "OFPHello(dp)"),
    (m.EchoRequest(b"ping"), "OFPEchoRequest(dp, data=b'ping')"),
    (m.EchoReply(b"ping"), "OFPEchoReply(dp, data=b'ping')"),
    (m.Error(4, 9, b"start"), "OFPErrorMsg(dp, 4, 9, b'start')"),
    (m.Experimenter(0x4D4E4F46, 1, b"{}"), "OFPExperimenter(dp, 0x4D4E4F46, 1, b'{}')"),
    (m.FeaturesRequest(), "OFPFeaturesRequest(dp)"),
    (m.GetConfigRequest(), "OFPGetConfigRequest(dp)"),
    (m.SetConfig(0, 128), "OFPSetConfig(dp, 0, 128)"),
    (m.BarrierRequest(), "OFPBarrierRequest(dp)"),
    (m.RoleRequest(2, 7), "OFPRoleRequest(dp, 2, 7)"),
    (m.PortMod(7, MAC, 1, 0x65, 3), "OFPPortMod(dp, 7, '02:00:00:00:00:fe', 1, 0x65, 3)"),
    (
        m.PacketOut(3, (a.Output(1),), b"frame"),
        "OFPPacketOut(dp, 0xffffffff, 3, [OFPActionOutput(1, 65535)], b'frame')",
    ),
    (
        FlowMod(MATCH, ALL_INSTRUCTIONS, 3, 1, 77, 5, 6, 0xC0, 0xF0, out_port=9, out_group=8, flags=5),
        "OFPFlowMod(dp, cookie=0xc0, cookie_mask=0xf0, table_id=3, command=1, idle_timeout=5, hard_timeout=6,"
        " priority=77, buffer_id=0xffffffff, out_port=9, out_group=8, flags=5,"
        f" match={RYU_MATCH}, instructions={RYU_INSTRUCTIONS})",
    ),
    (mp.MultipartRequest(MultipartType.DESC), "OFPDescStatsRequest(dp, 0)"),
    (
        mp.MultipartRequest(MultipartType.FLOW, mp.FlowFilter(MATCH, 2, 3, 4, 5, 6)),
        f"OFPFlowStatsRequest(dp, 0, 2, 3, 4, 5, 6, {RYU_MATCH})",
    ),
    (
        mp.MultipartRequest(MultipartType.AGGREGATE, mp.FlowFilter(MATCH, 2, 3, 4, 5, 6)),
        f"OFPAggregateStatsRequest(dp, 0, 2, 3, 4, 5, 6, {RYU_MATCH})",
    ),
    (mp.MultipartRequest(MultipartType.TABLE), "OFPTableStatsRequest(dp, 0)"),
    (
        mp.MultipartRequest(MultipartType.PORT_STATS, mp.PortStatsRequest(3)),
        "OFPPortStatsRequest(dp, 0, 3)",
    ),
    (mp.MultipartRequest(MultipartType.PORT_DESC), "OFPPortDescStatsRequest(dp, 0)"),
    (
        mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest()),
        "OFPTableFeaturesStatsRequest(dp, 0)",
    ),
    (
        g.GroupMod(0, 7, 1, BUCKETS),
        f"OFPGroupMod(dp, ofp.OFPGC_ADD, ofp.OFPGT_SELECT, 7, {RYU_BUCKETS})",
    ),
    (g.GroupMod(2, 0xFFFFFFFC), "OFPGroupMod(dp, ofp.OFPGC_DELETE, group_id=ofp.OFPG_ALL)"),
    (
        mt.MeterMod(1, 3, 6, BANDS),
        "OFPMeterMod(dp, 1, 6, 3, [OFPMeterBandDrop(1000, 7), OFPMeterBandDscpRemark(500, 0, 2)])",
    ),
    (m.TableMod(3, 1), "OFPTableMod(dp, 3, 1)"),
    (m.GetAsyncRequest(), "OFPGetAsyncRequest(dp)"),
    (m.SetAsync((1, 2), (3, 4), (5, 6)), "OFPSetAsync(dp, [1, 2], [3, 4], [5, 6])"),
    (q.QueueGetConfigRequest(3), "OFPQueueGetConfigRequest(dp, 3)"),
    (mp.MultipartRequest(MultipartType.GROUP, g.GroupStatsRequest(7)), "OFPGroupStatsRequest(dp, 0, 7)"),
    (mp.MultipartRequest(MultipartType.GROUP_DESC), "OFPGroupDescStatsRequest(dp, 0)"),
    (mp.MultipartRequest(MultipartType.GROUP_FEATURES), "OFPGroupFeaturesStatsRequest(dp, 0)"),
    (mp.MultipartRequest(MultipartType.METER, mt.MeterRequest(7)), "OFPMeterStatsRequest(dp, 0, 7)"),
    (
        mp.MultipartRequest(MultipartType.METER_CONFIG, mt.MeterRequest()),
        "OFPMeterConfigStatsRequest(dp, 0, ofp.OFPM_ALL)",
    ),
    (mp.MultipartRequest(MultipartType.METER_FEATURES), "OFPMeterFeaturesStatsRequest(dp, 0)"),
    (
        mp.MultipartRequest(MultipartType.QUEUE, q.QueueStatsRequest(2, 5)),
        "OFPQueueStatsRequest(dp, 0, 2, 5)",
    ),
)

FRAME_BASE64 = base64.b64encode(b"frame").decode()
FLOW_STATS = mp.FlowStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, MATCH, ALL_INSTRUCTIONS)
REPLIES = (
    (
        m.Hello(frozenset({1, 4})),
        "OFPHello",
        {"elements": [{"OFPHelloElemVersionBitmap": {"length": 8, "type": 1, "versions": [1, 4]}}]},
    ),
    (
        m.FeaturesReply(0x1234, 0, 254, 0, 7),
        "OFPSwitchFeatures",
        {"datapath_id": 0x1234, "n_buffers": 0, "n_tables": 254, "capabilities": 7},
    ),
    (m.GetConfigReply(0, 128), "OFPGetConfigReply", {"flags": 0, "miss_send_len": 128}),
    (m.BarrierReply(), "OFPBarrierReply", {}),
    (m.RoleReply(3, 9), "OFPRoleReply", {"role": 3, "generation_id": 9}),
    (
        m.GetAsyncReply((1, 2), (3, 4), (5, 6)),
        "OFPGetAsyncReply",
        {"packet_in_mask": [1, 2], "port_status_mask": [3, 4], "flow_removed_mask": [5, 6]},
    ),
    (q.QueueGetConfigReply(3), "OFPQueueGetConfigReply", {"port": 3, "queues": []}),
    (
        m.PacketIn(100, 1, 2, 3, Match.of(in_port=4, metadata=5, tunnel_id=6), b"frame"),
        "OFPPacketIn",
        {
            "total_len": 100,
            "reason": 1,
            "table_id": 2,
            "cookie": 3,
            "data": base64.b64encode(b"frame").decode(),
        },
    ),
    (
        m.PortStatus(PortReason.MODIFY, PORT),
        "OFPPortStatus",
        {
            "reason": 2,
            "desc": {
                "OFPPort": {
                    "port_no": 7,
                    "hw_addr": "02:00:00:00:00:fe",
                    "name": "eth7",
                    "config": 1,
                    "state": 4,
                    "curr": 64,
                    "advertised": 0,
                    "supported": 0,
                    "peer": 0,
                    "curr_speed": 1000,
                    "max_speed": 2000,
                }
            },
        },
    ),
    (
        FlowRemoved(1, 2, 0, 4, 5, 6, 7, 8, 9, 10, MATCH),
        "OFPFlowRemoved",
        {"cookie": 1, "priority": 2, "table_id": 4, "duration_sec": 5, "duration_nsec": 6, "idle_timeout": 7}
        | {"hard_timeout": 8, "packet_count": 9, "byte_count": 10},
    ),
)
PORT_STATS_FIELDS = (
    "port_no rx_packets tx_packets rx_bytes tx_bytes rx_dropped tx_dropped rx_errors tx_errors"
    " rx_frame_err rx_over_err rx_crc_err collisions duration_sec duration_nsec"
)


def bucket_counter(packets, octets):
    return {"OFPBucketCounter": {"packet_count": packets, "byte_count": octets}}


def band_counter(packets, octets):
    return {"OFPMeterBandStats": {"packet_band_count": packets, "byte_band_count": octets}}


ONE_ITEM = (MultipartType.DESC, MultipartType.AGGREGATE, MultipartType.GROUP_FEATURES)
MULTIPART_REPLIES = (
    (
        MultipartType.DESC,
        mp.Desc("maker", "hard", "soft", "1", "s1"),
        {"mfr_desc": "maker", "hw_desc": "hard", "sw_desc": "soft", "serial_num": "1", "dp_desc": "s1"},
    ),
    (
        MultipartType.FLOW,
        FLOW_STATS,
        {"table_id": 1, "duration_sec": 2, "duration_nsec": 3, "priority": 4, "idle_timeout": 5}
        | {"hard_timeout": 6, "flags": 7, "cookie": 8, "packet_count": 9, "byte_count": 10},
    ),
    (MultipartType.AGGREGATE, mp.Aggregate(1, 2, 3), {"packet_count": 1, "byte_count": 2, "flow_count": 3}),
    (
        MultipartType.TABLE,
        mp.TableStats(1, 2, 3, 4),
        {"table_id": 1, "active_count": 2, "lookup_count": 3, "matched_count": 4},
    ),
    (
        MultipartType.PORT_STATS,
        mp.PortStats(*range(1, 16)),
        dict(
            zip(
                PORT_STATS_FIELDS.split(),
                range(1, 16),
                strict=True,
            )
        ),
    ),
    (MultipartType.PORT_DESC, PORT, {"port_no": 7, "name": "eth7", "curr_speed": 1000}),
    (
        MultipartType.QUEUE,
        q.QueueStats(1, 2, 3, 4, 5, 6, 7),
        {"port_no": 1, "queue_id": 2, "tx_bytes": 3, "tx_packets": 4, "tx_errors": 5}
        | {"duration_sec": 6, "duration_nsec": 7},
    ),
    (
        MultipartType.GROUP,
        g.GroupStats(1, 2, 3, 4, 5, 6, ((7, 8), (9, 10))),
        {"group_id": 1, "ref_count": 2, "packet_count": 3, "byte_count": 4, "duration_sec": 5}
        | {"duration_nsec": 6, "bucket_stats": [bucket_counter(7, 8), bucket_counter(9, 10)]},
    ),
    (MultipartType.GROUP_DESC, g.GroupDesc(1, 2, BUCKETS), {"type": 1, "group_id": 2}),
    (
        MultipartType.GROUP_FEATURES,
        g.GroupFeatures(15, 7, (1, 2, 3, 4), (5, 6, 7, 8)),
        {"types": 15, "capabilities": 7, "max_groups": [1, 2, 3, 4], "actions": [5, 6, 7, 8]},
    ),
    (
        MultipartType.METER,
        mt.MeterStats(1, 2, 3, 4, 5, 6, ((7, 8), (9, 10))),
        {"meter_id": 1, "flow_count": 2, "packet_in_count": 3, "byte_in_count": 4, "duration_sec": 5}
        | {"duration_nsec": 6, "band_stats": [band_counter(7, 8), band_counter(9, 10)]},
    ),
    (
        MultipartType.METER_CONFIG,
        mt.MeterConfig(5, 2, BANDS),
        {
            "flags": 5,
            "meter_id": 2,
            "bands": [
                {"OFPMeterBandDrop": {"type": 1, "len": 16, "rate": 1000, "burst_size": 7}},
                {
                    "OFPMeterBandDscpRemark": {"type": 2, "len": 16, "rate": 500}
                    | {"burst_size": 0, "prec_level": 2}
                },
            ],
        },
    ),
    (
        MultipartType.METER_FEATURES,
        mt.MeterFeatures(1, 2, 3, 4, 5),
        {"max_meter": 1, "band_types": 2, "capabilities": 3, "max_bands": 4, "max_color": 5},
    ),
)


def with_xid(message):
    return decode_message(message.encode()[:4] + XID.to_bytes(4, "big") + message.encode()[8:])


@pytest.mark.parametrize(("ours", "theirs"), REQUESTS, ids=lambda x: type(x).__name__)
def test_requests_are_the_bytes_that_ryu_builds(ryu, ours, theirs):
    expected = ryu.build(theirs)
    assert with_xid(ours).encode().hex() == expected.hex()
    assert decode_message(expected) == with_xid(ours)


@pytest.mark.parametrize(
    ("message", "name", "fields"), REPLIES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_ryu_reads_what_the_switch_sends(ryu, message, name, fields):
    got_name, got = ryu.parse(message.encode())
    assert got_name == name
    assert {key: got[key] for key in fields} == fields
    assert decode_message(message.encode()) == message


@pytest.mark.parametrize(("kind", "item", "fields"), MULTIPART_REPLIES, ids=lambda x: getattr(x, "name", ""))
def test_ryu_reads_multipart_replies(ryu, kind, item, fields):
    message = mp.MultipartReply(kind, (item,) if kind in ONE_ITEM else (item, item), xid=5)
    _name, got = ryu.parse(message.encode())
    body = got["body"][-1] if isinstance(got["body"], list) else got["body"]
    ((_cls, values),) = body.items()
    assert {key: values[key] for key in fields} == fields
    assert decode_message(message.encode()) == message


def test_ryu_reads_table_features(ryu):
    tables = list(table_features())
    for part in mp.replies(MultipartType.TABLE_FEATURES, tables[:30], 5):
        _name, got = ryu.parse(part.encode())
    assert decode_message(part.encode()).encode() == part.encode()
    last = got["body"][-1]["OFPTableFeaturesStats"]
    assert (last["table_id"], last["name"], last["max_entries"]) == (29, "", 100_000)
    properties = [next(iter(p.values())) for p in last["properties"]]
    assert [p["type"] for p in properties] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert [i["OFPInstructionId"]["type"] for i in properties[0]["instruction_ids"]] == [1, 2, 3, 4, 5, 6]
    assert properties[1]["table_ids"] == list(range(30, 254))
    assert [i["OFPActionId"]["type"] for i in properties[2]["action_ids"]] == [0, 11, 12, *range(15, 28)]
    match = {i["OFPOxmId"]["type"]: i["OFPOxmId"]["hasmask"] for i in properties[4]["oxm_ids"]}
    assert match["ipv4_src"] and match["metadata"] and not match["in_port"]
    settable = {i["OFPOxmId"]["type"] for i in properties[6]["oxm_ids"]}
    assert settable >= {"tunnel_id", "eth_dst"} and not settable & {"in_port", "metadata", "ipv6_exthdr"}


def test_ryu_reads_the_rule_of_a_flow_stats_reply(ryu):
    _name, got = ryu.parse(mp.MultipartReply(MultipartType.FLOW, (FLOW_STATS,)).encode())
    stats = got["body"][0]["OFPFlowStats"]
    fields = [tlv["OXMTlv"] for tlv in stats["match"]["OFPMatch"]["oxm_fields"]]
    assert [(f["field"], f["value"], f["mask"]) for f in fields] == [
        ("in_port", 3, None),
        ("eth_type", 0x800, None),
        ("ipv4_dst", "10.0.0.0", "255.0.0.0"),
    ]
    assert [next(iter(instruction)) for instruction in stats["instructions"]] == [
        "OFPInstructionGotoTable",
        "OFPInstructionWriteMetadata",
        "OFPInstructionActions",
        "OFPInstructionActions",
        "OFPInstructionActions",
        "OFPInstructionMeter",
    ]


# --- OXM -------------------------------------------------------------------------------------------------


def complete(field: Field, value, mask=None):
    """A match on `field` with everything that it requires before it."""
    values = {}
    for required, allowed in field.requires:
        values[required] = min(allowed) if allowed else 0x1001
    values[field.name] = value if mask is None else (value & mask, mask)
    return values


def ryu_value(field: Field, value):
    if field.style == "mac":
        return repr(value.to_bytes(6, "big").hex(":"))
    if field.style in ("ipv4", "ipv6"):
        return f"str(__import__('ipaddress').{'IPv4' if field.style == 'ipv4' else 'IPv6'}Address({value}))"
    return str(value)


def ryu_match(values):
    parts = []
    for name, value in values.items():
        field = BY_NAME[name]
        text = (
            f"({ryu_value(field, value[0])}, {ryu_value(field, value[1])})"
            if isinstance(value, tuple)
            else ryu_value(field, value)
        )
        parts.append(f"{name}={text}")
    return f"OFPMatch({', '.join(parts)})"


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_is_encoded_as_ryu_does(ryu, field):
    samples = [complete(field, field.full_mask)]
    if field.requires and field.requires[-1][0] == field.name:
        samples = []
    if field.maskable:
        mask = field.full_mask ^ 1
        samples.append(complete(field, field.full_mask, mask))
    for values in samples:
        message = FlowMod(Match.of(**values), xid=XID)
        theirs = ryu.build(
            f"OFPFlowMod(dp, match={ryu_match(values)}, instructions=[], out_port=ofp.OFPP_ANY,"
            " out_group=ofp.OFPG_ANY)"
        )
        assert message.encode().hex() == theirs.hex()
        assert decode_message(theirs) == message


@st.composite
def matches(draw):
    values = {}
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=4, unique=True)):
        value = draw(st.integers(0, field.full_mask))
        mask = draw(st.none() | st.integers(1, field.full_mask)) if field.maskable else None
        candidate = {**complete(field, value, mask), **values}
        try:
            Match.of(**candidate)
        except Exception:
            continue
        values = candidate
    return Match.of(**values)


actions = st.lists(st.sampled_from([action for action, _ in ACTIONS])).map(tuple)
instruction_lists = st.lists(
    st.one_of(
        st.builds(i.GotoTable, st.integers(0, 255)),
        st.builds(i.WriteMetadata, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        st.builds(i.WriteActions, actions),
        st.builds(i.ApplyActions, actions),
        st.just(i.ClearActions()),
        st.builds(i.Meter, st.integers(0, 2**32 - 1)),
    ),
    unique_by=lambda instruction: instruction.TYPE,
)


@given(matches(), instruction_lists, st.integers(0, 2**32 - 1))
def test_flow_mods_survive_the_round_trip(match, instructions, xid):
    mod = FlowMod(match, i.Instructions.of(*instructions), xid=xid)
    assert decode_message(mod.encode()) == mod


@given(matches())
def test_a_match_is_its_own_canonical_form_in_any_order(match):
    again, end = Match.decode(match.encode())
    assert again == match and end == len(match.encode())
    assert again.canonical == match.canonical


@given(st.lists(st.integers(0, 3), min_size=0, max_size=400))
def test_long_replies_are_split_below_64_kib(sizes):
    wide = i.Instructions.of(i.ApplyActions(tuple(a.Output(n) for n in range(100))))
    items = [mp.FlowStats(*[0] * 10, MATCH, wide if size else i.NO_INSTRUCTIONS) for size in sizes]
    made = list(mp.replies(MultipartType.FLOW, items, 9))
    parts = [part for part in made if part is not None]
    assert len(made) >= len(items) // mp.ITEMS_AT_ONCE  # others may run that often
    assert all(len(part.encode()) <= 0xFFFF and part.xid == 9 for part in parts)
    assert [part.flags for part in parts] == [1] * (len(parts) - 1) + [0]
    assert [item for part in parts for item in decode_message(part.encode()).items] == items
