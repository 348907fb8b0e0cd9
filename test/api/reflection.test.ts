import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { describe, expect, test } from "vitest";
import { ServerReflection, type ServerReflectionRequest } from "../../gen/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as ServerReflectionV1Alpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.js";
import { useService } from "../support/service.ts";

const service = useService();

describe.each([
  ["v1", ServerReflection],
  ["v1alpha", ServerReflectionV1Alpha],
])("reflection %s", (_version, desc) => {
  async function ask(...requests: ServerReflectionRequest["messageRequest"][]) {
    const client = createClient(desc as typeof ServerReflection, createGrpcTransport({ baseUrl: service.url }));
    async function* source() {
      for (const messageRequest of requests) yield { host: "here", messageRequest };
    }
    return Array.fromAsync(client.serverReflectionInfo(source()), ({ messageResponse }) => messageResponse);
  }
  async function filesOf(request: ServerReflectionRequest["messageRequest"]): Promise<string[]> {
    const [answer] = await ask(request);
    if (answer?.case !== "fileDescriptorResponse") throw new Error(JSON.stringify(answer));
    return answer.value.fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes).name);
  }

  test("lists every service", async () => {
    const [answer] = await ask({ case: "listServices", value: "" });
    if (answer?.case !== "listServicesResponse") throw new Error(JSON.stringify(answer));
    const names = answer.value.service.map(({ name }) => name);
    expect(names).toEqual(
      expect.arrayContaining([
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "millrace.v1.ConsumerGroupService",
        "millrace.v1.EventService",
        "millrace.v1.StreamService",
      ]),
    );
  });

  test.each([
    "millrace.v1.EventService",
    "millrace.v1.EventService.Poll",
    "millrace.v1.PollRequest",
    "millrace.v1.PollRequest.limit",
    "millrace.v1.PayloadFormat",
    "millrace.v1.PAYLOAD_FORMAT_DATA",
  ])("gives the file of %s with all it imports", async (symbol) => {
    const files = await filesOf({ case: "fileContainingSymbol", value: symbol });
    expect(files[0]).toBe("millrace/v1/events.proto");
    expect(files).toEqual(
      expect.arrayContaining([
        "google/api/annotations.proto",
        "buf/validate/validate.proto",
        "millrace/v1/streams.proto",
      ]),
    );
  });

  test("gives files by name and by extension", async () => {
    expect((await filesOf({ case: "fileByFilename", value: "google/rpc/error_details.proto" }))[0]).toBe(
      "google/rpc/error_details.proto",
    );
    const extension = { containingType: "google.protobuf.MethodOptions", extensionNumber: 72295728 } as never;
    expect((await filesOf({ case: "fileContainingExtension", value: extension }))[0]).toBe(
      "google/api/annotations.proto",
    );
    const [numbers] = await ask({ case: "allExtensionNumbersOfType", value: "google.protobuf.MethodOptions" });
    expect(numbers?.value).toMatchObject({ extensionNumber: [72295728] });
  });

  test("answers what is not there with NOT_FOUND and goes on", async () => {
    const answers = await ask(
      { case: "fileContainingSymbol", value: "millrace.v1.Nothing" },
      { case: "fileByFilename", value: "nothing.proto" },
      { case: undefined },
      { case: "listServices", value: "" },
    );
    expect(answers.map((answer) => (answer.case === "errorResponse" ? answer.value.errorCode : answer.case))).toEqual([
      Code.NotFound,
      Code.NotFound,
      Code.InvalidArgument,
      "listServicesResponse",
    ]);
  });
});
