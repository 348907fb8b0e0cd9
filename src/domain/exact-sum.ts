/**
 * Sums of doubles without rounding until the end, so that the order of adding and merging makes no difference: a sum is a
 * list of numbers that do not overlap, smallest first (Shewchuk 1997, as Python's `math.fsum`).
 */
export type ExactSum = number[];

/** Adds a finite number in place. */
export function addExact(partials: ExactSum, number: number): void {
  let x = number;
  let kept = 0;
  for (let i = 0; i < partials.length; i++) {
    let y = partials[i]!;
    if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
    const high = x + y;
    const low = y - (high - x);
    if (low !== 0) partials[kept++] = low;
    x = high;
  }
  partials.length = kept;
  if (x !== 0) partials.push(x);
}

/** The sum, rounded once; Infinity when it is beyond the doubles. */
export function exactValue(partials: ExactSum): number {
  let n = partials.length;
  if (n === 0) return 0;
  let high = partials[--n]!;
  let low = 0;
  while (n > 0) {
    const x = high;
    const y = partials[--n]!;
    high = x + y;
    low = y - (high - x);
    if (low !== 0) break;
  }
  // Half-way cases round by what lies below them.
  if (n > 0 && ((low < 0 && partials[n - 1]! < 0) || (low > 0 && partials[n - 1]! > 0))) {
    const y = low * 2;
    const x = high + y;
    if (y === x - high) high = x;
  }
  return high;
}
