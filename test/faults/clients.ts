import type { History } from "./history.ts";

/** Where the service is now; it changes when the service is started again. */
export interface Target {
  url: string;
}

interface Event {
  eventId: string;
  partition: number;
  offset: number;
}

const JSON_TYPE = { "content-type": "application/json" };
const CALL_MS = 15_000;

async function call(target: Target, method: string, path: string, body?: unknown): Promise<unknown> {
  const response = await fetch(`${target.url}/api/v1${path}`, {
    method,
    ...(body === undefined ? {} : { headers: JSON_TYPE, body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(CALL_MS),
  });
  const answer = (await response.json()) as { error?: { code: number; description: string } };
  if (!response.ok) throw new Error(`${response.status} ${answer.error?.code} ${answer.error?.description}`);
  return answer;
}

export const createStream = (target: Target, name: string, partitions: number): Promise<unknown> =>
  call(target, "POST", "/streams", { name, partitions });

/** Runs `attempt` until it succeeds; a fault is expected to end. */
async function persist<T>(running: () => boolean, attempt: () => Promise<T>): Promise<T | undefined> {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!running()) return undefined;
      const text = String((error as Error).message);
      if (/^(400|404|409|412|500) /.test(text))
        throw new Error(`a good request was refused: ${text}`, { cause: error });
      // Breathing space for a service that is being started again.
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Publishes events of one key, one after the other, each with its id until it is acknowledged. */
export async function produceSingly(
  target: Target,
  stream: string,
  name: string,
  history: History,
  running: () => boolean,
): Promise<void> {
  for (let n = 0; running(); n++) {
    const event = { eventId: `${name}-${n}`, key: name, value: { n } };
    const ack = await persist(running, () => call(target, "POST", `/streams/${stream}/events`, event));
    if (ack) history.acknowledged(event.eventId, (ack as Event).partition, (ack as Event).offset);
  }
}

/** Publishes batches of one key; the events of a batch that failed are sent again with their ids. */
export async function produceBatches(
  target: Target,
  stream: string,
  name: string,
  history: History,
  running: () => boolean,
): Promise<void> {
  for (let n = 0; running(); n += 20) {
    let open = Array.from({ length: 20 }, (_, i) => ({ eventId: `${name}-${n + i}`, key: name, value: { n: n + i } }));
    while (open.length > 0 && running()) {
      const answer = await persist(running, () =>
        call(target, "POST", `/streams/${stream}/events/batch`, { events: open }),
      );
      if (!answer) return;
      const { results } = answer as { results: (Event & { error?: unknown })[] };
      for (const result of results)
        if (!result.error) history.acknowledged(result.eventId, result.partition, result.offset);
      const failed = new Set(results.filter((result) => result.error).map((result) => result.eventId));
      open = open.filter((event) => failed.has(event.eventId));
    }
  }
}

/** One consumer of a group that commits what it was handed, until `done` says so after an empty poll. */
export async function consume(
  target: Target,
  stream: string,
  group: string,
  history: History,
  done: () => boolean,
): Promise<void> {
  for (;;) {
    const query = `consumerGroup=${group}&limit=100&timeout=200`;
    const answer = await persist(
      () => true,
      () => call(target, "GET", `/streams/${stream}/events?${query}`),
    );
    const { events, metadata } = answer as { events: Event[]; metadata: { lag: number } };
    for (const event of events) history.handedOut(event.eventId, event.partition, event.offset);
    if (events.length === 0) {
      if (done() && metadata.lag === 0) return;
      continue;
    }
    const last = new Map(events.map((event) => [event.partition, event.offset]));
    const offsets = [...last].map(([partition, offset]) => ({ stream, partition, offset }));
    try {
      await call(target, "POST", `/consumers/${group}/commit`, { offsets });
      for (const [partition, offset] of last) history.committed(partition, offset);
    } catch (error) {
      if (/^(400|404|409|412|500) /.test((error as Error).message)) throw error;
      // Not committed, or not known to be: the events may come again.
    }
  }
}
