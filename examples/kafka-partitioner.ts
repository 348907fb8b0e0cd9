/**
 * The partition that a Kafka producer chooses for a key, after `Utils.murmur2` and `Utils.toPositive` of Kafka's Java
 * client. Written apart from the service's own, so that one can be checked against the other.
 */
export function kafkaPartition(key: string, partitions: number): number {
  return (murmur2(new TextEncoder().encode(key)) & 0x7fffffff) % partitions;
}

/** @returns a signed 32-bit number. */
export function murmur2(data: Uint8Array): number {
  const m = 0x5bd1e995;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const end = data.length - (data.length % 4);
  let h = 0x9747b28c ^ data.length;
  for (let at = 0; at < end; at += 4) {
    let k = Math.imul(view.getInt32(at, true), m);
    k = Math.imul(k ^ (k >>> 24), m);
    h = Math.imul(h, m) ^ k;
  }
  if (end < data.length) {
    for (let at = data.length - 1; at >= end; at--) h ^= view.getUint8(at) << (8 * (at - end));
    h = Math.imul(h, m);
  }
  h = Math.imul(h ^ (h >>> 13), m);
  return h ^ (h >>> 15);
}
