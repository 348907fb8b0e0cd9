// Generated from proto/ by scripts/comments.mjs; not edited.
/** By full name: services, methods, messages, fields, oneofs, enums, values. */
export declare const comments: Readonly<Record<string, string>>;
