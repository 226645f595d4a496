// Retry Logic.

import { small, withClient } from './setting.js';

async function withRetry<T>(fn: () => Promise<T>, maxRetries: number = 3): Promise<T> {
  let lastError: Error;

  for (let i = 0; i < maxRetries; i++) {
    try {
      return await fn();
    } catch (error) {
      lastError = error as Error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.pow(2, i)));
    }
  }

  throw lastError!;
}

await withClient(async (vmClient) => {
  const config = small();
  let tries = 0;

  // Usage
  const vm = await withRetry(() => {
    if (++tries === 1) throw new Error('the first try fails');
    return vmClient.create(config);
  });
  console.log(`Created ${vm.id} in ${tries} tries`);
});
