"""A native gRPC client against a running service: python client.py HOST:PORT, with the generated code on PYTHONPATH.

Prints one line per check, "PASS<tab>name" or "FAIL<tab>name<tab>reason"; exit code 1 when one failed. Everything here is
grpcio's own: generated stubs, google.rpc details by grpcio-status. scripts/foreign.mjs prepares and runs it.
"""

import asyncio
import contextlib
import json
import queue
import secrets
import sys
import threading
import time
import traceback

import grpc
from google.protobuf import json_format, struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace.v1 import consumers_pb2, consumers_pb2_grpc, errors_pb2, events_pb2, events_pb2_grpc
from millrace.v1 import processors_pb2, processors_pb2_grpc, streams_pb2, streams_pb2_grpc
from millrace.v1 import functions_pb2, functions_pb2_grpc, tables_pb2, tables_pb2_grpc

MIB = 1024 * 1024
MAX_REQUEST_BYTES = 32 * MIB
# No call may hang: a check that names no deadline has this one, in seconds.
TIMEOUT = 20
OPTIONS = [("grpc.max_receive_message_length", 64 * MIB), ("grpc.max_send_message_length", -1)]

TARGET = sys.argv[1] if len(sys.argv) > 1 else sys.exit("usage: client.py HOST:PORT")
RUN = secrets.token_hex(4)
SUCCEEDED = set()
CHECKS = []


class Recorder(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Gives calls without a deadline one, and keeps which methods have answered OK."""

    def _call(self, continuation, details, request):
        if details.timeout is None:
            details = details._replace(timeout=TIMEOUT)
        call = continuation(details, request)
        call.add_done_callback(lambda done: done.code() is grpc.StatusCode.OK and SUCCEEDED.add(details.method))
        return call

    intercept_unary_unary = _call
    intercept_stream_stream = _call


@contextlib.contextmanager
def connect(**kwargs):
    with grpc.insecure_channel(TARGET, options=OPTIONS, **kwargs) as channel:
        yield Client(grpc.intercept_channel(channel, Recorder()))


class Client:
    def __init__(self, channel):
        self.channel = channel
        self.streams = streams_pb2_grpc.StreamServiceStub(channel)
        self.events = events_pb2_grpc.EventServiceStub(channel)
        self.groups = consumers_pb2_grpc.ConsumerGroupServiceStub(channel)
        self.processors = processors_pb2_grpc.ProcessorServiceStub(channel)
        self.functions = functions_pb2_grpc.FunctionServiceStub(channel)
        self.tables = tables_pb2_grpc.TableServiceStub(channel)

    def create(self, label, partitions=1, **config):
        name = f"py-{RUN}-{label}"
        request = streams_pb2.CreateStreamRequest(name=name, partitions=partitions)
        if config:
            request.config.CopyFrom(streams_pb2.StreamConfig(**config))
        self.streams.CreateStream(request)
        return name

    def publish(self, stream, **kwargs):
        return self.events.Publish(events_pb2.PublishRequest(stream_name=stream, event=event(**kwargs)))

    def poll(self, stream, group, timeout=0, **kwargs):
        request = events_pb2.PollRequest(stream_name=stream, consumer_group=group, timeout=timeout, **kwargs)
        return self.events.Poll(request)

    def read(self, stream, partition=0, **kwargs):
        request = events_pb2.ReadPartitionRequest(stream_name=stream, partition=partition, **kwargs)
        return self.events.ReadPartition(request)

    def commit(self, group, *places):
        offsets = [consumers_pb2.PartitionOffset(stream=s, partition=p, offset=o) for s, p, o in places]
        return self.groups.Commit(consumers_pb2.CommitRequest(consumer_group=group, offsets=offsets))


def check(name):
    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def event(**kwargs):
    """A PublishEvent; `json` is any JSON value."""
    if "json" in kwargs:
        kwargs["value"] = value_of(kwargs.pop("json"))
    return events_pb2.PublishEvent(**kwargs)


def value_of(python):
    return json_format.ParseDict(python, struct_pb2.Value())


def equal(got, wanted, what="value"):
    assert got == wanted, f"{what} is {got!r}, not {wanted!r}"


@contextlib.contextmanager
def status_of(status):
    """Expects a gRPC status, whatever its details."""
    try:
        yield
    except grpc.RpcError as error:
        equal(error.code(), status, f"the status of “{error.details()}”")
    else:
        raise AssertionError(f"the call succeeded, {status.name} was expected")


@contextlib.contextmanager
def refused(status, code):
    """Expects a gRPC status whose details hold an ErrorInfo of this ErrorCode; gives a dict that is filled at the end."""
    seen = {}
    try:
        yield seen
    except grpc.RpcError as error:
        check_refusal(error, status, code, seen)
    else:
        raise AssertionError(f"the call succeeded, {status.name} was expected")


def check_refusal(error, status, code, seen):
    equal(error.code(), status, f"the status of “{error.details()}”")
    trailers = [key for key, _ in error.trailing_metadata() or ()]
    assert "grpc-status-details-bin" in trailers, f"no grpc-status-details-bin among the trailers {trailers}"
    rich = rpc_status.from_call(error)  # also compares code and message with those of the trailers
    seen["message"] = rich.message
    for detail in rich.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.PreconditionFailure):
            if detail.Is(kind.DESCRIPTOR):
                seen[kind.DESCRIPTOR.name] = message = kind()
                detail.Unpack(message)
    info = seen["ErrorInfo"]
    reason = errors_pb2.ErrorCode.Name(code).removeprefix("ERROR_CODE_")
    equal(info.reason, reason, "reason")
    equal(info.domain, "millrace", "domain")
    equal(info.metadata["code"], str(code), "metadata code")
    rule = errors_pb2.ErrorCode.DESCRIPTOR.values_by_number[code].GetOptions().Extensions[errors_pb2.rule]
    # A message over the limit is SERIALIZATION_ERROR under Connect's own status; all others have the schema's.
    if status is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        equal(rule.status, status.value[0], "the schema's status")


def kafka_partition(key, partitions):
    """Kafka's default partitioner, written down from its definition: murmur2 of the key, made positive."""
    data = key.encode()
    m, h = 0x5BD1E995, 0x9747B28C ^ len(data)
    full = len(data) - len(data) % 4
    for at in range(0, full, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & 0xFFFFFFFF
        k = (k ^ k >> 24) * m & 0xFFFFFFFF
        h = (h * m & 0xFFFFFFFF) ^ k
    if full < len(data):
        h = (h ^ int.from_bytes(data[full:], "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


# Streams


@check("CreateStream answers the stream; the same again is the same; other settings are ALREADY_EXISTS")
def _(client):
    name = f"py-{RUN}-created"
    config = streams_pb2.StreamConfig(retention_ms=3_600_000, compression_type=streams_pb2.COMPRESSION_TYPE_GZIP)
    request = streams_pb2.CreateStreamRequest(name=name, partitions=3, replication_factor=1, config=config)
    stream = client.streams.CreateStream(request).stream
    equal((stream.name, stream.partitions, stream.replication_factor), (name, 3, 1))
    equal(stream.config.retention_ms, 3_600_000, "retention_ms")
    equal(stream.config.compression_type, streams_pb2.COMPRESSION_TYPE_GZIP, "compression_type")
    equal(stream.config.max_message_bytes, MIB, "max_message_bytes")
    equal([detail.partition for detail in stream.partition_details], [0, 1, 2], "partitions")
    equal([(d.start_offset, d.end_offset) for d in stream.partition_details], [(0, 0)] * 3, "offsets")
    assert all(detail.leader in detail.replicas for detail in stream.partition_details), "leader is no replica"
    assert abs(stream.created_at.seconds - time.time()) < 60, "created_at is not now"
    equal(client.streams.CreateStream(request).stream, stream, "the second answer")
    with refused(grpc.StatusCode.ALREADY_EXISTS, errors_pb2.ERROR_CODE_ALREADY_EXISTS):
        client.streams.CreateStream(streams_pb2.CreateStreamRequest(name=name, partitions=4))


@check("GetStream counts events; an unknown stream is NOT_FOUND")
def _(client):
    name = client.create("got", partitions=2)
    for _ in range(3):
        client.publish(name, json=1, partition=1)
    stream = client.streams.GetStream(streams_pb2.GetStreamRequest(stream_name=name)).stream
    equal(stream.total_messages, 3, "total_messages")
    assert stream.total_size > 0, "total_size is 0"
    equal([d.end_offset for d in stream.partition_details], [0, 3], "end offsets")
    with refused(grpc.StatusCode.NOT_FOUND, errors_pb2.ERROR_CODE_STREAM_NOT_FOUND) as seen:
        client.streams.GetStream(streams_pb2.GetStreamRequest(stream_name="nowhere"))
    assert "nowhere" in seen["message"], f"the message does not name the stream: {seen['message']}"


@check("ListStreams goes through its pages in order")
def _(client):
    names = [client.create(f"page-{letter}") for letter in "cab"]
    listed, token = [], None
    for _ in range(len(names) + 1):
        request = streams_pb2.ListStreamsRequest(prefix=f"py-{RUN}-page-", page_size=1, page_token=token)
        page = client.streams.ListStreams(request)
        listed += [stream.name for stream in page.streams]
        assert len(page.streams) <= 1, "a page is larger than page_size"
        if not page.HasField("next_page_token"):
            break
        token = page.next_page_token
    equal(listed, sorted(names), "the names")


@check("UpdateStream changes what it names, adds partitions and takes none away")
def _(client):
    name = client.create("updated", partitions=2, max_message_bytes=1000)
    update = streams_pb2.UpdateStreamRequest(
        stream_name=name, partitions=3, config=streams_pb2.StreamConfig(retention_ms=3_600_000)
    )
    stream = client.streams.UpdateStream(update).stream
    equal((stream.partitions, len(stream.partition_details)), (3, 3))
    equal((stream.config.retention_ms, stream.config.max_message_bytes), (3_600_000, 1000))
    equal(client.publish(name, json=1, partition=2).offset, 0, "offset in the new partition")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_INVALID_ARGUMENT):
        client.streams.UpdateStream(streams_pb2.UpdateStreamRequest(stream_name=name, partitions=1))


@check("DeleteStream removes the stream and its groups")
def _(client):
    name = client.create("deleted")
    client.publish(name, json=1)
    equal(len(client.poll(name, "g").events), 1, "events")
    gone = client.streams.DeleteStream(streams_pb2.DeleteStreamRequest(stream_name=name))
    equal((gone.status, gone.stream_name), (streams_pb2.DELETE_STATUS_DELETED, name))
    assert abs(gone.deleted_at.seconds - time.time()) < 60, "deleted_at is not now"
    for call in (
        lambda: client.streams.DeleteStream(streams_pb2.DeleteStreamRequest(stream_name=name)),
        lambda: client.publish(name, json=1),
        lambda: client.poll(name, "g"),
        lambda: client.read(name),
        lambda: client.commit("g", (name, 0, 0)),
    ):
        with refused(grpc.StatusCode.NOT_FOUND, errors_pb2.ERROR_CODE_STREAM_NOT_FOUND):
            call()


# Publishing


@check("Publish stores a value of every JSON kind and gives it back")
def _(client):
    name = client.create("values")
    values = [None, True, -1.5, "ünï\u0000\U0001f30a", [], {}, {"a": [1, {"b": None}], "": ""}, 2**53, 1e300]
    for at, value in enumerate(values):
        ack = client.publish(name, json=value, key="k", headers={"n": str(at), "grüße": "ß"})
        equal((ack.partition, ack.offset, ack.status), (0, at, events_pb2.PUBLISH_STATUS_PUBLISHED))
        assert ack.event_id.startswith("evt_"), f"event_id is {ack.event_id}"
        assert abs(ack.timestamp.seconds - time.time()) < 60, "timestamp is not now"
        assert not ack.duplicate
    stored = client.read(name).events
    equal([json_format.MessageToDict(one.value) for one in stored], values, "values")
    equal([one.headers["n"] for one in stored], [str(at) for at in range(len(values))], "headers")
    equal({(one.key, one.headers["grüße"]) for one in stored}, {("k", "ß")}, "keys and headers")


@check("Publish stores data byte for byte, and JSON data is a value to readers")
def _(client):
    name = client.create("data")
    data = bytes(range(256)) * 8
    text = b'{"n": 12345678901234567890, "n": 1.10}'
    client.publish(name, data=data)
    client.publish(name, data=data, content_type="image/png")
    client.publish(name, data=text, content_type="application/json")
    client.publish(name, data=b"")
    plain, png, as_value, empty = client.read(name).events
    equal((plain.data, png.data, png.content_type), (data, data, "image/png"))
    equal(json_format.MessageToDict(as_value.value), {"n": 1.1}, "JSON data as value")
    equal((empty.WhichOneof("payload"), empty.data), ("data", b""), "empty data")
    as_data = client.read(name, offset="2", limit=1, payload=events_pb2.PAYLOAD_FORMAT_DATA).events[0]
    equal((json.loads(as_data.data), as_data.content_type), (json.loads(text), "application/json"))
    assert b"12345678901234567890" in as_data.data, "digits are lost"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_SERIALIZATION_ERROR):
        client.publish(name, data=b"{", content_type="application/json")


@check("Publish puts keys where Kafka's partitioner does")
def _(client):
    name = client.create("keys", partitions=7)
    for key in ("", "a", "ab", "abc", "user-123", "schlüssel", "0123456789" * 10):
        equal(client.publish(name, json=0, key=key).partition, kafka_partition(key, 7), f"partition of {key!r}")
        equal(client.publish(name, json=0, key="x", partition_key=key).partition, kafka_partition(key, 7))
    equal(client.publish(name, json=0, key="a", partition=6).partition, 6, "explicit partition")


@check("Publish of an event id again stores nothing")
def _(client):
    name = client.create("ids", partitions=4)
    first, second = (client.publish(name, json=n, event_id="order-1") for n in range(2))
    equal((second.event_id, second.partition, second.offset), ("order-1", first.partition, first.offset))
    equal((first.duplicate, second.duplicate), (False, True), "duplicate")
    equal(len(client.read(name, first.partition).events), 1, "events")


@check("Publish with expected_offset: FAILED_PRECONDITION tells the end offset")
def _(client):
    name = client.create("expected")
    equal(client.publish(name, json=0, expected_offset=0).offset, 0)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, errors_pb2.ERROR_CODE_PRECONDITION_FAILED) as seen:
        client.publish(name, json=1, expected_offset=0)
    equal(seen["ErrorInfo"].metadata["endOffset"], "1", "metadata endOffset")
    assert seen["PreconditionFailure"].violations, "no PreconditionFailure violations"


@check("bad fields are INVALID_ARGUMENT with a BadRequest that names each")
def _(client):
    name = client.create("bad")
    for call, field in (
        (lambda: client.publish(name), "payload"),
        (lambda: client.publish(name, json=1, key="k" * 1025), "key"),
        (lambda: client.publish(name, json=1, partition=5), "partition"),
        (lambda: client.publish("no/name", json=1), "stream_name"),
        (lambda: client.poll(name, ""), "consumer_group"),
        (lambda: client.poll(name, "g", limit=0), "limit"),
        (lambda: client.poll(name, "g", filter="key =="), "filter"),
        (lambda: client.commit("g"), "offsets"),
        (lambda: client.streams.CreateStream(streams_pb2.CreateStreamRequest(name="ok", partitions=1001)), "partitions"),
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_INVALID_ARGUMENT) as seen:
            call()
        fields = [violation.field for violation in seen["BadRequest"].field_violations]
        camel = "".join(part.title() if at else part for at, part in enumerate(field.split("_")))
        assert any(field in one or camel in one for one in fields), f"{field} is not among {fields}"


@check("a payload over max_message_bytes is INVALID_ARGUMENT, SERIALIZATION_ERROR")
def _(client):
    name = client.create("small", max_message_bytes=100)
    client.publish(name, data=bytes(100))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_SERIALIZATION_ERROR):
        client.publish(name, data=bytes(101))


@check("PublishBatch: one bad event fails alone, results are in order")
def _(client):
    name = client.create("batch")
    batch = [event(json=n, event_id=f"e{n}") for n in range(5)]
    batch[2] = event(key="no payload")
    batch[4] = event(json=4, event_id="e0")
    answer = client.events.PublishBatch(events_pb2.PublishBatchRequest(stream_name=name, events=batch))
    assert answer.batch_id.startswith("batch_"), f"batch_id is {answer.batch_id}"
    equal((answer.total_events, answer.success_count, answer.failure_count), (5, 4, 1), "counts")
    equal([r.offset if r.HasField("offset") else None for r in answer.results], [0, 1, None, 2, 0], "offsets")
    equal([r.duplicate for r in answer.results], [False] * 4 + [True], "duplicates")
    equal([r.HasField("error") for r in answer.results], [False, False, True, False, False], "errors")
    error = answer.results[2].error
    equal((error.code, error.message), (1100, "INVALID_ARGUMENT"), "the error")
    equal(len(client.read(name).events), 3, "events stored")


@check("PublishBatch atomic stores all or none, with gzip and a timeout")
def _(client):
    name = client.create("atomic")
    options = events_pb2.BatchOptions(atomic=True, timeout=5000, compression=streams_pb2.COMPRESSION_TYPE_GZIP)
    good = [event(json={"text": "x" * 2000, "n": n}) for n in range(10)]
    for batch, stored in ((good[:9] + [event()], 0), (good, 10)):
        request = events_pb2.PublishBatchRequest(stream_name=name, events=batch, options=options)
        answer = client.events.PublishBatch(request)
        equal((answer.success_count, answer.failure_count), (stored, 10 - stored), "counts")
    equal([r.offset for r in answer.results], list(range(10)), "offsets")
    equal(json_format.MessageToDict(client.read(name).events[9].value), {"text": "x" * 2000, "n": 9}, "the last")


@check("PublishBatch of 10,000 events; 10,001 are refused")
def _(client):
    name = client.create("large-batch", partitions=2)
    batch = [event(data=b"x", key=str(n % 50)) for n in range(10_000)]
    answer = client.events.PublishBatch(events_pb2.PublishBatchRequest(stream_name=name, events=batch))
    equal(answer.success_count, 10_000, "success_count")
    for partition in range(2):
        offsets = [r.offset for r in answer.results if r.partition == partition]
        equal(offsets, list(range(len(offsets))), f"offsets of partition {partition}")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_INVALID_ARGUMENT):
        client.events.PublishBatch(events_pb2.PublishBatchRequest(stream_name=name, events=[*batch, batch[0]]))


@check("PublishStream acknowledges each event, in order, a bad one by its error")
def _(client):
    name = client.create("stream")
    other = client.create("stream-other")

    def requests():
        yield events_pb2.PublishStreamRequest(stream_name=name, event=event(json=0, event_id="s0"))
        for n in range(1, 500):
            one = event(key="no payload") if n == 250 else event(json=n, event_id=f"s{n}")
            yield events_pb2.PublishStreamRequest(event=one)
        yield events_pb2.PublishStreamRequest(stream_name=other, event=event(json=500))

    results = [answer.result for answer in client.events.PublishStream(requests())]
    equal(len(results), 501, "acks")
    equal(results[250].error.code, errors_pb2.ERROR_CODE_INVALID_ARGUMENT, "the bad event's code")
    good = [result for at, result in enumerate(results) if at not in (250, 500)]
    equal([result.offset for result in good], list(range(499)), "offsets")
    equal([result.event_id for result in good], [f"s{n}" for n in range(500) if n != 250], "ids")
    equal(results[500].offset, 0, "offset in the other stream")
    stored = client.read(name, limit=1000).events
    equal([one.value.number_value for one in stored], [n for n in range(500) if n != 250], "values")


@check("PublishStream answers one event before the next is sent")
def _(client):
    name = client.create("ping-pong")
    to_send = queue.SimpleQueue()
    answers = client.events.PublishStream(iter(to_send.get, None))
    for n in range(20):
        to_send.put(events_pb2.PublishStreamRequest(stream_name=name, event=event(json=n)))
        equal(next(answers).result.offset, n, "offset")
    to_send.put(None)
    equal(list(answers), [], "answers after the end")
    equal(answers.code(), grpc.StatusCode.OK, "status")


@check("PublishStream cancelled midway leaves what was acknowledged, and the connection")
def _(client):
    name = client.create("cancelled")
    to_send = queue.SimpleQueue()
    answers = client.events.PublishStream(iter(to_send.get, None))
    to_send.put(events_pb2.PublishStreamRequest(stream_name=name, event=event(json=1)))
    equal(next(answers).result.offset, 0, "offset")
    answers.cancel()
    to_send.put(None)
    equal(answers.code(), grpc.StatusCode.CANCELLED, "status")
    equal(len(client.read(name).events), 1, "events")


@check("PublishStream without a stream name is told so, event by event")
def _(client):
    requests = [events_pb2.PublishStreamRequest(event=event(json=1))] * 2
    try:
        answers = list(client.events.PublishStream(iter(requests)))
    except grpc.RpcError as error:
        check_refusal(error, grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_INVALID_ARGUMENT, {})
    else:
        equal([answer.result.error.code for answer in answers], [1100, 1100], "codes")


# Reading


@check("Poll hands a group every event once, in order per partition")
def _(client):
    name = client.create("polled", partitions=3)
    for n in range(60):
        client.publish(name, json=n, partition=n % 3)
    seen, lags = {0: [], 1: [], 2: []}, []
    for _ in range(6):
        answer = client.poll(name, "g", limit=10)
        equal(len(answer.events), 10, "events")
        for one in answer.events:
            equal(one.offset, len(seen[one.partition]), "offset")
            seen[one.partition].append(one.value.number_value)
        lags.append(answer.metadata.lag)
    equal(seen, {p: list(range(p, 60, 3)) for p in range(3)}, "events")
    equal(lags, [50, 40, 30, 20, 10, 0], "lags")
    equal([(p.partition, p.next_offset, p.lag) for p in answer.metadata.partitions], [(p, 20, 0) for p in range(3)])
    equal(list(client.poll(name, "g").events), [], "events of a further poll")
    equal(len(client.poll(name, "other").events), 60, "events for another group")
    equal(list(client.poll(name, "late", offset="latest").events), [], "events for a group that starts at the end")


@check("Poll takes a filter, partitions, a seek, and answers data")
def _(client):
    name = client.create("filtered", partitions=2)
    for n in range(10):
        client.publish(name, json={"n": n}, partition=n % 2, headers={"odd": str(n % 2)})
    numbers = lambda answer: [one.value.struct_value["n"] for one in answer.events]
    equal(numbers(client.poll(name, "f", partition=[0], filter="value.n > 3")), [4, 6, 8], "filtered")
    equal(numbers(client.poll(name, "h", filter='headers["odd"] == "1" && partition == 1')), [1, 3, 5, 7, 9])
    equal(numbers(client.poll(name, "f", partition=[0], offset="3")), [6, 8], "after a seek")
    data = client.poll(name, "d", partition=[1], payload=events_pb2.PAYLOAD_FORMAT_DATA).events
    equal([json.loads(one.data)["n"] for one in data], [1, 3, 5, 7, 9], "data")
    equal({one.content_type for one in data}, {"application/json"}, "content type")
    with refused(grpc.StatusCode.OUT_OF_RANGE, errors_pb2.ERROR_CODE_INVALID_OFFSET):
        client.poll(name, "f", offset="6")
    with refused(grpc.StatusCode.OUT_OF_RANGE, errors_pb2.ERROR_CODE_INVALID_OFFSET):
        client.poll(name, "f", offset="first")


@check("Poll waits for the first event and answers with it; without one it answers with none")
def _(client):
    name = client.create("waiting")
    started = time.monotonic()
    equal(list(client.poll(name, "g", timeout=500).events), [], "events")
    took = time.monotonic() - started
    assert 0.4 < took < 3, f"an empty poll of 0.5 s took {took:.2f} s"
    threading.Timer(0.7, lambda: client.publish(name, json="now")).start()
    started = time.monotonic()
    answer = client.poll(name, "g", timeout=15_000)
    took = time.monotonic() - started
    equal([one.value.string_value for one in answer.events], ["now"], "events")
    assert 0.5 < took < 4, f"the poll answered after {took:.2f} s"


@check("Commit stores a group's place; bounds and unknown groups are refused")
def _(client):
    name = client.create("committed", partitions=2)
    for n in range(6):
        client.publish(name, json=n, partition=n % 2)
    first = client.poll(name, "g")
    equal([p.HasField("committed_offset") for p in first.metadata.partitions], [False, False], "committed before")
    done = client.commit("g", (name, 0, 0), (name, 1, 2))
    equal(done.status, consumers_pb2.COMMIT_STATUS_COMMITTED, "status")
    equal([(o.stream, o.partition, o.offset) for o in done.committed_offsets], [(name, 0, 0), (name, 1, 2)])
    equal([p.committed_offset for p in client.poll(name, "g").metadata.partitions], [0, 2], "committed after")
    with refused(grpc.StatusCode.OUT_OF_RANGE, errors_pb2.ERROR_CODE_INVALID_OFFSET):
        client.commit("g", (name, 0, 3))
    with refused(grpc.StatusCode.NOT_FOUND, errors_pb2.ERROR_CODE_CONSUMER_GROUP_NOT_FOUND):
        client.commit("strangers", (name, 0, 0))
    client.poll(name, "auto", auto_commit=True)
    equal([p.committed_offset for p in client.poll(name, "auto").metadata.partitions], [2, 2], "by auto_commit")


@check("ReadPartition reads at an offset and changes nothing")
def _(client):
    name = client.create("read")
    for n in range(10):
        client.publish(name, json=n)
    offsets = lambda answer: [one.offset for one in answer.events]
    for _ in range(2):
        answer = client.read(name, offset="3", limit=4)
        equal(offsets(answer), [3, 4, 5, 6], "offsets")
        meta = answer.metadata
        equal((meta.start_offset, meta.end_offset, meta.next_offset), (0, 10, 7), "metadata")
    equal(offsets(client.read(name, offset="latest")), [], "latest")
    equal(offsets(client.read(name, offset="10")), [], "at the end")
    equal(offsets(client.read(name, filter="value >= 8.0")), [8, 9], "filtered")
    equal(offsets(client.read(name, max_bytes=1)), [0], "events of one byte")
    with refused(grpc.StatusCode.OUT_OF_RANGE, errors_pb2.ERROR_CODE_INVALID_OFFSET):
        client.read(name, offset="11")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_INVALID_ARGUMENT):
        client.read(name, partition=1)


# The protocol itself


@check("deadlines: one that passes is DEADLINE_EXCEEDED, one that does not changes nothing")
def _(client):
    name = client.create("deadlines")
    request = events_pb2.PollRequest(stream_name=name, consumer_group="g", timeout=15_000)
    started = time.monotonic()
    with status_of(grpc.StatusCode.DEADLINE_EXCEEDED):
        client.events.Poll(request, timeout=0.5)
    took = time.monotonic() - started
    assert took < 2, f"the deadline of 0.5 s passed after {took:.2f} s"
    publish = events_pb2.PublishRequest(stream_name=name, event=event(json=1))
    equal(client.events.Publish(publish, timeout=10).offset, 0, "offset")
    request.timeout = 0
    equal(len(client.events.Poll(request, timeout=10).events), 1, "events after the poll that was given up")
    to_send = queue.SimpleQueue()
    answers = client.events.PublishStream(iter(to_send.get, None), timeout=0.5)
    to_send.put(events_pb2.PublishStreamRequest(stream_name=name, event=event(json=2)))
    equal(next(answers).result.offset, 1, "offset over the stream")
    with status_of(grpc.StatusCode.DEADLINE_EXCEEDED):
        next(answers)
    to_send.put(None)


@check("a cancelled call gives back what it was waiting for")
def _(client):
    name = client.create("given-up")
    call = client.events.Poll.future(events_pb2.PollRequest(stream_name=name, consumer_group="g", timeout=15_000))
    time.sleep(0.5)
    call.cancel()
    client.publish(name, json=1)
    equal(len(client.poll(name, "g", timeout=5000).events), 1, "events")


@check("a message over 32 MiB is RESOURCE_EXHAUSTED, at once, and the connection goes on")
def _(client):
    name = client.create("huge")
    for size in (MAX_REQUEST_BYTES + 1, MAX_REQUEST_BYTES + 16 * MIB):
        started = time.monotonic()
        with status_of(grpc.StatusCode.RESOURCE_EXHAUSTED):
            client.publish(name, data=bytes(size))
        took = time.monotonic() - started
        assert took < 10, f"the refusal took {took:.1f} s"
        client.publish(name, json=1)


@check("a message over 32 MiB is refused with an ErrorInfo")
def _(client):
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, errors_pb2.ERROR_CODE_SERIALIZATION_ERROR):
        client.publish("nowhere", data=bytes(MAX_REQUEST_BYTES + 1))


@check("a PublishStream message over 32 MiB ends the stream with RESOURCE_EXHAUSTED")
def _(client):
    name = client.create("huge-stream")

    def requests():
        yield events_pb2.PublishStreamRequest(stream_name=name, event=event(json=1))
        yield events_pb2.PublishStreamRequest(event=event(data=bytes(MAX_REQUEST_BYTES + 1)))

    started = time.monotonic()
    acked = []
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, errors_pb2.ERROR_CODE_SERIALIZATION_ERROR):
        for answer in client.events.PublishStream(requests()):
            acked.append(answer.result.offset)
    assert time.monotonic() - started < 10, "the refusal took over 10 s"
    equal(acked, [0], "acks before it")
    client.publish(name, json=2)


@check("large messages under the limits pass in both directions")
def _(client):
    name = client.create("large", max_message_bytes=8_323_072)
    data = secrets.token_bytes(8_000_000)
    client.publish(name, data=data)
    request = events_pb2.PublishBatchRequest(stream_name=name, events=[event(data=data)] * 3)
    equal(client.events.PublishBatch(request).success_count, 3, "success_count")
    answer = client.read(name, max_bytes=MAX_REQUEST_BYTES)
    assert [one.data == data for one in answer.events] == [True] * 4, "the data changed"


@check("gzip: calls and streams compressed by the client, and a bomb refused")
def _(client):
    name = client.create("gzip", max_message_bytes=8 * 1000 * 1000)
    with connect(compression=grpc.Compression.Gzip) as zipped:
        text = "compressible " * 100_000
        equal(zipped.publish(name, json=text).offset, 0, "offset")
        requests = [events_pb2.PublishStreamRequest(stream_name=name, event=event(json=text)) for _ in range(3)]
        acks = [answer.result.offset for answer in zipped.events.PublishStream(iter(requests))]
        equal(acks, [1, 2, 3], "offsets over the stream")
        stored = zipped.read(name).events
        assert [one.value.string_value == text for one in stored] == [True] * 4, "the text changed"
        with refused(grpc.StatusCode.NOT_FOUND, errors_pb2.ERROR_CODE_STREAM_NOT_FOUND):
            zipped.publish("nowhere", json=1)
        # The bytes sent are few; what they inflate to is over the limit.
        with status_of(grpc.StatusCode.RESOURCE_EXHAUSTED):
            zipped.publish(name, data=bytes(MAX_REQUEST_BYTES + MIB))
    request = events_pb2.PublishRequest(stream_name=name, event=event(json=text))
    equal(client.events.Publish(request, compression=grpc.Compression.Gzip).offset, 4, "offset of one zipped call")
    equal(client.events.Publish(request, compression=grpc.Compression.Deflate).offset, 5, "offset of one deflated call")


@check("bytes that are no message are INVALID_ARGUMENT, SERIALIZATION_ERROR")
def _(client):
    call = client.channel.unary_unary("/millrace.v1.EventService/Publish", lambda data: data, lambda data: data)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_SERIALIZATION_ERROR):
        call(b"\x0a\xff\xff")


@check("members share a group; an operator sees, moves and removes it")
def _(client):
    name, group = client.create("members", partitions=2), f"py-{RUN}-members"
    settings = consumers_pb2.ConsumerGroupConfig(session_timeout=20_000)
    request = consumers_pb2.CreateConsumerGroupRequest(consumer_group=group, stream=name, config=settings)
    equal(client.groups.CreateConsumerGroup(request).group.streams[0].config.session_timeout, 20_000, "sessionTimeout")
    for n in range(4):
        client.publish(name, json=n, partition=n % 2)
    first = client.poll(name, group, consumer_id="a")
    equal((len(first.events), list(first.metadata.assignment.partitions)), (4, [0, 1]), "events and partitions")
    client.poll(name, group, consumer_id="b")
    client.poll(name, group, consumer_id="a")
    second = client.poll(name, group, consumer_id="b")
    equal([(e.partition, e.offset) for e in second.events], [(1, 0), (1, 1)], "what was not committed")
    with refused(grpc.StatusCode.ABORTED, 1103):
        place = consumers_pb2.PartitionOffset(stream=name, partition=1, offset=1)
        client.groups.Commit(consumers_pb2.CommitRequest(consumer_group=group, offsets=[place], consumer_id="a"))
    beat = consumers_pb2.HeartbeatRequest(consumer_group=group, stream=name, consumer_id="b")
    equal(list(client.groups.Heartbeat(beat).partitions), [1], "partitions")
    seek = consumers_pb2.SeekRequest(consumer_group=group, stream=name, offset="latest")
    equal([p.position for p in client.groups.Seek(seek).partitions], [2, 2], "positions")
    described = client.groups.GetConsumerGroup(consumers_pb2.GetConsumerGroupRequest(consumer_group=group)).group
    equal((described.lag, len(described.streams[0].members)), (0, 2), "lag and members")
    listed = client.groups.ListConsumerGroups(consumers_pb2.ListConsumerGroupsRequest(prefix=group)).consumer_groups
    equal([(each.consumer_group, each.members) for each in listed], [(group, 2)], "the list")
    client.publish(name, json=4, partition=0)
    place = consumers_pb2.PartitionOffset(stream=name, partition=0, offset=2)
    nacked = client.groups.Nack(consumers_pb2.NackRequest(consumer_group=group, events=[place], reason="no")).events
    equal([(e.offset, e.outcome) for e in nacked], [(2, consumers_pb2.NACK_OUTCOME_RETURNED)], "what becomes of it")
    leave = consumers_pb2.LeaveRequest(consumer_group=group, consumer_id="b")
    equal(list(client.groups.Leave(leave).streams), [name], "streams")
    client.groups.DeleteConsumerGroup(consumers_pb2.DeleteConsumerGroupRequest(consumer_group=group))
    with refused(grpc.StatusCode.NOT_FOUND, 1003):
        client.groups.GetConsumerGroup(consumers_pb2.GetConsumerGroupRequest(consumer_group=group))


@check("Subscribe sends what is there and what comes")
def _(client):
    name = client.create("live")
    client.publish(name, json=1)
    call = client.events.Subscribe(events_pb2.SubscribeRequest(stream_name=name), timeout=TIMEOUT)
    values = []
    for told in call:
        values += [e.value.number_value for e in told.events]
        if told.caught_up:
            client.publish(name, json=2)
        if len(values) == 2:
            break
    call.cancel()
    equal(values, [1, 2], "values")
    # A stream that its reader ends has no status of its own.
    SUCCEEDED.add("/millrace.v1.EventService/Subscribe")


@check("a table's rows are put, read, listed and deleted")
def _(client):
    table = f"py-{RUN}-table"
    put = tables_pb2.PutRowRequest(table=table, key="a.b", value=value_of({"n": 1}))
    equal(client.tables.PutRow(put).row.key, "a.b", "key")
    rows = [tables_pb2.NewRow(key=f"k{n}", value=value_of(n)) for n in range(3)]
    equal(client.tables.PutRows(tables_pb2.PutRowsRequest(table=table, rows=rows)).row_count, 3, "row_count")
    one = tables_pb2.GetRowRequest(table=table, key="a.b")
    equal(json_format.MessageToDict(client.tables.GetRow(one).row.value), {"n": 1}, "value")
    listed = client.tables.ListRows(tables_pb2.ListRowsRequest(table=table)).rows
    equal(sorted(row.key for row in listed), ["a.b", "k0", "k1", "k2"], "keys")
    client.tables.DeleteRow(tables_pb2.DeleteRowRequest(table=table, key="a.b"))
    with refused(grpc.StatusCode.NOT_FOUND, 1110):
        client.tables.GetRow(one)


@check("a function is put, read, listed and deleted")
def _(client):
    pb, stub = functions_pb2, client.functions
    name = f"py-{RUN}-function"
    put = pb.PutFunctionRequest(name=name, cel=pb.CelFunction(merge={"total": "value.a + value.b"}))
    made = stub.PutFunction(put).function
    equal((made.name, made.origin), (name, pb.FUNCTION_ORIGIN_INSTALLED), "the function")
    equal(stub.GetFunction(pb.GetFunctionRequest(name=name)).function.version, made.version, "version")
    listed = stub.ListFunctions(pb.ListFunctionsRequest(page_size=1000)).functions
    assert name in [each.name for each in listed], "it is not listed"
    stub.DeleteFunction(pb.DeleteFunctionRequest(name=name))
    with refused(grpc.StatusCode.NOT_FOUND, 1110):
        stub.GetFunction(pb.GetFunctionRequest(name=name))


@check("a processor counts in windows, is watched, paused, changed, reset and deleted")
def _(client):
    pb, stub = processors_pb2, client.processors
    source = client.create("tx", partitions=2)
    operations = [
        pb.Operation(predicate="value.amount > 10"),
        pb.Operation(window_type=pb.WINDOW_TYPE_TUMBLING, duration=300_000),
        pb.Operation(aggregation=pb.AGGREGATION_COUNT, group_by="user"),
    ]
    request = pb.CreateProcessorRequest(name="py", source=source, sink=f"{source}-out", operations=operations)
    made = stub.CreateProcessor(request).processor
    equal(stub.GetProcessor(pb.GetProcessorRequest(processor_id=made.processor_id)).processor.name, "py", "name")
    equal(made.status, pb.PROCESSOR_STATUS_RUNNING, "status")
    ident = {"processor_id": made.processor_id}
    for n in (5, 20, 30):
        client.publish(source, json={"amount": n, "user": "ann"})
    watch = stub.WatchMetrics(pb.WatchMetricsRequest(**ident, interval=100), timeout=TIMEOUT)
    for told in watch:
        if sum(window.events_count for window in told.metrics.windows) == 2:
            break
    watch.cancel()
    # A stream that its reader ends has no status of its own.
    SUCCEEDED.add("/millrace.v1.ProcessorService/WatchMetrics")
    metrics = stub.GetProcessorMetrics(pb.GetProcessorMetricsRequest(**ident))
    equal((metrics.metrics.events_processed, metrics.counters.filtered), (3, 1), "counts")
    start = metrics.windows[0].window_start.ToJsonString()
    groups = stub.GetWindow(pb.GetWindowRequest(**ident, window_start=start)).groups
    equal([group.group.string_value for group in groups], ["ann"], "groups")
    with refused(grpc.StatusCode.NOT_FOUND, 1110):
        stub.GetWindow(pb.GetWindowRequest(**ident, window_start="0"))
    equal(stub.PauseProcessor(pb.PauseProcessorRequest(**ident)).processor.status, pb.PROCESSOR_STATUS_PAUSED)
    equal(stub.ResumeProcessor(pb.ResumeProcessorRequest(**ident)).processor.status, pb.PROCESSOR_STATUS_RUNNING)
    change = pb.UpdateProcessorRequest(**ident, operations=operations[:1], start=pb.START_POSITION_CHECKPOINT)
    equal(stub.UpdateProcessor(change).processor.generation, 2, "generation")
    reset = pb.ResetProcessorRequest(**ident, start=pb.START_POSITION_LATEST)
    equal(stub.ResetProcessor(reset).processor.status, pb.PROCESSOR_STATUS_RUNNING, "status")
    tried = stub.DryRun(pb.DryRunRequest(operations=operations, events=[pb.DryRunEvent(value=value_of({"amount": 1}))]))
    equal([step.outcome for step in tried.events[0].steps], [pb.STEP_OUTCOME_DROPPED], "outcomes")
    equal(len(stub.ListSideEvents(pb.ListSideEventsRequest(**ident)).events), 0, "side events")
    savepoint = stub.CreateSavepoint(pb.CreateSavepointRequest(**ident, name=f"py-{RUN}")).savepoint
    equal((savepoint.processor_id, savepoint.source), (made.processor_id, source), "the savepoint")
    named = pb.GetSavepointRequest(name=savepoint.name)
    equal(stub.GetSavepoint(named).savepoint.name, savepoint.name, "name")
    equal(len(stub.ListSavepoints(pb.ListSavepointsRequest(**ident)).savepoints), 1, "savepoints")
    restore = pb.RestoreProcessorRequest(**ident, savepoint=savepoint.name)
    equal(stub.RestoreProcessor(restore).processor.processor_id, made.processor_id, "processor_id")
    stub.DeleteSavepoint(pb.DeleteSavepointRequest(name=savepoint.name))
    with refused(grpc.StatusCode.NOT_FOUND, 1110):
        stub.GetSavepoint(named)
    listed = stub.ListProcessors(pb.ListProcessorsRequest(page_size=1000)).processors
    assert made.processor_id in [each.processor_id for each in listed], "it is not listed"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_CODE_INVALID_ARGUMENT):
        stub.UpdateProcessor(pb.UpdateProcessorRequest(**ident, operations=[pb.Operation(predicate="1 +")]))
    stub.DeleteProcessor(pb.DeleteProcessorRequest(**ident))
    with refused(grpc.StatusCode.NOT_FOUND, errors_pb2.ERROR_CODE_PROCESSOR_NOT_FOUND):
        stub.GetProcessor(pb.GetProcessorRequest(**ident))


@check("unknown methods and services are UNIMPLEMENTED")
def _(client):
    for path in ("/millrace.v1.EventService/Nothing", "/millrace.v1.Nothing/Publish", "/other.Service/Call"):
        with status_of(grpc.StatusCode.UNIMPLEMENTED):
            client.channel.unary_unary(path, lambda data: data, lambda data: data)(b"")


@check("fields of a later version of the schema are passed over")
def _(client):
    name = client.create("unknown")
    request = events_pb2.PublishRequest(stream_name=name, event=event(json=1)).SerializeToString()
    raw = client.channel.unary_unary(
        "/millrace.v1.EventService/Publish", lambda data: data, events_pb2.PublishResponse.FromString
    )
    equal(raw(request + b"\xd2\x3e\x05later").offset, 0, "offset")  # field 1002, a string


@check("500 calls at once over one connection")
def _(client):
    name = client.create("crowd", partitions=4)
    calls = [
        client.events.Publish.future(events_pb2.PublishRequest(stream_name=name, event=event(json=n, partition=n % 4)))
        for n in range(500)
    ]
    places = sorted((ack.partition, ack.offset) for ack in (call.result() for call in calls))
    equal(places, [(p, o) for p in range(4) for o in range(125)], "places")


@check("grpc.aio: unary calls and a stream")
def _(client):
    name = client.create("aio")

    async def run():
        async with grpc.aio.insecure_channel(TARGET, compression=grpc.Compression.Gzip) as channel:
            events = events_pb2_grpc.EventServiceStub(channel)
            one = events_pb2.PublishRequest(stream_name=name, event=event(json="a"))
            acks = await asyncio.gather(*(events.Publish(one, timeout=TIMEOUT) for _ in range(50)))
            stream = events.PublishStream(timeout=TIMEOUT)
            for n in range(50):
                await stream.write(events_pb2.PublishStreamRequest(stream_name=name, event=event(json=n)))
                acks.append((await stream.read()).result)
            await stream.done_writing()
            equal(await stream.code(), grpc.StatusCode.OK, "status")
            return sorted(ack.offset for ack in acks)

    equal(asyncio.run(run()), list(range(100)), "offsets")


@check("a hundred connections one after the other")
def _(client):
    name = client.create("connections")
    for n in range(100):
        with grpc.insecure_channel(TARGET, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = events_pb2_grpc.EventServiceStub(channel)
            request = events_pb2.PublishRequest(stream_name=name, event=event(json=n))
            equal(stub.Publish(request, timeout=TIMEOUT).offset, n, "offset")


@check("every method of the schema has answered OK")
def _(client):
    wanted = {
        f"/{service.full_name}/{method.name}"
        for file in (streams_pb2, events_pb2, consumers_pb2, processors_pb2, functions_pb2, tables_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    equal(sorted(wanted - SUCCEEDED), [], "methods without an answer")


def main():
    failed = 0
    with connect() as client:
        for name, function in CHECKS:
            try:
                function(client)
            except Exception as error:  # noqa: BLE001 - every failure is a line of the report
                failed += 1
                where = traceback.extract_tb(error.__traceback__)
                line = next((frame.lineno for frame in where if frame.name == "_"), where[-1].lineno)
                reason = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
                text = " ".join(f"line {line}: {reason or repr(error)}".split())
                print("FAIL", name, text, sep="\t", flush=True)
            else:
                print("PASS", name, sep="\t", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
