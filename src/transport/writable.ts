import type { ServerResponse } from "node:http";

/** Settles when `res` takes more, or never will. */
export function writable(res: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const over = () => {
      res.off("drain", over);
      res.off("close", over);
      resolve();
    };
    res.on("drain", over);
    res.on("close", over);
    if (res.destroyed || res.closed) over();
  });
}
