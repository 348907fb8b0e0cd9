import { matchesPattern } from "./pattern.ts";

/** What one caller may do, read from texts such as `publish:orders-*`. */
export interface Rights {
  readonly isAdmin: boolean;
  readonly processors: boolean;
  /** Reading the service's figures. */
  readonly metrics: boolean;
  publish(stream: string): boolean;
  consume(stream: string): boolean;
  manage(stream: string): boolean;
  group(name: string): boolean;
  /** Whether the caller has this right on any stream at all. */
  hasAny(right: StreamRight): boolean;
}

export type StreamRight = "publish" | "consume" | "manage";

const STREAM_RIGHTS: readonly StreamRight[] = ["publish", "consume", "manage"];
const GRANT = /^(?:admin|processors|metrics|(publish|consume|manage|group):([^\u0000-\u001f\u007f-\u009f]+))$/s;
/** Characters of one pattern. */
const MAX_PATTERN = 256;

/** What is wrong with the text of a right, or nothing. */
export function rightFault(text: string): string | undefined {
  const match = GRANT.exec(text);
  if (!match || !text.isWellFormed())
    return "must be admin, processors, metrics, or publish:, consume:, manage: or group: with a pattern";
  return (match[2]?.length ?? 0) > MAX_PATTERN ? `a pattern must be at most ${MAX_PATTERN} characters` : undefined;
}

/** The rights that texts stand for; a text that {@link rightFault} finds wrong grants nothing. */
export function rightsOf(texts: readonly string[]): Rights {
  const good = texts.filter((text) => rightFault(text) === undefined);
  const isAdmin = good.includes("admin");
  const patterns = (kind: string) =>
    good.filter((text) => text.startsWith(`${kind}:`)).map((text) => text.slice(kind.length + 1));
  const on = (kind: string) => {
    const found = patterns(kind);
    return (name: string) => isAdmin || found.some((pattern) => matchesPattern(pattern, name));
  };
  const any = new Set(STREAM_RIGHTS.filter((right) => isAdmin || patterns(right).length > 0));
  return {
    isAdmin,
    processors: isAdmin || good.includes("processors"),
    metrics: isAdmin || good.includes("metrics"),
    publish: on("publish"),
    consume: on("consume"),
    manage: on("manage"),
    group: patterns("group").length === 0 ? () => true : on("group"),
    hasAny: (right) => any.has(right),
  };
}
