import { expect, test } from "vitest";
import { natsImage, startNatsContainer } from "../support/nats-container.ts";
import { startServiceProcess } from "../support/process.ts";

const { image, reason } = await natsImage(process.env);
if (reason !== undefined) console.log(`SKIPPED: the test against a NATS container: ${reason}`);

test.skipIf(image === undefined)(
  `the service stores, hands out and commits on a NATS container${reason === undefined ? "" : ` (skipped: ${reason})`}`,
  async () => {
    await using nats = await startNatsContainer(image!);
    await using service = await startServiceProcess({ NATS_URL: nats.url });
    const call = async (method: string, path: string, body?: unknown) => {
      const response = await fetch(`${service.url}/api/v1${path}`, {
        method,
        ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
      });
      expect(response.ok, `${method} ${path}: ${response.status}`).toBe(true);
      return (await response.json()) as Record<string, unknown>;
    };
    const poll = () => call("GET", "/streams/orders/events?consumerGroup=billing&limit=10&timeout=2000");

    await call("POST", "/streams", { name: "orders", partitions: 1 });
    const events = [1, 2, 3].map((amount) => ({ key: "user-1", value: { amount } }));
    await call("POST", "/streams/orders/events/batch", { events });

    const polled = await poll();
    expect(polled.events).toMatchObject(events.map((event, offset) => ({ ...event, offset })));
    await call("POST", "/consumers/billing/commit", { offsets: [{ stream: "orders", partition: 0, offset: 2 }] });
    await call("POST", "/streams/orders/events", { key: "user-1", value: { amount: 4 } });
    expect((await poll()).events).toMatchObject([{ offset: 3, value: { amount: 4 } }]);
  },
);
