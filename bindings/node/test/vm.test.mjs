// What is done with VMs, on the simulator.

import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import {
  AlreadyExistsError,
  InvalidOperationError,
  MigrationState,
  NotFoundError,
  VMClient,
  VMNotFoundError,
  VMState,
} from '../dist/index.js';
import { MIB, NOBODY, directory, imageFolder, node, running, small, vms } from './support.mjs';

test('a VM lives', async (t) => {
  const all = await vms(t);
  const config = small({ labels: { my_key: 'my_value', camelCase: 'x' }, annotations: { a_b: 'c_d' } });
  const vm = await all.create(config);
  assert.equal(vm.state, VMState.STOPPED);
  assert.deepEqual([vm.labels, vm.annotations], [config.labels, config.annotations]);
  assert.deepEqual([vm.config.labels, vm.config.memory, vm.config.hugePages], [config.labels, 64 * MIB, false]);
  assert.ok(new Date(vm.createdAt).getTime() > 0 && !('startedAt' in vm));
  const states = async () => (await all.get(vm.id)).state;
  await all.start(vm.id);
  assert.equal(await states(), VMState.RUNNING);
  await all.pause(vm.id);
  assert.equal(await states(), VMState.PAUSED);
  await all.resume(vm.id);
  await all.reset(vm.id);
  assert.equal(await states(), VMState.RUNNING);
  const metrics = await all.getMetrics(vm.id);
  assert.equal(metrics.memoryUsed + metrics.memoryAvailable, 64 * MIB);
  assert.equal((await all.getMetrics(vm.id, 1500)).diskRead, 0);
  assert.equal((await all.get(vm.id)).metrics.memoryUsed + 0 > 0, true);
  assert.equal((await all.guestReport(vm.id)).faults, 0);
  assert.equal((await all.verify(vm.id)).verified, true);
  await all.stop(vm.id, { timeout: '10s' });
  assert.equal(await states(), VMState.STOPPED);
  await all.start(vm.id);
  await assert.rejects(all.destroy(vm.id), InvalidOperationError);
  await all.stop(vm.id, true);
  await all.destroy(vm.id);
  await assert.rejects(all.get(vm.id), VMNotFoundError);
});

test('labels are changed, and listed by', async (t) => {
  const client = (await node(t)).client();
  const all = new VMClient(client);
  const one = await all.create(small({ labels: { tier: 'web' } }));
  const two = await running(all, { labels: { tier: 'db' } });
  const ids = async (filters) => (await all.list(filters)).map((vm) => vm.id);
  assert.deepEqual(await ids(), [one.id, two.id]);
  assert.deepEqual(await ids({ tier: 'db' }), [two.id]);
  assert.deepEqual(await ids({ state: 'stopped' }), [one.id]);
  assert.deepEqual(await ids({ tier: 'none' }), []);
  const updated = await all.update(one.id, { labels: { tier: 'db' } });
  assert.deepEqual([updated.labels, updated.annotations], [{ tier: 'db' }, {}]);
  assert.deepEqual(await ids({ tier: 'db' }), [one.id, two.id]);
});

test('a key makes one VM, however often it is asked for', async (t) => {
  const all = await vms(t);
  const config = small();
  const [one, two] = await Promise.all([0, 1].map(() => all.create(config, { key: 'the-key' })));
  assert.equal(one.id, two.id);
  await assert.rejects(all.create(small(), { key: 'the-key' }), InvalidOperationError);
});

test('snapshots are taken, listed, brought back and removed', async (t) => {
  const all = await vms(t, { dataDir: directory(t) });
  const vm = await running(all);
  const first = await all.snapshot(vm.id, 'first', { description: 'a text' });
  assert.deepEqual(
    [first.vmId, first.name, first.description, first.includeMemory, first.size > 0],
    [vm.id, 'first', 'a text', true, true],
  );
  const second = await all.snapshot(vm.id, 'second', { includeMemory: false });
  assert.deepEqual((await all.listSnapshots(vm.id)).map((one) => one.name), ['first', 'second']);
  await all.stop(vm.id, true);
  await all.restoreSnapshot(vm.id, first.id);
  assert.equal((await all.get(vm.id)).state, VMState.RUNNING);
  await all.restoreSnapshot(vm.id, second.id);
  assert.equal((await all.get(vm.id)).state, VMState.STOPPED);
  await all.deleteSnapshot(second.id);
  await all.deleteSnapshot(first.id);
  assert.deepEqual(await all.listSnapshots(vm.id), []);
});

test('images are brought in, listed, named by VMs and removed', async (t) => {
  const [data, disks, parent] = [directory(t), directory(t), directory(t)];
  const all = await vms(t, { dataDir: data, diskDir: disks });
  const folder = imageFolder(join(parent, 'mini'));
  const image = await all.importImage(folder);
  assert.deepEqual(
    [image.name, image.cmdline, image.kernel, image.initrd, image.disk, image.digest.length],
    ['mini', 'quiet', 136, 0, MIB, 64],
  );
  assert.ok(new Date(image.createdAt).getTime() > 0);
  const other = await all.importImage(folder, 'other');
  assert.equal(other.digest, image.digest);
  assert.deepEqual(await all.listImages(), [image, other]);
  const vm = await all.create(small({ image: 'mini' }));
  assert.equal(vm.config.disk, MIB);
  assert.ok(existsSync(join(disks, vm.id)));
  await assert.rejects(all.removeImage('mini'), InvalidOperationError);
  await all.removeImage('other');
  await assert.rejects(all.removeImage('other'), NotFoundError);
  writeFileSync(join(folder, 'vmlinuz'), 'a text');
  await assert.rejects(all.importImage(folder), AlreadyExistsError);
  await assert.rejects(all.importImage(folder, 'text'), /kernel: /);
  assert.deepEqual(await all.listImages(), [image]);
});

test('a VM moves, and its stream shows how', async (t) => {
  const [one, two] = [
    await node(t, { listen: ['127.0.0.1:0'] }),
    await node(t, { name: 'node-02', listen: ['127.0.0.1:0'] }),
  ];
  one.addPeer('node-02', two.address);
  two.addPeer('node-01', one.address);
  const all = one.client().vm();
  const vm = await running(all);
  // Nodes cannot plan yet, and say so.
  await assert.rejects(all.planMigration(vm.id, 'node-02'), { code: 'unsupported' });
  // Both are on this host; what is copied goes in rounds.
  const how = { encryptTransport: false, maxDowntime: 500, timeout: '30s', sameHost: 'never' };
  const begun = await all.migrate(vm.id, 'node-02', how);
  const seen = [];
  for await (const status of all.migrationProgress(begun.id)) seen.push(status);
  const last = seen.at(-1);
  assert.deepEqual([last.state, last.vmId, last.targetNode], [MigrationState.COMPLETED, vm.id, 'node-02']);
  assert.ok(last.breakdown.totalUs > 0 && last.rounds.length > 0 && last.bytes.data > 0, last);
  assert.equal((await all.getMigrationStatus(begun.id)).state, MigrationState.COMPLETED);
  assert.deepEqual((await all.listMigrations()).map((one) => one.id), [begun.id]);
  assert.equal((await two.client().vm().get(vm.id)).node, 'node-02');
  assert.equal((await all.get(vm.id)).node, 'node-02');
  await assert.rejects(all.cancelMigration(begun.id), InvalidOperationError);
  await assert.rejects(all.resolveMigration(NOBODY, true), { code: 'not_found' });
});

test('a node is emptied and ended', async (t) => {
  const one = await node(t, { labels: { zone_a: 'b' }, limits: { maxVms: 1 } });
  const client = one.client();
  const info = await client.nodeInfo();
  assert.deepEqual([info.labels, info.limits.maxVms, info.capabilities.tpm], [{ zone_a: 'b' }, 1, false]);
  assert.equal(one.address, undefined);
  await client.vm().create(small());
  await assert.rejects(client.vm().create(small()), { code: 'resource_limit' });
  one.drain();
  assert.equal((await client.health()).status, 'draining');
  await one.shutdown('1s');
  await one.shutdown();
  await assert.rejects(client.health(), { code: 'unavailable' });
  await assert.rejects(node(t, { name: '' }), { code: 'invalid_config' });
  await assert.rejects(node(t, { colour: 1 }), { code: 'invalid_config' });
  await assert.rejects(node(t, { backend: 'xen' }), { code: 'invalid_config' });
  await assert.rejects(node(t, { limits: { maxVm: 1 } }), { code: 'invalid_config' });
  assert.throws(() => one.addPeer('no name!', 'x'), { code: 'invalid_config' });
});
