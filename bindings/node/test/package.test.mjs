// The package itself: what it is made of, and that its parts say the same.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';

import * as sdk from '../dist/index.js';
import { ROOT, TOP, program } from './support.mjs';

const text = (...path) => readFileSync(join(...path), 'utf8');
const json = (...path) => JSON.parse(text(...path));

test('the version is that of the workspace, wherever it is written', () => {
  const [, version] = /\[workspace\.package\]\nversion = "(.*)"/.exec(text(TOP, 'Cargo.toml'));
  assert.equal(sdk.version, version);
  assert.equal(json(ROOT, 'package.json').version, version);
  assert.equal(json(ROOT, 'package-lock.json').version, version);
  assert.equal(json(ROOT, 'package-lock.json').packages[''].version, version);
  assert.equal(json(TOP, 'examples/typescript/package.json').dependencies['@novacron/dwcp-sdk'], version);
});

test('it needs nothing at run time, and its lock file names no address', () => {
  const { dependencies, license, files } = json(ROOT, 'package.json');
  assert.deepEqual([dependencies, license], [undefined, 'Apache-2.0']);
  assert.ok(files.includes('dist'));
  for (const file of ['package-lock.json', '.npmrc']) assert.doesNotMatch(text(ROOT, file), /resolved"|https?:/);
});

test('what a browser loads has nothing of Node.js', () => {
  const seen = new Set();
  const visit = (file) => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const [, from] of text(ROOT, 'dist', file).matchAll(/from '([^']*)'/g)) {
      assert.match(from, /^\.\//, file);
      visit(from.slice(2));
    }
  };
  visit('browser.js');
  assert.deepEqual([...seen].sort(), ['browser.js', 'errors.js', 'types.js']);
  assert.ok(readdirSync(join(ROOT, 'dist')).includes('browser.d.ts'));
});

test('states are values and types', () => {
  assert.equal(sdk.VMState.RUNNING, 'running');
  assert.equal(sdk.MigrationState.COMPLETED, 'completed');
  assert.equal(Object.keys(sdk.VMState).length, 9);
});

test('the testee of the conformance tests answers', async () => {
  const testee = join(TOP, 'bindings/conformance/testees/typescript/testee.mjs');
  const node = await sdk.Node.start({ name: 'node-01', backend: 'sim', listen: ['127.0.0.1:0'] });
  try {
    const port = Number(node.address.split(':').at(-1));
    const vm = await node.client().vm().create({ name: 'v', labels: { my_key: 'x' }, memory: 64 * 1024 ** 2 });
    const requests = [
      { do: 'hello' },
      { do: 'fly' },
      { do: 'call', client: 'c', method: 'health' },
      { do: 'memory' },
      { do: 'connect', client: 'c', config: { address: '127.0.0.1', port, tls_enabled: false, connect_timeout: '1s' } },
    ];
    const child = spawn(process.execPath, [testee]);
    child.stderr.pipe(process.stderr);
    const answers = new Map();
    const lines = createInterface({ input: child.stdout });
    const ask = (request) =>
      new Promise((resolve) => {
        const id = answers.size;
        answers.set(id, resolve);
        child.stdin.write(`${JSON.stringify({ id, ...request })}\n`);
      });
    lines.on('line', (line) => {
      const { id, ...answer } = JSON.parse(line);
      answers.get(id)(answer);
    });
    const [hello, fly, early, memory, connected] = await Promise.all(requests.map(ask));
    assert.deepEqual(hello, { ok: { language: 'typescript', version: sdk.version } });
    assert.deepEqual([fly.error.code, fly.error.class], ['unsupported', 'UnsupportedError']);
    assert.equal(early.error.code, 'other');
    assert.ok(memory.ok.rss > 0);
    assert.deepEqual(connected, { ok: {} });
    const got = await ask({ do: 'call', client: 'c', method: 'get', args: { id: vm.id } });
    assert.deepEqual([got.ok.labels, got.ok.config.huge_pages, got.ok.created_at], [{ my_key: 'x' }, false, vm.createdAt]);
    assert.deepEqual(await ask({ do: 'call', client: 'c', method: 'start', args: { id: vm.id } }), { ok: null });
    assert.deepEqual(await ask({ do: 'open', client: 'c', stream: 's', kind: 'stream_metrics', args: { id: vm.id, interval: '10ms' } }), { ok: {} });
    const { ok } = await ask({ do: 'next', stream: 's', count: 3 });
    assert.deepEqual([ok.items.length, ok.ended, 'cpu_usage' in ok.items[0]], [3, false, true]);
    await ask({ do: 'close_stream', stream: 's' });
    await ask({ do: 'open', client: 'c', stream: 'w', kind: 'watch', args: { id: vm.id } });
    const waiting = ask({ do: 'next', stream: 'w', count: 1000 });
    await ask({ do: 'open', client: 'c', stream: 'y', kind: 'watch_all' });
    const id = answers.size;
    const taken = ask({ do: 'next', stream: 'y', count: 1000 });
    assert.deepEqual(await ask({ do: 'cancel', request: id }), { ok: {} });
    assert.equal((await taken).error.code, 'cancelled');
    const lost = await ask({ do: 'open', client: 'c', stream: 'x', kind: 'watch', args: { id: 'nobody' } });
    assert.equal(lost.error.class, 'VMNotFoundError');
    assert.equal((await ask({ do: 'state', client: 'c' })).ok.connected, true);
    assert.equal((await ask({ do: 'counters', client: 'c' })).ok.connections_total, 1);
    assert.deepEqual(await ask({ do: 'disconnect', client: 'c' }), { ok: {} });
    assert.equal((await waiting).error.code, 'connection');
    const exit = new Promise((resolve) => child.on('exit', resolve));
    assert.deepEqual(await ask({ do: 'exit' }), { ok: {} });
    assert.equal(await exit, 0);
  } finally {
    await node.shutdown();
  }
});

test('a CommonJS program imports it', async () => {
  const path = JSON.stringify(join(ROOT, 'dist/index.js'));
  const text = `import(${path}).then(({ version }) => process.stdout.write(version))`;
  const { code, out } = await program(['--input-type=commonjs', '-e', text]);
  assert.deepEqual([code, out], [0, sdk.version]);
});

test('it says so where its library is missing', async () => {
  const ended = await program([
    '--input-type=module',
    '-e',
    `Object.defineProperty(process, 'platform', { value: 'other' }); await import(${JSON.stringify(join(ROOT, 'dist/index.js'))});`,
  ]);
  assert.notEqual(ended.code, 0);
  assert.match(ended.err, /no native library for other/);
});
