"""A node's figures in Prometheus' text form.

Nothing is counted here: gauges and counters show what the parts count for themselves, at the moment they are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sofs.admin.api import Status

DISK_STATES = ("healthy", "suspect", "missing", "failed", "draining", "retired")
VOLUME_STATES = ("serving", "degraded", "waiting", "failed")


Counted = Mapping[str, Mapping[str, int]]


class _Figures(Collector):
    def __init__(self, status: Status, traffic: Counted, pools: Counted) -> None:
        self._status = status
        self._traffic = traffic
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        yield from self._node()
        yield from self._disks()
        yield from self._volumes()

    def _node(self) -> Iterator[Metric]:
        status = self._status
        yield GaugeMetricFamily("sofs_uptime_seconds", "Since the node started.", status.uptime_s)
        yield GaugeMetricFamily("sofs_opens", "Opens that clients hold.", status.opens)
        connections = GaugeMetricFamily("sofs_connections", "Clients' connections.", labels=["protocol"])
        accepted = CounterMetricFamily("sofs_connections_accepted", "Since the start.", labels=["protocol"])
        traffic = CounterMetricFamily("sofs_network_bytes", "Bytes from and to clients.", labels=["protocol", "direction"])
        repeated = CounterMetricFamily(
            "sofs_requests_repeated", "Requests that came again and were answered as the first time, by the gateway itself.", labels=["protocol"]
        )
        for protocol, figures in self._traffic.items():
            connections.add_metric([protocol], figures["connections"])
            accepted.add_metric([protocol], figures["accepted"])
            traffic.add_metric([protocol, "received"], figures["received"])
            traffic.add_metric([protocol, "sent"], figures["sent"])
            repeated.add_metric([protocol], figures["repeated"])
        yield from (connections, accepted, traffic, repeated)

    def _disks(self) -> Iterator[Metric]:
        labels = ["disk", "tier", "pool"]
        total = GaugeMetricFamily("sofs_disk_size_bytes", "Bytes of data a disk can hold.", labels=labels)
        free = GaugeMetricFamily("sofs_disk_free_bytes", "Bytes of data it can still take.", labels=labels)
        state = GaugeMetricFamily("sofs_disk_state", "1 for the state it is in.", labels=["disk", "state"])
        for disk in self._status.disks:
            total.add_metric([disk.id, disk.tier, disk.pool], disk.total)
            free.add_metric([disk.id, disk.tier, disk.pool], disk.free)
            for name in DISK_STATES:
                state.add_metric([disk.id, name], name == disk.state)
        counted = CounterMetricFamily("sofs_pool_events", "What a pool has counted.", labels=["pool", "event"])
        for pool, counters in self._pools.items():
            for event, count in counters.items():
                counted.add_metric([pool, event], count)
        yield from (total, free, state, counted)

    def _volumes(self) -> Iterator[Metric]:
        labels = ["volume"]
        total = GaugeMetricFamily("sofs_volume_size_bytes", "As its users see it.", labels=labels)
        free = GaugeMetricFamily("sofs_volume_free_bytes", "As its users see it.", labels=labels)
        files = GaugeMetricFamily("sofs_volume_files", "Files and directories.", labels=labels)
        state = GaugeMetricFamily("sofs_volume_state", "1 for the state it is in.", labels=["volume", "state"])
        figures = GaugeMetricFamily("sofs_volume_figure", "Its own counters.", labels=["volume", "figure"])
        for volume in self._status.volumes:
            total.add_metric([volume.name], volume.total)
            free.add_metric([volume.name], volume.free)
            files.add_metric([volume.name], volume.files)
            for name in VOLUME_STATES:
                state.add_metric([volume.name, name], name == volume.state)
            for name, value in volume.figures.items():
                figures.add_metric([volume.name, name], value)
        yield from (total, free, files, state, figures)


def render(status: Status, traffic: Counted, pools: Counted) -> bytes:
    """The figures of `status`; of each protocol connections, accepted, received, sent and repeated; what each pool has counted."""
    registry = CollectorRegistry()
    registry.register(_Figures(status, traffic, pools))
    return generate_latest(registry)
