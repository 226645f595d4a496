"""Words with a fixed meaning. Each is text too, the one that the protocol has."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """The base class of these enums. A word that this version does not know is `UNKNOWN`."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


class VMState(Word):
    """What a VM is doing."""

    UNKNOWN = "unknown"
    CREATING = "creating"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    PAUSED = "paused"
    MIGRATING = "migrating"
    FAILED = "failed"


class VMEventType(Word):
    """What happened to a VM. `CURRENT` is the state when a watch begins, `LOST` a gap in it."""

    UNKNOWN = "unknown"
    CURRENT = "current"
    CREATED = "created"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    PAUSED = "paused"
    RESUMED = "resumed"
    RESET = "reset"
    UPDATED = "updated"
    MIGRATING = "migrating"
    MIGRATED = "migrated"
    MIGRATION_FAILED = "migration_failed"
    SNAPSHOT_CREATED = "snapshot_created"
    SNAPSHOT_RESTORED = "snapshot_restored"
    SNAPSHOT_DELETED = "snapshot_deleted"
    FAILED = "failed"
    DESTROYED = "destroyed"
    GUEST = "guest"
    LOST = "lost"


class MigrationState(Word):
    """How far a migration is."""

    UNKNOWN = "unknown"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETING = "completing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self in (
            MigrationState.COMPLETED,
            MigrationState.FAILED,
            MigrationState.CANCELLED,
        )


class MigrationMode(Word):
    """The way a migration is done."""

    UNKNOWN = "unknown"
    PRECOPY = "precopy"
    POSTCOPY = "postcopy"
    STOP_AND_COPY = "stop_and_copy"
    SAME_HOST = "same_host"
    OFFLINE = "offline"


class HealthStatus(Word):
    """Whether a node can be relied on."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DRAINING = "draining"


class NetworkMode(Word):
    """How a VM is connected to the network. `DEFAULT` is the node's choice."""

    UNKNOWN = "unknown"
    DEFAULT = ""
    NONE = "none"
    BRIDGE = "bridge"
    TAP = "tap"
    NAT = "nat"


class OnTimeout(Word):
    """What a migration does when its time has passed before the switch."""

    CANCEL = "cancel"
    IGNORE = "ignore"


class SameHost(Word):
    """Whether memory is handed over instead of copied, where both nodes are on one host."""

    AUTO = "auto"
    NEVER = "never"
    REQUIRE = "require"


class Role(Word):
    """What a key allows. `NODE` is for peers, and never given to people."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    NODE = "node"


class Backend(Word):
    """What runs the VMs of a node: KVM, or a simulation for tests."""

    KVM = "kvm"
    SIM = "sim"
