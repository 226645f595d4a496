// Streams: how they begin and end, and that no more is kept than a batch.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { CancelledError, ConfigError, Stream, VMNotFoundError, VMState } from '../dist/index.js';
import { NOBODY, linked, node, running, small, vms } from './support.mjs';

/** Waits until something holds; it is a failure of the test where it never does. */
async function until(holds, what) {
  const deadline = Date.now() + 10_000;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('a watch begins with what is, goes on with what happens, and ends with its VM', async (t) => {
  const all = await vms(t);
  const vm = await all.create(small());
  const watch = all.watch(vm.id);
  assert.ok(watch instanceof Stream);
  await all.start(vm.id);
  for await (const event of watch) if (event.vm.state === VMState.RUNNING) break;
  assert.deepEqual(await watch.next(), { value: undefined, done: true });
  const second = await all.watch(vm.id).opened();
  await all.stop(vm.id, true);
  await all.destroy(vm.id);
  const types = [];
  let last = 0;
  for await (const event of second) {
    types.push(event.type);
    assert.ok(event.seq >= last);
    last = event.seq;
  }
  assert.equal(types[0], 'current');
  assert.equal(types.at(-1), 'destroyed');
  const since = all.watchAll(null, { since: 0 });
  assert.ok((await since.next()).value.type);
  since.close();
});

test('break ends a stream at the node', async (t) => {
  const { client } = await linked(t, { maxStreams: 2 });
  await client.connect();
  const all = client.vm();
  const vm = await running(all);
  for (let round = 0; round < 20; round++) {
    for await (const metrics of all.streamMetrics(vm.id, 10)) {
      assert.ok(metrics.vmExits >= 0);
      break;
    }
  }
});

test('a stream that nobody refers to ends at the node', async (t) => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc');
  const { client } = await linked(t, { maxStreams: 2 });
  await client.connect();
  const all = client.vm();
  let held = await Promise.all([all.watchAll().opened(), all.watchAll().opened()]);
  await assert.rejects(all.watchAll().opened(), { code: 'resource_limit' });
  assert.equal(held.length, 2);
  held = undefined;
  await until(async () => {
    gc();
    const third = all.watchAll();
    return third.opened().then(
      () => (third.close(), true),
      (error) => {
        assert.equal(error.code, 'resource_limit');
        return false;
      },
    );
  }, 'they are still open');
});

test('what keeps it from being opened is thrown by the loop', async (t) => {
  const all = await vms(t);
  await assert.rejects(async () => {
    for await (const event of all.watch(NOBODY)) assert.fail(event.type);
  }, VMNotFoundError);
  const unread = all.watch(NOBODY);
  await assert.rejects(unread.opened(), VMNotFoundError);
  assert.equal((await unread.next()).done, true, 'it is told once');
  await assert.rejects(all.watch(7).next(), ConfigError);
  await assert.rejects(all.streamMetrics(NOBODY, 'soon').next(), ConfigError);
  assert.throws(() => all.streamMetrics(NOBODY, NaN), ConfigError);
  await assert.rejects(all.migrationProgress(NOBODY).next(), { code: 'not_found' });
});

test('a signal ends it before, while it is waited for, and after', async (t) => {
  const all = await vms(t);
  const vm = await all.create(small());
  const before = all.watch(vm.id, { signal: AbortSignal.abort('early') });
  await assert.rejects(before.next(), (error) => error instanceof CancelledError && error.cause === 'early');
  const during = new AbortController();
  const watch = all.watch(vm.id, { signal: during.signal });
  assert.equal((await watch.next()).value.type, 'current');
  const waiting = watch.next();
  setImmediate(() => during.abort('enough'));
  await assert.rejects(waiting, (error) => error instanceof CancelledError && error.cause === 'enough');
  assert.equal((await watch.next()).done, true);
  const after = new AbortController();
  const ended = all.watch(vm.id, { signal: after.signal });
  await ended.next();
  ended.close();
  after.abort();
  assert.equal((await ended.next()).done, true);
});

test('close gives whoever waits the end', async (t) => {
  const all = await vms(t);
  const vm = await all.create(small());
  const watch = all.watch(vm.id);
  await watch.next();
  const waiting = [watch.next(), watch.next()];
  setImmediate(() => watch.close());
  assert.deepEqual(await Promise.all(waiting), Array(2).fill({ value: undefined, done: true }));
});

test('those who wait at once get items in order', async (t) => {
  const all = await vms(t);
  const vm = await running(all);
  const watch = await all.watch(vm.id).opened();
  const waiting = Array.from({ length: 9 }, () => watch.next());
  for (let round = 0; round < 4; round++) {
    await all.pause(vm.id);
    await all.resume(vm.id);
  }
  const types = (await Promise.all(waiting)).map(({ value }) => value.type);
  assert.deepEqual(types, ['current', ...Array(4).fill(['paused', 'resumed']).flat()]);
  watch.close();
});

test('10,000 events come in order, over a connection too', async (t) => {
  const { client, node: served } = await linked(t);
  await client.connect();
  for (const one of [served.client(), client]) {
    const all = one.vm();
    const vm = await all.create(small());
    const watch = await all.watch(vm.id).opened();
    const writes = (async () => {
      for (let n = 1; n <= 10_000; n++) await served.client().vm().update(vm.id, { labels: { n: `${n}` } });
    })();
    let [seq, seen] = [0, 0];
    for await (const event of watch) {
      assert.ok(event.seq >= seq);
      seq = event.seq;
      if (event.type === 'updated') seen++;
      if (event.type === 'lost') seen += event.count;
      if (seen === 10_000) break;
    }
    await writes;
    assert.equal(seen, 10_000);
    await all.destroy(vm.id);
  }
});

test('a console is read and written', async (t) => {
  const served = await node(t);
  const all = served.client().vm();
  const vm = await running(all);
  const console = all.console(vm.id);
  let text = '';
  for await (const piece of console) {
    assert.ok(piece instanceof Uint8Array);
    text += new TextDecoder('latin1').decode(piece);
    if (text.includes('\n')) break;
  }
  const typed = all.console(vm.id);
  await typed.write('text\n');
  await typed.write(new Uint8Array([255, 0]));
  await all.writeConsole(vm.id, 'more');
  await typed.return();
  await all.stop(vm.id, true);
  await assert.rejects(all.writeConsole(vm.id, 'x'), { code: 'invalid_operation' });
  await assert.rejects(all.console(vm.id).opened(), { code: 'invalid_operation' });
});
