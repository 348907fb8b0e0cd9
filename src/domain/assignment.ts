/**
 * Shares partitions among members: the counts differ by at most one, and as few partitions as possible leave the member
 * that has them.
 *
 * @param current the member that has each partition now, by partition; undefined or a name not in `members`: nobody.
 * @param members who shares; without any nobody gets a partition.
 * @returns the member that each partition goes to.
 */
export function assign(current: readonly (string | undefined)[], members: readonly string[]): (string | undefined)[] {
  if (members.length === 0) return current.map(() => undefined);
  const held = new Map<string, number[]>(members.map((member) => [member, []]));
  for (const [partition, member] of current.entries()) if (member !== undefined) held.get(member)?.push(partition);

  const share = Math.floor(current.length / members.length);
  let larger = current.length - share * members.length;
  // Those that have most may keep one more: fewer partitions move.
  const order = [...members].sort((a, b) => held.get(b)!.length - held.get(a)!.length || (a < b ? -1 : 1));
  const next: (string | undefined)[] = current.map(() => undefined);
  const short: { member: string; room: number }[] = [];
  for (const member of order) {
    const quota = larger-- > 0 ? share + 1 : share;
    const kept = held.get(member)!.slice(0, quota);
    for (const partition of kept) next[partition] = member;
    if (kept.length < quota) short.push({ member, room: quota - kept.length });
  }
  for (const [partition, member] of next.entries()) {
    if (member !== undefined) continue;
    // One each in turn, so that neighbouring partitions, often of like load, go to different members.
    const taker = short.shift()!;
    next[partition] = taker.member;
    if (--taker.room > 0) short.push(taker);
  }
  return next;
}
