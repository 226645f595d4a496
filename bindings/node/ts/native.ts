// The native library, and what of it is used here. Not part of the public interface.

import { createRequire } from 'node:module';

/** An answer: JSON, what a console printed, or empty where there is nothing to say. `null`: it comes later. */
export type Payload = string | Uint8Array;
export type Started = Payload | null;

export interface NativeBridge {
  /** Tag, 1 where it failed, and answer or error, one after the other. */
  drain(): (number | Payload)[];
  cancel(tag: number): void;
  /** Only in builds with debug assertions. */
  panic?(tag: number, late: boolean): Started;
}

export interface NativeStream {
  nextBatch(bridge: NativeBridge, tag: number, max: number): Started;
  close(): void;
}

export interface NativeClient {
  connect(bridge: NativeBridge, tag: number, timeout?: string): Started;
  call(bridge: NativeBridge, tag: number, method: string, fields: string, timeout?: string): Started;
  write(bridge: NativeBridge, tag: number, vmId: string, data: Uint8Array, timeout?: string): Started;
  subscribe(
    bridge: NativeBridge,
    tag: number,
    method: string,
    fields: string,
    stream: NativeStream,
  ): Started;
  close(bridge: NativeBridge, tag: number): Started;
  isConnected(): boolean;
  isAuthenticated(): boolean;
  metrics(): string;
}

export interface NativeNode {
  start(bridge: NativeBridge, tag: number, options: string): Started;
  client(): NativeClient;
  address(): string | null;
  addPeer(name: string, address: string, credential?: string): void;
  drain(): void;
  shutdown(bridge: NativeBridge, tag: number, timeout?: string): Started;
  keys(): { name: string; role: string }[];
  addKey(bridge: NativeBridge, tag: number, name: string, key: string, role: string): Started;
  removeKey(bridge: NativeBridge, tag: number, name: string): Started;
}

interface Native {
  Bridge: new (wake: () => void) => NativeBridge;
  NativeClient: new (options: string) => NativeClient;
  NativeStream: new () => NativeStream;
  NativeNode: new () => NativeNode;
  codes(): string[];
  version(): string;
}

function load(): Native {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(
      `@novacron/dwcp-sdk: there is no native library for ${process.platform} on ${process.arch}, only for linux on x64`,
    );
  }
  return createRequire(import.meta.url)('../dwcp.linux-x64-gnu.node') as Native;
}

export const native: Native = load();
