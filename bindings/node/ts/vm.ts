// The operations on VMs.

import { json, nothing, time, written } from './bridge.js';
import type { Client } from './client.js';
import type { Console, Stream } from './stream.js';
import type {
  CallOptions,
  Duration,
  Filters,
  GuestReport,
  Image,
  KeyedCallOptions,
  MigrationOptions,
  MigrationPlan,
  MigrationStatus,
  Snapshot,
  SnapshotOptions,
  StopOptions,
  StreamOptions,
  UpdateOptions,
  VM,
  VMConfig,
  VMEvent,
  VMMetrics,
  WatchOptions,
} from './types.js';

/**
 * The operations on a node's VMs. `id` is the id of a VM.
 *
 * Every method fails with a `VMNotFoundError` for a VM the node does not have, and with an
 * `InvalidOperationError` where the VM is in a state in which that is not possible.
 */
export class VMClient {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  /** Makes a VM. It is durable and stopped, and takes no memory until it is started. */
  create(config: VMConfig, options?: KeyedCallOptions): Promise<VM> {
    const fields = () => ({ request: { config }, key: options?.key });
    return this.#ask('create', fields, json<VM>, options);
  }

  /** Starts a VM; its vCPUs run when this resolves. */
  start(id: string, options?: CallOptions): Promise<void> {
    return this.#about('start', id, nothing, options);
  }

  /**
   * Stops a VM. Without `force` its guest is asked, and has 30 s or the `timeout` of `how`; a guest that
   * has not stopped by then is a `TimeoutError`, and runs on.
   */
  stop(id: string, how: boolean | StopOptions = false, options?: CallOptions): Promise<void> {
    const { force, timeout } = typeof how === 'object' && how !== null ? how : { force: how };
    const fields = () => ({ vm_id: id, force, timeout: time('timeout', timeout) });
    return this.#ask('stop', fields, nothing, options);
  }

  /** Removes a VM that is stopped or failed, with its disks. */
  destroy(id: string, options?: CallOptions): Promise<void> {
    return this.#about('destroy', id, nothing, options);
  }

  /** Holds the vCPUs of a VM that runs. */
  pause(id: string, options?: CallOptions): Promise<void> {
    return this.#about('pause', id, nothing, options);
  }

  /** Lets them run again. */
  resume(id: string, options?: CallOptions): Promise<void> {
    return this.#about('resume', id, nothing, options);
  }

  /** Starts the guest anew at once, as a reset button does. */
  reset(id: string, options?: CallOptions): Promise<void> {
    return this.#about('reset', id, nothing, options);
  }

  /** Replaces labels, annotations, or both. */
  update(id: string, changes: UpdateOptions, options?: CallOptions): Promise<VM> {
    return this.#ask('update', () => ({ ...changes, vm_id: id }), json<VM>, options);
  }

  /** What a VM is and does. */
  get(id: string, options?: CallOptions): Promise<VM> {
    return this.#about('get', id, json<VM>, options);
  }

  /** The VMs that match all filters, oldest first. */
  list(filters?: Filters | null, options?: CallOptions): Promise<VM[]> {
    return this.#ask('list', () => ({ filters }), json<VM[]>, options);
  }

  /** What happens to a VM: its present state first (`type` is `current`), then events as they come. */
  watch(id: string, options: WatchOptions = {}): Stream<VMEvent> {
    const { since, store, signal } = options;
    return this.#stream('watch', { vm_id: id, since, store }, events, signal);
  }

  /** The same of all VMs that match. */
  watchAll(filters?: Filters | null, options: WatchOptions = {}): Stream<VMEvent> {
    const { since, store, signal } = options;
    return this.#stream('watch', { filters, since, store }, events, signal);
  }

  /** The figures of a VM, means taken over that time before now. */
  getMetrics(id: string, duration: Duration = '5m', options?: CallOptions): Promise<VMMetrics> {
    const fields = () => ({ vm_id: id, duration: time('duration', duration) });
    return this.#ask('get_metrics', fields, json<VMMetrics>, options);
  }

  /** The figures of a VM, one after each interval, until it stops. */
  streamMetrics(
    id: string,
    interval: Duration = '1s',
    options: StreamOptions = {},
  ): Stream<VMMetrics> {
    const fields = { vm_id: id, interval: time('interval', interval) };
    return this.#stream('stream_metrics', fields, json<VMMetrics[]>, options.signal);
  }

  /** What the built-in guest says of itself. */
  guestReport(id: string, options?: CallOptions): Promise<GuestReport> {
    return this.#about('guest_report', id, json<GuestReport>, options);
  }

  /** Has the built-in guest check all its memory. */
  verify(id: string, options?: CallOptions): Promise<GuestReport> {
    return this.#about('verify', id, json<GuestReport>, options);
  }

  /** Begins to move a VM to the node of that name; the status says how it goes. */
  migrate(
    id: string,
    target: string,
    how?: MigrationOptions | null,
    options?: KeyedCallOptions,
  ): Promise<MigrationStatus> {
    const fields = () => ({ ...migration(id, target, how), key: options?.key });
    return this.#ask('migrate', fields, json<MigrationStatus>, options);
  }

  /** What moving a VM would be like if it began now. */
  planMigration(
    id: string,
    target: string,
    how?: MigrationOptions | null,
    options?: CallOptions,
  ): Promise<MigrationPlan> {
    const fields = () => migration(id, target, how);
    return this.#ask('plan_migration', fields, json<MigrationPlan>, options);
  }

  /** How a migration goes, or went. */
  getMigrationStatus(migrationId: string, options?: CallOptions): Promise<MigrationStatus> {
    const fields = () => ({ migration_id: migrationId });
    return this.#ask('get_migration_status', fields, json<MigrationStatus>, options);
  }

  /** How a migration goes, until it ends. */
  migrationProgress(migrationId: string, options: StreamOptions = {}): Stream<MigrationStatus> {
    const fields = { migration_id: migrationId };
    return this.#stream('migration_progress', fields, json<MigrationStatus[]>, options.signal);
  }

  /** Ends a migration; the VM stays. */
  cancelMigration(migrationId: string, options?: CallOptions): Promise<MigrationStatus> {
    const fields = () => ({ migration_id: migrationId });
    return this.#ask('cancel_migration', fields, json<MigrationStatus>, options);
  }

  /** The migrations that the node knows of. */
  listMigrations(options?: CallOptions): Promise<MigrationStatus[]> {
    return this.#ask('list_migrations', () => ({}), json<MigrationStatus[]>, options);
  }

  /**
   * Finds out who has the VM of a migration that lost its peer; with `force` takes it although the peer
   * does not answer.
   */
  resolveMigration(
    migrationId: string,
    force = false,
    options?: CallOptions,
  ): Promise<MigrationStatus> {
    const fields = () => ({ migration_id: migrationId, force });
    return this.#ask('resolve_migration', fields, json<MigrationStatus>, options);
  }

  /** Takes a snapshot; it is complete when this resolves. */
  snapshot(
    id: string,
    name: string,
    how?: SnapshotOptions | null,
    options?: KeyedCallOptions,
  ): Promise<Snapshot> {
    const fields = () => ({ vm_id: id, name, options: how, key: options?.key });
    return this.#ask('snapshot', fields, json<Snapshot>, options);
  }

  /** The snapshots of a VM, oldest first. */
  listSnapshots(id: string, options?: CallOptions): Promise<Snapshot[]> {
    return this.#about('list_snapshots', id, json<Snapshot[]>, options);
  }

  /** Makes a VM what it was when the snapshot was taken, in the state it had then. */
  restoreSnapshot(id: string, snapshotId: string, options?: CallOptions): Promise<void> {
    const fields = () => ({ vm_id: id, snapshot_id: snapshotId });
    return this.#ask('restore_snapshot', fields, nothing, options);
  }

  /** Removes a snapshot. */
  deleteSnapshot(snapshotId: string, options?: CallOptions): Promise<void> {
    return this.#ask('delete_snapshot', () => ({ snapshot_id: snapshotId }), nothing, options);
  }

  /**
   * Brings the image in a folder of the node's own host into its store, under `name` or the name it has.
   * Needs the role admin.
   */
  importImage(path: string, name?: string | null, options?: CallOptions): Promise<Image> {
    return this.#ask('import_image', () => ({ path, name }), json<Image>, options);
  }

  /** The images in the node's store, by name; the built-in guest is not among them. */
  listImages(options?: CallOptions): Promise<Image[]> {
    return this.#ask('list_images', () => ({}), json<Image[]>, options);
  }

  /** Removes an image that no VM names. Needs the role admin. */
  removeImage(name: string, options?: CallOptions): Promise<void> {
    return this.#ask('remove_image', () => ({ name }), nothing, options);
  }

  /** The console of a VM: what is kept of its output, then what comes, and a way to type. */
  console(id: string, options: StreamOptions = {}): Console {
    return this.#client.console(id, () => written({ vm_id: id }), options.signal);
  }

  /** Types on the console of a VM, at most 64 KiB at once; text as UTF-8. */
  writeConsole(id: string, data: string | Uint8Array, options?: CallOptions): Promise<void> {
    return this.#client.write(id, data, options);
  }

  /** Asks for what takes no more than a VM's id. */
  #about<T>(
    method: string,
    id: string,
    read: (payload: string | Uint8Array) => T,
    options: CallOptions | undefined,
  ): Promise<T> {
    return this.#client.call(method, JSON.stringify({ vm_id: id }), read, options);
  }

  async #ask<T>(
    method: string,
    fields: () => object,
    read: (payload: string | Uint8Array) => T,
    options: CallOptions | undefined,
  ): Promise<T> {
    // Within the promise: what the user wrote wrong rejects it.
    return this.#client.call(method, written(fields()), read, options);
  }

  #stream<T>(
    method: string,
    fields: object,
    read: (payload: string | Uint8Array) => T[],
    signal: AbortSignal | undefined,
  ): Stream<T> {
    return this.#client.stream(method, () => written(fields), read, signal);
  }
}

/**
 * Reads events. What their VMs have for a config is in a list beside them, once for all that have the same:
 * copying is several times as fast as reading it again.
 */
function events(payload: string | Uint8Array): VMEvent[] {
  const [items, configs] = json<[VMEvent[], VM['config'][]]>(payload);
  for (const { vm } of items) {
    const config = configs[vm.config as unknown as number];
    // Each has its own, as if it had been read.
    if (config !== undefined) vm.config = copyOf(config);
  }
  return items;
}

/** A copy of something that JSON gave, which shares nothing with it. */
function copyOf<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(copyOf) as T;
  const copy = { ...value };
  for (const key in copy) {
    const part = copy[key];
    if (typeof part === 'object' && part !== null) copy[key] = copyOf(part);
  }
  return copy;
}

function migration(id: string, target: string, how: MigrationOptions | null | undefined): object {
  const options = how && { ...how, timeout: time('timeout', how.timeout) };
  return { vm_id: id, target_node: target, options };
}
