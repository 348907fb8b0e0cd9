import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { rolldown } from "rolldown";
import type { Subscriber } from "../support/subscribers.ts";
import { SubscriptionFailure, type Told } from "../support/told.ts";
import type { Kind } from "./page.ts";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** The browser to test with: `CHROMIUM_BIN`, or one on the PATH. */
export function findChromium(): string | undefined {
  const given = process.env.CHROMIUM_BIN?.trim();
  if (given) return given;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.flatMap((folder) => NAMES.map((name) => join(folder, name))).find((path) => existsSync(path));
}

interface Subscription {
  told(told: Told): void;
  ended(failure: SubscriptionFailure | undefined): void;
}

/** A page of the service in a headless Chromium, with the bundle of `page.ts` in it. */
export class BrowserPage implements AsyncDisposable {
  readonly #browser: Browser;
  readonly #page: Page;
  readonly #subscriptions = new Map<number, Subscription>();
  #ids = 0;

  private constructor(browser: Browser, page: Page) {
    this.#browser = browser;
    this.#page = page;
  }

  /** Opens a page of the service at `url`. @param executablePath of the browser. */
  static async open(executablePath: string, url: string): Promise<BrowserPage> {
    const browser = await chromium.launch({
      executablePath,
      headless: true,
      // In a container there is neither a sandbox for it nor much shared memory.
      args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
    });
    try {
      // The reference allows no scripts; a user's own page does.
      const context = await browser.newContext({ bypassCSP: true });
      const page = await context.newPage();
      const opened = new BrowserPage(browser, page);
      await page.exposeFunction("driverTold", (id: number, told: Told) => opened.#subscriptions.get(id)?.told(told));
      await page.exposeFunction("driverEnded", (id: number, code: number | null, message: string) =>
        opened.#subscriptions.get(id)?.ended(code === null ? undefined : new SubscriptionFailure(code, message)),
      );
      await page.goto(`${url}/docs`);
      await page.addScriptTag({
        content: `globalThis.driver = {
          told: (id, told) => driverTold(id, told),
          ended: (id, code, message) => driverEnded(id, code ?? null, message),
        };`,
      });
      await page.addScriptTag({ content: await bundle() });
      return opened;
    } catch (error) {
      await browser.close();
      throw error;
    }
  }

  async *subscribe(kind: Kind, stream: string, request: object, signal: AbortSignal): AsyncGenerator<Told> {
    const id = ++this.#ids;
    const queue: Told[] = [];
    let end: { failure: SubscriptionFailure | undefined } | undefined;
    let wake = () => {};
    this.#subscriptions.set(id, {
      told: (told) => {
        queue.push(told);
        wake();
      },
      ended: (failure) => {
        end = { failure };
        wake();
      },
    });
    const stop = () => {
      wake();
      void this.#page.evaluate((id) => globalThis.stop(id), id);
    };
    signal.addEventListener("abort", stop, { once: true });
    try {
      await this.#page.evaluate(([id, kind, stream, request]) => globalThis.start(id, kind, stream, request), [
        id,
        kind,
        stream,
        request,
      ] as const);
      if (signal.aborted) stop();
      for (;;) {
        yield* queue.splice(0);
        if (end?.failure && !signal.aborted) throw end.failure;
        if (end) return;
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        if (queue.length === 0 && !end) await promise;
      }
    } finally {
      signal.removeEventListener("abort", stop);
      this.#subscriptions.delete(id);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#browser.close();
  }
}

/** Every way to read live in a browser. @param page is asked for at each subscription. */
export function subscribersIn(page: () => BrowserPage): readonly Subscriber[] {
  const by = (kind: Kind): Subscriber["subscribe"] => {
    return (_url, stream, request, signal) => page().subscribe(kind, stream, request, signal);
  };
  return [
    { name: "Connect-Web in Chromium", subscribe: by("connect") },
    { name: "gRPC-Web in Chromium", subscribe: by("grpcWeb") },
    { name: "EventSource in Chromium", seesRefusals: false, seesHeartbeats: false, subscribe: by("eventSource") },
  ];
}

async function bundle(): Promise<string> {
  const input = fileURLToPath(new URL("page.ts", import.meta.url));
  const bundled = await rolldown({ input, platform: "browser" });
  try {
    const { output } = await bundled.generate({ format: "iife" });
    return output[0].code;
  } finally {
    await bundled.close();
  }
}
