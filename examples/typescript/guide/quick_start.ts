// Quick Start.

import { Client, ClientConfig, VMClient, VMConfig } from '@novacron/dwcp-sdk';

async function main() {
  // Create configuration
  const config: ClientConfig = {
    address: process.env['DWCP_ADDRESS'] ?? 'localhost',
    port: Number(process.env['DWCP_PORT'] ?? 9000),
    apiKey: process.env['DWCP_API_KEY'] ?? 'your-api-key',
    tlsEnabled: true,
  };

  // Create and connect client
  const client = new Client(config);
  await client.connect();

  console.log('Connected to DWCP server');

  // Create VM
  const vmConfig: VMConfig = {
    name: `my-vm-${process.pid}`,
    memory: 64 * 1024 ** 2, // 64 MiB
    cpus: 2,
    image: 'dwcp/pulse',
  };

  const vmClient = new VMClient(client);
  const vm = await vmClient.create(vmConfig);
  console.log(`Created VM: ${vm.name} (ID: ${vm.id})`);

  // Start VM
  await vmClient.start(vm.id);
  console.log('VM started');

  // Cleanup
  await vmClient.stop(vm.id, true);
  await vmClient.destroy(vm.id);
  await client.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
