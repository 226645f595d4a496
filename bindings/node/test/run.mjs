// Builds the package around a library and tests it: `node test/run.mjs PATH_OF_BUILT_LIBRARY`.

import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const top = resolve(root, '../..');
const [library] = process.argv.slice(2);
if (library === undefined) {
  console.error('usage: node test/run.mjs PATH_OF_BUILT_LIBRARY');
  process.exit(2);
}

const run = (command, args) => execFileSync(command, args, { cwd: root, stdio: 'inherit' });

run('npm', ['ci', '--ignore-scripts', '--loglevel=error']);

// In two steps: a process that has the old file loaded keeps it.
const addon = join(root, 'dwcp.linux-x64-gnu.node');
copyFileSync(library, `${addon}.new`);
renameSync(`${addon}.new`, addon);

const tsc = join(root, 'node_modules/typescript/bin/tsc');
rmSync(join(root, 'dist'), { recursive: true, force: true });
run(process.execPath, [tsc, '-p', root]);

// The examples, against the types that were just built, as a program that has the package installed.
const built = join(top, 'target/typescript');
rmSync(built, { recursive: true, force: true });
mkdirSync(join(built, 'node_modules/@novacron'), { recursive: true });
symlinkSync(root, join(built, 'node_modules/@novacron/dwcp-sdk'));
writeFileSync(join(built, 'package.json'), '{"type":"module"}\n');
run(process.execPath, [tsc, '-p', join(top, 'examples/typescript'), '--strict']);

const tests = readdirSync(here)
  .filter((name) => name.endsWith('.test.mjs'))
  .map((name) => join(here, name));
const { status } = spawnSync(process.execPath, ['--test', '--test-concurrency=2', ...tests], {
  cwd: root,
  stdio: 'inherit',
});
process.exit(status ?? 1);
