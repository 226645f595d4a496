// A node in this process.

import { bridge, direct, hold, nothing, release, run, time, written } from './bridge.js';
import { Client, Ready } from './client.js';
import { native, type NativeNode } from './native.js';
import type { CallOptions, ClientConfig, Duration, NodeOptions, Role } from './types.js';

/** The nodes that run: they do not end because nothing refers to them. */
const running = new Set<Node>();

/** A key of a node, without its secret. */
export interface NodeKey {
  name: string;
  role: Role;
}

/** The keys of a node. */
export class NodeKeys {
  readonly #native: NativeNode;

  /** @internal */
  constructor(node: NativeNode) {
    this.#native = node;
  }

  /** Names and roles. */
  list(): NodeKey[] {
    return direct(() => this.#native.keys()) as NodeKey[];
  }

  /** Adds a key; it counts from now on. */
  add(name: string, key: string, role: Role): Promise<void> {
    return run((tag) => this.#native.addKey(bridge, tag, name, key, role), nothing);
  }

  /** Removes a key that was added. */
  remove(name: string): Promise<void> {
    return run((tag) => this.#native.removeKey(bridge, tag, name), nothing);
  }
}

/**
 * A node in this process: its VMs end with it. One that listens keeps the program alive, as a server
 * does, until `shutdown()` or `unref()`; one that does not listen does not.
 */
export class Node {
  readonly #native: NativeNode;
  /** Its keys. */
  readonly keys: NodeKeys;
  #holds = false;

  private constructor(node: NativeNode) {
    this.#native = node;
    this.keys = new NodeKeys(node);
  }

  /**
   * Starts a node.
   *
   * @throws ConfigError naming a field that is unknown or not allowed, ResourceLimitError where this host
   * cannot run VMs so, IoError where it cannot listen or keep its data.
   */
  static async start(options: NodeOptions): Promise<Node> {
    const text = written({ ...options, peerTimeout: time('peerTimeout', options?.peerTimeout) });
    const started = new native.NativeNode();
    await run((tag) => started.start(bridge, tag, text), nothing);
    const node = new Node(started);
    running.add(node);
    if (node.address !== undefined) node.ref();
    return node;
  }

  /** A client that calls it directly, without a connection, as admin. It is connected. */
  client(): Client {
    const ready = new Ready(direct(() => this.#native.client()));
    return new Client(ready as unknown as ClientConfig);
  }

  /** Where its first listener is, `host:port` or `unix:/path`; undefined without one. */
  get address(): string | undefined {
    return direct(() => this.#native.address()) ?? undefined;
  }

  /** Adds a peer, to which VMs can be moved, or gives it another address. */
  addPeer(name: string, address: string, credential?: string): void {
    direct(() => this.#native.addPeer(name, address, credential));
  }

  /** Takes and starts no VMs from now on. */
  drain(): void {
    direct(() => this.#native.drain());
  }

  /** Ends it; its guests get that time to stop by themselves. Twice is fine. */
  async shutdown(timeout: Duration = 0, { signal }: Pick<CallOptions, 'signal'> = {}): Promise<void> {
    const limit = time('timeout', timeout);
    await run((tag) => this.#native.shutdown(bridge, tag, limit), nothing, { signal });
    this.unref();
    running.delete(this);
  }

  /** Keeps the program alive. */
  ref(): this {
    if (!this.#holds) hold();
    this.#holds = true;
    return this;
  }

  /** Does not keep the program alive. */
  unref(): this {
    if (this.#holds) release();
    this.#holds = false;
    return this;
  }

  /** Ends it, at the end of a block with `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }
}
