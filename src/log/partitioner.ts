const SEED = 0x9747b28c;
const M = 0x5bd1e995;

/**
 * Murmur2 as Kafka's clients compute it (`org.apache.kafka.common.utils.Utils.murmur2`).
 *
 * @returns a signed 32-bit number.
 */
export function murmur2(data: Uint8Array): number {
  const length = data.length;
  let h = SEED ^ length;
  const whole = length & ~3;
  for (let i = 0; i < whole; i += 4) {
    let k = data[i]! | (data[i + 1]! << 8) | (data[i + 2]! << 16) | (data[i + 3]! << 24);
    k = Math.imul(k, M);
    k ^= k >>> 24;
    h = Math.imul(h, M) ^ Math.imul(k, M);
  }
  const tail = length & 3;
  if (tail === 3) h ^= data[whole + 2]! << 16;
  if (tail >= 2) h ^= data[whole + 1]! << 8;
  if (tail >= 1) h = Math.imul(h ^ data[whole]!, M);
  h ^= h >>> 13;
  h = Math.imul(h, M);
  return h ^ (h >>> 15);
}

const scratch = Buffer.allocUnsafe(4096);

/** The partition, from 0 below `partitions`, that Kafka's default partitioner chooses for a key of at most 1 KiB. */
export function partitionOf(key: string, partitions: number): number {
  const length = scratch.write(key, 0, "utf8");
  return (murmur2(scratch.subarray(0, length)) & 0x7fffffff) % partitions;
}
