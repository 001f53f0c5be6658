# SPDX-License-Identifier: Apache-2.0
"""Meters in virtual time: rates, bursts, bands, remarking, and super-frames of which the tail is cut off."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import ARP, IP, TCP, UDP, Ether, Raw, checksums_right, ip_header, payload, vm_ether
from tests.unit.rig import Rig, examples
from vswitch.dataplane import meters
from vswitch.flow import Band, Meter, MeterConfig, Output
from vswitch.layout import Csum

SECOND = 1_000_000_000
WIRE = 1
METER = (Meter(0), Output(WIRE))
AF21, AF22, AF23 = 18, 20, 22


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=1, mtu=9000) as rig:
        yield rig


def set_meter(rig, *bands, in_packets=False):
    """What Datapath.set_meter writes, with bursts that are given."""
    for row in (rig.t["meters"][0],):
        for name in row.dtype.names:
            row[name] = 0
        row["used"], row["in_packets"], row["bands"] = 1, in_packets, len(bands)
        for number, band in enumerate(bands):
            unit, scale = (1.0, 1e-9) if in_packets else (125.0, 125e-9)
            row["rate"][number], row["burst"][number] = band.rate * scale, band.burst * unit
            row["prec_level"][number] = band.prec_level
    rig.counted()
    return rig.t["meters"][0]


def frame_of(length, dscp=0, version=4):
    tos = {"tos": dscp << 2} if version == 4 else {"tc": dscp << 2}
    header = vm_ether() / ip_header(version, **tos) / UDP(sport=1, dport=2)
    return bytes(header / Raw(payload(length - len(bytes(header)))))


def dscp_of(frame):
    packet = Ether(frame)
    return (packet[IP].tos if IP in packet else packet.payload.tc) >> 2


@pytest.mark.parametrize("in_packets", [True, False], ids=["packets", "kbit"])
def test_what_exceeds_the_rate_is_dropped(rig, in_packets):
    """100 packets a second, or as much in kbit/s, of twice as many that come."""
    rate = 100 if in_packets else 800
    row = set_meter(rig, Band(rate, burst=10 if in_packets else 80), in_packets=in_packets)
    passed = 0
    for _ in range(600):
        rig.now_ns += SECOND // 200
        rig.run(frame_of(1000), METER)
        passed += len(rig.sent())
    assert 300 <= passed <= 311
    assert rig.counted() == {"meter_drop": 600 - passed}
    assert (row["packets"], row["bytes"]) == (600, 600_000)
    assert (row["band_packets"][0], row["band_bytes"][0]) == (600 - passed, 1000 * (600 - passed))


def test_a_burst_passes_at_once_and_no_more(rig):
    set_meter(rig, Band(100, burst=7), in_packets=True)
    rig.now_ns += 10 * SECOND
    for _ in range(12):
        rig.run(frame_of(100), METER)
    assert len(rig.sent()) == 7
    rig.now_ns += SECOND // 50
    for _ in range(12):
        rig.run(frame_of(100), METER)
    assert len(rig.sent()) == 2


@pytest.mark.parametrize("version", [4, 6])
def test_what_exceeds_the_rate_is_remarked(rig, version):
    """AF21 with one drop precedence more is AF22 (RFC 2597); the checksum stays right."""
    row = set_meter(rig, Band(100, burst=1, prec_level=1), in_packets=True)
    rig.now_ns += SECOND
    frames = []
    for _ in range(3):
        rig.run(frame_of(200, AF21, version), METER)
        frames += rig.sent()
    assert [dscp_of(frame) for frame in frames] == [AF21, AF22, AF22]
    assert all(map(checksums_right, frames))
    assert (row["band_packets"][0], rig.counted()) == (2, {})


def test_a_packet_without_dscp_passes_a_remarking_meter(rig):
    set_meter(rig, Band(1, burst=1, prec_level=1), in_packets=True)
    frame = bytes(vm_ether() / ARP())
    for _ in range(3):
        rig.run(frame, METER)
    assert rig.sent() == [frame] * 3


@pytest.mark.parametrize("levels", [1, 2, 3, 200])
def test_drop_precedence_rises_within_the_af_classes_only(levels):
    for dscp in range(64):
        of_class, precedence, rest = dscp >> 3, dscp >> 1 & 3, dscp & 1
        expected = dscp
        if of_class in (1, 2, 3, 4) and precedence and not rest:
            expected = of_class << 3 | min(3, precedence + levels) << 1
        for ecn in range(4):
            assert meters.remarked(dscp << 2 | ecn, levels) == expected << 2 | ecn


def test_the_band_of_the_highest_exceeded_rate_applies(rig):
    row = set_meter(rig, Band(10, 1, 1), Band(20, 2), Band(15, 1, 2), in_packets=True)
    rig.now_ns += SECOND
    frames = []
    for _ in range(4):
        rig.run(frame_of(200, AF21), METER)
        frames += rig.sent()
    # the first finds tokens in all, the second in the drop band's bucket only, the others nowhere
    assert [dscp_of(frame) for frame in frames] == [AF21, AF23]
    assert row["band_packets"][:3].tolist() == [0, 2, 1]


def test_a_meter_that_is_gone_passes_everything(rig):
    set_meter(rig, Band(1, burst=1), in_packets=True)
    rig.t["meters"][0]["used"] = 0
    for program in (METER, (Meter(-1), Output(WIRE))):
        rig.run(frame_of(100), program)
        rig.run(frame_of(100), program)
    assert len(rig.sent()) == 4


# Super-frames


def super_frame(segments, size, proto="tcp", dscp=0, last=None):
    body = Raw(payload(size * (segments - 1) + (last or size)))
    l4 = TCP(sport=1, dport=2, seq=2**32 - 50, flags="CPFA") if proto == "tcp" else UDP(sport=1, dport=2)
    return bytes(vm_ether() / ip_header(4, tos=dscp << 2, id=65535) / l4 / body)


def segments_of(rig, frame, size, program):
    rig.run(frame, program, csum=Csum.PARTIAL, gso_size=size)
    return rig.sent()


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("fitting", range(6))
def test_the_tail_of_a_super_frame_is_cut_off(rig, proto, fitting):
    frame = super_frame(5, 100, proto, last=30)
    rig.t["meters"][0]["used"] = 0
    whole = segments_of(rig, frame, 100, (Output(WIRE),))
    row = set_meter(rig, Band(1, burst=fitting), in_packets=True)
    rig.now_ns += 100 * SECOND
    passed = segments_of(rig, frame, 100, METER)
    assert [len(segment) for segment in passed] == [len(segment) for segment in whole[:fitting]]
    assert passed == whole[:fitting]
    assert all(map(checksums_right, passed))
    dropped = max(0, 5 - fitting)
    assert rig.counted() == ({"meter_drop": dropped} if dropped else {})
    assert (row["packets"], row["bytes"]) == (5, sum(map(len, whole)))
    assert row["band_packets"][0] == dropped
    assert row["band_bytes"][0] == sum(map(len, whole[fitting:]))


@pytest.mark.parametrize("fitting", range(5))
def test_some_segments_of_a_super_frame_are_remarked(rig, fitting):
    frame = super_frame(4, 100, dscp=AF21)
    set_meter(rig, Band(1, burst=fitting, prec_level=2), in_packets=True)
    rig.now_ns += 100 * SECOND
    sent = segments_of(rig, frame, 100, METER)
    assert [dscp_of(segment) for segment in sent] == [AF21] * fitting + [AF23] * (4 - fitting)
    assert b"".join(segment[54:] for segment in sent) == frame[54:]
    assert all(map(checksums_right, sent))


# The twin


@dataclass
class Bucket:
    """One band, packet by packet."""

    band: Band
    in_packets: bool
    tokens: float = 0
    filled_ns: int = 0
    taken: list[int] = field(default_factory=list)

    def take(self, now_ns: int, size: int) -> bool:
        unit, scale = (1.0, 1e-9) if self.in_packets else (125.0, 125e-9)
        added = self.band.rate * scale * (now_ns - self.filled_ns)
        self.tokens = min(self.band.burst * unit, self.tokens + added)
        self.filled_ns = now_ns
        wanted = 1 if self.in_packets else size
        if self.tokens < wanted:
            return False
        self.tokens -= wanted
        return True


def naive_meter(buckets, now_ns, size):
    """The number of the band that is applied, or None."""
    exceeded = [number for number, bucket in enumerate(buckets) if not bucket.take(now_ns, size)]
    return max(exceeded, key=lambda number: (buckets[number].band.rate, -number)) if exceeded else None


bands = st.builds(
    Band, rate=st.integers(1, 2000), burst=st.integers(1, 50), prec_level=st.sampled_from([0, 0, 1, 2])
)


@settings(max_examples=examples(60))
@given(
    config=st.builds(MeterConfig, st.booleans(), st.lists(bands, min_size=1, max_size=4).map(tuple)),
    packets=st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(60, 1400)), max_size=60),
)
def test_it_behaves_like_its_twin(rig, config, packets):
    row = set_meter(rig, *config.bands, in_packets=config.in_packets)
    buckets = [Bucket(band, config.in_packets) for band in config.bands]
    applied = [0] * len(buckets)
    for pause_ns, length in packets:
        rig.now_ns += pause_ns
        rig.run(frame_of(length, AF21), METER)
        band = naive_meter(buckets, rig.now_ns, length)
        expected = [AF21]
        if band is not None:
            applied[band] += 1
            levels = config.bands[band].prec_level
            expected = [min(AF23, AF21 + 2 * levels)] if levels else []
        assert [dscp_of(frame) for frame in rig.sent()] == expected
    assert row["band_packets"][: len(buckets)].tolist() == applied
    assert row["packets"] == len(packets)
