// What a node cannot do yet is refused by name: the advanced configurations of the guide ask for a TPM and a
// GPU.

import { UnsupportedError } from '@novacron/dwcp-sdk';
import type { VMConfig } from '@novacron/dwcp-sdk';

import { small, withClient } from './setting.js';

await withClient(async (vmClient) => {
  const wishes: [string, Partial<VMConfig>][] = [
    ['enable_tpm', { enableTpm: true }],
    ['enable_gpu', { enableGpu: true, gpuType: 'any' }],
  ];
  for (const [field, wish] of wishes) {
    try {
      await vmClient.create({ ...small(), ...wish });
    } catch (error) {
      if (!(error instanceof UnsupportedError) || !error.message.includes(field)) throw error;
      console.log(error.message);
      continue;
    }
    throw new Error(`${field} was not refused`);
  }
});
