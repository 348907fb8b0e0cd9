import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { protocols } from "../support/clients.ts";
import { startCuttableProxy } from "../support/cuttable-proxy.ts";
import { useService } from "../support/service.ts";
import { describeSubscribing, newStream, publish, Reading, SUBSCRIBING_ENV } from "../support/subscribing.ts";
import { BrowserPage, findChromium, subscribersIn } from "./chromium.ts";

const chromium = findChromium();
if (!chromium && process.env.CI)
  throw new Error("no Chromium: install the package chromium, or name one by CHROMIUM_BIN");

if (!chromium) {
  const reason = "no Chromium on this machine: install the package chromium, or name one by CHROMIUM_BIN";
  console.warn(`SKIPPED test/browser: ${reason}`);
  test.skip(`skipped: ${reason}`);
} else
  describe("in a browser", () => {
    const service = useService(SUBSCRIBING_ENV);
    let page: BrowserPage;
    beforeAll(async () => {
      page = await BrowserPage.open(chromium, service.url);
    });
    afterAll(() => page?.[Symbol.asyncDispose]());

    const subscribers = subscribersIn(() => page);
    describeSubscribing(subscribers, service);

    test("EventSource goes on without loss or repeat when its connection is cut", async () => {
      await using api = protocols[0]!.connect(service.url);
      const proxy = await startCuttableProxy(service.port);
      onTestFinished(() => proxy[Symbol.asyncDispose]());
      const behind = await BrowserPage.open(chromium, proxy.url);
      onTestFinished(() => behind[Symbol.asyncDispose]());
      const [, , eventSource] = subscribersIn(() => behind);
      const stream = await newStream(api, 2, 10);
      await using reading = new Reading(eventSource!, proxy.url, stream, {});
      for (let events = 10; events <= 40; events += 10) {
        await reading.until(`${events} events`, ({ values }) => values.length >= events);
        proxy.cut();
        if (events < 40) await publish(api, stream, 2, events, events + 10);
      }
      await publish(api, stream, 2, 40, 50);
      await reading.until("all events", ({ values }) => values.length >= 50);
      expect([...reading.values].sort((a, b) => Number(a) - Number(b))).toEqual(
        Array.from({ length: 50 }, (_, i) => i),
      );
    });
  });
