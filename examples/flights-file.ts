import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Domestic flights in the United States in 2001: the largest file of `vega-datasets` that names the airports. */
export const FLIGHTS_FILE = "flights-20k.json";

export const AIRPORTS_FILE = "airports.csv";

export interface Flight {
  readonly date: string;
  /** Minutes; below 0: it was early. */
  readonly delay: number;
  /** Miles. */
  readonly distance: number;
  /** Airport, by its three letters. */
  readonly origin: string;
  readonly destination: string;
}

/**
 * Reads the flights, in the order of the file.
 *
 * @param rows how many; more than the file has: it is read again from its start.
 */
export function readFlights(rows: number | undefined): Flight[] {
  const url = new URL(`data/${FLIGHTS_FILE}`, packageFolder());
  const flights = JSON.parse(readFileSync(fileURLToPath(url), "utf8")) as Flight[];
  return rows === undefined ? flights : Array.from({ length: rows }, (_, row) => flights[row % flights.length]!);
}

const packageFolder = () => new URL("..", import.meta.resolve("vega-datasets"));

/** An airport, as the file of airports has it. */
export interface Airport {
  readonly name: string;
  readonly city: string;
  readonly state: string;
}

/** All airports, by their three letters. */
export function readAirports(): Map<string, Airport> {
  const text = readFileSync(fileURLToPath(new URL(`data/${AIRPORTS_FILE}`, packageFolder())), "utf8");
  const [, ...lines] = text.trim().split(/\r?\n/);
  return new Map(
    lines.map((line) => {
      const [code, name, city, state] = cells(line);
      return [code!, { name: name!, city: city!, state: state! }];
    }),
  );
}

/** The cells of a line of CSV; those with a comma stand in quotes. */
const cells = (line: string): string[] =>
  Array.from(line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g), ([, quoted, plain]) =>
    quoted === undefined ? plain! : quoted.replaceAll('""', '"'),
  );

/** What is counted of flights, in the file and in what comes back. */
export class FlightTotals {
  flights = 0;
  delayMinutes = 0;
  distanceMiles = 0;
  readonly byOrigin = new Map<string, { flights: number; delayMinutes: number }>();

  add({ origin, delay, distance }: Flight): void {
    this.flights++;
    this.delayMinutes += delay;
    this.distanceMiles += distance;
    const airport = this.byOrigin.get(origin) ?? { flights: 0, delayMinutes: 0 };
    airport.flights++;
    airport.delayMinutes += delay;
    this.byOrigin.set(origin, airport);
  }

  /** The airports with most flights. */
  busiest(count: number): [origin: string, counts: { flights: number; delayMinutes: number }][] {
    return [...this.byOrigin].sort(([, a], [, b]) => b.flights - a.flights).slice(0, count);
  }
}

export function totalsOf(flights: Iterable<Flight>): FlightTotals {
  const totals = new FlightTotals();
  for (const flight of flights) totals.add(flight);
  return totals;
}
