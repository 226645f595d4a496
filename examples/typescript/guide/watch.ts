// Event Streaming.

import { VMState } from '@novacron/dwcp-sdk';

import { withVM } from './setting.js';

await withVM(async (vmClient, vmId) => {
  // Watch VM events using async iterators
  for await (const event of vmClient.watch(vmId)) {
    console.log(`[${event.timestamp}] ${event.type}: ${event.message}`);
    console.log(`  State: ${event.vm.state}`);

    if (event.vm.state === VMState.RUNNING) {
      break;
    }
  }
});
