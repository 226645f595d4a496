// What is asked and answered. Times are RFC 3339 text (`new Date(vm.createdAt)` reads it), sizes bytes,
// rates bytes per second unless said otherwise. Counters are numbers, exact below 2^53.

/** A duration: milliseconds, or text such as `500ms`, `1.5s`, `5m`, `1h30m0s`, `100µs`. */
export type Duration = number | string;

/** How long to wait for an answer, and how to take a request back. */
export interface CallOptions {
  /** Takes the request back: it ends with a `CancelledError` whose `cause` is the signal's reason. */
  signal?: AbortSignal | undefined;
  /**
   * How long to wait: then it ends with a `TimeoutError`. 0 is no limit of its own; the client's
   * `requestTimeout` holds in any case.
   */
  timeout?: Duration | undefined;
}

/** The same for a request that makes something. */
export interface KeyedCallOptions extends CallOptions {
  /**
   * Idempotency key: for ten minutes the same key with the same content gives the first answer again,
   * so that a repeated call makes no second one.
   */
  key?: string | undefined;
}

/** What a client is made with. What is absent, null, empty or 0 asks for nothing. */
export interface ClientConfig {
  /** Host, or `unix:/path`. Else from `DWCP_ADDRESS`. */
  address?: string | undefined;
  /** Default 9000, or from `DWCP_PORT`. */
  port?: number | undefined;
  /** Credential. Else from `DWCP_API_KEY`. */
  apiKey?: string | undefined;
  /** Default true. */
  tlsEnabled?: boolean | undefined;
  /** File with the authorities to trust, in PEM. Else from `DWCP_CA_FILE`, else those of the platform. */
  caFile?: string | undefined;
  /** The same as text. */
  caPem?: string | undefined;
  /** File with the client's certificate. */
  clientCert?: string | undefined;
  /** File with its key. */
  clientKey?: string | undefined;
  /** The name in the node's certificate, where it is not the address. */
  serverName?: string | undefined;
  /** Default 30 s. */
  connectTimeout?: Duration | undefined;
  /** For all tries of a request together; default 60 s. */
  requestTimeout?: Duration | undefined;
  /** How often a request is repeated where that can do no harm; default 3, so four tries. */
  retryAttempts?: number | undefined;
  /** Default 1 s, growing, with jitter. */
  retryBackoff?: Duration | undefined;
  /** Default true. */
  keepAlive?: boolean | undefined;
  /** Default 30 s. */
  keepAlivePeriod?: Duration | undefined;
  /** Most streams at once; default 100. */
  maxStreams?: number | undefined;
  /** Bytes; default 64 KiB. */
  bufferSize?: number | undefined;
  /** Connections; default 1. */
  poolSize?: number | undefined;
  /** Also talk to nodes that only speak the base profile of the protocol. */
  acceptBase?: boolean | undefined;
}

/** Counters of a client, since it was made. */
export interface ClientMetrics {
  connectionsTotal: number;
  messagesSent: number;
  messagesReceived: number;
  bytesSent: number;
  bytesReceived: number;
  /** Requests that ended with an error, and connections that failed. */
  errorsTotal: number;
  /** When the last connection was made. */
  lastConnected?: string;
}

/** What a VM is doing. */
export const VMState = {
  /** It cannot be told: its migration is unresolved, or a newer node reported what this does not know. */
  UNKNOWN: 'unknown',
  CREATING: 'creating',
  STARTING: 'starting',
  RUNNING: 'running',
  STOPPING: 'stopping',
  STOPPED: 'stopped',
  PAUSED: 'paused',
  /** Being moved to another node; it runs meanwhile, but for the switch. */
  MIGRATING: 'migrating',
  /** Ended by a failure; `reason` says which. */
  FAILED: 'failed',
} as const;
export type VMState = (typeof VMState)[keyof typeof VMState];

/** How a VM is connected to the network; empty is the node's default. */
export type NetworkMode = '' | 'none' | 'bridge' | 'tap' | 'nat';

/** One network interface of a VM. Empty text and 0 leave the choice to the node. */
export interface NetworkInterface {
  name?: string | undefined;
  /** Kind of device: `virtio`. */
  type?: string | undefined;
  mac?: string | undefined;
  bridge?: string | undefined;
  vlan?: number | undefined;
  ipAddress?: string | undefined;
  netmask?: string | undefined;
  /** Bits per second. */
  bandwidth?: number | undefined;
}

/** The network of a VM. */
export interface NetworkConfig {
  mode?: NetworkMode | undefined;
  interfaces?: NetworkInterface[] | undefined;
  /** Addresses of name servers. */
  dns?: string[] | undefined;
  gateway?: string | undefined;
  mtu?: number | undefined;
}

/** Rules for the node a VM runs on. */
export interface Affinity {
  /** Labels the node must have. */
  nodeSelector?: Record<string, string> | undefined;
  requiredNodes?: string[] | undefined;
  preferredNodes?: string[] | undefined;
  /** Ids of VMs that must run on other nodes. */
  antiAffinityVms?: string[] | undefined;
  /** Ids of VMs that must run on the same node. */
  requireSameHost?: string[] | undefined;
}

/** What a VM is asked to be. A zero, empty, null or default value asks for nothing. */
export interface VMConfig {
  /** 1 to 128 of `A–Z a–z 0–9 . _ -`. */
  name: string;
  /** Bytes, at least 16 MiB in steps of 4 KiB; default 2 GiB. */
  memory?: number | undefined;
  /** 1 to 128; default 2. */
  cpus?: number | undefined;
  /** Bytes, 0 for none. */
  disk?: number | undefined;
  /** Default `dwcp/pulse`, the built-in guest, until the node sets another. */
  image?: string | undefined;
  network?: NetworkConfig | undefined;
  cloudInit?: string | undefined;
  labels?: Record<string, string> | undefined;
  annotations?: Record<string, string> | undefined;
  priority?: number | undefined;
  affinity?: Affinity | null | undefined;
  enableGpu?: boolean | undefined;
  gpuType?: string | undefined;
  enableSrIov?: boolean | undefined;
  enableTpm?: boolean | undefined;
  enableSecureBoot?: boolean | undefined;
  hostDevices?: string[] | undefined;
  /** Host CPU for each vCPU in turn. */
  cpuPinning?: number[] | undefined;
  numaNodes?: number[] | undefined;
  hugePages?: boolean | undefined;
  ioThreads?: number | undefined;
  /** Bytes it may grow to, 0 for no growth. */
  memoryMax?: number | undefined;
  /** Percent of one CPU, up to 100 × `cpus`; 0 for no limit. */
  cpuQuota?: number | undefined;
  diskIopsLimit?: number | undefined;
  /** Bits per second, 0 for no limit. */
  networkBandwidth?: number | undefined;
}

/** A structure with every field there. */
type Whole<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };

/** A config as a node tells it: every field is there. */
export type FullVMConfig = Omit<Whole<VMConfig>, 'network' | 'affinity'> & {
  network: Omit<Whole<NetworkConfig>, 'interfaces'> & { interfaces: Whole<NetworkInterface>[] };
  affinity: Whole<Affinity> | null;
};

/** Figures of a VM over a window of time. Counters are totals since it was started. */
export interface VMMetrics {
  /** Mean over the window in percent of one CPU: 0 to 100 × vCPUs. */
  cpuUsage: number;
  memoryUsed: number;
  memoryAvailable: number;
  diskRead: number;
  diskWrite: number;
  networkRx: number;
  networkTx: number;
  /** When the window ended. */
  timestamp: string;
  /** Pages of 4 KiB written per second, where it was measured. */
  dirtyPagesPerSecond?: number;
  vmExits: number;
  /** Microseconds the vCPUs were ready but had no host CPU. */
  stealTimeUs?: number;
  /** Microseconds the vCPUs were held up by migration and snapshots. */
  stallUs: number;
}

/** A VM as its node sees it. */
export interface VM {
  /** A UUID. */
  id: string;
  name: string;
  state: VMState;
  config: FullVMConfig;
  /** Name of the node it runs on, or is kept on. */
  node: string;
  createdAt: string;
  updatedAt: string;
  startedAt?: string;
  stoppedAt?: string;
  /** In answers to `get` and `list` while it runs. */
  metrics?: VMMetrics;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  /** Why it is failed, paused or waiting. */
  reason?: string;
  /** The guest's network addresses, as far as they are known. */
  addresses?: string[];
}

/** What an event says; newer nodes may say more. */
export type VMEventType =
  | 'current'
  | 'created'
  | 'starting'
  | 'started'
  | 'stopping'
  | 'stopped'
  | 'paused'
  | 'resumed'
  | 'reset'
  | 'updated'
  | 'migrating'
  | 'migrated'
  | 'migration_failed'
  | 'snapshot_created'
  | 'snapshot_restored'
  | 'snapshot_deleted'
  | 'failed'
  | 'destroyed'
  | 'guest'
  | 'lost'
  | (string & {});

/** One item of a watch. */
export interface VMEvent {
  /** Rising for the life of the node's store, and never used twice. */
  seq: number;
  type: VMEventType;
  /** The VM as it was then. */
  vm: VM;
  timestamp: string;
  /** The same for people. */
  message: string;
  /** With `current` and `lost`: the store that `seq` is a number of, from this item on. */
  store?: string;
  /** With `lost`: how many events were not delivered. */
  count?: number;
  /** With `lost`: `seq` of the next one that will be. */
  next?: number;
}

/** Where a watch begins. */
export interface WatchOptions {
  signal?: AbortSignal | undefined;
  /** After this event; else with the present state. */
  since?: number | undefined;
  /** The store that `since` is a number of. */
  store?: string | undefined;
}

/** How to end a stream from outside. */
export interface StreamOptions {
  signal?: AbortSignal | undefined;
}

/** How to stop a VM. */
export interface StopOptions {
  /** At once, without asking the guest. */
  force?: boolean | undefined;
  /** How long the guest has to stop by itself; default 30 s. Not used with `force`. */
  timeout?: Duration | undefined;
}

/** New labels or annotations; what is absent stays as it is. */
export interface UpdateOptions {
  labels?: Record<string, string> | undefined;
  annotations?: Record<string, string> | undefined;
}

/** Which VMs: `name`, `state`, `node` and `image` compare with the VM's own, other keys are labels. */
export type Filters = Record<string, string>;

/** How a migration is. */
export const MigrationState = {
  PREPARING: 'preparing',
  RUNNING: 'running',
  COMPLETING: 'completing',
  COMPLETED: 'completed',
  FAILED: 'failed',
  CANCELLED: 'cancelled',
} as const;
export type MigrationState = (typeof MigrationState)[keyof typeof MigrationState];

/** The way a VM is moved. */
export type MigrationMode = 'precopy' | 'postcopy' | 'stop_and_copy' | 'same_host' | 'offline';

/** How to move a VM. */
export interface MigrationOptions {
  /** While it runs; default true. False: it is paused, copied, and goes on there. */
  live?: boolean | undefined;
  /** It is or gets stopped; its disks and config move. */
  offline?: boolean | undefined;
  /** Longest time in which it runs nowhere, in milliseconds; default 500. */
  maxDowntime?: number | undefined;
  /** Bytes per second, 0 for no limit. */
  bandwidth?: number | undefined;
  /** Default true. */
  compression?: boolean | undefined;
  /** Slow the guest down where it writes faster than can be sent; default true. */
  autoConverge?: boolean | undefined;
  postCopy?: boolean | undefined;
  /** Connections for page data; default 4. */
  parallel?: number | undefined;
  /** Default true. */
  verifyChecksum?: boolean | undefined;
  /** Default true; needs TLS at the target. */
  encryptTransport?: boolean | undefined;
  /** How long it may take in all. */
  timeout?: Duration | undefined;
  /** What then; default `cancel`. */
  onTimeout?: 'cancel' | 'ignore' | undefined;
  withDisks?: boolean | undefined;
  /** Whether memory is handed over where both nodes are on one host; default `auto`. */
  sameHost?: 'auto' | 'never' | 'require' | undefined;
}

/** One pass over the memory that had changed. */
export interface RoundReport {
  /** From 1. */
  round: number;
  /** Pages of 4 KiB sent, zero pages included. */
  pages: number;
  bytes: number;
  durationUs: number;
  dirtyPagesPerSecond: number;
  throughput: number;
}

/** What the time in which the VM ran nowhere went into, in microseconds. */
export interface DowntimeBreakdown {
  stopVcpusUs: number;
  saveStateUs: number;
  lastPagesUs: number;
  loadStateUs: number;
  grantUs: number;
  commitUs: number;
  resumeUs: number;
  totalUs: number;
}

/** What was sent, in bytes of the guest's memory and disk. */
export interface MigrationBytes {
  data: number;
  /** Announced as zero instead of sent. */
  zero: number;
  /** Sent compressed; the size before. */
  compressed: number;
  /** Sent more than once. */
  resent: number;
  /** Sent of the disk, where that was taken along. */
  disk: number;
}

/** How a migration goes, or went. */
export interface MigrationStatus {
  id: string;
  vmId: string;
  sourceNode: string;
  targetNode: string;
  state: MigrationState;
  /** 0 to 100. */
  progress: number;
  bytesTotal: number;
  bytesSent: number;
  throughput: number;
  /** The longest time in which the guest stood still, in milliseconds. */
  downtime: number;
  startedAt: string;
  completedAt?: string;
  /** Why it failed. */
  error?: string;
  mode: MigrationMode;
  /** The round being sent, from 1; 0 before the first. */
  round: number;
  rounds: RoundReport[];
  /** Pages of 4 KiB the guest writes per second. */
  dirtyRate: number;
  expectedDowntimeUs: number;
  downtimeUs: number;
  breakdown: DowntimeBreakdown;
  stallUs: number;
  bytes: MigrationBytes;
  channels: number;
  /** How far the guest was held back so that copying could keep up, in percent of the time. */
  throttle: number;
  /** Microseconds until the switch if all goes on as now; null where it is not known. */
  timeLeftUs: number | null;
}

/** One reason why a node cannot run a VM. */
export interface Misfit {
  kind: string;
  name: string;
  detail: string;
}

/** What a migration would be like if it began now. */
export interface MigrationPlan {
  totalUs: number;
  downtimeUs: number;
  mode: MigrationMode;
  dirtyRate: number;
  /** Empty if the target can run the VM. */
  misfits: Misfit[];
}

/** How to take a snapshot. */
export interface SnapshotOptions {
  /** Memory and machine state too; default true. */
  includeMemory?: boolean | undefined;
  description?: string | undefined;
  /** Have the guest bring its file systems to rest, where it can; default true. */
  quiesce?: boolean | undefined;
}

/** A snapshot of a VM. */
export interface Snapshot {
  id: string;
  vmId: string;
  name: string;
  description: string;
  /** Bytes on the node's disk. */
  size: number;
  createdAt: string;
  /** The snapshot it builds on. */
  parent?: string;
  /** The snapshots that build on it. */
  children?: string[];
  includeMemory: boolean;
  quiesced: boolean;
}

/** An image in a node's store: a kernel, and what goes with it. */
export interface Image {
  /** What VMs call it in `image`. */
  name: string;
  /** Images with the same digest boot the same, on whatever node. */
  digest: string;
  /** The kernel's command line. */
  cmdline: string;
  /** Bytes of the kernel, of the initial RAM disk and of the root disk; 0 for what it has not. */
  kernel: number;
  initrd: number;
  disk: number;
  createdAt: string;
}

/** What the built-in guest says of itself. */
export interface GuestReport {
  vmId: string;
  beats: number;
  pagesWritten: number;
  pagesFilled: number;
  laps: number;
  pagesVerified: number;
  /** Pages whose content was wrong. */
  faults: number;
  firstFault?: number;
  /** Whether the check that was asked for ended, and no page was ever wrong. */
  verified: boolean;
  longestBeatGapUs: number;
  switchGapUs?: number;
  pagesWrittenPerSecond: number;
  timestamp: string;
}

export type HealthStatus = 'unknown' | 'healthy' | 'degraded' | 'draining';

/** The answer to a health check. */
export interface Health {
  status: HealthStatus;
  /** What needs attention, or empty. */
  message: string;
  /** Name of the node. */
  node: string;
  version: string;
  uptimeUs: number;
  vms: number;
  vmsRunning: number;
  migrations: number;
  timestamp: string;
}

/** The optional things a node can do. */
export interface NodeCapabilities {
  gpu: boolean;
  srIov: boolean;
  tpm: boolean;
  secureBoot: boolean;
  hostDevices: boolean;
  cpuPinning: boolean;
  numaNodes: boolean;
  hugePages: boolean;
  ioThreads: boolean;
  memoryMax: boolean;
  cpuQuota: boolean;
  disk: boolean;
  diskIopsLimit: boolean;
  network: boolean;
  networkBandwidth: boolean;
  cloudInit: boolean;
  affinity: boolean;
  priority: boolean;
}

/** What a node allows; 0 where it does not say. */
export interface NodeLimits {
  /** Bytes. */
  maxFrame: number;
  maxStreams: number;
  maxConnections: number;
  maxInflight: number;
  /** Bytes, of all VMs that run. */
  maxMemory: number;
  maxCpus: number;
  maxVms: number;
  /** Migrations from here, and to here, that are under way at once. */
  maxMigrationsOut: number;
  maxMigrationsIn: number;
}

/** What a node is. */
export interface NodeInfo {
  name: string;
  /** Of its store: a node installed anew has another. */
  uuid: string;
  version: string;
  backend: string;
  vms: number;
  memoryTotal: number;
  memoryAvailable: number;
  cpus: number;
  limits: NodeLimits;
  capabilities: NodeCapabilities;
  labels: Record<string, string>;
  peers: string[];
}

/** What a key of a node allows. `node` is for peers only. */
export type Role = 'viewer' | 'operator' | 'admin' | 'node';

/** What a node is started with. */
export interface NodeOptions {
  name: string;
  /** What runs its VMs: `kvm` (the default), or `sim` without guests' code. */
  backend?: 'kvm' | 'sim' | undefined;
  /** Where VMs and snapshots are kept; without it they end with the node. */
  dataDir?: string | undefined;
  /** Where the disks of its VMs are; without it, `disks/` below `dataDir`. */
  diskDir?: string | undefined;
  /** Addresses to serve: `127.0.0.1:0`, `unix:/path`. */
  listen?: string[] | undefined;
  apiKeys?: { key: string; role: Role; name?: string | undefined }[] | undefined;
  /** Either `dir`, for certificates it makes itself, or `certificate` and `key`, all of them paths. */
  tls?:
    | {
        dir?: string | undefined;
        certificate?: string | undefined;
        key?: string | undefined;
        authority?: string | undefined;
      }
    | undefined;
  /** Serve other hosts without TLS or keys. */
  insecure?: boolean | undefined;
  /** Other nodes, by their names: the address, or with the key by which they know this node. */
  peers?: Record<string, string | { address: string; credential?: string | undefined }> | undefined;
  labels?: Record<string, string> | undefined;
  limits?: { [K in keyof NodeLimits]?: number | undefined } | undefined;
  defaultImage?: string | undefined;
  /** Events kept for watchers that come back. */
  eventRing?: number | undefined;
  /** How long it waits for a peer. */
  peerTimeout?: Duration | undefined;
}
