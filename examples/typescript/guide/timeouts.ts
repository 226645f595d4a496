// Timeout Configuration.

import { Client, ClientConfig } from '@novacron/dwcp-sdk';

const config: ClientConfig = {
  address: process.env['DWCP_ADDRESS'] ?? 'localhost',
  connectTimeout: 30000, // 30s
  requestTimeout: 60000, // 60s
};

const client = new Client(config);
await client.connect();
console.log((await client.health()).status);
await client.disconnect();
