import { describe, expect, test } from "vitest";
import { doneUpTo, failedUpTo, failuresAt, movedTo, type Progress, passOver } from "../../src/domain/deliveries.ts";
import { seededRandom } from "../support/random.ts";

describe("failures", () => {
  test("are counted from the first event that is not done", () => {
    let progress: Progress = failedUpTo({ resume: 5 }, 10);
    progress = failedUpTo(progress, 7);
    expect([4, 5, 6, 7, 9, 10].map((offset) => failuresAt(progress.failures, offset))).toEqual([2, 2, 2, 1, 1, 0]);
    expect(failedUpTo(progress, 5)).toBe(progress);
  });

  test("are forgotten below what is done, and all of them by a move", () => {
    const progress = failedUpTo(failedUpTo({ resume: 0 }, 10), 4);
    expect(doneUpTo(progress, 4)).toEqual({ resume: 4, committed: 3, failures: [[10, 1]] });
    expect(doneUpTo(progress, 10)).toEqual({ resume: 10, committed: 9 });
    expect(movedTo(progress, 2)).toEqual({ resume: 2 });
  });
});

describe("passing over", () => {
  test("keeps the place until all before is done", () => {
    const progress = passOver({ resume: 0 }, [3, 1]);
    expect(progress).toEqual({ resume: 0, passed: [1, 3] });
    expect(doneUpTo(progress, 1)).toEqual({ resume: 2, committed: 1, passed: [3] });
    expect(passOver(progress, [0])).toEqual({ resume: 2, committed: 1, passed: [3] });
    expect(passOver({ resume: 2 }, [2, 3, 0])).toEqual({ resume: 4, committed: 3 });
  });

  test("agrees with a plain set of what is done, over random steps", () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = seededRandom(seed);
      const done = new Set<number>();
      const failed = new Map<number, number>();
      let progress: Progress = { resume: 0 };
      for (let step = 0; step < 30; step++) {
        const at = Math.floor(random() * 40);
        const kind = random();
        if (kind < 0.4) {
          if (at < progress.resume) continue;
          progress = passOver(progress, [at]);
          done.add(at);
        } else if (kind < 0.7) {
          if (at < progress.resume) continue;
          progress = doneUpTo(progress, at);
          for (let offset = 0; offset < at; offset++) done.add(offset);
        } else {
          for (let offset = progress.resume; offset < at; offset++) failed.set(offset, (failed.get(offset) ?? 0) + 1);
          progress = failedUpTo(progress, at);
        }
        let resume = 0;
        while (done.has(resume)) resume++;
        expect(progress.resume, `seed ${seed}`).toBe(resume);
        expect(progress.passed ?? [], `seed ${seed}`).toEqual(
          [...done].filter((offset) => offset > resume).sort((a, b) => a - b),
        );
        for (let offset = resume; offset < 45; offset++)
          expect(failuresAt(progress.failures, offset), `seed ${seed}, offset ${offset}`).toBe(failed.get(offset) ?? 0);
      }
    }
  });
});
