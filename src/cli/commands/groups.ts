import { Command } from "commander";
import {
  type ConsumerGroup,
  type ConsumerGroupMember,
  type ConsumerGroupPartition,
  ConsumerGroupSchema,
  ConsumerGroupStateSchema,
  type ConsumerGroupStream,
  type ConsumerGroupSummary,
  ConsumerGroupSummarySchema,
  DeleteConsumerGroupResponseSchema,
  SeekResponseSchema,
} from "../../../gen/millrace/v1/consumers_pb.js";
import { enumWord } from "../../transport/json.ts";
import { confirm } from "../confirm.ts";
import { allPages, type Context, contextOf } from "../context.ts";
import { time } from "../format.ts";
import { type Column, pairs, span, table } from "../table.ts";
import { duration, each, wholeNumber } from "../values.ts";

const SEEK_EXAMPLES = `
Examples:
  $ millrace groups seek billing orders --to earliest                 process everything again
  $ millrace groups seek billing orders --to latest                   skip what is there
  $ millrace groups seek billing orders --to 1200 --partition 3       one partition, to one offset
  $ millrace groups seek billing orders --to 2026-01-31T12:00:00Z     what came at noon and later
`;

const CREATE_EXAMPLES = `
Examples:
  $ millrace groups create billing orders --from latest
  $ millrace groups create mails orders --ack-wait 2m --max-deliveries 5 --dead-letters orders-dead
`;

/** `millrace groups`: who reads, how far, and how far behind. */
export function groupsCommand(): Command {
  const groups = new Command("groups").description("list, describe, create, seek and delete consumer groups");
  groups
    .command("list")
    .description("all groups, by name")
    .option("--prefix <text>", "only names that begin so")
    .option("--stream <name>", "only groups that read this stream")
    .action(list);
  groups
    .command("describe")
    .description("one group: members, positions, committed offsets and lag in each partition")
    .argument("<group>")
    .option("--stream <name>", "only what it does in this stream")
    .action(describe);
  groups
    .command("create")
    .description("create a group; reading in its name creates one too, with the defaults")
    .argument("<group>")
    .argument("<stream>")
    .option("--from <position>", "where it starts: earliest, latest, an offset or an RFC 3339 time (default: earliest)")
    .option("--ack-wait <span>", "after it, what is not committed is handed out again (default: 30s)", duration)
    .option("--session-timeout <span>", "a member that stays away longer loses its share (default: 30s)", duration)
    .option("--max-deliveries <n>", "an event is handed out so often at most, 1 to 100", wholeNumber(1, 100))
    .option("--dead-letters <stream>", "where it goes then; created if missing")
    .addHelpText("after", CREATE_EXAMPLES)
    .action(create);
  groups
    .command("seek")
    .description("move a group; it goes on reading there")
    .argument("<group>")
    .argument("<stream>")
    .requiredOption("--to <position>", "earliest, latest, the offset to be read next, or an RFC 3339 time")
    .option("--partition <n>", "only this one; may be given again", each(wholeNumber(0, 999)))
    .addHelpText("after", SEEK_EXAMPLES)
    .action(seek);
  groups
    .command("delete")
    .description("remove a group, or what it keeps of one stream")
    .argument("<group>")
    .option("--stream <name>", "only what it keeps of this stream")
    .option("-y, --yes", "do not ask")
    .action(remove);
  return groups;
}

async function list(options: { prefix?: string; stream?: string }, command: Command): Promise<void> {
  const context = contextOf(command);
  const groups = await listGroups(context, options);
  await context.out.list(ConsumerGroupSummarySchema, groups, COLUMNS, "There are no consumer groups.");
}

/** Every group, or those that fit. */
export function listGroups(
  { api, call }: Context,
  options: { prefix?: string; stream?: string },
): Promise<ConsumerGroupSummary[]> {
  return allPages(async (pageToken) => {
    const answer = await api.groups.listConsumerGroups(
      { ...options, pageSize: 1000, pageToken: pageToken ?? "" },
      call,
    );
    return { items: answer.consumerGroups, next: answer.nextPageToken };
  });
}

const COLUMNS: readonly Column<ConsumerGroupSummary>[] = [
  { title: "GROUP", of: ({ consumerGroup }) => consumerGroup },
  { title: "MEMBERS", of: ({ members }) => members },
  { title: "STREAMS", of: ({ streams }) => streams.join(", ") },
];

async function describe(consumerGroup: string, { stream }: { stream?: string }, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { group } = await api.groups.getConsumerGroup(
    { consumerGroup, ...(stream === undefined ? {} : { stream }) },
    call,
  );
  await out.one(ConsumerGroupSchema, group!, groupText);
}

async function create(
  consumerGroup: string,
  stream: string,
  options: {
    from?: string;
    ackWait?: number;
    sessionTimeout?: number;
    maxDeliveries?: number;
    deadLetters?: string;
  },
  command: Command,
): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { from: offset, deadLetters, ...times } = options;
  const config = { ...times, ...(deadLetters === undefined ? {} : { deadLetterStream: deadLetters }) };
  const { group } = await api.groups.createConsumerGroup(
    { consumerGroup, stream, config, ...(offset === undefined ? {} : { offset }) },
    call,
  );
  await out.one(ConsumerGroupSchema, group!, groupText);
}

async function seek(
  consumerGroup: string,
  stream: string,
  { to, partition }: { to: string; partition?: number[] },
  command: Command,
): Promise<void> {
  const { api, call, out } = contextOf(command);
  const answer = await api.groups.seek({ consumerGroup, stream, offset: to, partitions: partition ?? [] }, call);
  await out.one(SeekResponseSchema, answer, ({ partitions }) =>
    table(partitions, [
      { title: "PARTITION", of: ({ partition }) => partition },
      { title: "NEXT", of: ({ position }) => position },
    ]),
  );
}

async function remove(
  consumerGroup: string,
  { stream, yes }: { stream?: string; yes?: boolean },
  command: Command,
): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  const what =
    stream === undefined ? `group "${consumerGroup}"` : `what group "${consumerGroup}" keeps of stream "${stream}"`;
  await confirm(`Delete ${what}?`, yes, interruption.signal);
  const request = { consumerGroup, ...(stream === undefined ? {} : { stream }) };
  const answer = await api.groups.deleteConsumerGroup(request, call);
  await out.one(DeleteConsumerGroupResponseSchema, answer, () => `Deleted ${what}.\n`);
}

function groupText(group: ConsumerGroup): string {
  const head = pairs([
    ["Group", group.consumerGroup],
    ["State", stateWord(group.state)],
    ["Lag", group.lag],
  ]);
  return [head, ...group.streams.map(groupStreamText)].join("\n");
}

function groupStreamText(part: ConsumerGroupStream): string {
  const head = pairs([
    ["Stream", part.stream],
    ["State", stateWord(part.state)],
    ["Lag", part.lag],
    ["Generation", part.generation],
    ["Ack wait", part.config?.ackWait === undefined ? undefined : span(part.config.ackWait)],
    ["Session timeout", part.config?.sessionTimeout === undefined ? undefined : span(part.config.sessionTimeout)],
    ["Most deliveries", part.config?.maxDeliveries],
    ["Dead letters", part.config?.deadLetterStream],
    ["Created", time(part.createdAt)],
  ]);
  const members = part.members.length > 0 ? `\n${table(part.members, MEMBER_COLUMNS)}` : "";
  return `${head}${members}\n${table(part.partitions, PARTITION_COLUMNS)}`;
}

/** The word of a group's state, as the HTTP API has it. */
export const stateWord = (state: number): string => String(enumWord(ConsumerGroupStateSchema, state));

const MEMBER_COLUMNS: readonly Column<ConsumerGroupMember>[] = [
  { title: "MEMBER", of: ({ consumerId }) => consumerId },
  { title: "READS BY", of: ({ subscribed }) => (subscribed ? "stream" : "polls") },
  { title: "LAST SEEN", of: ({ lastSeen }) => time(lastSeen) },
  { title: "PARTITIONS", of: ({ partitions }) => partitions.join(",") },
];

const PARTITION_COLUMNS: readonly Column<ConsumerGroupPartition>[] = [
  { title: "PARTITION", of: ({ partition }) => partition },
  { title: "MEMBER", of: ({ consumerId }) => consumerId ?? "" },
  {
    title: "COMMITTED",
    of: ({ committedOffset }) => (committedOffset === undefined ? "none" : String(committedOffset)),
  },
  { title: "NEXT", of: ({ position }) => position },
  { title: "END", of: ({ endOffset }) => endOffset },
  { title: "LAG", of: ({ lag }) => lag },
  { title: "RETURNED", of: ({ returned }) => returned },
  { title: "BEHIND", of: ({ lagSeconds }) => (lagSeconds > 0 ? span(lagSeconds * 1000) : "") },
];
