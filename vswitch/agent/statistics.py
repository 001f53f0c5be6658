# SPDX-License-Identifier: Apache-2.0
"""What the switch tells of itself in multipart replies (1.3.5, section 7.3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vswitch.agent import meters
from vswitch.agent.admission import ACTIONS
from vswitch.agent.features import check_table_features, table_features
from vswitch.agent.groups import MAX_GROUPS
from vswitch.agent.tables import SECOND_NS, Rule
from vswitch.openflow import groups as group_wire
from vswitch.openflow import meters as meter_wire
from vswitch.openflow import multipart as mp
from vswitch.openflow.constants import (
    GROUP_ALL,
    QUEUE_ALL,
    BadRequest,
    GroupCapability,
    GroupType,
    MultipartType,
    Port,
    QueueOpFailed,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.messages import PortDesc
from vswitch.openflow.queues import QueueStats, QueueStatsRequest
from vswitch.openflow.table_features import TableFeatures, TableFeaturesRequest

if TYPE_CHECKING:
    from vswitch.agent.switch import OpenFlowSwitch

NEED_SETTLING = frozenset(
    {
        MultipartType.FLOW,
        MultipartType.AGGREGATE,
        MultipartType.TABLE,
        MultipartType.PORT_STATS,
        MultipartType.GROUP,
        MultipartType.METER,
    }
)
"""Statistics that count packets: everything before the request must have reached the datapath."""

NEED_CREDIT = frozenset(
    {MultipartType.FLOW, MultipartType.AGGREGATE, MultipartType.TABLE, MultipartType.GROUP}
)
"""Statistics for which the counters of cached flows must have been given to their rules and groups."""

GROUP_CAPABILITIES = sum(GroupCapability)


class Statistics:
    """Answers the multipart requests to one switch."""

    def __init__(self, switch: OpenFlowSwitch) -> None:
        self.switch = switch

    def answer(self, kind: int, request: Any) -> Iterable[Any]:
        """The items of the reply, of which there may be many, one by one; raises OpenFlowError for what is
        refused."""
        return self.ANSWERS[kind](self, request)

    def _desc(self, _request: mp.Empty) -> list[mp.Desc]:
        software = str(self.switch.datapath.capabilities()["version"])
        return [mp.Desc("mininet-offload", "Numba software switch", software, "None", self.switch.name)]

    # --- rules -------------------------------------------------------------------------------------------

    def _flow_stats(self, wanted: mp.FlowFilter) -> Iterable[mp.FlowStats]:
        return map(self._stats_of, self.switch.tables.select(wanted))

    def _stats_of(self, rule: Rule) -> mp.FlowStats:
        return mp.FlowStats(
            rule.table_id,
            *self._age(rule.created_ns),
            rule.priority,
            rule.idle_timeout,
            rule.hard_timeout,
            rule.flags,
            rule.cookie,
            rule.packets,
            rule.bytes,
            rule.match,
            rule.instructions,
        )

    def _aggregate(self, wanted: mp.FlowFilter) -> list[mp.Aggregate]:
        rules = list(self.switch.tables.select(wanted))
        return [
            mp.Aggregate(sum(rule.packets for rule in rules), sum(rule.bytes for rule in rules), len(rules))
        ]

    def _table_stats(self, _request: mp.Empty) -> list[mp.TableStats]:
        return [
            mp.TableStats(table.table_id, len(table.rules), table.lookups, table.matched)
            for table in self.switch.tables.tables
        ]

    def _table_features(self, request: TableFeaturesRequest) -> Sequence[TableFeatures]:
        if request.body:
            check_table_features(request.tables())
        return table_features()

    # --- ports and queues --------------------------------------------------------------------------------

    def _port_stats(self, wanted: mp.PortStatsRequest) -> list[mp.PortStats]:
        infos = {info.port_no: info for info in self.switch.datapath.ports()}
        if wanted.port_no != Port.ANY and wanted.port_no not in infos:
            raise OpenFlowError(BadRequest.BAD_PORT, f"port {wanted.port_no}")
        selected = sorted(infos) if wanted.port_no == Port.ANY else [wanted.port_no]
        stats = []
        for port_no in selected:
            c = infos[port_no].counters
            age = self._age(self.switch.ports.since_ns.get(port_no, self.switch.clock()))
            stats.append(
                mp.PortStats(
                    port_no,
                    c.rx_packets,
                    c.tx_packets,
                    c.rx_bytes,
                    c.tx_bytes,
                    c.rx_dropped,
                    c.tx_dropped,
                    c.rx_errors,
                    c.tx_errors,
                    duration_sec=age[0],
                    duration_nsec=age[1],
                )
            )
        return stats

    def _port_desc(self, _request: mp.Empty) -> list[PortDesc]:
        return self.switch.ports.descriptions()

    def _queue_stats(self, wanted: QueueStatsRequest) -> list[QueueStats]:
        if wanted.port_no != Port.ANY and wanted.port_no not in self.switch.ports:
            raise OpenFlowError(QueueOpFailed.BAD_PORT, f"port {wanted.port_no}")
        if wanted.queue_id != QUEUE_ALL:
            raise OpenFlowError(QueueOpFailed.BAD_QUEUE, f"there is no queue {wanted.queue_id}")
        return []

    # --- groups ------------------------------------------------------------------------------------------

    def _group_stats(self, wanted: group_wire.GroupStatsRequest) -> list[group_wire.GroupStats]:
        tables, groups = self.switch.tables, self.switch.groups
        return [
            group_wire.GroupStats(
                group.group_id,
                len(tables.of_group(group.group_id)) + len(groups.predecessors(group.group_id)),
                group.packets,
                group.bytes,
                *self._age(group.created_ns),
                tuple((bucket.packets, bucket.bytes) for bucket in group.buckets),
            )
            for group in groups
            if wanted.group_id in (GROUP_ALL, group.group_id)
        ]

    def _group_desc(self, _request: mp.Empty) -> list[group_wire.GroupDesc]:
        return [
            group_wire.GroupDesc(group.type, group.group_id, group.wire_buckets())
            for group in self.switch.groups
        ]

    def _group_features(self, _request: mp.Empty) -> list[group_wire.GroupFeatures]:
        actions = sum(1 << action for action in ACTIONS)
        return [
            group_wire.GroupFeatures(
                sum(1 << kind for kind in GroupType),
                GROUP_CAPABILITIES,
                (MAX_GROUPS, MAX_GROUPS, MAX_GROUPS, MAX_GROUPS),
                (actions, actions, actions, actions),
            )
        ]

    # --- meters ------------------------------------------------------------------------------------------

    def _meter_stats(self, wanted: meter_wire.MeterRequest) -> list[meter_wire.MeterStats]:
        stats = []
        for meter in self.switch.meters.select(wanted.meter_id):
            counted = self.switch.datapath.meter_stats(meter.meter_id)
            stats.append(
                meter_wire.MeterStats(
                    meter.meter_id,
                    len(self.switch.tables.of_meter(meter.meter_id)),
                    counted.packets,
                    counted.bytes,
                    *self._age(meter.created_ns),
                    counted.bands,
                )
            )
        return stats

    def _meter_config(self, wanted: meter_wire.MeterRequest) -> list[meter_wire.MeterConfig]:
        return [
            meter_wire.MeterConfig(meter.flags, meter.meter_id, meter.bands)
            for meter in self.switch.meters.select(wanted.meter_id)
        ]

    def _meter_features(self, _request: mp.Empty) -> list[meter_wire.MeterFeatures]:
        band_types = sum(1 << kind for kind in meters.BAND_TYPES)
        return [meter_wire.MeterFeatures(meters.MAX_METERS, band_types, meters.FLAGS, meters.MAX_BANDS, 0)]

    def _age(self, since_ns: int) -> tuple[int, int]:
        """(seconds, nanoseconds) since then."""
        return divmod(max(0, self.switch.clock() - since_ns), SECOND_NS)

    ANSWERS: ClassVar[dict[int, Callable[[Statistics, Any], Iterable[Any]]]] = {
        MultipartType.DESC: _desc,
        MultipartType.FLOW: _flow_stats,
        MultipartType.AGGREGATE: _aggregate,
        MultipartType.TABLE: _table_stats,
        MultipartType.PORT_STATS: _port_stats,
        MultipartType.QUEUE: _queue_stats,
        MultipartType.GROUP: _group_stats,
        MultipartType.GROUP_DESC: _group_desc,
        MultipartType.GROUP_FEATURES: _group_features,
        MultipartType.METER: _meter_stats,
        MultipartType.METER_CONFIG: _meter_config,
        MultipartType.METER_FEATURES: _meter_features,
        MultipartType.TABLE_FEATURES: _table_features,
        MultipartType.PORT_DESC: _port_desc,
    }
