import type { CelFunc, parse } from "@bufbuild/cel";
import { FUNCTIONS } from "./expression-functions.ts";
import { MAX_PATTERN_INSTRUCTIONS, Pattern } from "./expression-pattern.ts";
import { MAX_EXPRESSION_NODES } from "./limits.ts";

type ParsedExpression = ReturnType<typeof parse>;
type Node = NonNullable<ParsedExpression["expr"]>;
type Kind<Case extends Node["exprKind"]["case"]> = Extract<Node["exprKind"], { case: Case }>["value"] & object;

/** What is wrong with an expression, and where. */
export class ExpressionFault extends Error {
  /** Start of the part at fault, in UTF-16 units; undefined when all of it is. */
  readonly offset: number | undefined;

  constructor(problem: string, offset?: number) {
    super(problem);
    this.offset = offset;
  }
}

/** The variables, each with the type that it always has; `value` may be anything. */
export const VARIABLES: ReadonlyMap<string, string | undefined> = new Map([
  ["key", "string or null"],
  ["value", undefined],
  ["headers", "map"],
  ["partition", "int"],
  ["offset", "int"],
  ["timestamp", "timestamp"],
]);

const TYPES: ReadonlySet<string> = new Set([
  "int",
  "uint",
  "double",
  "bool",
  "string",
  "bytes",
  "list",
  "map",
  "null_type",
  "type",
]);
/** How each macro is written: a call in any other form is left by the parser as one of an unknown function. */
const MACROS: ReadonlyMap<string, string> = new Map([
  ["has", "has(value.field)"],
  ["all", "list.all(x, condition)"],
  ["exists", "list.exists(x, condition)"],
  ["exists_one", "list.exists_one(x, condition)"],
  ["existsOne", "list.existsOne(x, condition)"],
  ["filter", "list.filter(x, condition)"],
  ["map", "list.map(x, result)"],
]);
/** Operators that are no functions. */
const CONTROL: ReadonlyMap<string, string | undefined> = new Map([
  ["_&&_", "bool"],
  ["_||_", "bool"],
  ["_?_:_", undefined],
  ["_[_]", undefined],
  ["@not_strictly_false", "bool"],
]);

const KNOWN_FUNCTIONS = [...FUNCTIONS.keys(), ...MACROS.keys()].filter((name) => /^[a-z]/i.test(name)).sort();

const MIN_INT = -(2n ** 63n);
const MAX_INT = 2n ** 63n - 1n;
const MAX_UINT = 2n ** 64n - 1n;

/** What checking an expression has found out about it. */
export interface Checked {
  readonly patterns: Map<string, Pattern>;
  /** Name of the type of every result, when the text alone tells it. */
  readonly resultType: string | undefined;
}

/**
 * Checks what the library would leave until an event comes, and rewrites in place the nodes whose work it doesn't bound:
 * loops count their steps, `map` and `filter` append to one list, elements and fields are looked up by own functions.
 *
 * @throws ExpressionFault at the first thing wrong.
 */
export function checkExpression(parsed: ParsedExpression): Checked {
  const { expr: root, sourceInfo } = parsed;
  if (root === undefined) throw new ExpressionFault("is empty");
  const patterns = new Map<string, Pattern>();
  let nodes = 0;
  let instructions = 0;

  const offsetOf = (node: Node) => sourceInfo?.positions[node.id.toString()];
  const fault = (node: Node, problem: string) => new ExpressionFault(problem, offsetOf(node));

  function visit(node: Node | undefined, names: readonly string[], inLoop: boolean): void {
    if (node === undefined) return;
    if (++nodes > MAX_EXPRESSION_NODES)
      throw new ExpressionFault(`has more than ${MAX_EXPRESSION_NODES} parts (names, literals, operators and calls)`);
    const { exprKind: kind } = node;
    switch (kind.case) {
      case "constExpr":
        visitLiteral(node, kind.value);
        return;
      case "identExpr":
        visitName(node, kind.value.name, names);
        return;
      case "selectExpr":
        visit(kind.value.operand, names, inLoop);
        if (kind.value.testOnly)
          become(node, "@has", [kind.value.operand!, literal(node, "stringValue", kind.value.field)]);
        return;
      case "listExpr":
        for (const element of kind.value.elements) visit(element, names, inLoop);
        return;
      case "structExpr":
        if (kind.value.messageName !== "") throw fault(node, `unknown type "${kind.value.messageName}"`);
        for (const entry of kind.value.entries) {
          if (entry.keyKind.case === "mapKey") visit(entry.keyKind.value, names, inLoop);
          visit(entry.value, names, inLoop);
        }
        return;
      case "callExpr":
        visitCall(node, kind.value, names, inLoop);
        return;
      case "comprehensionExpr":
        visitLoop(node, kind.value, names, inLoop);
        return;
      default:
        throw fault(node, "cannot be understood");
    }
  }

  function visitLiteral(node: Node, { constantKind }: Kind<"constExpr">): void {
    if (constantKind.case === "int64Value" && (constantKind.value < MIN_INT || constantKind.value > MAX_INT))
      throw fault(node, "an int is below -2^63 or above 2^63 - 1");
    if (constantKind.case === "uint64Value" && constantKind.value > MAX_UINT)
      throw fault(node, "a uint is above 2^64 - 1");
  }

  function visitName(node: Node, written: string, names: readonly string[]): void {
    const name = written.startsWith(".") ? written.slice(1) : written;
    if (VARIABLES.has(name) || TYPES.has(name) || names.includes(written)) return;
    const own = names.filter((known) => !known.startsWith("@"));
    throw fault(
      node,
      `unknown variable "${shorten(name)}", the variables are ${[...VARIABLES.keys(), ...own].join(", ")}`,
    );
  }

  function visitCall(node: Node, call: Kind<"callExpr">, names: readonly string[], inLoop: boolean): void {
    const { name, target } = calledFunction(call);
    if (!CONTROL.has(name)) {
      const overloads = FUNCTIONS.get(name);
      if (overloads === undefined) {
        const form = MACROS.get(name);
        if (form !== undefined) throw fault(node, `"${name}" is written ${form}`);
        throw fault(node, `unknown function "${shorten(name)}", the functions are ${KNOWN_FUNCTIONS.join(", ")}`);
      } else if (fitting(overloads, target, call).length === 0) {
        throw fault(node, `"${name}" is written ${overloads.map((overload) => overload.id).join(" or ")}`);
      }
      if (name === "matches") addPattern(call.args[0]!);
    }
    visit(target, names, inLoop);
    for (const arg of call.args) visit(arg, names, inLoop);
    if (name === "_[_]" && constantOf(call.args[1])?.case !== "stringValue") become(node, "@at", call.args);
  }

  function addPattern(node: Node): void {
    const constant = constantOf(node);
    // The text of an event would otherwise be compiled for each event, at any size.
    if (constant?.case !== "stringValue") throw fault(node, "the pattern of matches() must be a literal text");
    if (patterns.has(constant.value)) return;
    let pattern: Pattern;
    try {
      pattern = new Pattern(constant.value);
    } catch (error) {
      throw fault(node, `the pattern of matches() is refused: ${shorten((error as Error).message)}`);
    }
    instructions += pattern.instructions;
    if (instructions > MAX_PATTERN_INSTRUCTIONS)
      throw fault(
        node,
        `the patterns of matches() are too large: more than ${MAX_PATTERN_INSTRUCTIONS} instructions together`,
      );
    patterns.set(constant.value, pattern);
  }

  function visitLoop(node: Node, loop: Kind<"comprehensionExpr">, names: readonly string[], inLoop: boolean): void {
    const { iterRange, accuInit, loopCondition, loopStep, result } = loop;
    if (!iterRange || !accuInit || !loopCondition || !loopStep || !result) throw fault(node, "cannot be understood");
    if (inLoop) throw fault(node, `"${macroOf(node)}" stands inside another loop, loops cannot be nested`);
    visit(iterRange, names, inLoop);
    visit(accuInit, names, inLoop);
    const before = nodes;
    const inside = [...names, loop.iterVar, loop.accuVar];
    visit(loopCondition, inside, true);
    visit(loopStep, inside, true);
    const steps = literal(node, "int64Value", BigInt(nodes - before));
    visit(result, inside, true);
    loop.iterRange = callOf(iterRange, "@range", [iterRange]);
    loop.loopCondition = callOf(loopCondition, "@loop", [loopCondition, steps]);
    if (accuInit.exprKind.case === "listExpr") {
      become(accuInit, "@list", []);
      appendInPlace(loopStep, loop.accuVar);
    }
  }

  function macroOf(node: Node): string {
    const call = sourceInfo?.macroCalls[node.id.toString()]?.exprKind;
    return call?.case === "callExpr" ? call.value.function : "loop";
  }

  const resultType = typeOf(root);
  visit(root, [], false);
  return { patterns, resultType };
}

/** `list + [item]` of the macros `map` and `filter`, which in `filter` stands in the middle of a condition. */
function appendInPlace(step: Node, list: string): void {
  if (step.exprKind.case !== "callExpr") return;
  const { function: name, args } = step.exprKind.value;
  if (name === "_?_:_") appendInPlace(args[1]!, list);
  const [left, right] = args;
  if (name !== "_+_" || left?.exprKind.case !== "identExpr" || left.exprKind.value.name !== list) return;
  if (right?.exprKind.case === "listExpr") become(step, "@append", [left, right.exprKind.value.elements[0]!]);
}

/** `strings.quote(x)` reads like a method of a variable and is a function with a dot in its name. */
function calledFunction(call: Kind<"callExpr">): { name: string; target: Node | undefined } {
  const { target } = call;
  if (target?.exprKind.case === "identExpr") {
    const name = `${target.exprKind.value.name}.${call.function}`;
    if (FUNCTIONS.has(name)) return { name, target: undefined };
  }
  return { name: call.function, target };
}

const fitting = (overloads: readonly CelFunc[], target: Node | undefined, call: Kind<"callExpr">) =>
  overloads.filter(
    (overload) =>
      (overload.target === undefined) === (target === undefined) && overload.arguments.length === call.args.length,
  );

/** The type of whatever the node gives, undefined when it depends on the event. */
function typeOf({ exprKind: kind }: Node): string | undefined {
  switch (kind.case) {
    case "constExpr":
      return kind.value.constantKind.case?.replace(/(64)?Value$/, "");
    case "identExpr":
      return VARIABLES.get(kind.value.name);
    case "selectExpr":
      return kind.value.testOnly ? "bool" : undefined;
    case "listExpr":
      return "list";
    case "structExpr":
      return "map";
    case "comprehensionExpr":
      return kind.value.accuInit?.exprKind.case === "listExpr" ? "list" : "bool";
    case "callExpr": {
      const { name, target } = calledFunction(kind.value);
      if (CONTROL.has(name)) return CONTROL.get(name);
      const types = new Set(fitting(FUNCTIONS.get(name) ?? [], target, kind.value).map(({ result }) => result.name));
      if (types.has("bool") && types.size === 1) return "bool";
      return types.has("bool") || types.has("dyn") || types.size === 0 ? undefined : [...types].join(" or ");
    }
    default:
      return undefined;
  }
}

type Constant = Kind<"constExpr">["constantKind"];

const constantOf = (node: Node | undefined): Constant | undefined =>
  node?.exprKind.case === "constExpr" ? node.exprKind.value.constantKind : undefined;

const constExpr = (constantKind: Constant): Node["exprKind"] => ({
  case: "constExpr",
  value: { $typeName: "cel.expr.Constant", constantKind },
});

function literal(at: Node, type: "stringValue", value: string): Node;
function literal(at: Node, type: "int64Value", value: bigint): Node;
function literal(at: Node, type: "stringValue" | "int64Value", value: string | bigint): Node {
  return { $typeName: "cel.expr.Expr", id: at.id, exprKind: constExpr({ case: type, value } as Constant) };
}

function callOf(at: Node, name: string, args: Node[]): Node {
  return {
    $typeName: "cel.expr.Expr",
    id: at.id,
    exprKind: { case: "callExpr", value: { $typeName: "cel.expr.Expr.Call", function: name, args } },
  };
}

function become(node: Node, name: string, args: Node[]): void {
  node.exprKind = callOf(node, name, args).exprKind;
}

/** What the author of an expression is shown of a text that may be as long as the expression. */
export function shorten(text: string): string {
  return text.length > 120 ? `${text.slice(0, 120).toWellFormed()}…` : text;
}
