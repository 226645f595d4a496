// A VM's whole story on two nodes: made, started, watched, measured, kept and brought back, moved while it
// runs, destroyed.
//
//   node story.js
//   node story.js --remote ADDRESS_A ADDRESS_B --api-key KEY --ca-file CA.pem --peer NAME_OF_B
//
// Without --remote both nodes are in this process; DWCP_BACKEND says what runs their VMs (kvm or sim).

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { Client, MigrationState, Node, VMNotFoundError, VMState } from '@novacron/dwcp-sdk';
import type { NodeOptions } from '@novacron/dwcp-sdk';

const MIB = 1024 ** 2;
const NOBODY = '00000000-0000-4000-8000-000000000000';

/** Two nodes that know each other: a client of each, and how they end. */
interface Stage {
  here: Client;
  there: Client;
  target: string;
  encrypted: boolean;
  end(): Promise<void>;
}

async function inThisProcess(): Promise<Stage> {
  const dir = await mkdtemp(join(tmpdir(), 'dwcp-story-'));
  const backend = process.env['DWCP_BACKEND'] as NodeOptions['backend'];
  const start = (name: string) =>
    Node.start({ name, backend, dataDir: join(dir, name), listen: ['127.0.0.1:0'] });
  const [one, two] = [await start('node-01'), await start('node-02')];
  one.addPeer('node-02', two.address!);
  two.addPeer('node-01', one.address!);
  return {
    here: one.client(),
    there: two.client(),
    target: 'node-02',
    encrypted: false,
    async end() {
      await one.shutdown('5s');
      await two.shutdown('5s');
      await rm(dir, { recursive: true });
    },
  };
}

async function remote(addresses: string[], apiKey: string, caFile: string, target: string): Promise<Stage> {
  const clients = addresses.map((text) => {
    const at = text.lastIndexOf(':');
    return new Client({ address: text.slice(0, at), port: Number(text.slice(at + 1)), apiKey, caFile });
  });
  await Promise.all(clients.map((client) => client.connect()));
  const [here, there] = clients as [Client, Client];
  return { here, there, target, encrypted: true, end: async () => {} };
}

async function story({ here, there, target, encrypted }: Stage): Promise<void> {
  const vms = here.vm();
  const health = await here.health();
  console.log(`${health.node} is ${health.status}`);

  const { id, name } = await vms.create({
    name: `story-${process.pid}`,
    memory: 64 * MIB,
    cpus: 1,
    annotations: { 'dwcp.pulse/fill': String(8 * MIB) },
  });
  console.log(`created ${name} (${id})`);

  await vms.start(id);
  for await (const event of vms.watch(id)) {
    console.log(`  event ${event.type}: ${event.vm.state}`);
    if (event.vm.state === VMState.RUNNING) break;
  }
  console.log('started');

  const metrics = await vms.getMetrics(id, '1m');
  assert.equal(metrics.memoryUsed + metrics.memoryAvailable, 64 * MIB);
  console.log(`metrics: ${metrics.cpuUsage.toFixed(1)} % of a CPU, ${metrics.memoryUsed} bytes in use`);

  let count = 0;
  for await (const figures of vms.streamMetrics(id, '100ms')) {
    assert.ok(figures.vmExits >= 0);
    if (++count === 10) break;
  }
  console.log(`streamed ${count} metrics`);

  const snapshot = await vms.snapshot(id, 'before-the-move', { description: 'of the story' });
  await vms.restoreSnapshot(id, snapshot.id);
  assert.equal((await vms.get(id)).state, VMState.RUNNING);
  assert.deepEqual((await vms.listSnapshots(id)).map((one) => one.id), [snapshot.id]);
  await vms.deleteSnapshot(snapshot.id);
  console.log(`snapshot of ${snapshot.size} bytes, restored`);

  const migration = await vms.migrate(id, target, { encryptTransport: encrypted });
  for await (const status of vms.migrationProgress(migration.id)) {
    console.log(`  ${status.state} ${status.progress.toFixed(0)} %`);
  }
  const moved = await vms.getMigrationStatus(migration.id);
  assert.equal(moved.state, MigrationState.COMPLETED, moved.error);
  const vm = await there.vm().get(id);
  assert.deepEqual([vm.state, vm.node], [VMState.RUNNING, target]);
  console.log(`moved to ${vm.node}: stood still for ${moved.downtimeUs / 1000} ms`);

  try {
    await vms.get(NOBODY);
    assert.fail('there is no such VM');
  } catch (error) {
    if (!(error instanceof VMNotFoundError)) throw error;
    console.log(`an unknown VM is an error: ${error.name}, ${error.code}`);
  }

  // The first node still answers for it.
  await vms.stop(id, true);
  await vms.destroy(id);
  console.log('destroyed');
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    remote: { type: 'boolean' },
    'api-key': { type: 'string' },
    'ca-file': { type: 'string' },
    peer: { type: 'string' },
  },
});
let stage: Stage;
if (values.remote) {
  const { 'api-key': key, 'ca-file': authority, peer } = values;
  if (positionals.length !== 2 || !key || !authority || !peer) {
    throw new Error('--remote ADDRESS_A ADDRESS_B --api-key KEY --ca-file CA.pem --peer NAME_OF_B');
  }
  stage = await remote(positionals, key, authority, peer);
} else {
  stage = await inThisProcess();
}
try {
  await story(stage);
} finally {
  await stage.here.disconnect();
  await stage.there.disconnect();
  await stage.end();
}
console.log('story: ok');
