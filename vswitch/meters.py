# SPDX-License-Identifier: Apache-2.0
"""The meters of one datapath: which row is whose, and what it is given."""

from __future__ import annotations

from typing import Any

from vswitch import layout
from vswitch.config import MAX_MTU
from vswitch.errors import VSwitchError
from vswitch.flow import MeterConfig, MeterStats
from vswitch.layout import Command
from vswitch.rings import CommandRing
from vswitch.rows import first_free


class Meters:
    """The meters by number. settings: the dataplane's rows that are given; counters: those that count."""

    def __init__(self, settings: Any, counters: Any, commands: CommandRing) -> None:
        self._settings = settings
        self._counters = counters
        self._commands = commands
        self._indexes: dict[int, int] = {}

    def index_of(self, meter_id: int) -> int:
        """-1 when there is no such meter."""
        return self._indexes.get(meter_id, -1)

    def set(self, meter_id: int, config: MeterConfig) -> None:
        """Add a meter, or give it other bands, whose counters start anew. Raises VSwitchError: no room."""
        index = self._indexes.get(meter_id)
        modified = index is not None
        if index is None:
            index = first_free(range(layout.METERS), set(self._indexes.values()))
            if index is None:
                raise VSwitchError(f"there are {layout.METERS} meters already: no room for another")
            self._indexes[meter_id] = index
        self._commands.wait(self._commands.given)
        self._settings[index] = 0
        row = self._settings[index]
        row["used"], row["in_packets"], row["bands"] = 1, int(config.in_packets), len(config.bands)
        for number, band in enumerate(config.bands):
            # kbit/s are bytes/ns by 1000 / 8 / 1e9. Without a burst, what comes in a second passes at once
            # (as in Open vSwitch: lib/dpif-netdev.c, dpif_netdev_meter_set), and a large frame in any case.
            unit, scale, least = (1.0, 1e-9, 1) if config.in_packets else (125.0, 125e-9, MAX_MTU * 8e-3)
            row["rate"][number] = band.rate * scale
            row["burst"][number] = (band.burst or max(band.rate, least)) * unit
            row["prec_level"][number] = band.prec_level
        self._commands.give(Command.METER, index, int(modified))

    def remove(self, meter_id: int) -> int | None:
        """Forget a meter; returns the index that it had, or None when there is no such meter."""
        return self._indexes.pop(meter_id, None)

    def stats(self, meter_id: int) -> MeterStats:
        """Counters of a meter."""
        row = self._counters[self._indexes[meter_id]]
        counts = zip(row["band_packets"].tolist(), row["band_bytes"].tolist(), strict=True)
        return MeterStats(int(row["packets"]), int(row["bytes"]), tuple(counts)[: int(row["bands"])])
