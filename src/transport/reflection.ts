/**
 * gRPC server reflection, v1 and v1alpha: the proto files of the services on this port, so that tools such as grpcurl
 * and `buf curl` need none.
 */
import {
  createRegistry,
  type DescExtension,
  type DescFile,
  type DescService,
  type Registry,
  toBinary,
} from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { file_google_rpc_error_details } from "../../gen/google/rpc/error_details_pb.js";
import {
  ServerReflection as ReflectionV1,
  type ServerReflectionRequest,
} from "../../gen/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as ReflectionV1Alpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.js";
import { type Mounted, mount } from "./in-process.ts";

/** @param services all that shall be listed; the reflection services list themselves. */
export function reflectionServices(services: readonly DescService[]): Mounted[] {
  const answer = reflector([...services, ReflectionV1, ReflectionV1Alpha]);
  async function* serverReflectionInfo(
    requests: AsyncIterable<Pick<ServerReflectionRequest, "host" | "messageRequest">>,
  ) {
    for await (const request of requests)
      yield {
        validHost: request.host,
        originalRequest: { host: request.host, messageRequest: request.messageRequest },
        messageResponse: answer(request.messageRequest),
      };
  }
  // The two versions differ in their package only.
  return [
    mount(ReflectionV1, { serverReflectionInfo } as never),
    mount(ReflectionV1Alpha, { serverReflectionInfo } as never),
  ];
}

type Request = ServerReflectionRequest["messageRequest"];

function reflector(services: readonly DescService[]): (request: Request) => object {
  const files = new Map<string, DescFile>();
  const collect = (file: DescFile): void => {
    const name = `${file.name}.proto`;
    if (files.has(name)) return;
    files.set(name, file);
    for (const each of file.dependencies) collect(each);
  };
  for (const { file } of services) collect(file);
  // The details of errors, which no message names.
  collect(file_google_rpc_error_details);
  const registry = createRegistry(...files.values());
  const extensions = [...registry].filter((each): each is DescExtension => each.kind === "extension");

  /** A file and all it imports, importers first, as tools expect it. */
  const withImports = (file: DescFile): object => {
    const found = new Map<string, Uint8Array>();
    const add = (each: DescFile): void => {
      if (found.has(each.name)) return;
      found.set(each.name, toBinary(FileDescriptorProtoSchema, each.proto));
      for (const imported of each.dependencies) add(imported);
    };
    add(file);
    return { case: "fileDescriptorResponse", value: { fileDescriptorProto: [...found.values()] } };
  };
  const orNotFound = (file: DescFile | undefined, what: string): object =>
    file ? withImports(file) : failure(Code.NotFound, `there is no ${what}`);

  return (request) => {
    switch (request.case) {
      case "listServices": {
        const names = services.map(({ typeName }) => ({ name: typeName })).sort((a, b) => (a.name < b.name ? -1 : 1));
        return { case: "listServicesResponse", value: { service: names } };
      }
      case "fileByFilename":
        return orNotFound(files.get(request.value), `file "${request.value}"`);
      case "fileContainingSymbol":
        return orNotFound(fileOf(registry, request.value), `symbol "${request.value}"`);
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = request.value;
        const found = extensions.find(
          ({ extendee, number }) => extendee.typeName === containingType && number === extensionNumber,
        );
        return orNotFound(found?.file, `extension ${extensionNumber} of "${containingType}"`);
      }
      case "allExtensionNumbersOfType": {
        if (!registry.getMessage(request.value))
          return failure(Code.NotFound, `there is no message "${request.value}"`);
        const extensionNumber = extensions
          .filter(({ extendee }) => extendee.typeName === request.value)
          .map(({ number }) => number);
        return { case: "allExtensionNumbersResponse", value: { baseTypeName: request.value, extensionNumber } };
      }
      default:
        return failure(Code.InvalidArgument, "the request asks for nothing");
    }
  };
}

/** The file of a type, an extension, or a member of one: a method, a field, an enum's value. */
function fileOf(registry: Registry, symbol: string): DescFile | undefined {
  const name = symbol.replace(/^\./, "");
  const type = registry.get(name);
  if (type) return type.file;
  const dot = name.lastIndexOf(".");
  if (dot < 0) return undefined;
  const owner = registry.get(name.slice(0, dot));
  const member = name.slice(dot + 1);
  switch (owner?.kind) {
    case "service":
      return owner.methods.some((each) => each.name === member) ? owner.file : undefined;
    case "message":
      return [...owner.fields, ...owner.oneofs].some((each) => each.name === member) ? owner.file : undefined;
    case "enum":
      return owner.values.some((each) => each.name === member) ? owner.file : undefined;
    default:
      break;
  }
  // The values of an enum stand beside it, in the scope that holds it.
  for (const type of registry)
    if (
      type.kind === "enum" &&
      type.values.some((each) => each.name === member) &&
      scopeOf(type.typeName) === name.slice(0, dot)
    )
      return type.file;
  return undefined;
}

const scopeOf = (typeName: string): string => typeName.slice(0, Math.max(0, typeName.lastIndexOf(".")));

const failure = (errorCode: Code, errorMessage: string): object => ({
  case: "errorResponse",
  value: { errorCode, errorMessage },
});
