import type { Deadline } from "../domain/deadline.ts";
import type { Progress } from "../domain/deliveries.ts";
import { groupNotFound, notPartitionOwner } from "../domain/errors.ts";
import type { Bucket } from "../jetstream/kv.ts";

/** What is stored of a group in a partition; the durable consumer beside it only follows. */
export interface OffsetRecord extends Progress {
  /** The owner's epoch; one of an earlier epoch can't write any more. Absent: 0. */
  readonly epoch?: number;
}

/** Where an {@link OffsetEntry} is, and for whom. */
export interface OffsetEntryPlace {
  readonly group: string;
  readonly stream: string;
  readonly partition: number;
  /** Generation since which the partition has the owner it has; 0: the group never had members. */
  readonly epoch: number;
  /** KV key of its {@link OffsetRecord}. */
  readonly key: string;
  /** Where the group starts that has stored nothing yet. */
  readonly start: number;
}

/** The stored entry of a group in a partition, which several gateways may write. */
export class OffsetEntry {
  readonly #offsets: Bucket<OffsetRecord>;
  readonly #place: OffsetEntryPlace;
  readonly #onStored: () => void;
  readonly #onLost: () => void;
  #record: OffsetRecord;
  #revision = 0;

  /**
   * @param onStored is called when this gateway or another has written it.
   * @param onLost is called when a later epoch has begun.
   */
  constructor(offsets: Bucket<OffsetRecord>, place: OffsetEntryPlace, onStored: () => void, onLost: () => void) {
    this.#offsets = offsets;
    this.#place = place;
    this.#onStored = onStored;
    this.#onLost = onLost;
    this.#record = { resume: place.start };
  }

  /** As it is known here. */
  get record(): OffsetRecord {
    return this.#record;
  }

  /** What is stored, whosever it is; `start` where there is nothing. */
  async look(deadline: Deadline): Promise<OffsetRecord> {
    const { value } = await this.#offsets.get(this.#place.key, deadline);
    return value ?? { resume: this.#place.start };
  }

  /** Reads it anew. @throws ServiceError NOT_PARTITION_OWNER when a later epoch has begun; GROUP_NOT_FOUND. */
  async load(deadline: Deadline): Promise<void> {
    const { value, revision } = await this.#offsets.get(this.#place.key, deadline);
    const { epoch, group, stream, partition, start } = this.#place;
    // Nothing but the deletion of the group takes it away.
    if (!value && this.#revision > 0) throw groupNotFound(group);
    const record = value ?? { resume: start };
    if ((record.epoch ?? 0) > epoch) {
      this.#onLost();
      throw notPartitionOwner(`"${stream}"/${partition} has passed to another member`);
    }
    this.#record = record;
    this.#revision = revision;
  }

  /** @returns what was stored before. @throws as {@link load}. */
  async store(change: (record: OffsetRecord) => OffsetRecord, deadline: Deadline): Promise<OffsetRecord> {
    for (;;) {
      const before = this.#record;
      const record = change(before);
      const revision = await this.#offsets.put(this.#place.key, record, this.#revision, deadline);
      if (revision !== undefined) {
        this.#record = record;
        this.#revision = revision;
        this.#onStored();
        return before;
      }
      // Another gateway wrote it; the later call wins, unless a later epoch has begun.
      await this.load(deadline);
    }
  }

  /** What another gateway has stored, when it is newer. */
  stored(record: OffsetRecord, revision: number): void {
    if (revision <= this.#revision || (record.epoch ?? 0) !== this.#place.epoch) return;
    this.#record = record;
    this.#revision = revision;
    this.#onStored();
  }
}
