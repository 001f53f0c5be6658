# SPDX-License-Identifier: Apache-2.0
"""Meter-mods as dialogues: what the datapath is told, and what the statistics say."""

from __future__ import annotations

import pytest

from tests.protocol.harness import add, meter, out
from vswitch.agent import meters
from vswitch.errors import VSwitchError
from vswitch.flow import Band as DatapathBand
from vswitch.flow import MeterConfig as DatapathMeter
from vswitch.flow import MeterStats as DatapathStats
from vswitch.openflow.constants import (
    METER_ALL,
    ErrorType,
    FlowModFlag,
    MeterBandType,
    MeterFlag,
    MeterModCommand,
    MeterModFailed,
    MultipartType,
)
from vswitch.openflow.flow_mod import FlowRemoved
from vswitch.openflow.instructions import Meter
from vswitch.openflow.meters import Band, MeterConfig, MeterFeatures, MeterMod, MeterRequest
from vswitch.openflow.multipart import MultipartRequest

DROP, REMARK = MeterBandType.DROP, MeterBandType.DSCP_REMARK


def remove(meter_id):
    return MeterMod(MeterModCommand.DELETE, meter_id)


def configured(switch, meter_id=METER_ALL):
    return switch.stats(MultipartType.METER_CONFIG, MeterRequest(meter_id))


def refused(switch, mod):
    before = configured(switch)
    error = switch.asks(mod)
    assert configured(switch) == before
    return error.type, error.code


@pytest.fixture
def told(datapath, monkeypatch):
    """What the datapath is told: id to configuration."""
    told: dict = {}
    monkeypatch.setattr(datapath, "set_meter", told.__setitem__, raising=False)
    monkeypatch.setattr(datapath, "remove_meter", told.__delitem__, raising=False)
    stats = DatapathStats(7, 700, ((2, 200), (1, 100)))
    monkeypatch.setattr(datapath, "meter_stats", lambda meter_id: stats, raising=False)
    return told


def test_the_configuration_is_what_was_given(switch, told):
    """Burst sizes that are of no effect, too."""
    bands = (Band(DROP, 1000), Band(REMARK, 500, 77, 1))
    switch.says(meter(3, *bands, flags=MeterFlag.KBPS | MeterFlag.STATS))
    assert configured(switch) == (MeterConfig(9, 3, bands),)
    assert told == {3: DatapathMeter(False, (DatapathBand(1000, 0, 0), DatapathBand(500, 0, 1)))}


def test_bursts_count_with_their_flag_and_packets_with_theirs(switch, told):
    switch.says(meter(1, Band(DROP, 10, 5), flags=MeterFlag.PKTPS | MeterFlag.BURST))
    assert told == {1: DatapathMeter(True, (DatapathBand(10, 5, 0),))}


def test_without_flags_rates_are_in_kbit(switch, told):
    switch.says(meter(1, Band(DROP, 10), flags=0))
    assert told[1].in_packets is False
    assert configured(switch) == (MeterConfig(0, 1, (Band(DROP, 10),)),)


def test_a_modified_meter_is_the_same_meter(switch, clock):
    switch.says(meter(1, Band(DROP, 10)), add({}, Meter(1), out(2)))
    switch.receives(1)
    clock.advance(4)
    switch.says(meter(1, Band(DROP, 20), Band(REMARK, 10, 0, 1), command=MeterModCommand.MODIFY))
    switch.receives(1)
    (stats,) = switch.stats(MultipartType.METER, MeterRequest(1))
    assert (stats.duration_sec, stats.flow_count, stats.packet_in_count) == (4, 1, 2)


def test_modify_and_delete(switch, told):
    switch.says(meter(1, Band(DROP, 10)), meter(2), meter(1, command=MeterModCommand.MODIFY))
    assert [config.bands for config in configured(switch)] == [(), ()]
    assert switch.says(remove(1), remove(9)) == []
    assert sorted(told) == [2]
    switch.says(meter(5), remove(METER_ALL))
    assert told == {} and configured(switch) == ()


def test_deleting_a_meter_deletes_the_rules_that_name_it(switch, told):
    flags = FlowModFlag.SEND_FLOW_REM
    switch.says(
        meter(1),
        add({"in_port": 1}, Meter(1), out(2), flags=flags),
        add({"in_port": 2}, out(2), flags=flags),
    )
    (removed,) = switch.says(remove(1))
    assert isinstance(removed, FlowRemoved) and str(removed.match) == "in_port=1"
    assert len(switch.stats()) == 1


def test_statistics(switch, told, clock):
    switch.says(meter(1, Band(DROP, 1), Band(DROP, 2)), add({}, Meter(1), out(2)))
    clock.advance(4)
    (stats,) = switch.stats(MultipartType.METER, MeterRequest(1))
    assert (stats.meter_id, stats.flow_count, stats.packet_in_count, stats.byte_in_count) == (1, 1, 7, 700)
    assert (stats.bands, stats.duration_sec) == (((2, 200), (1, 100)), 4)
    assert len(switch.stats(MultipartType.METER, MeterRequest())) == 1


def test_features(switch):
    (features,) = switch.stats(MultipartType.METER_FEATURES)
    assert features == MeterFeatures(meters.MAX_METERS, 0b110, 0b1111, 8, 0)


def test_as_many_meters_as_the_datapath_has():
    layout = pytest.importorskip("vswitch.layout")
    assert layout.METERS == meters.MAX_METERS


FAILED = MeterModFailed
REFUSED = {
    "exists": (meter(1), FAILED.METER_EXISTS),
    "modify of nothing": (meter(2, command=MeterModCommand.MODIFY), FAILED.UNKNOWN_METER),
    "number 0": (meter(0), FAILED.INVALID_METER),
    "number beyond": (meter(0xFFFF0001), FAILED.INVALID_METER),
    "the controller's": (meter(0xFFFFFFFE), FAILED.INVALID_METER),
    "unknown command": (meter(2, command=3), FAILED.BAD_COMMAND),
    "unknown flag": (meter(2, flags=0x11), FAILED.BAD_FLAGS),
    "two units": (meter(2, flags=3), FAILED.BAD_FLAGS),
    "rate 0": (meter(2, Band(DROP, 0)), FAILED.BAD_RATE),
    "remark of nothing": (meter(2, Band(REMARK, 1, 0, 0)), FAILED.BAD_BAND_VALUE),
    "unknown band": (meter(2, Band(9, 1)), FAILED.BAD_BAND),
    "experimenter band": (meter(2, Band(0xFFFF, 1)), FAILED.BAD_BAND),
    "nine bands": (meter(2, *[Band(DROP, 1)] * 9), FAILED.OUT_OF_BANDS),
}


@pytest.mark.parametrize(("mod", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(switch, told, mod, code):
    switch.says(meter(1))
    assert refused(switch, mod) == (ErrorType.METER_MOD_FAILED, code)
    assert list(told) == [1]


def test_no_room(switch, datapath, monkeypatch):
    def full(meter_id, config):
        raise VSwitchError("there are 1024 meters already")

    monkeypatch.setattr(datapath, "set_meter", full, raising=False)
    assert refused(switch, meter(1)) == (ErrorType.METER_MOD_FAILED, FAILED.OUT_OF_METERS)


@pytest.mark.parametrize(("number", "code"), [(2, FAILED.UNKNOWN_METER), (0, FAILED.INVALID_METER)])
def test_a_rule_needs_its_meter(switch, number, code):
    error = switch.asks(add({}, Meter(number)))
    assert (error.type, error.code) == (ErrorType.METER_MOD_FAILED, code)


@pytest.mark.parametrize("kind", [MultipartType.METER, MultipartType.METER_CONFIG])
def test_statistics_of_no_meter(switch, kind):
    error = switch.asks(MultipartRequest(kind, MeterRequest(7)))
    assert (error.type, error.code) == (ErrorType.METER_MOD_FAILED, FAILED.UNKNOWN_METER)
