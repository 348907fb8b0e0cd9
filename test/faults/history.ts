/** What producers and a consumer saw during a run of faults, and what must hold of it. */
export class History {
  /** Acknowledged events: where, by id. */
  readonly acked = new Map<string, { partition: number; offset: number }>();
  /** Every id that the consumer was handed. */
  readonly consumed = new Set<string>();
  readonly violations: string[] = [];
  readonly #seenTo = new Map<number, number>();
  readonly #committedTo = new Map<number, number>();
  readonly #place = new Map<string, string>();
  repeats = 0;

  acknowledged(id: string, partition: number, offset: number): void {
    const before = this.acked.get(id);
    if (before && (before.partition !== partition || before.offset !== offset))
      this.violations.push(
        `${id} was acknowledged at ${before.partition}/${before.offset} and at ${partition}/${offset}`,
      );
    this.acked.set(id, { partition, offset });
  }

  handedOut(id: string, partition: number, offset: number): void {
    const seenTo = this.#seenTo.get(partition) ?? -1;
    if (offset > seenTo + 1) this.violations.push(`partition ${partition}: ${offset} was handed out after ${seenTo}`);
    if (offset <= seenTo) this.repeats++;
    if (offset <= (this.#committedTo.get(partition) ?? -1))
      this.violations.push(
        `partition ${partition}: ${offset} came again although ${this.#committedTo.get(partition)} was committed`,
      );
    this.#seenTo.set(partition, Math.max(seenTo, offset));
    this.consumed.add(id);
    const place = `${partition}/${offset}`;
    const other = this.#place.get(id);
    if (other !== undefined && other !== place) this.violations.push(`${id} is stored twice, at ${other} and ${place}`);
    this.#place.set(id, place);
  }

  committed(partition: number, offset: number): void {
    this.#committedTo.set(partition, offset);
  }

  /** Events that were acknowledged and never handed out. */
  lost(): string[] {
    return [...this.acked.keys()].filter((id) => !this.consumed.has(id));
  }
}
