import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Each file starts servers of its own; more than two at once only slow each other down.
    maxWorkers: 2,
    pool: "forks",
  },
});
