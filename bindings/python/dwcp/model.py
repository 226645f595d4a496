"""What a node answers. Times are `datetime` with a time zone; the extended figures end in their unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Dict, List, Optional

from ._lazy import Lazy, lazy
from .config import NodeLimits, VMConfig
from .enums import HealthStatus, MigrationMode, MigrationState, VMEventType, VMState

#: What stands for a time that a node did not say.
NEVER = datetime.fromtimestamp(0, timezone.utc)


@dataclass
class VMMetrics:
    """Figures about a VM over a window. Counters are totals since its start.

    `cpu_usage` is in percent of one CPU, memory in bytes, disk and network in bytes.
    """

    cpu_usage: float = 0.0
    memory_used: int = 0
    memory_available: int = 0
    disk_read: int = 0
    disk_write: int = 0
    network_rx: int = 0
    network_tx: int = 0
    timestamp: datetime = NEVER
    dirty_pages_per_second: Optional[float] = None
    vm_exits: int = 0
    steal_time_us: Optional[int] = None
    stall_us: int = 0


@lazy(early=3)
@dataclass
class VM(Lazy):
    """A VM as its node sees it. `reason` says why it is failed, paused or waiting."""

    id: str = ""
    name: str = ""
    state: VMState = VMState.UNKNOWN
    config: VMConfig = field(default_factory=lambda: VMConfig(""))
    node: str = ""
    created_at: datetime = NEVER
    updated_at: datetime = NEVER
    started_at: Optional[datetime] = None
    stopped_at: Optional[datetime] = None
    metrics: Optional[VMMetrics] = None
    labels: Dict[str, str] = field(default_factory=dict)
    annotations: Dict[str, str] = field(default_factory=dict)
    reason: Optional[str] = None
    addresses: List[str] = field(default_factory=list)


@lazy(early=2)
@dataclass
class VMEvent(Lazy):
    """Something that happened to a VM. One of type `lost` says how many events are missing (`count`)."""

    seq: int = 0
    type: VMEventType = VMEventType.UNKNOWN
    vm: VM = field(default_factory=VM)
    timestamp: datetime = NEVER
    message: str = ""
    store: Optional[str] = None
    count: Optional[int] = None
    next: Optional[int] = None


@dataclass
class RoundReport:
    """A round of copying."""

    round: int = 0
    pages: int = 0
    bytes: int = 0
    duration_us: int = 0
    dirty_pages_per_second: float = 0.0
    throughput: int = 0


@dataclass
class DowntimeBreakdown:
    """What the switch of a migration went into, in microseconds."""

    stop_vcpus_us: int = 0
    save_state_us: int = 0
    last_pages_us: int = 0
    load_state_us: int = 0
    grant_us: int = 0
    commit_us: int = 0
    resume_us: int = 0
    total_us: int = 0


@dataclass
class MigrationBytes:
    """The bytes of a migration by kind."""

    data: int = 0
    zero: int = 0
    compressed: int = 0
    resent: int = 0
    disk: int = 0


@dataclass
class MigrationStatus:
    """How a migration goes, or went.

    `progress` is 0 to 100, `throughput` bytes per second, `downtime` milliseconds, `dirty_rate` pages of
    4 KiB per second.
    """

    id: str = ""
    vm_id: str = ""
    source_node: str = ""
    target_node: str = ""
    state: MigrationState = MigrationState.UNKNOWN
    progress: float = 0.0
    bytes_total: int = 0
    bytes_sent: int = 0
    throughput: int = 0
    downtime: int = 0
    started_at: datetime = NEVER
    completed_at: Optional[datetime] = None
    error: Optional[str] = None
    mode: MigrationMode = MigrationMode.UNKNOWN
    round: int = 0
    rounds: List[RoundReport] = field(default_factory=list)
    dirty_rate: float = 0.0
    expected_downtime_us: int = 0
    downtime_us: int = 0
    breakdown: DowntimeBreakdown = field(default_factory=DowntimeBreakdown)
    stall_us: int = 0
    bytes: MigrationBytes = field(default_factory=MigrationBytes)
    channels: int = 0
    throttle: int = 0
    time_left_us: Optional[int] = None


@dataclass
class Misfit:
    """Something of a VM that a node cannot offer."""

    kind: str = ""
    name: str = ""
    detail: str = ""


@dataclass
class MigrationPlan:
    """What a migration would be like. It would be refused where there are `misfits`."""

    total_us: int = 0
    downtime_us: int = 0
    mode: MigrationMode = MigrationMode.UNKNOWN
    dirty_rate: float = 0.0
    misfits: List[Misfit] = field(default_factory=list)


@dataclass
class Snapshot:
    """A snapshot. `size` is in bytes; `quiesced` says whether the guest took part."""

    id: str = ""
    vm_id: str = ""
    name: str = ""
    description: str = ""
    size: int = 0
    created_at: datetime = NEVER
    parent: Optional[str] = None
    children: List[str] = field(default_factory=list)
    include_memory: bool = False
    quiesced: bool = False


@dataclass
class Image:
    """An image in a node's store. `kernel`, `initrd` and `disk` are sizes in bytes, 0 for what it has not.

    Images with the same `digest` boot the same, on whatever node.
    """

    name: str = ""
    digest: str = ""
    cmdline: str = ""
    kernel: int = 0
    initrd: int = 0
    disk: int = 0
    created_at: datetime = NEVER


@dataclass
class GuestReport:
    """What the built-in guest `dwcp/pulse` says of itself. Pages are of 4 KiB."""

    vm_id: str = ""
    beats: int = 0
    pages_written: int = 0
    pages_filled: int = 0
    laps: int = 0
    pages_verified: int = 0
    faults: int = 0
    first_fault: Optional[int] = None
    verified: bool = False
    longest_beat_gap_us: int = 0
    switch_gap_us: Optional[int] = None
    pages_written_per_second: float = 0.0
    timestamp: datetime = NEVER


@dataclass
class Health:
    """Whether a node can be relied on."""

    status: HealthStatus = HealthStatus.UNKNOWN
    message: str = ""
    node: str = ""
    version: str = ""
    uptime_us: int = 0
    vms: int = 0
    vms_running: int = 0
    migrations: int = 0
    timestamp: datetime = NEVER


@dataclass
class NodeCapabilities:
    """What a node can offer its VMs, by the field of `VMConfig` that asks for it."""

    gpu: bool = False
    sr_iov: bool = False
    tpm: bool = False
    secure_boot: bool = False
    host_devices: bool = False
    cpu_pinning: bool = False
    numa_nodes: bool = False
    huge_pages: bool = False
    io_threads: bool = False
    memory_max: bool = False
    cpu_quota: bool = False
    disk: bool = False
    disk_iops_limit: bool = False
    network: bool = False
    network_bandwidth: bool = False
    cloud_init: bool = False
    affinity: bool = False
    priority: bool = False


@dataclass
class NodeInfo:
    """What a node is. Memory is in bytes."""

    name: str = ""
    uuid: str = ""
    version: str = ""
    backend: str = ""
    vms: int = 0
    memory_total: int = 0
    memory_available: int = 0
    cpus: int = 0
    limits: NodeLimits = field(default_factory=NodeLimits)
    capabilities: NodeCapabilities = field(default_factory=NodeCapabilities)
    labels: Dict[str, str] = field(default_factory=dict)
    peers: List[str] = field(default_factory=list)


@dataclass
class ClientMetrics:
    """The counters of a client. Those of one in the node's own process stay zero."""

    connections_total: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    errors_total: int = 0
    last_connected: Optional[datetime] = None
