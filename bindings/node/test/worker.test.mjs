// Worker threads: each has the package for itself, and may be ended at any time.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';

import { ROOT, module, node, running } from './support.mjs';

const SDK = JSON.stringify(pathToFileURL(join(ROOT, 'dist/index.js')).href);

/** What a worker does with a VM of a node in the main thread. */
const TEXT = `
import { parentPort, workerData } from 'node:worker_threads';
const { Client } = await import(${SDK});
const client = new Client({ address: '127.0.0.1', port: workerData.port, tlsEnabled: false });
await client.connect();
const vms = client.vm();
const got = await Promise.all(Array.from({ length: 100 }, () => vms.get(workerData.id)));
const watch = vms.watch(workerData.id);
const { value } = await watch.next();
parentPort.postMessage([got.length, value.type]);
`;

const worker = (text, workerData) =>
  new Worker(new URL(`data:text/javascript,${encodeURIComponent(text)}`), { workerData });

async function stage(t) {
  const served = await node(t, { listen: ['127.0.0.1:0'] });
  const vm = await running(served.client().vm());
  return { served, data: { port: Number(served.address.split(':').at(-1)), id: vm.id } };
}

test('workers work side by side, and end by themselves', async (t) => {
  const { served, data } = await stage(t);
  const workers = Array.from({ length: 4 }, () => worker(TEXT, data));
  const messages = Promise.all(workers.map((one) => once(one, 'message')));
  const exits = Promise.all(workers.map((one) => once(one, 'exit')));
  assert.deepEqual(await messages, Array(4).fill([[100, 'current']]));
  assert.deepEqual(await exits, Array(4).fill([0]));
  assert.equal((await served.client().health()).status, 'healthy');
});

test('workers are ended with calls and streams under way', async (t) => {
  const { served, data } = await stage(t);
  const text = `${TEXT}
    vms.watchAll().next();
    watch.next();
    for await (const metrics of vms.streamMetrics(workerData.id, 1)) {
      for (let n = 0; n < 20; n++) vms.get(workerData.id);
      parentPort.postMessage(metrics.vmExits);
    }`;
  for (let round = 0; round < 10; round++) {
    const one = worker(text, data);
    await once(one, 'message');
    await once(one, 'message');
    await one.terminate();
  }
  assert.equal((await served.client().health()).status, 'healthy');
});

test('a worker alone has the library, and is ended', async () => {
  const text = `
    import { parentPort } from 'node:worker_threads';
    const { Node } = await import(${SDK});
    const node = await Node.start({ name: 'n', backend: 'sim' });
    const vms = node.client().vm();
    const vm = await vms.create({ name: 'v', memory: 64 * 1024 ** 2 });
    await vms.start(vm.id);
    const watch = vms.watch(vm.id);
    await watch.next();
    watch.next();
    for await (const metrics of vms.streamMetrics(vm.id, 1)) parentPort.postMessage(metrics.vmExits);`;
  // In a program of its own: here the main thread has the library too.
  const ended = await module(`
    import { once } from 'node:events';
    import { Worker } from 'node:worker_threads';
    const text = ${JSON.stringify(text)};
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(text)));
      await once(worker, 'message');
      await worker.terminate();
    }
    process.stdout.write('end');`, { bare: true });
  assert.deepEqual([ended.code, ended.signal, ended.out], [0, null, 'end'], ended.err);
});
