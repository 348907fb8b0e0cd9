/** Fixed bounds of the API. Sizes are in bytes, times in milliseconds; every bound is inclusive. */

export const MAX_PARTITIONS = 1000;
export const MAX_STREAM_NAME_LENGTH = 128;
/** A group name, a consumer id: any Unicode but control characters, counted in UTF-8 bytes. */
export const MAX_GROUP_NAME_BYTES = 128;
export const MAX_EVENT_ID_BYTES = 128;
export const MAX_KEY_BYTES = 1024;
export const MAX_HEADERS = 64;
/** Names and values of one event's headers together. */
export const MAX_HEADERS_BYTES = 16 * 1024;
export const MAX_CONTENT_TYPE_BYTES = 128;
/** Room beside the value in a stored message: key, headers and Millrace's own fields, percent-encoded. */
export const MESSAGE_OVERHEAD_BYTES = 64 * 1024;
export const DEFAULT_MAX_MESSAGE_BYTES = 1024 * 1024;
/** With the overhead, the 8 MiB that nats-server advises as the largest message. */
export const MAX_MAX_MESSAGE_BYTES = 8 * 1024 * 1024 - MESSAGE_OVERHEAD_BYTES;
export const MAX_JSON_DEPTH = 64;

export const MAX_BATCH_EVENTS = 10_000;
/** JetStream's bound on an atomic batch (ADR-50). */
export const MAX_ATOMIC_BATCH_EVENTS = 1000;
/** A request body or RPC message, as sent and after decompression. */
export const MAX_REQUEST_BYTES = 32 * 1024 * 1024;

export const DEFAULT_POLL_LIMIT = 100;
export const MAX_POLL_LIMIT = 10_000;
export const DEFAULT_POLL_TIMEOUT_MS = 1000;
export const MAX_POLL_TIMEOUT_MS = 30_000;
export const DEFAULT_POLL_BYTES = 8 * 1024 * 1024;
export const MAX_POLL_BYTES = 32 * 1024 * 1024;

export const DEFAULT_SUBSCRIBE_LIMIT = 500;
export const DEFAULT_SUBSCRIBE_BYTES = 1024 * 1024;
export const DEFAULT_MAX_UNCOMMITTED = 10_000;
export const DEFAULT_HEARTBEAT_MS = 10_000;

/** Returned events of a group in a stream that are not done. */
export const MAX_RETURNED = 10_000;
/** Returned events of a group in a partition ahead of one that is not committed. */
export const MAX_PASSED = 1000;

/** How long a call may take when its caller names no deadline, waiting for events not counted. */
export const DEFAULT_CALL_TIMEOUT_MS = 10_000;
export const MAX_CALL_TIMEOUT_MS = 120_000;
export const DEFAULT_ACK_WAIT_MS = 30_000;
export const DEFAULT_SESSION_TIMEOUT_MS = 30_000;

export const MAX_EXPRESSION_BYTES = 4096;
export const MAX_EXPRESSION_NODES = 500;
