// What the tests share: nodes, VMs, a link that can be cut, programs of their own.

import { spawn } from 'node:child_process';
import { createServer, connect } from 'node:net';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { Client, Node } from '../dist/index.js';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
export const TOP = dirname(dirname(ROOT));
export const NOBODY = '00000000-0000-4000-8000-000000000000';
export const MIB = 1024 ** 2;

/** A node on the simulator, which ends with the test. */
export async function node(t, options = {}) {
  const started = await Node.start({ name: 'node-01', backend: 'sim', ...options });
  t.after(() => started.shutdown());
  return started;
}

/** The operations of a node's own client. */
export async function vms(t, options) {
  return (await node(t, options)).client().vm();
}

/** A folder with an image called `mini`: the smallest kernel, and a root disk of 1 MiB. */
export function imageFolder(path) {
  mkdirSync(path);
  const start = 16 * MIB;
  const kernel = Buffer.alloc(136, 0xf4);
  kernel.fill(0, 0, 120).write('\x7fELF\x02\x01\x01', 'latin1');
  for (const [at, half] of [[16, 2], [18, 62], [52, 64], [54, 56], [56, 1]]) kernel.writeUInt16LE(half, at);
  for (const [at, word] of [[20, 1], [64, 1], [68, 5]]) kernel.writeUInt32LE(word, at);
  // One segment of 16 bytes.
  const words = [[24, start], [32, 64], [72, 120], [80, start], [88, start], [96, 16], [104, 16], [112, 4096]];
  for (const [at, word] of words) kernel.writeBigUInt64LE(BigInt(word), at);
  writeFileSync(join(path, 'vmlinuz'), kernel);
  writeFileSync(join(path, 'root.img'), Buffer.alloc(MIB));
  const parts = '[kernel]\nfile = "vmlinuz"\n[disk]\nfile = "root.img"\n';
  writeFileSync(join(path, 'image.toml'), `format = 1\nname = "mini"\ncmdline = "quiet"\n${parts}`);
  return path;
}

let made = 0;

export function small(more = {}) {
  return { name: `vm-${++made}`, memory: 64 * MIB, cpus: 1, ...more };
}

/** A VM that runs. */
export async function running(all, more) {
  const vm = await all.create(small(more));
  await all.start(vm.id);
  return vm;
}

/** A node that listens, a link to it that can be stopped and cut, and a client on the other end. */
export async function linked(t, config = {}) {
  const served = await node(t, { listen: ['127.0.0.1:0'] });
  const link = await Link.to(served.address);
  t.after(() => link.close());
  const client = new Client({
    address: '127.0.0.1',
    port: link.port,
    tlsEnabled: false,
    retryAttempts: 0,
    ...config,
  });
  t.after(() => client.disconnect());
  return { node: served, link, client };
}

class Link {
  #pairs = new Set();
  #server;
  #stopped = false;

  static async to(address) {
    const link = new Link();
    const at = address.lastIndexOf(':');
    link.#server = createServer((here) => {
      const there = connect(Number(address.slice(at + 1)), address.slice(0, at));
      const pair = [here, there];
      link.#pairs.add(pair);
      if (link.#stopped) pair.forEach((one) => one.pause());
      else link.#join(pair);
      for (const one of pair) {
        one.on('error', () => {});
        one.on('close', () => {
          pair.forEach((other) => other.destroy());
          link.#pairs.delete(pair);
        });
      }
    });
    await new Promise((resolve) => link.#server.listen(0, '127.0.0.1', resolve));
    return link;
  }

  get port() {
    return this.#server.address().port;
  }

  #join([here, there]) {
    here.pipe(there);
    there.pipe(here);
  }

  /** Nothing comes through any more. */
  stop() {
    this.#stopped = true;
    for (const [here, there] of this.#pairs) {
      here.unpipe(there);
      there.unpipe(here);
      here.pause();
      there.pause();
    }
  }

  /** Ends the connections there are. */
  cut() {
    for (const pair of this.#pairs) pair.forEach((one) => one.destroy());
  }

  close() {
    this.cut();
    return new Promise((resolve) => this.#server.close(resolve));
  }
}

/** A directory that goes with the test. */
export function directory(t) {
  const path = mkdtempSync(join(tmpdir(), 'dwcp-node-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Runs a program to its end, at most so long. */
export function program(args, { env = {}, input, limit = 30_000 } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      cwd: ROOT,
      env: { ...process.env, NODE_OPTIONS: '', NODE_TEST_CONTEXT: undefined, ...env },
    });
    let [out, err] = ['', ''];
    child.stdout.on('data', (text) => (out += text));
    child.stderr.on('data', (text) => (err += text));
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, limit);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, out, err, late });
    });
    child.stdin.end(input);
  });
}

/** Runs the text of a module, which has the package unless it is to be `bare`. */
export function module(text, { bare = false, ...options } = {}) {
  const path = JSON.stringify(join(ROOT, 'dist/index.js'));
  const whole = bare ? text : `import { Client, Node, VMState } from ${path};\n${text}`;
  return program(['--input-type=module', '-e', whole], options);
}
