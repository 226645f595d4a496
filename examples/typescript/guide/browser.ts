// Browser Support: nodes do not serve WebSockets yet, and the error says so.

// Browser usage (using WebSocket transport)
import { Client, UnsupportedError } from '@novacron/dwcp-sdk/browser';

const config = {
  address: 'wss://dwcp.example.com',
  port: 443,
  apiKey: 'browser-api-key',
};

try {
  const client = new Client(config);
  await client.connect();

  // Use same API as Node.js version
  const vmClient = client.vm();
  const vms = await vmClient.list();
  console.log(`Total VMs: ${vms.length}`);
  process.exitCode = 1;
} catch (error) {
  if (!(error instanceof UnsupportedError) || !error.message.includes('wss')) throw error;
  console.log(error.message);
}
