// A client of one node.

import { EventEmitter } from 'node:events';

import { bridge, direct, json, nothing, run, time, written } from './bridge.js';
import { ConfigError, ConnectionError } from './errors.js';
import { native, type NativeClient, type Payload } from './native.js';
import { Console, Stream } from './stream.js';
import type { CallOptions, ClientConfig, ClientMetrics, Health, NodeInfo } from './types.js';
import { VMClient } from './vm.js';

/** The events of a client, and what their listeners are given. */
export interface ClientEvents {
  /** It is connected; also when a lost connection was made again. */
  connect: [];
  /** It was disconnected, or a call has noticed that the connection was lost: then with that error. */
  disconnect: [error?: ConnectionError];
}

// The listeners of EventEmitter, with their types.
export interface Client {
  on<E extends keyof ClientEvents>(event: E, listener: (...args: ClientEvents[E]) => void): this;
  once<E extends keyof ClientEvents>(event: E, listener: (...args: ClientEvents[E]) => void): this;
  off<E extends keyof ClientEvents>(event: E, listener: (...args: ClientEvents[E]) => void): this;
  emit<E extends keyof ClientEvents>(event: E, ...args: ClientEvents[E]): boolean;
}

/** The durations in a config, which are text on the way. */
const TIMES = ['connectTimeout', 'requestTimeout', 'retryBackoff', 'keepAlivePeriod'] as const;

/**
 * A client of one node: requests share a connection, many at a time. A connection that was lost is made
 * again with the next request. An idle client keeps no program alive.
 */
export class Client extends EventEmitter {
  readonly #native: NativeClient;
  #connecting: Promise<void> | undefined;
  #stop: AbortController | undefined;
  #told = false;

  /**
   * Makes a client; `connect()` connects it.
   *
   * @throws ConfigError naming a field that is unknown or of another type.
   */
  constructor(config: ClientConfig = {}) {
    super();
    if (config instanceof Ready) {
      this.#native = config.native;
      this.#told = true;
    } else {
      const options: Record<string, unknown> = { ...config };
      for (const name of TIMES) options[name] = time(name, config?.[name]);
      const text = written(options);
      this.#native = direct(() => new native.NativeClient(text));
    }
  }

  /**
   * Connects. Does nothing where it is connected.
   *
   * @throws ConnectionError, TimeoutError, AuthenticationError, ConfigError, UnsupportedError
   */
  connect(options: CallOptions = {}): Promise<void> {
    if (this.isConnected()) return Promise.resolve();
    this.#connecting ??= this.#connect(options).finally(() => {
      this.#connecting = undefined;
      this.#stop = undefined;
    });
    return this.#connecting;
  }

  async #connect({ signal, timeout }: CallOptions): Promise<void> {
    this.#stop = new AbortController();
    const either = signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal;
    const limit = time('timeout', timeout);
    const start = (tag: number) => this.#native.connect(bridge, tag, limit);
    await run(start, nothing, { signal: either });
    this.#told = true;
    this.emit('connect');
  }

  /** Ends the connection, and with it what is under way. Twice is fine. */
  async disconnect(): Promise<void> {
    this.#stop?.abort(new ConnectionError('the client was disconnected'));
    await this.#connecting?.catch(nothing);
    await run((tag) => this.#native.close(bridge, tag), nothing);
    if (this.#told) {
      this.#told = false;
      this.emit('disconnect');
    }
  }

  /** Whether requests can reach the node. */
  isConnected(): boolean {
    return this.#native.isConnected();
  }

  /** Whether the node has accepted this client. */
  isAuthenticated(): boolean {
    return this.#native.isAuthenticated();
  }

  /** Its counters, since it was connected first. */
  getMetrics(): ClientMetrics {
    const text = direct(() => this.#native.metrics());
    return text === '' ? { ...UNUSED } : json(text);
  }

  /** Whether the node can be relied on. */
  health(options?: CallOptions): Promise<Health> {
    return this.call('health', '{}', json<Health>, options);
  }

  /** What the node is: its name, what runs its VMs, its limits. */
  nodeInfo(options?: CallOptions): Promise<NodeInfo> {
    return this.call('node', '{}', json<NodeInfo>, options);
  }

  /** The operations on the node's VMs. */
  vm(): VMClient {
    return new VMClient(this);
  }

  /** Disconnects, at the end of a block with `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.disconnect();
  }

  /** @internal Asks for something, with JSON as the protocol has it. */
  call<T>(
    method: string,
    fields: string,
    read: (payload: Payload) => T,
    options: CallOptions = {},
  ): Promise<T> {
    const { timeout, signal } = options;
    return this.#watched(
      run(
        (tag) => this.#native.call(bridge, tag, method, fields, time('timeout', timeout)),
        read,
        { signal },
      ),
    );
  }

  /** @internal Opens a stream. */
  stream<T>(
    method: string,
    fields: () => string,
    read: (payload: Payload) => T[],
    signal: AbortSignal | undefined,
  ): Stream<T> {
    return new Stream(this.#native, method, fields, read, signal);
  }

  /** @internal Types on a console. */
  write(vmId: string, data: string | Uint8Array, options: CallOptions = {}): Promise<void> {
    const { timeout, signal } = options;
    const start = (tag: number) => {
      if (typeof vmId !== 'string') throw new ConfigError('vm_id: must be text');
      if (typeof data !== 'string' && !(data instanceof Uint8Array)) {
        throw new ConfigError('data: must be text or a Uint8Array');
      }
      const bytes = typeof data === 'string' ? Buffer.from(data) : data;
      return this.#native.write(bridge, tag, vmId, bytes, time('timeout', timeout));
    };
    return this.#watched(run(start, nothing, { signal }));
  }

  /** @internal Opens a console. */
  console(vmId: string, fields: () => string, signal: AbortSignal | undefined): Console {
    const write = (data: string | Uint8Array, options?: CallOptions) =>
      this.write(vmId, data, options);
    return new Console(this.#native, fields, write, signal);
  }

  /** Tells the listeners what a call has noticed of the connection. */
  #watched<T>(answer: Promise<T>): Promise<T> {
    if (this.#told) {
      return answer.catch((error: unknown) => {
        if (this.#told && error instanceof ConnectionError && !this.isConnected()) {
          this.#told = false;
          this.emit('disconnect', error);
        }
        throw error;
      });
    }
    return answer.then((value) => {
      if (!this.#told && this.isConnected()) {
        this.#told = true;
        this.emit('connect');
      }
      return value;
    });
  }
}

const UNUSED: ClientMetrics = {
  connectionsTotal: 0,
  messagesSent: 0,
  messagesReceived: 0,
  bytesSent: 0,
  bytesReceived: 0,
  errorsTotal: 0,
};

/** @internal What a client of a node in this process is made of. */
export class Ready {
  constructor(readonly native: NativeClient) {}
}
