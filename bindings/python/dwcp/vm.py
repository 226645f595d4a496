"""The methods about VMs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Union, cast

from . import _requests
from ._bridge import run
from ._requests import Fields
from ._wire import dumps
from .config import Duration, MigrationOptions, SnapshotOptions, VMConfig
from .model import (
    VM,
    GuestReport,
    Image,
    MigrationPlan,
    MigrationStatus,
    Snapshot,
    VMEvent,
    VMMetrics,
)
from .streams import Console, Stream

if TYPE_CHECKING:
    from .client import Client


class VMClient:
    """The methods about VMs of a client. `id` is the id of a VM.

    Each raises `ConnectionError`, `AuthenticationError`, `PermissionDeniedError`, `TimeoutError` and
    `UnavailableError`, and `VMNotFoundError` for an id that no VM has.
    """

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self) -> VMClient:
        return self

    async def _one(self, name: str, id: str) -> Any:
        return await run(self._client._need().one(name, "vm_id", id))

    async def _of(self, name: str, migration_id: str) -> MigrationStatus:
        handle = self._client._need()
        return cast(MigrationStatus, await run(handle.one(name, "migration_id", migration_id)))

    async def _call(self, name: str, fields: bytes) -> Any:
        return await run(self._client._need().call(name, fields))

    async def create(self, config: Union[VMConfig, Fields], *, key: Optional[str] = None) -> VM:
        """Makes a VM, durable and stopped.

        The same `key` with the same config, within ten minutes, gives the first answer again. Raises
        `ConfigError` naming the field, `UnsupportedError` naming all fields that ask for what the node
        cannot do, `ResourceLimitError`.
        """
        return cast(VM, await self._call("create", _requests.create(config, key)))

    async def start(self, id: str) -> None:
        """Starts it; its vCPUs run then."""
        await self._one("start", id)

    async def stop(
        self, id: str, force: bool = False, timeout: Optional[Duration] = None
    ) -> None:
        """Stops it. The guest has `timeout` (30 s) to stop by itself, and runs on after `TimeoutError`.

        With `force` it is stopped at once.
        """
        await self._call("stop", _requests.stop(id, force, timeout))

    async def destroy(self, id: str) -> None:
        """Removes a stopped VM and its disks."""
        await self._one("destroy", id)

    async def pause(self, id: str) -> None:
        """Holds its vCPUs."""
        await self._one("pause", id)

    async def resume(self, id: str) -> None:
        """Lets its vCPUs run again."""
        await self._one("resume", id)

    async def reset(self, id: str) -> None:
        """Starts it anew at once, as a reset button does."""
        await self._one("reset", id)

    async def update(
        self,
        id: str,
        labels: Optional[Mapping[str, str]] = None,
        annotations: Optional[Mapping[str, str]] = None,
    ) -> VM:
        """Replaces its labels or its annotations; `None` keeps them."""
        return cast(VM, await self._call("update", _requests.update(id, labels, annotations)))

    async def get(self, id: str) -> VM:
        """What it is and does."""
        return cast(VM, await run(self._client._need().one("get", "vm_id", id)))

    async def list(self, filters: Optional[Mapping[str, str]] = None) -> List[VM]:
        """The VMs that match, oldest first. The keys `name`, `state`, `node` and `image`; else labels."""
        return cast("List[VM]", await self._call("list", _requests.filtered(filters)))

    def watch(self, id: str) -> Stream[VMEvent]:
        """What happens to it; the first event, of type `current`, is its present state."""
        return Stream(self._client, "watch", _requests.watch(id))

    def watch_all(self, filters: Optional[Mapping[str, str]] = None) -> Stream[VMEvent]:
        """What happens to all VMs that match, after the present state of each."""
        return Stream(self._client, "watch", _requests.watch(None, filters))

    def watch_since(
        self, seq: int, id: Optional[str] = None, filters: Optional[Mapping[str, str]] = None
    ) -> Stream[VMEvent]:
        """What happened after the event `seq`. Where that is no longer kept, an event `lost` says so."""
        return Stream(self._client, "watch", _requests.watch(id, filters, seq))

    async def get_metrics(self, id: str, duration: Duration = "5m") -> VMMetrics:
        """Its figures over the time before now, or since its start where that is less."""
        return cast(VMMetrics, await self._call("get_metrics", _requests.metrics(id, duration)))

    def stream_metrics(self, id: str, interval: Duration = "1s") -> Stream[VMMetrics]:
        """Its figures, one item per `interval`, which is at least 1 ms."""
        return Stream(self._client, "stream_metrics", _requests.figures(id, interval))

    async def guest_report(self, id: str) -> GuestReport:
        """What the built-in guest says of itself."""
        return cast(GuestReport, await self._one("guest_report", id))

    async def verify(self, id: str) -> GuestReport:
        """Has the built-in guest check all its memory."""
        return cast(GuestReport, await self._one("verify", id))

    async def migrate(
        self,
        id: str,
        target: str,
        options: Union[MigrationOptions, Fields, None] = None,
        *,
        key: Optional[str] = None,
    ) -> MigrationStatus:
        """Moves it to the node `target`; returns when that is accepted and under way."""
        fields = _requests.migrate(id, target, options, key)
        return cast(MigrationStatus, await self._call("migrate", fields))

    async def get_migration_status(self, migration_id: str) -> MigrationStatus:
        """How a migration goes, or how it ended."""
        return await self._of("get_migration_status", migration_id)

    def migration_progress(self, migration_id: str) -> Stream[MigrationStatus]:
        """How a migration goes; the last item says how it ended."""
        fields = dumps({"migration_id": migration_id})
        return Stream(self._client, "migration_progress", fields)

    async def cancel_migration(self, migration_id: str) -> MigrationStatus:
        """Ends a migration before its switch; the VM stays."""
        return await self._of("cancel_migration", migration_id)

    async def list_migrations(self) -> List[MigrationStatus]:
        """The migrations the node knows of."""
        return cast("List[MigrationStatus]", await self._call("list_migrations", b"{}"))

    async def plan_migration(
        self, id: str, target: str, options: Union[MigrationOptions, Fields, None] = None
    ) -> MigrationPlan:
        """What a migration would be like."""
        fields = _requests.migrate(id, target, options)
        return cast(MigrationPlan, await self._call("plan_migration", fields))

    async def resolve_migration(self, migration_id: str, force: bool = False) -> MigrationStatus:
        """Finds out who has the VM of a migration that lost its peer; with `force`, takes it."""
        fields = _requests.resolve(migration_id, force)
        return cast(MigrationStatus, await self._call("resolve_migration", fields))

    async def snapshot(
        self,
        id: str,
        name: str,
        options: Union[SnapshotOptions, Fields, None] = None,
        *,
        key: Optional[str] = None,
    ) -> Snapshot:
        """Takes a snapshot, and returns when it is complete."""
        fields = _requests.snapshot(id, name, options, key)
        return cast(Snapshot, await self._call("snapshot", fields))

    async def list_snapshots(self, id: str) -> List[Snapshot]:
        """Its snapshots, oldest first."""
        return cast("List[Snapshot]", await self._one("list_snapshots", id))

    async def restore_snapshot(self, id: str, snapshot_id: str) -> None:
        """Makes it what it was, in the state it had."""
        await self._call("restore_snapshot", _requests.restore(id, snapshot_id))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Removes a snapshot that no other builds on."""
        await run(self._client._need().one("delete_snapshot", "snapshot_id", snapshot_id))

    async def import_image(
        self, path: Union[str, os.PathLike[str]], name: Optional[str] = None
    ) -> Image:
        """Brings the image in a folder of the node's own host into its store, under `name` or its own.

        Needs the role admin. Raises `ConfigError` naming what is wrong with it, `AlreadyExistsError`
        where another image has the name.
        """
        return cast(Image, await self._call("import_image", _requests.import_image(path, name)))

    async def list_images(self) -> List[Image]:
        """The images in the node's store, by name; the built-in guest is not among them."""
        return cast("List[Image]", await self._call("list_images", b"{}"))

    async def remove_image(self, name: str) -> None:
        """Removes an image that no VM names. Needs the role admin."""
        await run(self._client._need().one("remove_image", "name", name))

    def console(self, id: str) -> Console:
        """Its console: what it prints from now on, and `write` to type."""
        return Console(self._client, id)
