// Live Migration, Snapshots and batches, which the guide shows in other languages, in this one.

import { MigrationState } from '@novacron/dwcp-sdk';

import { small, target, withClient } from './setting.js';

await withClient(async (vmClient) => {
  // Create multiple VMs concurrently
  const vms = await Promise.all([small(), small()].map((config) => vmClient.create(config)));
  await Promise.all(vms.map((vm) => vmClient.start(vm.id)));
  const [vm] = vms;

  const snapshot = await vmClient.snapshot(vm!.id, 'backup-1', { includeMemory: true });
  for (const one of await vmClient.listSnapshots(vm!.id)) console.log(`${one.name}: ${one.size} bytes`);
  await vmClient.restoreSnapshot(vm!.id, snapshot.id);
  await vmClient.deleteSnapshot(snapshot.id);

  const migration = await vmClient.migrate(vm!.id, target, {
    live: true,
    maxDowntime: 500,
    compression: true,
  });
  for await (const status of vmClient.migrationProgress(migration.id)) {
    console.log(`${status.state}: ${status.progress.toFixed(1)}%`);
  }
  const { state, error } = await vmClient.getMigrationStatus(migration.id);
  if (state !== MigrationState.COMPLETED) throw new Error(error);
});
