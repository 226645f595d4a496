"""What users write: configs and options. A zero, empty or default value asks for nothing."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Dict, List, Optional, Union

from .enums import NetworkMode, OnTimeout, SameHost

#: A length of time: seconds, a `timedelta`, or text such as `500ms`, `1.5s`, `5m`, `1h30m0s`.
Duration = Union[float, int, str, timedelta]


@dataclass
class ClientConfig:
    """How to reach a node.

    `address` is a host, or `unix:/path`. What is `None` is taken from the environment (`DWCP_ADDRESS`,
    `DWCP_PORT`, `DWCP_API_KEY`, `DWCP_CA_FILE`); without a port there it is 9000, without a CA the
    platform's. `ca_pem` is the CA itself, as text. A request that fails is tried `retry_attempts` more
    times, where that can do no harm. With `ssl_context` this package makes the TLS connections itself,
    by that context, and `ca_file`, `ca_pem`, `client_cert` and `client_key` must not be given.
    """

    address: Optional[str] = None
    port: Optional[int] = None
    api_key: Optional[str] = field(default=None, repr=False)
    tls_enabled: bool = True
    ca_file: Optional[str] = None
    ca_pem: Optional[str] = None
    client_cert: Optional[str] = None
    client_key: Optional[str] = None
    server_name: Optional[str] = None
    connect_timeout: Duration = 30.0
    request_timeout: Duration = 60.0
    retry_attempts: int = 3
    retry_backoff: Duration = 1.0
    keep_alive: bool = True
    keep_alive_period: Duration = 30.0
    max_streams: int = 100
    buffer_size: int = 64 * 1024
    pool_size: int = 1
    ssl_context: Optional[ssl.SSLContext] = None


@dataclass
class NetworkInterface:
    """A network interface of a VM. `bandwidth` is in bits per second."""

    name: str = ""
    type: str = ""
    mac: str = ""
    bridge: str = ""
    vlan: int = 0
    ip_address: str = ""
    netmask: str = ""
    bandwidth: int = 0


@dataclass
class NetworkConfig:
    """The network of a VM."""

    mode: Union[NetworkMode, str] = NetworkMode.DEFAULT
    interfaces: List[NetworkInterface] = field(default_factory=list)
    dns: List[str] = field(default_factory=list)
    gateway: str = ""
    mtu: int = 0


@dataclass
class Affinity:
    """Rules for the node a VM runs on."""

    node_selector: Dict[str, str] = field(default_factory=dict)
    required_nodes: List[str] = field(default_factory=list)
    preferred_nodes: List[str] = field(default_factory=list)
    anti_affinity_vms: List[str] = field(default_factory=list)
    require_same_host: List[str] = field(default_factory=list)


@dataclass
class VMConfig:
    """What a VM is asked to be.

    `name` has 1 to 128 of `A-Z a-z 0-9 . _ -`. Sizes are bytes: `memory` at least 16 MiB in steps of
    4 KiB, `disk` 0 for none, `memory_max` 0 for no growth. `cpus` 1 to 128. `cpu_quota` is in percent of
    one CPU, so up to 100 x `cpus`; `network_bandwidth` in bits per second; 0 is no limit for each limit.
    """

    name: str
    memory: int = 2 * 1024**3
    cpus: int = 2
    disk: int = 0
    image: str = "dwcp/pulse"
    network: Optional[NetworkConfig] = field(default_factory=NetworkConfig)
    cloud_init: str = ""
    labels: Dict[str, str] = field(default_factory=dict)
    annotations: Dict[str, str] = field(default_factory=dict)
    priority: int = 0
    affinity: Optional[Affinity] = None
    enable_gpu: bool = False
    gpu_type: str = ""
    enable_sr_iov: bool = False
    enable_tpm: bool = False
    enable_secure_boot: bool = False
    host_devices: List[str] = field(default_factory=list)
    cpu_pinning: List[int] = field(default_factory=list)
    numa_nodes: List[int] = field(default_factory=list)
    huge_pages: bool = False
    io_threads: int = 0
    memory_max: int = 0
    cpu_quota: int = 0
    disk_iops_limit: int = 0
    network_bandwidth: int = 0


@dataclass
class MigrationOptions:
    """How to move a VM.

    `live`: it runs while its memory is copied. `offline`: it is or gets stopped, and its disks and config
    move. `max_downtime` is in milliseconds, `bandwidth` in bytes per second (0 for no limit), `parallel`
    the connections for page data. `encrypt_transport` needs TLS between the nodes. `timeout` is the time
    until the switch, `None` for no limit.
    """

    live: bool = True
    offline: bool = False
    max_downtime: int = 500
    bandwidth: int = 0
    compression: bool = True
    auto_converge: bool = True
    post_copy: bool = False
    parallel: int = 4
    verify_checksum: bool = True
    encrypt_transport: bool = True
    timeout: Optional[Duration] = None
    on_timeout: Union[OnTimeout, str] = OnTimeout.CANCEL
    with_disks: bool = False
    same_host: Union[SameHost, str] = SameHost.AUTO


@dataclass
class SnapshotOptions:
    """How to take a snapshot. `quiesce` is done where the guest can; the snapshot says whether."""

    include_memory: bool = True
    description: str = ""
    quiesce: bool = True


@dataclass
class APIKey:
    """A key of a node: 8 to 512 bytes, and what it allows."""

    key: str = field(repr=False)
    role: str
    name: str = ""


@dataclass
class Peer:
    """Another node: where it listens, and the key of role `node` by which it knows this one."""

    address: str
    credential: Optional[str] = field(default=None, repr=False)


@dataclass
class NodeTLS:
    """With what a node serves and dials: a directory for a development CA, or PEM files."""

    dir: str = ""
    certificate: str = ""
    key: str = ""
    authority: str = ""


@dataclass
class NodeLimits:
    """What a node allows. A zero is the default. `max_frame` and `max_memory` are bytes."""

    max_frame: int = 0
    max_streams: int = 0
    max_connections: int = 0
    max_inflight: int = 0
    max_memory: int = 0
    max_cpus: int = 0
    max_vms: int = 0
    max_migrations_out: int = 0
    max_migrations_in: int = 0
