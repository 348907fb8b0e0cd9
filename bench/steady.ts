import { HttpConnection, jsonRequest } from "./http-client.ts";
import { publishBody, sampleEvent } from "./workload.ts";

const TICK_MS = 2;

/** Publishes at a rate. @param answered gets each answer's status and the milliseconds since its request was due. */
export async function steadily(
  url: string,
  stream: string,
  key: string,
  rate: number,
  connections: number,
  seconds: number,
  answered: (status: number, ms: number) => void,
): Promise<void> {
  const path = `/api/v1/streams/${stream}/events`;
  const request = jsonRequest(path, publishBody(sampleEvent(1)), `authorization: Bearer ${key}\r\n`);
  const idle = await Promise.all(Array.from({ length: connections }, () => HttpConnection.open(url)));
  const all = [...idle];
  const due: number[] = [];
  const open = new Set<Promise<void>>();
  let failure: unknown;
  const send = () => {
    while (idle.length > 0 && due.length > 0) {
      const [connection, dueMs] = [idle.pop()!, due.shift()!];
      const exchange = connection
        .exchange(request)
        .then(({ status }) => {
          answered(status, performance.now() - dueMs);
          idle.push(connection);
          open.delete(exchange);
          send();
        })
        .catch((error: unknown) => {
          failure = error;
          open.delete(exchange);
        });
      open.add(exchange);
    }
  };
  const start = performance.now();
  let made = 0;
  try {
    for (let now = start; now - start < seconds * 1000 && !failure; now = performance.now()) {
      for (; made < ((now - start) * rate) / 1000; made++) due.push(start + (made * 1000) / rate);
      send();
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
    while (open.size > 0 && !failure) await Promise.race(open);
    if (failure) throw failure;
  } finally {
    for (const connection of all) connection.close();
  }
}
