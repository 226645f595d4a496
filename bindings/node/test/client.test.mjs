// A client: how it is made, connected and ended, what it counts and tells, what its errors are.

import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';

import * as sdk from '../dist/index.js';
import * as browser from '../dist/browser.js';
import { bridge, run } from '../dist/bridge.js';
import { native } from '../dist/native.js';
import { NOBODY, directory, linked, node, running, small, vms } from './support.mjs';

const { Client, ConfigError, ConnectionError, DWCPError, InternalError, VMNotFoundError, VMState } = sdk;

test('it connects, and disconnects twice', async (t) => {
  const { client } = await linked(t);
  const events = [];
  client.on('connect', () => events.push('connect'));
  client.on('disconnect', () => events.push('disconnect'));
  assert.equal(client.isConnected(), false);
  assert.equal(client.getMetrics().connectionsTotal, 0);
  await assert.rejects(client.health(), ConnectionError);
  await Promise.all([client.connect(), client.connect()]);
  await client.connect();
  assert.deepEqual([client.isConnected(), client.isAuthenticated()], [true, true]);
  assert.equal((await client.health()).node, 'node-01');
  assert.equal((await client.nodeInfo()).backend, 'sim');
  const metrics = client.getMetrics();
  assert.equal(metrics.connectionsTotal, 1);
  assert.ok(metrics.bytesSent > 0 && metrics.messagesReceived > 0 && metrics.lastConnected, metrics);
  await client.disconnect();
  await client.disconnect();
  assert.deepEqual([client.isConnected(), client.isAuthenticated()], [false, false]);
  await assert.rejects(client.health(), ConnectionError);
  await client.connect();
  assert.equal((await client.health()).status, 'healthy');
  assert.deepEqual(events, ['connect', 'disconnect', 'connect']);
});

test('a lost connection is told once, and made again with the next call', async (t) => {
  const { client, link } = await linked(t, { requestTimeout: '2s' });
  await client.connect();
  const events = [];
  client.on('connect', () => events.push('connect'));
  client.on('disconnect', (error) => events.push(error));
  const watch = client.vm().watchAll();
  await watch.opened();
  link.cut();
  const deadline = Date.now() + 10_000;
  while (client.isConnected() && Date.now() < deadline) await new Promise(setImmediate);
  assert.equal((await client.health()).status, 'healthy');
  assert.equal(client.getMetrics().connectionsTotal, 2);
  watch.close();
  await link.close();
  while (client.isConnected() && Date.now() < deadline) await new Promise(setImmediate);
  await assert.rejects(client.health(), ConnectionError);
  await assert.rejects(client.health(), ConnectionError);
  assert.equal(events.length, 1);
  assert.ok(events[0] instanceof ConnectionError);
});

test('TLS, keys and roles', async (t) => {
  const dir = directory(t);
  const served = await node(t, {
    listen: ['127.0.0.1:0'],
    tls: { dir },
    apiKeys: [{ key: 'viewer-key', role: 'viewer' }],
  });
  const port = Number(served.address.split(':').at(-1));
  const config = { address: '127.0.0.1', port, caFile: `${dir}/ca.pem`, connectTimeout: '5s' };
  const viewer = new Client({ ...config, apiKey: 'viewer-key' });
  await viewer.connect();
  t.after(() => viewer.disconnect());
  assert.deepEqual(await viewer.vm().list(), []);
  await assert.rejects(viewer.vm().create(small()), sdk.PermissionDeniedError);
  const stranger = new Client({ ...config, apiKey: 'another-key' });
  await assert.rejects(stranger.connect(), sdk.AuthenticationError);
  assert.equal(stranger.isAuthenticated(), false);

  await served.keys.add('new', 'operator-key', 'operator');
  const operator = new Client({ ...config, apiKey: 'operator-key' });
  await operator.connect();
  t.after(() => operator.disconnect());
  assert.equal((await operator.vm().create(small())).state, VMState.STOPPED);
  assert.deepEqual(served.keys.list().find((key) => key.name === 'new'), { name: 'new', role: 'operator' });
  await served.keys.remove('new');
  await assert.rejects(new Client({ ...config, apiKey: 'operator-key' }).connect(), sdk.AuthenticationError);
});

test('what a config gets wrong is named, and what says nothing is nothing', () => {
  const wrong = (config, text) =>
    assert.throws(
      () => new Client(config),
      (error) => error instanceof ConfigError && error.code === 'invalid_config' && error.message.includes(text),
    );
  wrong({ adress: 'x' }, 'adress');
  wrong({ port: 'x' }, '"x"');
  wrong({ port: NaN }, 'port');
  wrong({ port: 70000 }, '70000');
  wrong({ tlsEnabled: 'yes' }, 'yes');
  wrong({ connectTimeout: 'soon' }, 'soon');
  wrong({ connectTimeout: -1 }, 'connectTimeout');
  wrong({ requestTimeout: {} }, 'requestTimeout');
  wrong({ address: () => 1 }, 'address');
  new Client({ port: 0, apiKey: '', caFile: null, connectTimeout: null, poolSize: undefined });
});

test('a node that is not there, and one that does not answer', async (t) => {
  const server = createServer(() => {});
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const { port } = server.address();
  const silent = new Client({ address: '127.0.0.1', port, tlsEnabled: false, connectTimeout: 50 });
  await assert.rejects(silent.connect(), (error) => {
    assert.ok(error instanceof sdk.TimeoutError && error.retryable && error.operation === 'connect');
    return true;
  });
  const patient = new Client({ address: '127.0.0.1', port, tlsEnabled: false });
  await assert.rejects(patient.connect({ timeout: 50 }), sdk.TimeoutError);
  const given = patient.connect();
  await patient.disconnect();
  await assert.rejects(given, sdk.CancelledError);
  const closed = createServer();
  await new Promise((resolve) => closed.listen(0, '127.0.0.1', resolve));
  const free = closed.address().port;
  await new Promise((resolve) => closed.close(resolve));
  const nobody = new Client({ address: '127.0.0.1', port: free, tlsEnabled: false });
  await assert.rejects(nobody.connect({ timeout: '5s' }), ConnectionError);
});

test('every code has a class of its own', () => {
  const classes = new Set();
  for (const code of native.codes()) {
    const known = sdk.ERROR_CLASSES[code];
    assert.ok(known, code);
    const error = sdk.errorOf(code, 'text', { operation: 'get', concerns: 'x', retryable: true });
    assert.ok(error instanceof known && error instanceof DWCPError && error instanceof Error);
    assert.deepEqual(
      [error.code, error.name, error.message, error.operation, error.concerns, error.retryable],
      [code, known.name, 'text', 'get', 'x', true],
    );
    assert.equal(sdk[known.name], known);
    assert.equal(browser[known.name], known, 'the same in a browser');
    assert.equal(new known('text').code, code, 'made by a user');
    classes.add(known);
  }
  assert.equal(classes.size, native.codes().length);
  assert.equal(Object.keys(sdk.ERROR_CLASSES).length, classes.size);
  const newer = sdk.errorOf('too_novel', 'text', {});
  assert.deepEqual([newer.constructor, newer.code], [DWCPError, 'too_novel']);
});

test('an error says what was asked of what', async (t) => {
  const all = await vms(t);
  await assert.rejects(all.get(NOBODY), (error) => {
    assert.ok(error instanceof VMNotFoundError);
    assert.deepEqual([error.operation, error.concerns, error.retryable], ['get', NOBODY, false]);
    return true;
  });
  await assert.rejects(all.getMigrationStatus(NOBODY), (error) => {
    assert.ok(error instanceof sdk.NotFoundError, error);
    assert.deepEqual([error.operation, error.concerns], ['get_migration_status', NOBODY]);
    return true;
  });
  const vm = await all.create(small());
  await assert.rejects(all.pause(vm.id), sdk.InvalidOperationError);
  for (const ask of [() => all.get(7), () => all.get(), () => all.start(null), () => all.list({ a: 1 }),
    () => all.writeConsole(7, ''), () => all.writeConsole(vm.id, 7), () => all.get(vm.id, { timeout: 'soon' }),
    () => all.create({ name: 'x', colour: 1 }), () => all.create({ name: 'x', memory: NaN }),
    () => all.create({ name: 'x', memory: 2n ** 63n }), () => all.create({ name: 'x', memory: '1' }),
    () => all.create(null), () => all.migrate(vm.id, 'n', { haste: true }), () => all.snapshot(vm.id)]) {
    await assert.rejects(ask(), ConfigError, String(ask));
  }
  assert.equal((await all.list()).length, 1, 'and nothing was done');
});

test('a panic is a rejected promise', { skip: !bridge.panic && 'not in a release build' }, async () => {
  for (const late of [false, true]) {
    const panic = run((tag) => bridge.panic(tag, late), () => {});
    await assert.rejects(panic, (error) => error instanceof InternalError && /on purpose/.test(error.message));
  }
});

test('500 calls at once, in process and over a connection', async (t) => {
  const { client, node: served } = await linked(t);
  await client.connect();
  for (const one of [served.client(), client]) {
    const all = one.vm();
    const vm = await running(all);
    const got = await Promise.all(Array.from({ length: 500 }, () => all.get(vm.id)));
    assert.ok(got.every((one) => one.id === vm.id && one.state === VMState.RUNNING));
    const ends = await Promise.allSettled(
      Array.from({ length: 500 }, (_, index) => all.get(index % 2 ? vm.id : NOBODY)),
    );
    ends.forEach(({ status, reason }, index) => {
      assert.equal(status, index % 2 ? 'fulfilled' : 'rejected');
      if (reason) assert.ok(reason instanceof VMNotFoundError);
    });
  }
});

test('answers that come at once leave others their turn', async (t) => {
  const all = await vms(t);
  const vm = await all.create(small());
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const deadline = Date.now() + 10_000;
  while (turns < 3 && Date.now() < deadline) await all.get(vm.id);
  clearInterval(timer);
  assert.equal(turns, 3);
});

test('a client that is closed ends its calls', async (t) => {
  const { client, link } = await linked(t);
  await client.connect();
  link.stop();
  const calls = Array.from({ length: 20 }, () => client.health());
  const next = client.vm().watchAll().next();
  const ends = Promise.allSettled([...calls, next]);
  await client.disconnect();
  for (const { status, reason } of await ends) {
    assert.equal(status, 'rejected');
    assert.ok(reason instanceof ConnectionError || reason instanceof sdk.CancelledError, reason);
  }
});

test('times and signals of a call', async (t) => {
  const { client, link } = await linked(t, { requestTimeout: '1s' });
  await client.connect();
  const before = AbortSignal.abort(new Error('no'));
  await assert.rejects(client.health({ signal: before }), (error) => {
    assert.ok(error instanceof sdk.CancelledError);
    assert.equal(error.cause.message, 'no');
    return true;
  });
  const after = new AbortController();
  assert.equal((await client.health({ signal: after.signal, timeout: '5s' })).status, 'healthy');
  after.abort();
  assert.equal((await client.health()).status, 'healthy');
  link.stop();
  const during = new AbortController();
  const asked = client.vm().get(NOBODY, { signal: during.signal });
  setImmediate(() => during.abort('enough'));
  await assert.rejects(asked, (error) => {
    assert.ok(error instanceof sdk.CancelledError, error);
    assert.deepEqual([error.cause, error.operation, error.concerns], ['enough', 'get', NOBODY]);
    return true;
  });
  await assert.rejects(client.vm().get(NOBODY, { timeout: 20 }), (error) => {
    assert.ok(error instanceof sdk.TimeoutError && error.retryable);
    assert.deepEqual([error.operation, error.concerns], ['get', NOBODY]);
    assert.match(error.message, /20ms/);
    return true;
  });
  await assert.rejects(client.health(), (error) => {
    assert.ok(error instanceof sdk.TimeoutError);
    assert.doesNotMatch(error.message, /20ms/, 'the time of the client');
    return true;
  });
});

test('a browser is told why not', async () => {
  const client = new browser.Client({ address: 'wss://h' });
  await assert.rejects(client.connect(), browser.UnsupportedError);
  assert.throws(() => client.vm(), browser.UnsupportedError);
  assert.equal(client.isConnected(), false);
  await client.disconnect();
});
