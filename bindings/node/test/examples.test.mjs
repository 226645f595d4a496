// The examples, compiled by run.mjs, as programs of their own.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { ROOT, TOP, directory, node, program } from './support.mjs';

const BUILT = join(TOP, 'target/typescript/examples');
const KEY = 'operator-key';

/** Two nodes with TLS and keys that know each other. */
async function two(t, backend) {
  const dir = directory(t);
  const start = (name) =>
    node(t, {
      name,
      backend,
      dataDir: join(dir, name),
      listen: ['127.0.0.1:0'],
      tls: { dir: join(dir, 'tls') },
      apiKeys: [
        { key: KEY, role: 'operator' },
        { key: 'node-to-node-key', role: 'node' },
      ],
    });
  const [one, other] = [await start('node-01'), await start('node-02')];
  one.addPeer('node-02', other.address, 'node-to-node-key');
  other.addPeer('node-01', one.address, 'node-to-node-key');
  return { one, other, authority: join(dir, 'tls/ca.pem') };
}

function told(ended) {
  assert.deepEqual([ended.code, ended.signal, ended.late], [0, null, false], ended.out + ended.err);
  return ended.out;
}

for (const backend of ['sim', 'kvm']) {
  const skip = backend === 'kvm' && !existsSync('/dev/kvm') && 'there is no KVM here';
  test(`the story on ${backend}`, { skip }, async () => {
    const env = { DWCP_BACKEND: backend };
    const out = told(await program([join(BUILT, 'story.js')], { env, limit: 120_000 }));
    assert.equal(out.trimEnd().split('\n').at(-1), 'story: ok');
  });
}

test('the story on nodes elsewhere', async (t) => {
  const { one, other, authority } = await two(t, 'sim');
  const args = ['--remote', one.address, other.address, '--api-key', KEY, '--ca-file', authority, '--peer', 'node-02'];
  const out = told(await program([join(BUILT, 'story.js'), ...args], { limit: 60_000 }));
  assert.equal(out.trimEnd().split('\n').at(-1), 'story: ok');
  const wrong = await program([join(BUILT, 'story.js'), ...args.slice(0, -2), '--peer', 'nobody'], { limit: 60_000 });
  assert.notEqual(wrong.code, 0, 'a story that fails says so');
  assert.doesNotMatch(wrong.out, /story: ok/);
});

test('every snippet of the guide', async (t) => {
  const { one, authority } = await two(t, 'sim');
  const [host, port] = one.address.split(':');
  const env = {
    DWCP_ADDRESS: host,
    DWCP_PORT: port,
    DWCP_API_KEY: KEY,
    DWCP_CA_FILE: authority,
    DWCP_TARGET_NODE: 'node-02',
  };
  const written = readdirSync(join(TOP, 'examples/typescript/guide')).filter((name) => name.endsWith('.ts'));
  assert.ok(written.length > 10);
  for (const name of written) {
    await t.test(name, async () => {
      told(await program([join(BUILT, 'guide', name.replace(/ts$/, 'js'))], { env, limit: 60_000 }));
    });
  }
  assert.deepEqual(await one.client().vm().list(), [], 'and they leave nothing behind');
});

test('the snippets of the README', async (t) => {
  const blocks = [...readFileSync(join(ROOT, 'README.md'), 'utf8').matchAll(/```ts\n(.*?)```/gs)];
  assert.ok(blocks.length >= 2);
  for (const [index, [, block]] of blocks.entries()) {
    await t.test(`snippet ${index + 1}`, async () => {
      // Beside the link to the package; the types are stripped by what compiles them.
      const { default: ts } = await import('typescript');
      const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
      const path = join(BUILT, `../readme-${index}.js`);
      writeFileSync(path, ts.transpileModule(block, { compilerOptions: options }).outputText);
      told(await program([path], { env: { DWCP_BACKEND: 'sim' }, limit: 60_000 }));
    });
  }
});
