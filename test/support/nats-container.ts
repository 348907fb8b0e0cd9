import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NatsContainer } from "@testcontainers/nats";
import { GenericContainer, getContainerRuntimeClient } from "testcontainers";
import { findNatsServer, NATS_SERVER_VERSION } from "../../scripts/nats-server.mjs";

/** A nats-server with JetStream in a container. Disposing removes the container. */
export interface NatsInContainer extends AsyncDisposable {
  /** For `NATS_URL`, with user and password. */
  readonly url: string;
}

/** The image to use, or why there is none. */
export type NatsImage =
  | { readonly image: string; readonly reason?: undefined }
  | { readonly image?: undefined; readonly reason: string };

// Testcontainers' helper that removes what a killed run leaves behind is one more image to pull.
process.env.TESTCONTAINERS_RYUK_DISABLED ??= "true";

const USER = "test";
const PASS = "test-password";
const CONFIG = `
jetstream { store_dir: "/data", max_file_store: 1073741824, max_memory_store: 67108864, sync_interval: "1s" }
max_payload: 8388608
`;

/**
 * `NATS_IMAGE`, else an image made here of nothing but the nats-server at hand, for which no registry is needed. It has
 * to be a static Linux binary, as those are that set-up installs on Linux.
 */
export async function natsImage(env: Readonly<Record<string, string | undefined>>): Promise<NatsImage> {
  try {
    await getContainerRuntimeClient();
  } catch (error) {
    return { reason: `no container engine answers (${(error as Error).message})` };
  }
  if (env.NATS_IMAGE) return { image: env.NATS_IMAGE };
  const binary = findNatsServer(env);
  if (process.platform !== "linux" || binary === undefined) {
    return { reason: "no Linux nats-server here to make an image of, and NATS_IMAGE is not set" };
  }
  return { image: await buildImage(binary) };
}

async function buildImage(binary: string): Promise<string> {
  const image = `millrace-test-nats:${NATS_SERVER_VERSION}`;
  const context = await mkdtemp(join(tmpdir(), "millrace-image-"));
  try {
    await copyFile(binary, join(context, "nats-server"));
    const dockerfile = 'FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT ["/nats-server"]\n';
    await writeFile(join(context, "Dockerfile"), dockerfile);
    await GenericContainer.fromDockerfile(context).build(image, { deleteOnExit: false });
    return image;
  } finally {
    await rm(context, { recursive: true, force: true });
  }
}

/** @throws Error when the image cannot be had or the server does not start within a minute. */
export async function startNatsContainer(image: string): Promise<NatsInContainer> {
  const container = await new NatsContainer(image)
    .withUsername(USER)
    .withPass(PASS)
    .withCopyContentToContainer([{ content: CONFIG, target: "/nats.conf" }])
    .withArg("--config", "/nats.conf")
    .withStartupTimeout(60_000)
    .start();
  const { servers } = container.getConnectionOptions();
  return {
    url: `nats://${USER}:${PASS}@${servers}`,
    async [Symbol.asyncDispose]() {
      await container.stop();
    },
  };
}
