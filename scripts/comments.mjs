// Writes gen/comments.js: the prose of the proto files, which generated code leaves out, for the API's own description.
//
// Run after `buf generate`, which empties gen/. Needs no network.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const shell = process.platform === "win32";
const image = JSON.parse(
  execFileSync("buf", ["build", "-o", "-#format=json", "--path", "proto/millrace"], {
    cwd: root,
    shell,
    maxBuffer: 64 * 1024 * 1024,
  }),
);

/** Field numbers of descriptor.proto along a path, by what stands there: [field of the list, its items' own lists]. */
const ENUM = { name: "enumType", inside: { 2: { name: "value", inside: {} } } };
const MESSAGE = { name: "messageType", inside: {} };
const NESTED = { name: "nestedType", inside: MESSAGE.inside };
Object.assign(MESSAGE.inside, {
  2: { name: "field", inside: {} },
  3: NESTED,
  4: ENUM,
  6: { name: "extension", inside: {} },
  8: { name: "oneofDecl", inside: {} },
});
const SERVICE = { name: "service", inside: { 2: { name: "method", inside: {} } } };
const FILE = { 4: MESSAGE, 5: ENUM, 6: SERVICE, 7: { name: "extension", inside: {} } };

/** The full name of what a path leads to, or undefined where it is no named thing. */
function nameAt(file, path) {
  let here = file;
  let inside = FILE;
  let name = file.package;
  for (let i = 0; i + 1 < path.length; i += 2) {
    const list = inside[path[i]];
    if (!list) return undefined;
    here = here[list.name][path[i + 1]];
    name += `.${here.name}`;
    inside = list.inside;
  }
  return path.length > 0 && path.length % 2 === 0 ? name : undefined;
}

const comments = {};
for (const file of image.file) {
  if (!file.name.startsWith("millrace/")) continue;
  for (const { path = [], leadingComments } of file.sourceCodeInfo?.location ?? []) {
    const name = leadingComments && nameAt(file, path);
    // A line's own break means nothing in prose.
    if (name) comments[name] = leadingComments.trim().replace(/\s*\n\s*/g, " ");
  }
}
const sorted = Object.fromEntries(Object.entries(comments).sort(([a], [b]) => (a < b ? -1 : 1)));
const head = "// Generated from proto/ by scripts/comments.mjs; not edited.\n";
writeFileSync(
  join(root, "gen", "comments.js"),
  `${head}/** By full name: services, methods, messages, fields, oneofs, enums, values. */\nexport const comments = ${JSON.stringify(sorted, null, 2)};\n`,
);
writeFileSync(
  join(root, "gen", "comments.d.ts"),
  `${head}/** By full name: services, methods, messages, fields, oneofs, enums, values. */\nexport declare const comments: Readonly<Record<string, string>>;\n`,
);
