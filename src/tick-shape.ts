import { executionAsyncResource } from "node:async_hooks";

/**
 * Holds one of the objects by which Node notes what `process.nextTick` is to run. V8 has a fast way to make them as long as
 * some object of their shape is alive: where a collection finds none, as happens while a process starts, it takes a slow one
 * from then on. A publish over HTTP needs six of them, and the slow way was 7 % of its CPU time (docs/adr/0002). Import it
 * first.
 */
export const keptTicks: object[] = [];

process.nextTick(() => keptTicks.push(executionAsyncResource()));
