import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ConsumerGroupService } from "../../gen/millrace/v1/consumers_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { FunctionService } from "../../gen/millrace/v1/functions_pb.js";
import { KeyService } from "../../gen/millrace/v1/keys_pb.js";
import { ProcessorService } from "../../gen/millrace/v1/processors_pb.js";
import { StreamService } from "../../gen/millrace/v1/streams_pb.js";
import { TableService } from "../../gen/millrace/v1/tables_pb.js";
import { usage } from "./failure.ts";

/** The service's API. */
export interface Api {
  readonly streams: Client<typeof StreamService>;
  readonly events: Client<typeof EventService>;
  readonly groups: Client<typeof ConsumerGroupService>;
  readonly keys: Client<typeof KeyService>;
  readonly processors: Client<typeof ProcessorService>;
  readonly functions: Client<typeof FunctionService>;
  readonly tables: Client<typeof TableService>;
}

/**
 * Clients of a running service. Nothing is connected before the first call.
 *
 * @param apiKey sent with each call as a bearer token; one that is empty, as of a variable set to nothing, is none.
 * @throws CliError when the URL is none, or the key can't be one.
 */
export function connectApi(url: string, apiKey: string | undefined): Api {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    throw usage(`"${url}" is no URL such as http://127.0.0.1:8080`);
  const key = apiKey?.trim() || undefined;
  // It is not shown: what does not look like a key may be one that was pasted badly.
  if (key !== undefined && !/^[\x21-\x7e]+$/.test(key))
    throw usage("the API key holds a space or another character that no key has");
  const authorize: Interceptor = (next) => (request) => {
    if (key !== undefined) request.header.set("Authorization", `Bearer ${key}`);
    return next(request);
  };
  const transport = createConnectTransport({
    baseUrl: url.replace(/\/+$/, ""),
    // Passes any proxy, and none of the calls used here needs more.
    httpVersion: "1.1",
    useBinaryFormat: true,
    interceptors: [authorize],
  });
  return {
    streams: createClient(StreamService, transport),
    events: createClient(EventService, transport),
    groups: createClient(ConsumerGroupService, transport),
    keys: createClient(KeyService, transport),
    processors: createClient(ProcessorService, transport),
    functions: createClient(FunctionService, transport),
    tables: createClient(TableService, transport),
  };
}
