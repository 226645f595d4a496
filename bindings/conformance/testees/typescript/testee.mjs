// The TypeScript package as the judge drives it: JSON lines over standard input and output. Needs the
// package built in bindings/node (dist/ and the addon).

import { createInterface } from 'node:readline';

import { CancelledError, Client, DWCPError, UnsupportedError, version } from '../../../node/dist/index.js';

/** The fields whose keys are a user's. */
const MAPS = new Set(['labels', 'annotations', 'node_selector', 'nodeSelector', 'filters']);

function renamed(value, rename) {
  if (Array.isArray(value)) return value.map((item) => renamed(item, rename));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value);
  return Object.fromEntries(
    entries.map(([key, part]) => [rename(key), MAPS.has(key) ? part : renamed(part, rename)]),
  );
}

const snake = (value) => renamed(value, (key) => key.replace(/[A-Z]/g, (one) => `_${one.toLowerCase()}`));
const camel = (value) => renamed(value, (key) => key.replace(/_([a-z])/g, (_, one) => one.toUpperCase()));

const clients = new Map();
const streams = new Map();
/** What takes back each request that runs. */
const running = new Map();

function found(all, name) {
  const one = all.get(name);
  if (one === undefined) throw new Error(`there is no ${name}`);
  return one;
}

const METHODS = {
  create: (vms, a, o) => vms.create(camel(a.config), o),
  start: (vms, a, o) => vms.start(a.id, o),
  stop: (vms, a, o) => vms.stop(a.id, { force: a.force, timeout: a.timeout }, o),
  destroy: (vms, a, o) => vms.destroy(a.id, o),
  pause: (vms, a, o) => vms.pause(a.id, o),
  resume: (vms, a, o) => vms.resume(a.id, o),
  reset: (vms, a, o) => vms.reset(a.id, o),
  update: (vms, a, o) => vms.update(a.id, { labels: a.labels, annotations: a.annotations }, o),
  get: (vms, a, o) => vms.get(a.id, o),
  list: (vms, a, o) => vms.list(a.filters, o),
  get_metrics: (vms, a, o) => vms.getMetrics(a.id, a.duration, o),
  guest_report: (vms, a, o) => vms.guestReport(a.id, o),
  verify: (vms, a, o) => vms.verify(a.id, o),
  migrate: (vms, a, o) => vms.migrate(a.id, a.target, camel(a.options), o),
  get_migration_status: (vms, a, o) => vms.getMigrationStatus(a.migration_id, o),
  cancel_migration: (vms, a, o) => vms.cancelMigration(a.migration_id, o),
  list_migrations: (vms, a, o) => vms.listMigrations(o),
  plan_migration: (vms, a, o) => vms.planMigration(a.id, a.target, camel(a.options), o),
  resolve_migration: (vms, a, o) => vms.resolveMigration(a.migration_id, a.force, o),
  snapshot: (vms, a, o) => vms.snapshot(a.id, a.name, camel(a.options), o),
  list_snapshots: (vms, a, o) => vms.listSnapshots(a.id, o),
  restore_snapshot: (vms, a, o) => vms.restoreSnapshot(a.id, a.snapshot_id, o),
  delete_snapshot: (vms, a, o) => vms.deleteSnapshot(a.snapshot_id, o),
  health: (vms, a, o, client) => client.health(o),
  node: (vms, a, o, client) => client.nodeInfo(o),
};

const STREAMS = {
  watch: (vms, a) => vms.watch(a.id),
  watch_all: (vms, a) => vms.watchAll(a.filters),
  stream_metrics: (vms, a) => vms.streamMetrics(a.id, a.interval),
  migration_progress: (vms, a) => vms.migrationProgress(a.migration_id),
  console: (vms, a) => vms.console(a.id),
};

const COMMANDS = {
  hello: () => ({ language: 'typescript', version }),
  async connect({ client: name, config }, options) {
    const client = new Client(camel(config));
    clients.set(name, client);
    await client.connect(options);
    return {};
  },
  async call({ client: name, method, args = {} }, options) {
    if (!Object.hasOwn(METHODS, method)) throw new UnsupportedError(`method: ${method}`);
    const client = found(clients, name);
    return snake((await METHODS[method](client.vm(), args, options, client)) ?? null);
  },
  cancel({ request }) {
    running.get(request)?.abort();
    return {};
  },
  async open({ client, stream, kind, args = {} }) {
    if (!Object.hasOwn(STREAMS, kind)) throw new UnsupportedError(`kind: ${kind}`);
    const opening = STREAMS[kind](found(clients, client).vm(), args);
    streams.set(stream, opening);
    await opening.opened();
    return {};
  },
  async next({ stream: name, count }, { signal }) {
    const stream = found(streams, name);
    // Who takes back the wait for an item ends the stream: that is how a loop is left from outside.
    signal.addEventListener('abort', () => stream.close(), { once: true });
    const items = [];
    while (items.length < count) {
      const { value, done } = await stream.next();
      if (signal.aborted) throw new CancelledError('by the caller');
      if (done) return { items, ended: true };
      items.push(value instanceof Uint8Array ? Buffer.from(value).toString('latin1') : snake(value));
    }
    return { items, ended: false };
  },
  close_stream({ stream }) {
    found(streams, stream).close();
    return {};
  },
  async write_console({ client, vm, data }, options) {
    await found(clients, client).vm().writeConsole(vm, Buffer.from(data, 'latin1'), options);
    return {};
  },
  state({ client: name }) {
    const client = found(clients, name);
    return { connected: client.isConnected(), authenticated: client.isAuthenticated() };
  },
  counters: ({ client }) => snake(found(clients, client).getMetrics()),
  async disconnect({ client }) {
    await found(clients, client).disconnect();
    return {};
  },
  memory: () => ({ rss: process.memoryUsage.rss() }),
};

function told(error) {
  if (error instanceof DWCPError) {
    const { code, message, retryable, name, operation, concerns } = error;
    return { code, message, retryable, class: name, operation, concerns };
  }
  return { code: 'other', message: String(error), retryable: false, class: error?.name ?? 'Error' };
}

function answer(line, then) {
  process.stdout.write(`${JSON.stringify(line)}\n`, then);
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { id, do: command, ...request } = JSON.parse(line);
  if (command === 'exit') {
    answer({ id, ok: {} }, () => process.exit(0));
    return;
  }
  const taken = new AbortController();
  running.set(id, taken);
  try {
    if (!Object.hasOwn(COMMANDS, command)) throw new UnsupportedError(`command: ${command}`);
    answer({ id, ok: await COMMANDS[command](request, { signal: taken.signal }) });
  } catch (error) {
    answer({ id, error: told(error) });
  } finally {
    running.delete(id);
  }
});
