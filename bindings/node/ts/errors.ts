// One class for each code an error can have.

/** What an error says beside its text. */
export interface ErrorDetails {
  /** Whether the same request may succeed later. */
  retryable?: boolean;
  /** The method that failed, in the protocol's words: `get`, `get_metrics`, `connect`. */
  operation?: string | undefined;
  /** The id of the VM, migration or snapshot that it concerns. */
  concerns?: string | undefined;
  /** What it comes from: the reason of an `AbortSignal`. */
  cause?: unknown;
}

/** The base of all errors of this package. Its own instances have the code `other`. */
export class DWCPError extends Error {
  /** The code, which each class has one of; where there is no class for it, this is the base class. */
  readonly code: string;
  /** Whether the same request may succeed later. */
  readonly retryable: boolean;
  /** The method that failed, in the protocol's words, where it was one. */
  readonly operation: string | undefined;
  /** The id of the VM, migration or snapshot that it concerns, where it concerns one. */
  readonly concerns: string | undefined;

  constructor(message: string, details: ErrorDetails = {}, code = 'other') {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.retryable = details.retryable ?? RETRYABLE.has(code);
    this.operation = details.operation ?? undefined;
    this.concerns = details.concerns ?? undefined;
  }
}

/** The codes whose errors pass, unless an error itself says otherwise. */
const RETRYABLE = new Set(['connection', 'timeout', 'unavailable', 'resource_limit']);

/** There is no connection, or it was lost. Code `connection`. */
export class ConnectionError extends DWCPError {
  declare readonly code: 'connection';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'connection');
  }
}

/** The node does not accept the credential, or its certificate is not to be trusted. Code `auth`. */
export class AuthenticationError extends DWCPError {
  declare readonly code: 'auth';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'auth');
  }
}

/** The role of the credential does not allow it. Code `permission_denied`. */
export class PermissionDeniedError extends DWCPError {
  declare readonly code: 'permission_denied';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'permission_denied');
  }
}

/** The node has no such VM. Code `vm_not_found`. */
export class VMNotFoundError extends DWCPError {
  declare readonly code: 'vm_not_found';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'vm_not_found');
  }
}

/** The node has no such migration, snapshot, image or peer. Code `not_found`. */
export class NotFoundError extends DWCPError {
  declare readonly code: 'not_found';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'not_found');
  }
}

/** There is one of that name. Code `already_exists`. */
export class AlreadyExistsError extends DWCPError {
  declare readonly code: 'already_exists';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'already_exists');
  }
}

/** It did not end in time. Code `timeout`. */
export class TimeoutError extends DWCPError {
  declare readonly code: 'timeout';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'timeout');
  }
}

/** It was taken back; with an `AbortSignal`, `cause` is its reason. Code `cancelled`. */
export class CancelledError extends DWCPError {
  declare readonly code: 'cancelled';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'cancelled');
  }
}

/** The node cannot be asked now. Code `unavailable`. */
export class UnavailableError extends DWCPError {
  declare readonly code: 'unavailable';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'unavailable');
  }
}

/** Not in the state it is in. Code `invalid_operation`. */
export class InvalidOperationError extends DWCPError {
  declare readonly code: 'invalid_operation';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'invalid_operation');
  }
}

/** A field or an argument that is never allowed; the text begins with its name. Code `invalid_config`. */
export class ConfigError extends DWCPError {
  declare readonly code: 'invalid_config';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'invalid_config');
  }
}

/** This node, or this version, cannot do that; the text names it. Code `unsupported`. */
export class UnsupportedError extends DWCPError {
  declare readonly code: 'unsupported';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'unsupported');
  }
}

/** A limit of the node or its host was reached. Code `resource_limit`. */
export class ResourceLimitError extends DWCPError {
  declare readonly code: 'resource_limit';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'resource_limit');
  }
}

/** A migration failed. Code `migration`. */
export class MigrationError extends DWCPError {
  declare readonly code: 'migration';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'migration');
  }
}

/** A snapshot failed. Code `snapshot`. */
export class SnapshotError extends DWCPError {
  declare readonly code: 'snapshot';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'snapshot');
  }
}

/** The other side does not keep to the protocol. Code `invalid_message`. */
export class ProtocolError extends DWCPError {
  declare readonly code: 'invalid_message';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'invalid_message');
  }
}

/** A defect of the node or of this library. Code `internal`. */
export class InternalError extends DWCPError {
  declare readonly code: 'internal';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'internal');
  }
}

/** The operating system refused a call. Code `io`. */
export class IoError extends DWCPError {
  declare readonly code: 'io';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'io');
  }
}

/** A value could not be turned into JSON, or JSON into a value. Code `serialization`. */
export class SerializationError extends DWCPError {
  declare readonly code: 'serialization';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'serialization');
  }
}

/** The handle was made by the process that this one was forked from. Code `forked`. */
export class ForkedError extends DWCPError {
  declare readonly code: 'forked';

  constructor(message: string, details?: ErrorDetails) {
    super(message, details, 'forked');
  }
}

type ErrorClass = new (message: string, details?: ErrorDetails) => DWCPError;

/** The class of each code. */
export const ERROR_CLASSES: Readonly<Record<string, ErrorClass>> = {
  connection: ConnectionError,
  auth: AuthenticationError,
  permission_denied: PermissionDeniedError,
  vm_not_found: VMNotFoundError,
  not_found: NotFoundError,
  already_exists: AlreadyExistsError,
  timeout: TimeoutError,
  cancelled: CancelledError,
  unavailable: UnavailableError,
  invalid_operation: InvalidOperationError,
  invalid_config: ConfigError,
  unsupported: UnsupportedError,
  resource_limit: ResourceLimitError,
  migration: MigrationError,
  snapshot: SnapshotError,
  invalid_message: ProtocolError,
  internal: InternalError,
  io: IoError,
  serialization: SerializationError,
  forked: ForkedError,
  other: DWCPError,
};

/** The error of a code; a code of a newer node gives the base class, with that code. */
export function errorOf(code: string, message: string, details: ErrorDetails): DWCPError {
  const known = Object.hasOwn(ERROR_CLASSES, code) ? ERROR_CLASSES[code] : undefined;
  return known === undefined || known === DWCPError
    ? new DWCPError(message, details, code)
    : new known(message, details);
}
