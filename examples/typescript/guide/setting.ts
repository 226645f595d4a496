// What the snippets of the guide leave out: where the node is, and a VM to work with. From the environment:
// DWCP_ADDRESS, DWCP_PORT, DWCP_API_KEY, DWCP_CA_FILE and DWCP_TARGET_NODE, by which the library finds the
// first four itself.

import { Client, VMClient } from '@novacron/dwcp-sdk';
import type { VMConfig } from '@novacron/dwcp-sdk';

export const target = process.env['DWCP_TARGET_NODE'] ?? 'node-02';

let made = 0;

/** A config with a name of its own. */
export function small(): VMConfig {
  return { name: `guide-${process.pid}-${++made}`, memory: 64 * 1024 ** 2, cpus: 1, image: 'dwcp/pulse' };
}

/** Runs a snippet with a client, and removes what VMs it made. */
export async function withClient(snippet: (vms: VMClient, client: Client) => Promise<void>): Promise<void> {
  const client = new Client();
  await client.connect();
  const vms = client.vm();
  try {
    await snippet(vms, client);
  } finally {
    for (const vm of await vms.list()) {
      if (!vm.name.startsWith(`guide-${process.pid}-`)) continue;
      if (vm.state !== 'stopped') await vms.stop(vm.id, true);
      await vms.destroy(vm.id);
    }
    await client.disconnect();
  }
}

/** Runs a snippet with a VM that runs. */
export function withVM(snippet: (vms: VMClient, vmId: string) => Promise<void>): Promise<void> {
  return withClient(async (vms) => {
    const vm = await vms.create(small());
    await vms.start(vm.id);
    await snippet(vms, vm.id);
  });
}
