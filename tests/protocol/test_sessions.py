# SPDX-License-Identifier: Apache-2.0
"""Sessions: what which controller hears, packets in buffers, requests in parts, TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import socket
import ssl
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.patience import PATIENCE_S
from tests.protocol.fake_datapath import FakeClock, tap
from tests.protocol.frames import udp
from tests.protocol.harness import Peer, add, delete, m, out
from tests.protocol.live import Client, LiveAgent, eventually
from vswitch.agent import request_parts
from vswitch.agent.agent import Agent
from vswitch.agent.buffers import BUFFERS, TIMEOUT_NS, Buffered, PacketBuffers
from vswitch.agent.features import table_features
from vswitch.agent.request_parts import MAX_REQUESTS, RequestParts
from vswitch.agent.slowpath import PacketInEvent
from vswitch.agent.transport import TlsFiles
from vswitch.errors import ConfigError
from vswitch.flow import Controller
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import (
    MAX_LEN_NO_BUFFER,
    NO_BUFFER,
    BadRequest,
    ErrorType,
    FlowModFlag,
    MultipartType,
    PacketInReason,
    Port,
    QueueOpFailed,
    Role,
    TableFeaturesFailed,
    TableModFailed,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.flow_mod import FlowRemoved
from vswitch.openflow.groups import GroupMod
from vswitch.openflow.instructions import ApplyActions
from vswitch.openflow.meters import MeterMod
from vswitch.openflow.queues import QueueGetConfigReply, QueueGetConfigRequest, QueueStatsRequest
from vswitch.openflow.table_features import TableFeaturesRequest


def punt(switch, reason=PacketInReason.ACTION, max_len=MAX_LEN_NO_BUFFER, frame=None):
    """The pipeline sends a packet to the controllers."""
    action = Controller(max_len, reason, 0x77, 3)
    switch.of._packet_in(PacketInEvent(1, 9, 5, action, frame or udp(size=400)))


def error(switch, message):
    answer = switch.asks(message)
    return answer.type, answer.code


# --- asynchronous configuration --------------------------------------------------------------------------


def test_defaults(switch):
    """All but invalid TTL for masters and equals; slaves hear of ports only (section 7.3.10)."""
    assert switch.asks(m.GetAsyncRequest(xid=4)) == m.GetAsyncReply((3, 0), (7, 7), (15, 0), xid=4)


@pytest.mark.parametrize(
    ("role", "reason", "heard"),
    [
        (Role.EQUAL, PacketInReason.NO_MATCH, True),
        (Role.EQUAL, PacketInReason.INVALID_TTL, False),
        (Role.MASTER, PacketInReason.ACTION, True),
        (Role.SLAVE, PacketInReason.ACTION, False),
    ],
)
def test_packet_ins_by_role_and_reason(switch, role, reason, heard):
    switch.says(m.RoleRequest(role, 1))
    punt(switch, reason)
    assert len(switch.hears()) == heard


def test_what_was_set_holds_for_this_controller_and_each_role(switch):
    other = Peer(switch.of)
    assert switch.says(m.SetAsync((1 << PacketInReason.INVALID_TTL, 1 << 1), (0, 0), (0, 0))) == []
    assert switch.asks(m.GetAsyncRequest()) == m.GetAsyncReply((4, 2), (0, 0), (0, 0))
    punt(switch, PacketInReason.INVALID_TTL)
    punt(switch, PacketInReason.ACTION)
    assert [x.reason for x in switch.hears()] == [PacketInReason.INVALID_TTL]
    assert [x.reason for x in other.hears()] == [PacketInReason.ACTION]
    switch.says(m.RoleRequest(Role.SLAVE, 1))
    punt(switch, PacketInReason.ACTION)
    assert len(switch.hears()) == 1


def test_removed_rules_and_ports_by_reason(switch, datapath):
    """Flow-removed by hard time-out only; port changes not at all."""
    switch.says(m.SetAsync((0, 0), (0, 0), (1 << 1, 0)))
    flags = FlowModFlag.SEND_FLOW_REM
    switch.says(add({"in_port": 1}, out(2), flags=flags, hard_timeout=1), add({}, out(2), flags=flags))
    assert switch.says(delete(strict=True)) == []
    datapath.set_up(2, False)
    switch.of.refresh_ports()
    switch.of.clock.advance(1)
    asyncio.run(switch.of.expire_rules())
    assert [type(x) for x in switch.hears()] == [FlowRemoved]


@pytest.mark.parametrize(
    "message",
    [
        GroupMod(0, 1),
        MeterMod(0, 1),
        m.TableMod(0, 0),
        m.SetConfig(1, 128),
        mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest(bytes(64))),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_slave_changes_nothing(switch, message):
    switch.says(m.RoleRequest(Role.SLAVE, 1))
    assert error(switch, message) == (ErrorType.BAD_REQUEST, BadRequest.IS_SLAVE)
    assert switch.says(m.SetConfig(0, 7), m.SetAsync((1, 1), (1, 1), (1, 1))) == []


# --- packets in buffers ----------------------------------------------------------------------------------


def test_whole_packet(switch):
    punt(switch)
    (packet_in,) = switch.hears()
    assert (packet_in.buffer_id, packet_in.data) == (NO_BUFFER, udp(size=400))
    assert (packet_in.cookie, packet_in.table_id, packet_in.reason) == (0x77, 3, PacketInReason.ACTION)
    assert str(packet_in.match) == "in_port=1,metadata=0x5,tunnel_id=0x9"


def test_truncated_packet_waits_for_the_packet_out(switch, datapath):
    punt(switch, max_len=60)
    (packet_in,) = switch.hears()
    assert (packet_in.total_len, packet_in.data) == (len(udp(size=400)), udp(size=400)[:60])
    release = m.PacketOut(1, (Output(2),), b"", packet_in.buffer_id)
    assert switch.says(release) == []
    assert [(sent.port, sent.frame) for sent in datapath.take_sent()] == [(2, udp(size=400))]
    assert error(switch, release) == (ErrorType.BAD_REQUEST, BadRequest.BUFFER_EMPTY)


def test_a_buffered_packet_is_still_of_its_tunnel(switch, datapath):
    """When a rule takes it, and when a packet-out sends it on."""
    datapath.infos[1000] = tap(1000, kind="tunnel")
    switch.of.refresh_ports()
    switch.says(add({}, ApplyActions((Output(Port.CONTROLLER, 60),)), priority=0))
    for _ in range(2):
        datapath.receive(1000, udp(size=400), 7)
    switch.slowpath.handle_punts()
    first, second = switch.hears()
    assert switch.says(add({"tunnel_id": 7}, out(2), buffer_id=first.buffer_id)) == []
    assert switch.says(m.PacketOut(1000, (Output(Port.TABLE),), b"", second.buffer_id)) == []
    assert [sent.port for sent in datapath.take_sent()] == [2, 2]


def test_nothing_of_the_packet_is_asked_for(switch):
    punt(switch, max_len=0)
    (packet_in,) = switch.hears()
    assert packet_in.data == b"" and packet_in.buffer_id != NO_BUFFER


def test_the_most_of_a_packet_fits_a_message_with_all_it_says(switch):
    """A packet-out has less to say of its packet, which can be longer than a packet-in holds."""
    punt(switch, max_len=65_490, frame=bytes(65_495))
    (packet_in,) = switch.hears()
    assert packet_in.buffer_id != NO_BUFFER and packet_in.total_len == 65_495
    assert 64_000 < len(packet_in.encode()) <= 0xFFFF


def test_packets_that_fit_are_not_buffered(switch):
    punt(switch, max_len=len(udp(size=400)))
    assert switch.hears()[0].buffer_id == NO_BUFFER


def test_several_controllers_share_a_buffer(switch):
    other = Peer(switch.of)
    punt(switch, max_len=60)
    (mine,), (theirs,) = switch.hears(), other.hears()
    assert mine.buffer_id == theirs.buffer_id != NO_BUFFER


def test_miss_send_len_is_for_packets_that_no_output_action_sent(switch):
    """And each controller's own."""
    other = Peer(switch.of)
    switch.says(m.SetConfig(0, 20), m.SetAsync((7, 0), (7, 7), (15, 0)))
    other.says(m.SetAsync((7, 0), (7, 7), (15, 0)))
    punt(switch, PacketInReason.INVALID_TTL)
    punt(switch, PacketInReason.ACTION)
    assert [len(x.data) for x in switch.hears()] == [20, len(udp(size=400))]
    assert [len(x.data) for x in other.hears()] == [128, len(udp(size=400))]


def test_flow_mod_with_a_buffer_that_is_not_there(switch):
    """The rule is added all the same: it is as if a packet-out had followed (section 7.3.4.1)."""
    code = error(switch, add({"in_port": 1}, out(2), buffer_id=5))
    assert code == (ErrorType.BAD_REQUEST, BadRequest.BUFFER_UNKNOWN)
    assert len(switch.stats()) == 1
    assert switch.says(delete(buffer_id=5)) == []


def test_without_a_free_buffer_the_whole_packet_comes(switch, clock):
    for _ in range(BUFFERS):
        punt(switch, max_len=60)
    assert all(x.buffer_id != NO_BUFFER for x in switch.hears())
    punt(switch, max_len=60)
    (whole,) = switch.hears()
    assert (whole.buffer_id, whole.data) == (NO_BUFFER, udp(size=400))
    clock.advance(TIMEOUT_NS / 1e9)
    punt(switch, max_len=60)
    assert switch.hears()[0].buffer_id != NO_BUFFER


class Buffers(RuleBasedStateMachine):
    """The buffers against a dictionary of what they hold."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.buffers = PacketBuffers(self.clock)
        self.held = {}
        self.count = 0

    def live(self):
        return [b for b, (_packet, since) in self.held.items() if self.clock() - since < TIMEOUT_NS]

    @rule(count=st.integers(1, 200))
    def store(self, count):
        live = set(self.live())
        for _ in range(count):
            self.count += 1
            packet = Buffered(b"%d" % self.count, self.count, 0)
            buffer_id = self.buffers.store(packet)
            if len(live) == BUFFERS:
                assert buffer_id == NO_BUFFER
            else:
                assert buffer_id < NO_BUFFER and buffer_id not in live
                live.add(buffer_id)
                self.held[buffer_id] = packet, self.clock()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def take(self, data):
        buffer_id = data.draw(st.sampled_from(sorted(self.held)))
        live = buffer_id in self.live()
        packet, _since = self.held.pop(buffer_id)
        if live:
            assert self.buffers.take(buffer_id) == packet
        with pytest.raises(OpenFlowError) as caught:
            self.buffers.take(buffer_id)
        assert caught.value.code == (BadRequest.BUFFER_EMPTY if live else BadRequest.BUFFER_UNKNOWN)

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.clock.advance(seconds)


TestBuffers = Buffers.TestCase


@given(st.integers(0, NO_BUFFER - 1))
def test_buffers_that_never_were(buffer_id):
    with pytest.raises(OpenFlowError, match="BUFFER_UNKNOWN"):
        PacketBuffers(FakeClock()).take(buffer_id)


# --- the rest of the requests ----------------------------------------------------------------------------


def test_fragments(switch):
    assert switch.says(m.SetConfig(1, 128)) == []
    assert switch.asks(m.GetConfigRequest()).flags == 1
    assert switch.slowpath.drop_fragments
    switch.says(m.SetConfig(0, 128))
    assert not switch.slowpath.drop_fragments


def test_queues(switch):
    """Ports have none."""
    assert switch.asks(QueueGetConfigRequest(1, xid=2)) == QueueGetConfigReply(1, xid=2)
    assert switch.asks(QueueGetConfigRequest(Port.ANY)) == QueueGetConfigReply(Port.ANY)
    assert switch.stats(MultipartType.QUEUE, QueueStatsRequest()) == ()
    failed = ErrorType.QUEUE_OP_FAILED
    assert error(switch, QueueGetConfigRequest(9)) == (failed, QueueOpFailed.BAD_PORT)
    ask = mp.MultipartRequest(MultipartType.QUEUE, QueueStatsRequest(9))
    assert error(switch, ask) == (failed, QueueOpFailed.BAD_PORT)
    ask = mp.MultipartRequest(MultipartType.QUEUE, QueueStatsRequest(1, 3))
    assert error(switch, ask) == (failed, QueueOpFailed.BAD_QUEUE)


def test_table_mod(switch):
    assert switch.says(m.TableMod(0, 0), m.TableMod(255, 3)) == []
    failed = ErrorType.TABLE_MOD_FAILED
    assert error(switch, m.TableMod(254, 0)) == (failed, TableModFailed.BAD_TABLE)
    assert error(switch, m.TableMod(0, 4)) == (failed, TableModFailed.BAD_CONFIG)


def features_request(tables, xid=6):
    """A table features request, in as many messages as it needs."""
    bodies = [b""]
    for table in tables:
        data = table.encode()
        if len(bodies[-1]) + len(data) > 60_000:
            bodies.append(b"")
        bodies[-1] += data
    flags = [mp.MORE] * (len(bodies) - 1) + [0]
    return [
        mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest(body), flag, xid=xid)
        for body, flag in zip(bodies, flags, strict=True)
    ]


def test_the_tables_can_be_wanted_as_they_are(switch):
    requests = features_request(table_features())
    assert len(requests) > 1
    parts = switch.says(*requests)
    assert tuple(table for part in parts for table in part.items) == table_features()


TABLES = table_features()


def changed(**fields):
    return (dataclasses.replace(TABLES[0], **fields), *TABLES[1:])


@pytest.mark.parametrize(
    ("tables", "code"),
    [
        (TABLES[1:], TableFeaturesFailed.EPERM),
        (changed(name="x"), TableFeaturesFailed.EPERM),
        (changed(max_entries=5), TableFeaturesFailed.EPERM),
        (changed(metadata_write=1), TableFeaturesFailed.EPERM),
        (changed(properties=()), TableFeaturesFailed.EPERM),
        (changed(table_id=254), TableFeaturesFailed.BAD_TABLE),
        ((TABLES[1], *TABLES[1:]), TableFeaturesFailed.BAD_TABLE),
        (changed(properties=((9, b""),)), TableFeaturesFailed.BAD_TYPE),
        (changed(properties=((0, b"123"),)), TableFeaturesFailed.BAD_LEN),
        (changed(properties=((0, b"\0\x63\0\4"),)), TableFeaturesFailed.BAD_ARGUMENT),
        (changed(properties=((2, b"\xff"),)), TableFeaturesFailed.BAD_ARGUMENT),
    ],
)
def test_the_tables_cannot_be_changed(switch, tables, code):
    assert error_of(switch.says(*features_request(tables))) == (ErrorType.TABLE_FEATURES_FAILED, code)


def error_of(answers):
    (answer,) = answers
    return answer.type, answer.code


def test_malformed_table_features(switch):
    ask = mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest(b"\0\x08" + bytes(70)))
    assert error(switch, ask) == (ErrorType.TABLE_FEATURES_FAILED, TableFeaturesFailed.BAD_LEN)


def part(xid, size=60_000, flags=mp.MORE):
    """One message of a request; what it asks for is nonsense."""
    return mp.MultipartRequest(
        MultipartType.TABLE_FEATURES, TableFeaturesRequest(bytes(size)), flags, xid=xid
    )


def given_up(answers):
    """The transaction ids of the requests that were given up for want of room."""
    overflow = (ErrorType.BAD_REQUEST, BadRequest.MULTIPART_BUFFER_OVERFLOW)
    assert all((answer.type, answer.code) == overflow for answer in answers)
    return [answer.xid for answer in answers]


def test_what_follows_of_a_refused_request_is_no_request(switch):
    """Its last part, which happens to be empty, would ask what the features are."""
    last = part(2, 0, flags=0)
    assert given_up(switch.says(*[part(2)] * 19, last)) == [2]
    assert len(switch.says(last)) > 1  # a request of its own now


def test_a_request_that_is_never_finished_is_in_nobodys_way(switch):
    """It is given up when another needs its room, with an error that tells which it was."""
    begun = part(1)
    assert switch.says(*[begun] * 10) == []
    requests = features_request(table_features(), xid=2)
    assert len(switch.says(*requests)) > 1  # there is room for both
    (error,) = switch.says(*[part(3)] * 10)
    assert given_up([error]) == [1]
    assert error.data == begun.encode()
    assert len(switch.says(*requests)) > 1
    assert given_up(switch.says(*[part(3)] * 8)) == [3]  # too long by itself
    assert switch.says(part(1), part(3), part(1, flags=0), part(3, flags=0)) == []
    assert len(switch.says(*requests)) > 1


def test_who_goes_on_is_not_given_up(switch):
    """But who has been waited for the longest."""
    assert switch.says(*[part(1)] * 5, *[part(2)] * 5, part(1), *[part(3)] * 6) == []
    assert given_up(switch.says(part(3))) == [2]


def test_requests_that_are_only_begun_are_limited(switch):
    """Also those of which nothing is kept; the rest of what was forgotten is taken for a request."""
    assert switch.says(*(part(xid, 0) for xid in range(1, MAX_REQUESTS + 1))) == []
    assert given_up(switch.says(part(0, 0))) == [1]
    assert len(switch.session.request_parts._unfinished) == MAX_REQUESTS


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1500), st.booleans()), max_size=40))
def test_what_is_joined_came_in_this_order(messages):
    """A request is whole unless it was refused or given up; never is more kept than there is room for."""
    refused, came = set(), {}
    parts = RequestParts(lambda _error, _head, xid: refused.add(xid))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_parts, "MAX_REQUEST_BYTES", 4000)
        patch.setattr(request_parts, "MAX_REQUESTS", 3)
        for number, (xid, size, more) in enumerate(messages):
            body = bytes([number]) * size
            came[xid] = came.get(xid, b"") + body
            joined = None
            try:
                joined = parts.join(xid, b"", body, more)
            except OpenFlowError:
                refused.add(xid)
            if not more:
                whole = came.pop(xid)
                assert joined == whole or (xid in refused and (joined is None or whole.endswith(joined)))
                refused.discard(xid)
            assert parts._size() <= 4000 and len(parts._unfinished) <= 3


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Keys and certificates by openssl: an authority, a switch, a controller, and a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls")

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=path, check=True, capture_output=True, timeout=20)

    def make(name, authority):
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        result = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        signed = () if authority is None else ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key")
        openssl("req", "-x509", "-days", "2", *curve, *result, *signed)

    make("authority", None)
    make("switch", "authority")
    make("controller", "authority")
    make("stranger", None)
    return path


def files(keys, name="switch"):
    return TlsFiles(str(keys / f"{name}.key"), str(keys / f"{name}.pem"), str(keys / "authority.pem"))


def peer_context(keys, name="controller", purpose=ssl.PROTOCOL_TLS_CLIENT):
    context = ssl.SSLContext(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(keys / "authority.pem")
    context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    return context


def test_listener_speaks_tls_with_those_that_prove_themselves(keys):
    live = LiveAgent(listeners=["pssl:0"], tls=files(keys))
    try:
        address = ("127.0.0.1", live.port)
        with socket.create_connection(address) as plain:
            plain.settimeout(PATIENCE_S)
            plain.sendall(m.Hello().encode() * 4)
            with pytest.raises(OSError):
                while plain.recv(1000):
                    pass
                raise ConnectionResetError
        with pytest.raises((OSError, AssertionError)):  # with TLS 1.3 the refusal comes with the first read
            stranger = Client(peer_context(keys, "stranger").wrap_socket(socket.create_connection(address)))
            stranger.say(m.BarrierRequest(xid=3))
            stranger.hear()
        client = Client(peer_context(keys).wrap_socket(socket.create_connection(address)))
        client.say(m.BarrierRequest(xid=3))
        assert client.hear() == m.BarrierReply(xid=3)
        client.close()
    finally:
        live.close()


def test_controller_over_tls(keys, caplog):
    caplog.set_level("INFO")
    with socket.create_server(("127.0.0.1", 0)) as server:
        live = LiveAgent(controllers=[f"ssl:127.0.0.1:{server.getsockname()[1]}"], tls=files(keys))
        try:
            stranger = peer_context(keys, "stranger", ssl.PROTOCOL_TLS_SERVER)
            with pytest.raises(OSError):
                stranger.wrap_socket(server.accept()[0], server_side=True).recv(1)
                raise ConnectionResetError
            eventually(lambda: "certificate verify failed" in caplog.text, "the stranger is refused")
            context = peer_context(keys, "controller", ssl.PROTOCOL_TLS_SERVER)
            client = Client(context.wrap_socket(server.accept()[0], server_side=True))
            client.say(m.BarrierRequest(xid=3))
            assert client.hear() == m.BarrierReply(xid=3)
            client.close()
        finally:
            live.close()


def test_tls_needs_its_files(keys, datapath, tmp_path):
    def refusal(tls):
        with pytest.raises(ConfigError) as caught:
            Agent(datapath, "s1", 1, ["ssl:127.0.0.1"], tls=tls)
        return str(caught.value)

    good = files(keys)
    assert "needs keys" in refusal(None)
    assert f"ca-cert: {tmp_path}/none cannot be read" in refusal(good._replace(ca_cert=f"{tmp_path}/none"))
    assert "are no certificate and its key" in refusal(good._replace(private_key=str(keys / "stranger.key")))
    (tmp_path / "empty").touch()
    assert "is no certificate" in refusal(good._replace(ca_cert=str(tmp_path / "empty")))
