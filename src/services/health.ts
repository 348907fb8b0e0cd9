import { setTimeout as wait } from "node:timers/promises";
import type { DescService } from "@bufbuild/protobuf";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { type Health, HealthCheckResponse_ServingStatus as ServingStatus } from "../../gen/grpc/health/v1/health_pb.js";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { ReadinessProbe } from "./readiness.ts";

/** How often a watch looks. */
const WATCH_MS = 1000;

/**
 * gRPC's health protocol: every service serves as long as the gateway is ready; "" stands for the gateway.
 *
 * @param draining ends watches, after it was said that nothing serves any more.
 */
export function healthService(
  probe: ReadinessProbe,
  services: readonly DescService[],
  draining: AbortSignal,
): ServiceImpl<typeof Health> {
  const names = new Set(["", ...services.map(({ typeName }) => typeName)]);
  const statusNow = async () =>
    (await probe.check()).status === "unavailable" ? ServingStatus.NOT_SERVING : ServingStatus.SERVING;
  return {
    async check({ service }) {
      if (!names.has(service)) throw new ConnectError(`there is no service "${service.slice(0, 200)}"`, Code.NotFound);
      return { status: await statusNow() };
    },
    async list() {
      const status = await statusNow();
      return { statuses: Object.fromEntries([...names].map((name) => [name, { status }])) };
    },
    async *watch({ service }, context) {
      const signal = AbortSignal.any([context.signal, draining]);
      let told: ServingStatus | undefined;
      for (;;) {
        const status = names.has(service) ? await statusNow() : ServingStatus.SERVICE_UNKNOWN;
        if (status !== told) yield { status };
        told = status;
        if (draining.aborted) throw new ServiceError(ErrorCode.UNAVAILABLE, "the server is shutting down");
        if (context.signal.aborted) return;
        await wait(WATCH_MS, undefined, { signal }).catch(() => {});
      }
    },
  };
}
