import { readdirSync } from "node:fs";
import type { DescFile, DescService } from "@bufbuild/protobuf";

/** Every service of the API, as its generated files have them. */
export async function allServices(): Promise<DescService[]> {
  const folder = new URL("../../gen/millrace/v1/", import.meta.url);
  const names = readdirSync(folder).filter((name) => name.endsWith("_pb.js"));
  const modules = await Promise.all(names.map((name) => import(new URL(name, folder).href)));
  return modules.flatMap((module: Record<string, unknown>) =>
    Object.values(module).flatMap((each) =>
      (each as Partial<DescFile>)?.kind === "file" ? (each as DescFile).services : [],
    ),
  );
}
