// Promise-based API.

import { small, withClient } from './setting.js';

await withClient((vmClient) => {
  const vmConfig = small();

  // Sequential operations
  return vmClient
    .create(vmConfig)
    .then((vm) => {
      console.log(`Created: ${vm.id}`);
      return vmClient.start(vm.id);
    })
    .then(() => {
      console.log('VM started');
    })
    .catch((error) => {
      console.error('Error:', error);
      throw error;
    });
});
