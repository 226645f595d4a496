// The calls of `cargo xtask bench bindings` in TypeScript's package: `node bench.mjs PATH_OF_PACKAGE EVENTS`. What to
// do comes line by line, what it took goes back as JSON.

import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [path, events] = process.argv.slice(2);
const { Node } = await import(pathToFileURL(path).href);

const node = await Node.start({ name: 'bench', backend: 'sim', eventRing: Number(events) });
const vms = node.client().vm();
const { id } = await vms.create({
  name: 'web-server-01',
  memory: 64 * 2 ** 20,
  cpus: 1,
  image: 'dwcp/pulse',
  labels: { env: 'production', tier: 'web' },
  annotations: { owner: 'platform@example.com' },
});
function check(holds) {
  if (!holds) throw new Error('the node says something else than it was told');
}

function whole({ config, labels, annotations, createdAt, updatedAt }) {
  check(config.memory > 0 && config.labels.tier === 'web');
  check(labels.tier === 'web' && annotations.owner !== '');
  check(createdAt <= updatedAt);
}

let stream;

// Opens the stream, and makes so many events: they wait at the node.
async function watch(count) {
  stream = vms.watch(id);
  await stream.opened();
  for (let number = 0; number < count; number++) {
    await vms.update(id, { labels: { env: `production-${number % 10}`, tier: 'web' } });
  }
}

async function items(count, read) {
  while (count-- > 0) {
    const { value, done } = await stream.next();
    check(!done);
    read(value);
  }
}

const works = {
  async seq(count) {
    for (let call = 0; call < count; call++) check((await vms.get(id)).state === 'stopped');
  },
  async 'seq-whole'(count) {
    for (let call = 0; call < count; call++) whole(await vms.get(id));
  },
  async 500(count) {
    const calls = Array.from({ length: count }, () => vms.get(id));
    for (const vm of await Promise.all(calls)) check(vm.state === 'stopped');
  },
  'stream-item': (count) => items(count, (event) => check(event.seq > 0)),
  'stream-item-whole': (count) => items(count, (event) => whole(event.vm)),
};

console.log(JSON.stringify({ version: `Node.js ${process.versions.node}` }));
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...numbers] = line.split(' ');
  const [count, block] = numbers.map(Number);
  if (name.startsWith('stream')) await watch(count + block);
  // The first block is not measured: what was fetched ahead is read with it.
  await works[name](block);
  const times = [];
  for (let at = 0; at < Math.floor(count / block); at++) {
    const began = performance.now();
    await works[name](block);
    times.push(((performance.now() - began) * 1e3) / block);
  }
  stream?.close();
  console.log(JSON.stringify(times));
}
await node.shutdown(0);
