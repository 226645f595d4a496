// Error Handling, and that of the migration guide.

import {
  DWCPError,
  ConnectionError,
  AuthenticationError,
  VMNotFoundError,
  TimeoutError,
} from '@novacron/dwcp-sdk';

import { withClient } from './setting.js';

await withClient(async (vmClient) => {
  const vmId = '00000000-0000-4000-8000-000000000000';
  const seen: string[] = [];

  try {
    const vm = await vmClient.get(vmId);
    console.log(vm.name);
  } catch (error) {
    if (error instanceof VMNotFoundError) {
      console.log('VM not found');
      seen.push(error.code);
    } else if (error instanceof ConnectionError) {
      console.log('Connection error');
    } else if (error instanceof AuthenticationError) {
      console.log('Not let in');
    } else if (error instanceof TimeoutError) {
      console.log('Operation timeout');
    } else if (error instanceof DWCPError) {
      console.log(`DWCP error: ${error.message}`);
    } else {
      throw error;
    }
  }

  // What is not one class may be another.
  const told = (error: DWCPError) => (error instanceof VMNotFoundError ? 'not there' : error.code);
  if (told(new TimeoutError('late')) !== 'timeout') throw new Error('a code of its own');

  // v3
  try {
    await vmClient.get(vmId);
  } catch (e) {
    if (e instanceof VMNotFoundError) {
      seen.push(e.code);
    }
  }
  if (seen.length !== 2) throw new Error(`both are VMNotFoundError, not ${seen.join()}`);
});
