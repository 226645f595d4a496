// Programs end when nothing is waited for, and however much is under way when they are told to.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { module } from './support.mjs';

const VM = `
const node = await Node.start({ name: 'n', backend: 'sim' });
const vms = node.client().vm();
const vm = await vms.create({ name: 'v', memory: 64 * 1024 ** 2, cpus: 1 });
await vms.start(vm.id);
`;
const REMOTE = `
const served = await Node.start({ name: 'n', backend: 'sim', listen: ['127.0.0.1:0'] });
served.unref();
const port = Number(served.address.split(':').at(-1));
const client = new Client({ address: '127.0.0.1', port, tlsEnabled: false });
await client.connect();
`;
/** A server that says nothing, which keeps nobody alive. */
const SILENT = `
import { createServer } from 'node:net';
const server = createServer((socket) => socket.unref()).unref();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const silent = new Client({ address: '127.0.0.1', port: server.address().port, tlsEnabled: false, connectTimeout: 300 });
`;

async function ends(text, { out = '', code = 0 } = {}) {
  const ended = await module(text);
  assert.deepEqual(
    { late: ended.late, code: ended.code, signal: ended.signal, out: ended.out },
    { late: false, code, signal: null, out },
    ended.err,
  );
}

test('an idle client, in process', () => ends(`${VM} process.stdout.write('end');`, { out: 'end' }));
test('an idle client with a connection', () => ends(REMOTE));
test('a client that was never connected', () => ends(`new Client({ address: 'h' });`));
test('streams that nobody reads', () =>
  ends(`${VM} ${REMOTE} vms.watch(vm.id); vms.streamMetrics(vm.id, 1); vms.console(vm.id);
    await client.vm().watchAll().opened();`));
test('a stream that was read and is left open', () =>
  ends(`${VM} const watch = vms.watch(vm.id); await watch.next();`));
test('a stream that was closed', () =>
  ends(`${VM} const watch = vms.watch(vm.id); await watch.next(); const wait = watch.next(); watch.close(); await wait;`));
test('a client and a node that were ended', () =>
  ends(`${VM} ${REMOTE} await client.disconnect(); await served.shutdown(); await node.shutdown();`));

test('what is waited for keeps a program alive', () =>
  ends(`${SILENT} silent.connect().catch((error) => process.stdout.write(error.code));`, { out: 'timeout' }));
test('and so does the next item', () =>
  ends(
    `${VM} const slow = vms.streamMetrics(vm.id, '300ms'); await slow.next();
    slow.next().then(({ done }) => process.stdout.write(String(done)));`,
    { out: 'false' },
  ));
test('a node that listens keeps a program alive until it is ended', () =>
  ends(
    `const node = await Node.start({ name: 'n', backend: 'sim', listen: ['127.0.0.1:0'] });
    setTimeout(async () => { await node.shutdown(); process.stdout.write('down'); }, 200).unref();`,
    { out: 'down' },
  ));

test('told to end with work under way, 20 times', async () => {
  for (let round = 0; round < 20; round++) {
    await ends(
      `${VM} ${REMOTE} ${SILENT}
      silent.connect();
      for (let n = 0; n < 50; n++) client.vm().get(vm.id).catch(() => {});
      const watch = vms.watch(vm.id); await watch.next(); watch.next();
      const figures = client.vm().watchAll(); figures.next(); vms.streamMetrics(vm.id, 1).next();
      setTimeout(() => process.exit(7), ${round % 5});`,
      { code: 7 },
    );
  }
});
test('an error that nobody catches, with work under way', () =>
  ends(`${VM} vms.streamMetrics(vm.id, 1).next(); const watch = vms.watch(vm.id); await watch.next(); watch.next(); throw 1;`, {
    code: 1,
  }));
