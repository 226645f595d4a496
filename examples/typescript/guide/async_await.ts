// Async/Await.

import { small, withClient } from './setting.js';

await withClient(async (vmClient) => {
  const vmConfig = small();

  // Modern async/await pattern
  try {
    const vm = await vmClient.create(vmConfig);
    await vmClient.start(vm.id);

    const metrics = await vmClient.getMetrics(vm.id);
    console.log(`CPU: ${metrics.cpuUsage}%`);
  } catch (error) {
    console.error('Error:', error);
    throw error;
  }
});
