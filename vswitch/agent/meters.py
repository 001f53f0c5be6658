# SPDX-License-Identifier: Apache-2.0
"""The meter table: meter-mod semantics; the datapath meters (1.3.5, sections 5.7 and 7.3.4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vswitch.agent.datapath import Datapath
from vswitch.errors import VSwitchError
from vswitch.flow import MAX_BANDS
from vswitch.flow import Band as DatapathBand
from vswitch.flow import MeterConfig as DatapathMeter
from vswitch.openflow.constants import (
    METER_ALL,
    METER_MAX,
    MeterBandType,
    MeterFlag,
    MeterModCommand,
    MeterModFailed,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.meters import Band, MeterMod

MAX_METERS = 1_024
"""As many as the datapath has; more are refused with OFPMMFC_OUT_OF_METERS."""

BAND_TYPES = frozenset({MeterBandType.DROP, MeterBandType.DSCP_REMARK})
FLAGS = MeterFlag.KBPS | MeterFlag.PKTPS | MeterFlag.BURST | MeterFlag.STATS


@dataclass(frozen=True)
class Meter:
    """One meter, as it was given."""

    meter_id: int
    flags: int
    bands: tuple[Band, ...]
    created_ns: int

    @property
    def remarks(self) -> bool:
        return any(band.type == MeterBandType.DSCP_REMARK for band in self.bands)

    def for_datapath(self) -> DatapathMeter:
        bands = tuple(
            DatapathBand(band.rate, band.burst_size if self.flags & MeterFlag.BURST else 0, band.prec_level)
            for band in self.bands
        )
        return DatapathMeter(bool(self.flags & MeterFlag.PKTPS), bands)


class MeterTable:
    """The meters of one switch, kept in step with the datapath's."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._meters: dict[int, Meter] = {}

    def exists(self, meter_id: int) -> bool:
        return meter_id in self._meters

    def remarks(self, meter_id: int) -> bool:
        """Can the meter change a packet's DSCP?"""
        return self._meters[meter_id].remarks

    def __iter__(self) -> Iterator[Meter]:
        """All meters, by number."""
        return iter([self._meters[meter_id] for meter_id in sorted(self._meters)])

    def select(self, meter_id: int) -> list[Meter]:
        """The meters that a request asks about; raises OpenFlowError(UNKNOWN_METER)."""
        if meter_id == METER_ALL:
            return list(self)
        if meter_id not in self._meters:
            raise OpenFlowError(MeterModFailed.UNKNOWN_METER, f"there is no meter {meter_id}")
        return [self._meters[meter_id]]

    def named(self, mod: MeterMod) -> list[int]:
        """The meters that a delete names."""
        if mod.meter_id == METER_ALL:
            return list(self._meters)
        return [mod.meter_id] if mod.meter_id in self._meters else []

    def apply(self, mod: MeterMod, now_ns: int) -> None:
        """Carry out a meter-mod, or raise OpenFlowError.

        The rules that name a deleted meter are the caller's to delete, before.
        """
        if mod.command == MeterModCommand.DELETE:
            for meter_id in self.named(mod):
                del self._meters[meter_id]
                self.datapath.remove_meter(meter_id)
            return
        if not 0 < mod.meter_id <= METER_MAX:
            raise OpenFlowError(MeterModFailed.INVALID_METER, f"meter {mod.meter_id:#x}")
        if mod.command == MeterModCommand.MODIFY and mod.meter_id not in self._meters:
            raise OpenFlowError(MeterModFailed.UNKNOWN_METER, f"there is no meter {mod.meter_id}")
        if mod.command == MeterModCommand.ADD and mod.meter_id in self._meters:
            raise OpenFlowError(MeterModFailed.METER_EXISTS, f"meter {mod.meter_id}")
        _check(mod)
        before = self._meters.get(mod.meter_id)
        created_ns = now_ns if before is None else before.created_ns
        meter = Meter(mod.meter_id, mod.flags, mod.bands, created_ns)
        try:
            self.datapath.set_meter(meter.meter_id, meter.for_datapath())
        except VSwitchError as error:
            raise OpenFlowError(MeterModFailed.OUT_OF_METERS, str(error)) from error
        self._meters[meter.meter_id] = meter


def _check(mod: MeterMod) -> None:
    """May a meter be as `mod` says?"""
    if mod.flags & MeterFlag.KBPS and mod.flags & MeterFlag.PKTPS:
        raise OpenFlowError(MeterModFailed.BAD_FLAGS, "both kbit/s and packets/s")
    if len(mod.bands) > MAX_BANDS:
        raise OpenFlowError(MeterModFailed.OUT_OF_BANDS, f"{len(mod.bands)} bands")
    for band in mod.bands:
        if band.rate == 0:
            raise OpenFlowError(MeterModFailed.BAD_RATE, "rate 0")
        if band.type == MeterBandType.DSCP_REMARK and band.prec_level == 0:
            raise OpenFlowError(MeterModFailed.BAD_BAND_VALUE, "a remark by 0 levels")
