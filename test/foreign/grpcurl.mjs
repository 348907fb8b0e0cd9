// grpcurl with the files of proto/, when it is here or can be built.

import { run } from "./command.mjs";
import { ensureGoTool } from "./go-tool.mjs";
import { check, equal } from "./report.mjs";

/** @returns the file of grpcurl; undefined when it can't be had. */
export const ensureGrpcurl = (cache) =>
  ensureGoTool(cache, "grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.4");

/** @param grpcurl the program. */
export async function checkGrpcurl(grpcurl, { root, service }) {
  const names = [
    "millrace/v1/streams",
    "millrace/v1/events",
    "millrace/v1/consumers",
    "millrace/v1/processors",
    "millrace/v1/functions",
    "millrace/v1/tables",
    "google/rpc/error_details",
  ];
  const files = names.flatMap((file) => ["-proto", `${file}.proto`]);
  const paths = ["-import-path", "proto", "-import-path", "proto/vendor", ...files];
  const call = (method, ...messages) => {
    const data = messages.map((message) => JSON.stringify(message)).join("\n");
    const args = ["-plaintext", "-max-time", "20", ...paths, "-d", "@", service.host, `millrace.v1.${method}`];
    return run(grpcurl, args, { cwd: root, input: data });
  };
  const answers = async (method, ...messages) => {
    const { code, stdout, stderr } = await call(method, ...messages);
    if (code !== 0) throw new Error(`${method} ended with ${code}: ${stderr}`);
    return stdout
      .split(/^(?=\{)/m)
      .filter(Boolean)
      .map((text) => JSON.parse(text));
  };
  const name = "grpcurl";

  await check("grpcurl: CreateStream, ListStreams, GetStream, UpdateStream", async () => {
    const [made] = await answers("StreamService/CreateStream", { name, partitions: 2 });
    equal([made.stream.name, made.stream.partitionDetails.length], [name, 2], "the stream");
    const [list] = await answers("StreamService/ListStreams", { prefix: name });
    equal(
      list.streams.map((stream) => stream.name),
      [name],
      "the list",
    );
    const [got] = await answers("StreamService/GetStream", { stream_name: name });
    equal(got.stream.partitions, 2, "partitions");
    const [updated] = await answers("StreamService/UpdateStream", { stream_name: name, partitions: 3 });
    equal(updated.stream.partitions, 3, "partitions");
  });
  await check("grpcurl: Publish, PublishBatch, PublishStream", async () => {
    const event = (value) => ({ value, partition: 1 });
    const [ack] = await answers("EventService/Publish", { stream_name: name, event: event({ a: 1 }) });
    equal([ack.partition, ack.status], [1, "PUBLISH_STATUS_PUBLISHED"], "the answer");
    const [batch] = await answers("EventService/PublishBatch", { stream_name: name, events: [event(1), {}, event(2)] });
    equal([batch.successCount, batch.failureCount], [2, 1], "counts");
    const acks = await answers(
      "EventService/PublishStream",
      { stream_name: name, event: event(3) },
      { event: event(4) },
      { event: event(5) },
    );
    equal(
      acks.map(({ result }) => result.offset),
      ["3", "4", "5"],
      "offsets",
    );
  });
  await check("grpcurl: Poll, Commit, ReadPartition", async () => {
    const [polled] = await answers("EventService/Poll", { stream_name: name, consumer_group: "g" });
    equal(
      polled.events.map((event) => event.value),
      [{ a: 1 }, 1, 2, 3, 4, 5],
      "values",
    );
    const offsets = [{ stream: name, partition: 1, offset: 5 }];
    const [done] = await answers("ConsumerGroupService/Commit", { consumer_group: "g", offsets });
    equal(done.status, "COMMIT_STATUS_COMMITTED", "status");
    const [read] = await answers("EventService/ReadPartition", { stream_name: name, partition: 1, offset: "4" });
    equal(
      read.events.map((event) => event.value),
      [4, 5],
      "values",
    );
  });
  await check("grpcurl: CreateProcessor, GetProcessorMetrics, PauseProcessor, DeleteProcessor, PutRow", async () => {
    const operations = [{ type: "OPERATION_TYPE_FILTER", predicate: "true" }];
    const request = { name, source: name, sink: `${name}-out`, operations };
    const [{ processor }] = await answers("ProcessorService/CreateProcessor", request);
    equal(processor.status, "PROCESSOR_STATUS_RUNNING", "status");
    const id = { processor_id: processor.processorId };
    const [told] = await answers("ProcessorService/GetProcessorMetrics", id);
    equal([told.processorId, told.partitions.length], [processor.processorId, 3], "processorId and partitions");
    const operation = { operations, events: [{ value: 1 }] };
    const [tried] = await answers("ProcessorService/DryRun", operation);
    equal(tried.events[0].steps[0].outcome, "STEP_OUTCOME_PASSED", "outcome");
    const [put] = await answers("FunctionService/PutFunction", { name, cel: { expression: "value" } });
    equal(put.function.origin, "FUNCTION_ORIGIN_INSTALLED", "origin");
    const [paused] = await answers("ProcessorService/PauseProcessor", id);
    equal(paused.processor.status, "PROCESSOR_STATUS_PAUSED", "status");
    const [gone] = await answers("ProcessorService/DeleteProcessor", id);
    equal(gone.status, "DELETE_PROCESSOR_STATUS_DELETED", "status");
    const [{ row }] = await answers("TableService/PutRow", { table: name, key: "k", value: [1] });
    equal([row.key, row.value], ["k", [1]], "the row");
  });
  await check("grpcurl: DeleteStream, and an error with its ErrorInfo", async () => {
    const [gone] = await answers("StreamService/DeleteStream", { stream_name: name });
    equal(gone.status, "DELETE_STATUS_DELETED", "status");
    const { code, stderr } = await call("StreamService/GetStream", { stream_name: name });
    equal(code, 64 + 5, "exit code"); // grpcurl's own: 64 and the status, NOT_FOUND
    for (const part of ["Code: NotFound", "google.rpc.ErrorInfo", "STREAM_NOT_FOUND", "1001"])
      if (!stderr.includes(part)) throw new Error(`${part} is missing: ${stderr}`);
  });
}
