import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { loadConfig } from "../src/config.ts";

describe("loadConfig", () => {
  test("needs no setting", () => {
    expect(loadConfig({})).toEqual({
      port: 8080,
      host: "127.0.0.1",
      natsUrl: undefined,
      dataDir: ".millrace",
      fsync: "1s",
      catalogReplicas: 1,
      ackWaitMs: 30_000,
      sessionTimeoutMs: 30_000,
      role: "all",
      processorThreads: Math.min(64, availableParallelism()),
      functionsDir: undefined,
      logLevel: "info",
      tls: undefined,
      maxConnections: 10_000,
      maxInFlightBytes: 256 * 1024 * 1024,
      corsOrigins: [],
      drainMs: 10_000,
    });
  });

  test("has traces made when OpenTelemetry's own variables name a collector", () => {
    const OTEL_EXPORTER_OTLP_ENDPOINT = "http://127.0.0.1:4318";
    expect(loadConfig({ OTEL_EXPORTER_OTLP_ENDPOINT }).tracing).toEqual({
      version: expect.any(String),
      protocol: "http/protobuf",
      sampler: "parentbased_always_on",
      ratio: 1,
      exportDelayMs: 5000,
    });
    const more = {
      OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://collector/v1/traces",
      OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "http/json",
      OTEL_TRACES_SAMPLER: "traceidratio",
      OTEL_TRACES_SAMPLER_ARG: "0.25",
      OTEL_BSP_SCHEDULE_DELAY: "100",
    };
    expect(loadConfig(more).tracing).toMatchObject({
      protocol: "http/json",
      sampler: "traceidratio",
      ratio: 0.25,
      exportDelayMs: 100,
    });
    for (const off of [{ OTEL_SDK_DISABLED: "TRUE" }, { OTEL_TRACES_EXPORTER: "none" }])
      expect(loadConfig({ OTEL_EXPORTER_OTLP_ENDPOINT, ...off }).tracing).toBeUndefined();
    for (const [name, value] of Object.entries({
      OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4317",
      OTEL_EXPORTER_OTLP_PROTOCOL: "grpc",
      OTEL_TRACES_SAMPLER: "some",
      OTEL_TRACES_SAMPLER_ARG: "2",
    }))
      expect(() => loadConfig({ OTEL_EXPORTER_OTLP_ENDPOINT, [name]: value })).toThrow(name);
  });

  test("reads every setting", () => {
    const config = loadConfig({
      PORT: "0",
      HOST: "::",
      MILLRACE_ALLOW_ANONYMOUS: "true",
      NATS_URL: "nats://user:pass@a:4222,b:4223",
      MILLRACE_DATA_DIR: "/var/lib/millrace",
      MILLRACE_FSYNC: "always",
      MILLRACE_CATALOG_REPLICAS: "3",
      MILLRACE_ACK_WAIT_MS: "100",
      MILLRACE_SESSION_TIMEOUT_MS: "200",
      MILLRACE_LOG_LEVEL: "silent",
      MILLRACE_TLS_CERT: "cert.pem",
      MILLRACE_TLS_KEY: "key.pem",
      MILLRACE_TLS_CLIENT_CA: "ca.pem",
      MILLRACE_DRAIN_MS: "0",
    });
    expect(config).toEqual({
      port: 0,
      host: "::",
      natsUrl: "nats://user:pass@a:4222,b:4223",
      dataDir: "/var/lib/millrace",
      fsync: "always",
      catalogReplicas: 3,
      ackWaitMs: 100,
      sessionTimeoutMs: 200,
      role: "all",
      processorThreads: Math.min(64, availableParallelism()),
      functionsDir: undefined,
      logLevel: "silent",
      tls: { certFile: "cert.pem", keyFile: "key.pem", clientCaFile: "ca.pem" },
      maxConnections: 10_000,
      maxInFlightBytes: 256 * 1024 * 1024,
      corsOrigins: [],
      drainMs: 0,
    });
  });

  test("reads quotas as JSON or from a file", () => {
    const text =
      '{"principals":{"*":{"in":{"requestsPerSecond":5},"max":{"streams":0}}},"streams":{"a-*":{"out":{"bytesPerSecond":10,"burstSeconds":2}}}}';
    const quotas = {
      principals: new Map([["*", { in: { requestsPerSecond: 5, burstSeconds: 1 }, max: { streams: 0 } }]]),
      streams: new Map([["a-*", { out: { bytesPerSecond: 10, burstSeconds: 2 } }]]),
    };
    expect(loadConfig({ MILLRACE_QUOTAS: text }).quotas).toEqual(quotas);
    const folder = mkdtempSync(join(tmpdir(), "millrace-config-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    writeFileSync(join(folder, "quotas.json"), text);
    expect(loadConfig({ MILLRACE_QUOTAS: join(folder, "quotas.json") }).quotas).toEqual(quotas);
  });

  test.each([
    ["{", "JSON"],
    ["/nowhere/quotas.json", "no such file"],
    ['{"users":{}}', '"users"'],
    ['{"principals":[]}', "principals is no JSON object"],
    ['{"principals":{"a":{"requests":1}}}', '"requests"'],
    ['{"principals":{"a":{"in":{"requestsPerSecond":0}}}}', "requestsPerSecond must be a number from 0.001"],
    ['{"principals":{"a":{"in":{"bytesPerSecond":"1"}}}}', "bytesPerSecond must be a number"],
    ['{"principals":{"a":{"max":{"streams":1.5}}}}', "streams must be a whole number from 0"],
    ['{"streams":{"a":{"max":{"streams":1}}}}', '"max"'],
  ])("MILLRACE_QUOTAS=%s is refused", (text, fault) => {
    expect(() => loadConfig({ MILLRACE_QUOTAS: text })).toThrow(`MILLRACE_QUOTAS: `);
    expect(() => loadConfig({ MILLRACE_QUOTAS: text })).toThrow(fault);
  });

  test.each(["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost"])(
    "listens on %s",
    (host) => {
      expect(loadConfig({ HOST: host }).host).toBe(host);
    },
  );

  test("an IPv6 address may stand in brackets", () => {
    expect(loadConfig({ HOST: "[::1]" }).host).toBe("::1");
  });

  test.each(["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "::ffff:10.0.0.1", "localhost.example.com", "127.1"])(
    "listens on %s only when told so",
    (host) => {
      expect(() => loadConfig({ HOST: host })).toThrow("MILLRACE_ALLOW_ANONYMOUS=true");
      expect(() => loadConfig({ HOST: host, MILLRACE_ALLOW_ANONYMOUS: "false" })).toThrow(`HOST "${host}"`);
      expect(loadConfig({ HOST: host, MILLRACE_ALLOW_ANONYMOUS: "true" }).host).toBe(host);
      expect(loadConfig({ HOST: host, MILLRACE_ADMIN_KEY: "k".repeat(32) }).host).toBe(host);
    },
  );

  test("is frozen", () => {
    expect(Object.isFrozen(loadConfig({}))).toBe(true);
  });

  test("takes empty and blank settings for missing ones", () => {
    expect(loadConfig({ PORT: "", HOST: " ", NATS_URL: "  ", MILLRACE_FSYNC: "" })).toEqual(loadConfig({}));
  });

  test.each([
    ["PORT", "0"],
    ["PORT", "65535"],
    ["PORT", " 8080 "],
    ["MILLRACE_FSYNC", "250ms"],
    ["MILLRACE_FSYNC", "2m"],
    ["MILLRACE_ACK_WAIT_MS", "86400000"],
    ["MILLRACE_SESSION_TIMEOUT_MS", "3600000"],
  ])("takes %s=%j", (name, value) => {
    expect(() => loadConfig({ [name]: value })).not.toThrow();
  });

  test.each([
    ["PORT", "-1"],
    ["PORT", "65536"],
    ["PORT", "80.5"],
    ["PORT", "http"],
    ["PORT", "Infinity"],
    ["PORT", "NaN"],
    ["NATS_URL", "nats://a:notaport"],
    ["NATS_URL", "nats://a,http://[::"],
    ["MILLRACE_FSYNC", "2"],
    ["MILLRACE_FSYNC", "never"],
    ["MILLRACE_FSYNC", "0s"],
    ["MILLRACE_CATALOG_REPLICAS", "0"],
    ["MILLRACE_CATALOG_REPLICAS", "6"],
    ["MILLRACE_ACK_WAIT_MS", "99"],
    ["MILLRACE_SESSION_TIMEOUT_MS", "3600001"],
    ["MILLRACE_LOG_LEVEL", "loud"],
    ["MILLRACE_ALLOW_ANONYMOUS", "yes"],
    ["MILLRACE_DRAIN_MS", "600001"],
  ])("refuses %s=%j and names it", (name, value) => {
    expect(() => loadConfig({ [name]: value })).toThrow(name);
  });

  test.each([[{ MILLRACE_TLS_CERT: "cert.pem" }], [{ MILLRACE_TLS_KEY: "key.pem" }]])(
    "refuses half of a TLS pair, %j",
    (env) => {
      expect(() => loadConfig(env)).toThrow("go together");
    },
  );

  test("names every setting that is wrong at once", () => {
    const env = { PORT: "x", MILLRACE_LOG_LEVEL: "loud", MILLRACE_DRAIN_MS: "-1", MILLRACE_FSYNC: "2" };
    const load = () => loadConfig(env);
    for (const name of Object.keys(env)) expect(load).toThrow(name);
  });
});
