import { expect, test } from "vitest";
import { apiKeyId, isSameHash, newApiKey, secretHash } from "../../src/domain/api-key.ts";

test("a new key has an id, is its own hash's key, and no two are alike", () => {
  const one = newApiKey();
  const other = newApiKey();
  expect(apiKeyId(one.text)).toBe(one.id);
  expect(isSameHash(secretHash(one.text), secretHash(one.text))).toBe(true);
  expect(isSameHash(secretHash(other.text), secretHash(one.text))).toBe(false);
  expect(isSameHash(secretHash(one.text), secretHash(one.text).subarray(1))).toBe(false);
  expect(secretHash("abc").toString("hex")).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
});

test.each([
  "",
  "mrk_",
  "mrk_x_y",
  "MRK_0123456789abcdef_",
  `mrk_0123456789abcdef_${"a".repeat(44)}`,
  `x${newApiKey().text}`,
  `${newApiKey().text}\n`,
])("%j is no key", (text) => expect(apiKeyId(text)).toBeUndefined());
