import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";

/** A time as the HTTP API has it: RFC 3339 in UTC with milliseconds; "" when there is none. */
export const time = (timestamp: Timestamp | undefined): string =>
  timestamp === undefined ? "" : timestampDate(timestamp).toISOString();
