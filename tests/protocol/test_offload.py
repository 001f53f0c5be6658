# SPDX-License-Identifier: Apache-2.0
"""NICs and tunnel formats by Experimenter message: what a controller says, and what the switch then has."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.protocol.fake_datapath import tap
from tests.protocol.harness import Peer, m
from vswitch.openflow import experimenter as ex
from vswitch.openflow.constants import BadRequest, ErrorType, Role
from vswitch.openflow.errors import EXPERIMENTER_ID

WEB = ex.PacketMatch(protocol="tcp", dst_ip="10.0.0.2", dst_port=80)
VM = ex.PacketMatch(dst_mac="00:00:00:00:00:02", vni=42)
NUMBERS = {
    "outer_proto": 17,
    "opaque_len": 20,
    "id_offset": 2,
    "id_length": 2,
    "id_value": 9999,
    "length_field": 4,
}


@pytest.fixture
def uplink(datapath):
    """The switch's port 1 is a wire."""
    datapath.infos[1] = datapath.infos[1]._replace(kind="wire", name="uplink0")
    return datapath.nic(1)


def experimenter(body):
    return m.Experimenter(EXPERIMENTER_ID, *ex.to_wire(body))


def says(switch, *bodies):
    return switch.says(*map(experimenter, bodies))


def asks(switch, body):
    answer = switch.asks(experimenter(body))
    assert isinstance(answer, m.Experimenter), answer
    return ex.from_wire(answer.exp_type, answer.data)


def refusal(switch, body):
    error = switch.asks(experimenter(body))
    assert (error.type, error.code) == (ErrorType.EXPERIMENTER, ex.to_wire(body)[0])
    return error.data[4:].decode()


def held(switch):
    """What the switch tells another controller, which asks as long as there is more."""
    peer, found = Peer(switch.of), []
    while True:
        reply = asks(peer, ex.SettingsRequest(len(found)))
        assert reply.first == len(found)
        found += reply.messages()
        if not reply.more:
            return found


# --- NIC -------------------------------------------------------------------------------------------------


def test_s0_1_lro_of_one_queue_changes_no_other(switch, uplink):
    says(switch, ex.NicQueuesSet(1, 3), ex.LroSet(1, 1, "off"), ex.LroSet(1, 2, "rules", "lro", 9000))
    assert [s.lro for s in uplink.settings()] == ["on", "off", "rules"]
    assert [s.lro_kind for s in uplink.settings()] == ["gro", "gro", "lro"]
    assert [s.completion_size for s in uplink.settings()] == [65535, 65535, 9000]


def test_s0_5_the_default_is_on_at_a_nic_and_off_in_front_of_a_vm(switch, uplink, datapath):
    says(switch, ex.LroSet(1, 0, "off"), ex.LroSet(2, 0, "on"))
    assert (datapath.lro(1), datapath.lro(2)) == ("off", "on")
    says(switch, ex.LroSet(1, 0, "default"), ex.LroSet(2, 0, "default"))
    assert (datapath.lro(1), datapath.lro(2)) == ("on", "off")


def test_s0_4_queues_get_workers(switch, uplink):
    says(switch, ex.NicQueuesSet(1, 3), ex.NicWorkersSet(1, (0, 2)))
    assert [s.worker for s in uplink.settings()] == [0, 2, 0]
    assert "workers: 4 are given" in refusal(switch, ex.NicWorkersSet(1, (0,) * 4))
    says(switch, ex.NicWorkersSet(1))
    assert [s.worker for s in uplink.settings()] == [0, 0, 0]


def test_s0_2_filters_come_move_and_go(switch, uplink):
    says(switch, ex.NicQueuesSet(1, 4), ex.NicFilterAdd(1, WEB, 2, 10), ex.NicFilterAdd(1, VM, 1))
    assert [(f.match.to_object(), f.queue, f.priority) for f in uplink.filters()] == [
        ({"protocol": "tcp", "dst_ip": "10.0.0.2", "dst_port": 80}, 2, 10),
        ({"dst_mac": "00:00:00:00:00:02", "vni": 42}, 1, 0),
    ]
    says(switch, ex.NicFilterAdd(1, WEB, 3, 10))
    assert sorted(f.queue for f in uplink.filters()) == [1, 3]
    says(switch, ex.NicFilterDelete(1, WEB, 10), ex.NicFilterDelete(1, VM))
    assert uplink.filters() == ()


def test_what_somebody_deleted_by_hand_is_deleted_without_effect(switch, uplink, datapath):
    says(switch, ex.NicFilterAdd(1, WEB, 0), ex.LroRuleAdd(1, VM), ex.FormatAdd("new", NUMBERS))
    uplink.delete_filter(1)
    uplink.delete_rule(2)
    datapath.delete_format("new")
    assert says(switch, ex.NicFilterDelete(1, WEB), ex.LroRuleDelete(1, VM), ex.FormatDelete("new")) == []
    assert held(switch) == []


def test_s0_2_rss_key_and_indirection(switch, uplink):
    says(switch, ex.NicQueuesSet(1, 2), ex.NicRssSet(1, "ab" * 40, (1,) * 128))
    assert (uplink.key, uplink.indirection) == (b"\xab" * 40, (1,) * 128)
    says(switch, ex.NicRssSet(1))
    assert uplink.key.hex().startswith("6d5a56da") and uplink.indirection == (0, 1) * 64


def test_s0_3_rules_for_one_queue_several_or_all(switch, uplink):
    says(switch, ex.NicQueuesSet(1, 4))
    pop3 = ex.PacketMatch(protocol="tcp", dst_port=110)
    says(switch, ex.LroRuleAdd(1, pop3, (1,)), ex.LroRuleAdd(1, WEB, (1, 2)), ex.LroRuleAdd(1, VM, lro=False))
    assert [(r.queues, r.lro) for r in uplink.rules()] == [((1,), True), ((1, 2), True), (None, False)]
    says(switch, ex.LroRuleAdd(1, VM, lro=True))
    assert [r.lro for r in uplink.rules()] == [True] * 3
    says(switch, ex.LroRuleDelete(1, pop3, (1,)))
    assert len(uplink.rules()) == 2


def test_s0_8_roles(switch, datapath):
    says(switch, ex.RoleSet(2, "forwarding"))
    assert datapath.forwarding == {2: True}
    says(switch, ex.RoleSet(2, "terminating"))
    assert datapath.forwarding == {2: False}


def test_statistics(switch, uplink):
    says(switch, ex.NicQueuesSet(1, 2))
    reply = asks(switch, ex.NicStatsRequest(1))
    assert [queue["frames"] for queue in reply.queues] == [100, 101]
    assert reply.queues[1]["reasons"] == {"flags": 1}


def test_counters_of_the_switch_its_ports_and_their_queues(switch, uplink, datapath):
    says(switch, ex.NicQueuesSet(1, 2))
    reply = asks(switch, ex.CountersRequest())
    assert reply.reasons["slow_path_misses"] == 0 and reply.next is None
    assert set(reply.ports) == {info.name for info in datapath.ports()}
    assert reply.ports["uplink0"]["rx_packets"] == 0
    assert [queue["frames"] for queue in reply.queues["uplink0"]] == [100, 101]
    assert "s1" not in reply.queues  # OFPP_LOCAL has none


def test_counters_of_many_ports_come_in_parts(switch, datapath):
    """Each of less than 64 KiB; together all, each once."""
    datapath.infos.update({number: tap(number) for number in range(1, 400)})
    first, parts = 0, []
    while first is not None:
        parts.append(asks(switch, ex.CountersRequest(first)))
        assert len(ex.to_wire(parts[-1])[1]) < 60_000
        first = parts[-1].next
    names = [name for part in parts for name in part.ports]
    assert len(parts) > 1 and sorted(names) == sorted(info.name for info in datapath.ports())
    assert [bool(part.reasons) for part in parts] == [True] + [False] * (len(parts) - 1)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (ex.LroSet(9, 0, "on"), "port_no: there is no NIC at port 9"),
        (ex.LroSet(1, 3, "on"), "queue: port1 has no queue 3 (allowed: 0 to 0)"),
        (ex.NicFilterAdd(1, ex.PacketMatch(), 0), "match: "),
        (ex.NicRssSet(1, "", (5,) * 128), "queue: port1 has no queue 5"),
        (ex.FormatDelete("nothing"), "name: there is no added format 'nothing'"),
        (ex.FormatAdd("new", {"outer_proto": 47}), "formats.new.opaque_len: is missing"),
        (ex.FormatAdd("new", {**NUMBERS, "colour": 1}), "formats.new.colour: is not known"),
        (ex.FormatAdd("new", {**NUMBERS, "entropy_offset": 19}), "formats.new.entropy_offset: "),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence_and_changes_nothing(switch, uplink, body, sentence):
    before = uplink.describe()
    assert refusal(switch, body).startswith(sentence)
    assert uplink.describe() == before
    assert held(switch) == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"port_no": 1, "queue": 8, "lro": "on"}',
        b'{"port_no": 1, "queue": 0, "lro": "maybe"}',
        b'{"port_no": 1, "queue": 0, "lro": "on", "completion_size": 65536}',
        b'{"port_no": 1, "queue": 0, "lro": "on", "kind": "tso"}',
    ],
)
def test_a_body_out_of_the_schema_is_refused(switch, body):
    error = switch.asks(m.Experimenter(EXPERIMENTER_ID, 1, body))
    assert (error.type, error.code) == (ErrorType.EXPERIMENTER, 1)


def test_a_slave_may_ask_but_not_set(switch, uplink):
    switch.says(m.RoleRequest(Role.SLAVE, 1))
    for body in (ex.NicQueuesSet(1, 2), ex.FormatAdd("new", NUMBERS), ex.RoleSet(1, "forwarding")):
        error = switch.asks(experimenter(body))
        assert (error.type, error.code) == (ErrorType.BAD_REQUEST, BadRequest.IS_SLAVE)
    assert asks(switch, ex.NicStatsRequest(1)).port_no == 1
    assert asks(switch, ex.SettingsRequest()).settings == ()
    assert "uplink0" in asks(switch, ex.CountersRequest()).ports


# --- tunnel formats --------------------------------------------------------------------------------------


def test_s1_6_a_format_is_data(switch, datapath):
    says(switch, ex.FormatAdd("new", NUMBERS))
    assert datapath.formats()["new"].id_value == 9999
    assert "new" in asks(switch, ex.CapabilitiesRequest()).formats
    says(switch, ex.FormatDelete("new"))
    assert "new" not in asks(switch, ex.CapabilitiesRequest()).formats


def test_a_format_that_could_be_confused_is_refused(switch):
    assert "of new and of vxlan" in refusal(switch, ex.FormatAdd("new", {**NUMBERS, "id_value": 4789}))


# --- what a switch tells a controller that comes back ------------------------------------------------------


def test_settings_are_told_until_they_are_taken_back(switch, uplink):
    set_ = [
        ex.FormatAdd("new", NUMBERS),
        ex.NicQueuesSet(1, 4),
        ex.NicWorkersSet(1, (0, 1, 1, 0)),
        ex.LroSet(1, 1, "off"),
        ex.NicFilterAdd(1, WEB, 2, 10),
        ex.LroRuleAdd(1, VM, (1, 2)),
        ex.RoleSet(2, "forwarding"),
    ]
    says(switch, *set_)
    assert held(switch) == set_
    says(switch, ex.NicFilterAdd(1, WEB, 3, 10))
    assert ex.NicFilterAdd(1, WEB, 3, 10) in held(switch) and set_[4] not in held(switch)
    says(switch, *(setting.undo() for setting in reversed(set_)))
    assert held(switch) == []


def test_more_settings_than_a_message_holds(switch, uplink):
    """An OpenFlow message has at most 65,535 bytes."""
    rules = [
        ex.LroRuleAdd(1, ex.PacketMatch(protocol="tcp", dst_ip=f"10.0.{n // 250}.{n % 250}", dst_port=n + 1))
        for n in range(1500)
    ]
    says(switch, *rules)
    first = asks(Peer(switch.of), ex.SettingsRequest())
    assert first.more and len(ex.to_wire(first)[1]) < 65_000
    assert held(switch) == rules


matches = st.builds(
    ex.PacketMatch,
    dst_mac=st.sampled_from(["00:00:00:00:00:01", "00:00:00:00:00:02"]),
    vni=st.none() | st.integers(1, 3),
)
messages = st.one_of(
    st.builds(ex.LroSet, st.just(1), st.integers(0, 3), st.sampled_from(["on", "off", "rules", "default"])),
    st.builds(ex.NicFilterAdd, st.just(1), matches, st.integers(0, 3), st.integers(0, 1)),
    st.builds(ex.NicFilterDelete, st.just(1), matches, st.integers(0, 1)),
    st.builds(
        ex.LroRuleAdd, st.just(1), matches, st.sampled_from([(), (1,), (0, 2)]), st.booleans(), st.just(0)
    ),
    st.builds(ex.LroRuleDelete, st.just(1), matches, st.sampled_from([(), (1,), (0, 2)]), st.just(0)),
)


@given(sequence=st.lists(messages, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_told_settings_make_the_same_nic_again(datapath, clock, sequence):
    """Whatever was set and taken back, in any order: a fresh NIC that is told the settings is the same."""
    from tests.protocol.harness import FakeSwitch

    datapath.infos[1] = datapath.infos[1]._replace(kind="wire", name="uplink0")
    datapath.nics.clear()
    switch = FakeSwitch(datapath, clock)
    says(switch, ex.NicQueuesSet(1, 4), *sequence)
    original, told = comparable(datapath.nic(1)), held(switch)
    datapath.nics.clear()
    says(FakeSwitch(datapath, clock), *told)
    assert comparable(datapath.nic(1)) == original


def comparable(nic):
    lro = [setting.lro for setting in nic.settings()]
    filters = {(kept.match, kept.queue, kept.priority) for kept in nic.filters()}
    rules = {(kept.match, kept.queues, kept.lro, kept.priority) for kept in nic.rules()}
    return lro, filters, rules


@given(kept=st.lists(messages.filter(lambda body: isinstance(body, ex.Setting)), max_size=10))
def test_a_setting_survives_the_wire(kept):
    reply = ex.SettingsReply.of(kept)
    again = ex.from_wire(*ex.to_wire(reply))
    assert again == reply and again.messages() == kept
    assert all(msgspec.json.decode(ex.to_wire(setting)[1])["port_no"] == 1 for setting in kept)
