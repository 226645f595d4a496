/**
 * Run VMs on KVM and migrate them live: the TypeScript package of dwcp.
 *
 * @packageDocumentation
 */

export { Client, type ClientEvents } from './client.js';
export * from './errors.js';
export { Node, NodeKeys, type NodeKey } from './node.js';
export { Console, Stream } from './stream.js';
export * from './types.js';
export { VMClient } from './vm.js';

import { native } from './native.js';

/** The version of the package. */
export const version: string = native.version();
