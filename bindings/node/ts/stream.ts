// What a node streams: pulled in batches, so that the reader's pace is the pace.

import { bridge, cancel, cancelled, hold, release, run, thrown } from './bridge.js';
import { native, type NativeClient, type NativeStream, type Payload } from './native.js';
import type { CallOptions } from './types.js';

/** Most items that are taken from the node's buffer at once, and so the most that are kept here. */
const BATCH_MAX = 256;

/**
 * What a node streams.
 *
 * It is opened when it is made, and ends at the node with `break`, `return()` or `close()`, and when
 * nothing refers to it any more. An error that ends it is thrown by the loop that reads it. Who reads
 * slowly gets later items later; no more than a batch of them waits here. Only who waits for an item
 * keeps the program alive, an open stream does not.
 */
export class Stream<T> implements AsyncIterableIterator<T> {
  readonly #native: NativeStream = new native.NativeStream();
  readonly #read: (payload: Payload) => T[];
  readonly #signal: AbortSignal | undefined;
  readonly #abort: () => void;
  readonly #opening: Promise<unknown>;
  #openTag = 0;
  #items: T[] = [];
  #at = 0;
  #queued = 0;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;
  #error: unknown;

  /** @internal */
  constructor(
    client: NativeClient,
    method: string,
    fields: () => string,
    read: (payload: Payload) => T[],
    signal: AbortSignal | undefined,
  ) {
    this.#read = read;
    this.#signal = signal;
    // The signal must not keep a stream that nobody reads any more.
    const weak = new WeakRef(this);
    this.#abort = () => {
      const stream = weak.deref();
      if (stream !== undefined && signal) stream.#end(cancelled(signal));
    };
    signal?.addEventListener('abort', this.#abort, { once: true });
    const stream = this.#native;
    const start = (tag: number) => {
      if (signal?.aborted) throw cancelled(signal);
      return client.subscribe(bridge, tag, method, fields(), stream);
    };
    const opening = run(start, () => undefined, { hold: false, onTag: (tag) => (this.#openTag = tag) });
    this.#opening = opening.catch((error: unknown) => this.#end(error));
  }

  /**
   * Waits until the node has opened it: what happens from then on is in it. Gives the stream itself.
   *
   * @throws what kept it from being opened, which the first `next()` throws otherwise.
   */
  async opened(): Promise<this> {
    hold();
    try {
      await this.#opening;
    } finally {
      release();
    }
    this.#fail();
    return this;
  }

  /** Throws the error that ended it, once. */
  #fail(): void {
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error;
  }

  /** Waits for the next item. */
  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#queued === 0 && this.#at < this.#items.length) {
      return Promise.resolve({ value: this.#items[this.#at++] as T, done: false });
    }
    this.#queued++;
    const next = this.#last.then(() => this.#wait());
    this.#last = next.then(this.#leave, this.#leave);
    return next;
  }

  readonly #leave = () => {
    this.#queued--;
  };

  async #wait(): Promise<IteratorResult<T, undefined>> {
    if (this.#at >= this.#items.length && !this.#closed) {
      hold();
      try {
        await this.#opening;
        if (!this.#closed) await this.#pull();
      } finally {
        release();
      }
    }
    if (this.#at < this.#items.length) {
      return { value: this.#items[this.#at++] as T, done: false };
    }
    this.#fail();
    return { value: undefined, done: true };
  }

  async #pull(): Promise<void> {
    const start = (tag: number) => this.#native.nextBatch(bridge, tag, BATCH_MAX);
    try {
      const items = await run(start, (payload) => (payload.length === 0 ? [] : this.#read(payload)));
      // What was on its way when it was closed is nobody's.
      if (this.#closed) return;
      this.#items = items;
      this.#at = 0;
      if (items.length === 0) this.#end(undefined);
    } catch (error) {
      this.#end(thrown(error));
    }
  }

  #end(error: unknown): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#error = error;
    this.#items = [];
    this.#at = 0;
    this.#signal?.removeEventListener('abort', this.#abort);
    this.#native.close();
    cancel(this.#openTag);
  }

  /** Ends it, at the node too; whoever waits for an item gets the end. */
  close(): void {
    this.#end(undefined);
    this.#error = undefined;
  }

  /** Ends it; what `break` in a loop calls. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Ends it, at the end of a block with `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/**
 * What a VM prints on its console, in pieces as they come, and the way to type on it. One client types at a time: the
 * first that does while it reads the console, until it has closed it; others get an `InvalidOperationError` that names it.
 */
export class Console extends Stream<Uint8Array> {
  readonly #write: (data: string | Uint8Array, options?: CallOptions) => Promise<void>;

  /** @internal */
  constructor(
    client: NativeClient,
    fields: () => string,
    write: (data: string | Uint8Array, options?: CallOptions) => Promise<void>,
    signal: AbortSignal | undefined,
  ) {
    super(client, 'console', fields, (payload) => [payload as Uint8Array], signal);
    this.#write = write;
  }

  /** Types, at most 64 KiB at once; text as UTF-8. Resolves when the bytes are queued for the guest. */
  write(data: string | Uint8Array, options?: CallOptions): Promise<void> {
    return this.#write(data, options);
  }
}
