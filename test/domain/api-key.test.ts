import { expect, test } from "vitest";
import { apiKeyHash, apiKeyId, isApiKey, newApiKey } from "../../src/domain/api-key.ts";

test("a new key has an id, is its own hash's key, and no two are alike", () => {
  const one = newApiKey();
  const other = newApiKey();
  expect(apiKeyId(one.text)).toBe(one.id);
  expect(isApiKey(one.text, apiKeyHash(one.text))).toBe(true);
  expect(isApiKey(other.text, apiKeyHash(one.text))).toBe(false);
  expect(isApiKey(one.text, apiKeyHash(one.text).subarray(1))).toBe(false);
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
