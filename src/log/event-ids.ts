import { randomBytes } from "node:crypto";

const prefix = `evt_${randomBytes(9).toString("base64url")}`;
let next = 0;

/** An id that no other event has: 72 random bits of this process and a count. */
export const newEventId = (): string => prefix + (next++).toString(36);
