import { createHash } from "node:crypto";

/**
 * Names inside JetStream. Text from outside never stands in a subject, a durable's name or a KV key as it is: it goes
 * through {@link encodeToken}, whose results hold only `[A-Za-z0-9_=-]`.
 */

const PLAIN = /^[A-Za-z0-9_-]+$/;

/**
 * Text to one subject token, reversibly: letters, digits, `_` and `-` stay, any other byte of its UTF-8 is `=` and two
 * hex digits; the empty text is a lone `=`.
 *
 * @throws RangeError on half of a surrogate pair, which UTF-8 can't carry.
 */
export function encodeToken(text: string): string {
  if (PLAIN.test(text)) return text;
  if (text === "") return "=";
  if (!text.isWellFormed()) throw new RangeError("a name must be valid Unicode");
  let token = "";
  for (const byte of Buffer.from(text, "utf8")) {
    const char = String.fromCharCode(byte);
    token += PLAIN.test(char) ? char : `=${byte.toString(16).padStart(2, "0")}`;
  }
  return token;
}

/** The text that {@link encodeToken} made `token` of. */
export function decodeToken(token: string): string {
  if (token === "=") return "";
  const bytes: number[] = [];
  for (let i = 0; i < token.length; i++) {
    if (token[i] === "=") {
      bytes.push(Number.parseInt(token.slice(i + 1, i + 3), 16));
      i += 2;
    } else bytes.push(token.charCodeAt(i));
  }
  return Buffer.from(bytes).toString("utf8");
}

/** Buckets of the catalog. */
export const STREAMS_BUCKET = "mr_streams";
export const GROUPS_BUCKET = "mr_groups";
export const OFFSETS_BUCKET = "mr_offsets";
export const RETURNED_BUCKET = "mr_returned";
/** Hashes of API keys. */
export const KEYS_BUCKET = "mr_keys";
/** Signs of life of the processes that run processors, and of the gateways that share quotas. */
export const NODES_BUCKET = "mr_nodes";
export const GATEWAYS_BUCKET = "mr_gateways";
/** Written to learn whether the storage takes writes. */
export const HEALTH_BUCKET = "mr_health";

/** The JetStream stream that stores a partition. `stream` is a checked stream name. */
export const partitionStream = (stream: string, partition: number): string => `mr-${stream}-${partition}`;

/** The partition that a JetStream stream stores; undefined for a stream of another kind. */
export function partitionPlace(jsStream: string): { stream: string; partition: number } | undefined {
  const match = /^mr-([A-Za-z0-9_-]+)-(\d+)$/.exec(jsStream);
  return match ? { stream: match[1]!, partition: Number(match[2]) } : undefined;
}

/** The partition whose subject this is; undefined for a subject of another kind. */
export function subjectPlace(subject: string): { stream: string; partition: number } | undefined {
  const match = /^mr\.ev\.([A-Za-z0-9_-]+)\.(\d+)$/.exec(subject);
  return match ? { stream: match[1]!, partition: Number(match[2]) } : undefined;
}

/** The one subject of a partition. */
export const partitionSubject = (stream: string, partition: number): string => `mr.ev.${stream}.${partition}`;

/** What the subjects of a stream's partitions begin with, and no other. */
export const partitionSubjectPrefix = (stream: string): string => `mr.ev.${stream}.`;

/** All partitions' subjects of a stream. */
export const partitionSubjects = (stream: string): string => `mr.ev.${stream}.*`;

/**
 * The durable consumer that keeps a group's position in a partition. A long name is replaced by its hash, since a
 * durable's name is also the name of a folder; the group's record keeps the name itself.
 *
 * @param epoch generation since which the partition has the owner it has; each has a durable of its own, so that a former
 * owner can't take events from the next. 0: the group never had members.
 */
export function durableName(group: string, epoch = 0): string {
  const token = encodeToken(group);
  const name = token.length <= 100 ? `g-${token}` : `h-${createHash("sha256").update(group).digest("hex")}`;
  // A token has hex digits behind every `=`.
  return epoch === 0 ? name : `${name}=g${epoch}`;
}

/** KV key of the record of a group in a stream; `streamId` is one life of the stream. */
export const groupKey = (group: string, streamId: string): string => `rec.${encodeToken(group)}.${streamId}`;

/** KV key of the members of a group in a stream. */
export const membersKey = (group: string, streamId: string): string => `mem.${encodeToken(group)}.${streamId}`;

/** KV key that says that a gateway process hands out events of the group. */
export const groupUseKey = (group: string, streamId: string, gateway: string): string =>
  `use.${encodeToken(group)}.${streamId}.${gateway}`;

/** KV key of what a group has committed in a partition. */
export const offsetKey = (group: string, streamId: string, partition: number): string =>
  `${encodeToken(group)}.${streamId}.${partition}`;

/** What the KV keys of the events begin with that a group has returned in a stream. */
export const returnedPrefix = (group: string, streamId: string): string => `${encodeToken(group)}.${streamId}`;

/** KV key of a returned event. */
export const returnedKey = (prefix: string, partition: number, offset: number): string =>
  `${prefix}.${partition}.${offset}`;

/** Subject on which a gateway process answers that it lives. */
export const gatewaySubject = (gateway: string): string => `mr.gw.${gateway}`;
