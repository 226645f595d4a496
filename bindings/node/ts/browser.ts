// The package in a browser, which reaches a node over `wss://`. No node serves that yet: what is here
// says so, with the error that a program would get, instead of missing.

import { UnsupportedError } from './errors.js';
import type { CallOptions, ClientConfig } from './types.js';
import type { VMClient } from './vm.js';

export * from './errors.js';
export * from './types.js';

const WHY =
  'wss: nodes do not serve WebSockets yet, which is all that a browser could use: ask them from Node.js';

/** A client in a browser. It cannot connect yet. */
export class Client {
  /** @throws nothing: only `connect()` fails */
  constructor(config: ClientConfig) {
    void config;
  }

  /** @throws UnsupportedError in every case: nodes do not serve WebSockets yet. */
  connect(options?: CallOptions): Promise<void> {
    void options;
    return Promise.reject(new UnsupportedError(WHY, { operation: 'connect' }));
  }

  disconnect(): Promise<void> {
    return Promise.resolve();
  }

  isConnected(): boolean {
    return false;
  }

  isAuthenticated(): boolean {
    return false;
  }

  /** @throws UnsupportedError in every case. */
  vm(): VMClient {
    throw new UnsupportedError(WHY);
  }
}
