// Real-time Metrics, and Stream Metrics of the part on performance.

import type { VMMetrics } from '@novacron/dwcp-sdk';

import { withVM } from './setting.js';

await withVM(async (vmClient, vmId) => {
  let count = 0;

  // Stream metrics
  for await (const metrics of vmClient.streamMetrics(vmId, '1s')) {
    console.log(`CPU: ${metrics.cpuUsage.toFixed(2)}%`);
    console.log(`Memory: ${(metrics.memoryUsed / 1024 ** 3).toFixed(1)} GB`);
    if (++count === 2) break;
  }

  const updateDashboard = (metrics: VMMetrics) => console.log(metrics.timestamp);

  // More efficient than polling
  for await (const metrics of vmClient.streamMetrics(vmId)) {
    updateDashboard(metrics);
    break;
  }
});
