// Type Safety.

// Full TypeScript type support
import { VM, VMState, VMMetrics, MigrationStatus } from '@novacron/dwcp-sdk';

import { withVM } from './setting.js';

function processVM(vm: VM): void {
  console.log(`VM ${vm.name} is ${vm.state}`);

  if (vm.metrics) {
    displayMetrics(vm.metrics);
  }
}

function displayMetrics(metrics: VMMetrics): void {
  console.log(`CPU: ${metrics.cpuUsage}%`);
  console.log(`Memory: ${metrics.memoryUsed} bytes`);
}

await withVM(async (vmClient, vmId) => {
  const vm = await vmClient.get(vmId);
  if (vm.state !== VMState.RUNNING || !vm.metrics) throw new Error('it runs, and has figures');
  processVM(vm);
  const migrations: MigrationStatus[] = await vmClient.listMigrations();
  console.log(`${migrations.length} migrations`);
});
