// Promises for what the native library does: one wake for all that has ended meanwhile. Not part of the
// public interface.

import { CancelledError, ConfigError, DWCPError, InternalError, errorOf } from './errors.js';
import { native, type NativeBridge, type Payload, type Started } from './native.js';
import type { Duration } from './types.js';

interface Pending {
  settle(payload: Payload): void;
  fail(error: unknown): void;
}

/** So many answers may come at once before timers and sockets of the program get their turn. */
const AT_ONCE_MAX = 64;

const pending = new Map<number, Pending>();
let lastTag = 0;
let atOnce = 0;

// The wake does not keep the program alive; this does, while somebody waits for something.
const alive = setInterval(() => {}, 2 ** 30);
alive.unref();
let waiting = 0;

/** Keeps the program alive until `release`. */
export function hold(): void {
  if (waiting++ === 0) alive.ref();
}

export function release(): void {
  if (--waiting === 0) alive.unref();
}

export const bridge: NativeBridge = new native.Bridge(() => {
  const ended = bridge.drain();
  for (let at = 0; at < ended.length; at += 3) {
    const tag = ended[at] as number;
    const payload = ended[at + 2] as Payload;
    const one = pending.get(tag);
    if (one === undefined) continue;
    pending.delete(tag);
    if (ended[at + 1] === 0) one.settle(payload);
    else one.fail(failure(payload as string));
  }
});

/** How an operation is followed. */
export interface Follow {
  /** Takes it back. */
  signal?: AbortSignal | undefined;
  /** Whether the program lives on for it; default true. */
  hold?: boolean;
  /** Told the tag, by which it can be taken back. */
  onTag?: (tag: number) => void;
}

/** Starts an operation, and reads its answer. */
export function run<T>(
  start: (tag: number) => Started,
  read: (payload: Payload) => T,
  { signal, hold: holds = true, onTag }: Follow = {},
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted) {
      reject(cancelled(signal));
      return;
    }
    const tag = ++lastTag;
    let answer: Started;
    try {
      answer = start(tag);
      if (answer !== null) {
        const value = read(answer);
        if (++atOnce < AT_ONCE_MAX) {
          resolve(value);
        } else {
          atOnce = 0;
          setImmediate(resolve, value);
        }
        return;
      }
    } catch (error) {
      reject(thrown(error));
      return;
    }
    const abort = signal && (() => bridge.cancel(tag));
    const end = () => {
      if (holds) release();
      if (abort) signal.removeEventListener('abort', abort);
    };
    pending.set(tag, {
      settle(payload) {
        end();
        try {
          resolve(read(payload));
        } catch (error) {
          reject(error);
        }
      },
      fail(error) {
        end();
        const taken = error instanceof CancelledError && signal?.aborted;
        reject(taken ? cancelled(signal, error) : error);
      },
    });
    if (holds) hold();
    if (abort) signal.addEventListener('abort', abort, { once: true });
    onTag?.(tag);
  });
}

/** Takes an operation back. */
export function cancel(tag: number): void {
  bridge.cancel(tag);
}

/** The error of what a signal took back. */
export function cancelled(signal: AbortSignal, error?: DWCPError): CancelledError {
  const { operation, concerns } = error ?? {};
  const details = { operation, concerns, cause: signal.reason as unknown };
  return new CancelledError(error?.message ?? 'by the caller, before it began', details);
}

/** What a native call threw. */
export function thrown(error: unknown): unknown {
  if (error instanceof DWCPError || !(error instanceof Error)) return error;
  return error.message.startsWith('{"') ? failure(error.message) : error;
}

/** Runs a native call that returns at once. */
export function direct<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw thrown(error);
  }
}

function failure(json: string): DWCPError {
  try {
    const told = JSON.parse(json) as {
      code: string;
      message: string;
      retryable: boolean;
      operation: string | null;
      concerns: string | null;
    };
    return errorOf(told.code, told.message, {
      retryable: told.retryable,
      operation: told.operation ?? undefined,
      concerns: told.concerns ?? undefined,
    });
  } catch (cause) {
    return new InternalError(`an error that cannot be read: ${json}`, { cause });
  }
}

/** Reads an answer. */
export function json<T>(payload: Payload): T {
  return JSON.parse(payload as string) as T;
}

/** Reads the answer of what only is done. */
export function nothing(): void {}

/** A time as the protocol has it. */
export function time(name: string, value: Duration | null | undefined): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return value;
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) {
    throw new ConfigError(`${name}: must be milliseconds or text such as "1.5s", not ${String(value)}`);
  }
  return `${value}ms`;
}

/** JSON of what a user wrote; what JSON would drop or change in silence is an error. */
export function written(value: unknown): string {
  return JSON.stringify(value, (key, part: unknown) => {
    switch (typeof part) {
      case 'number':
        if (Number.isFinite(part)) return part;
        break;
      case 'bigint':
        if (part >= 0n && part <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(part);
        break;
      case 'function':
      case 'symbol':
        break;
      default:
        return part;
    }
    throw new ConfigError(`${key}: must not be ${String(part)}`);
  });
}
