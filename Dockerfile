# The service, for use with NATS servers of its own (NATS_URL); it holds no nats-server to embed.
# It listens on all addresses of its container, so it starts only with MILLRACE_ALLOW_ANONYMOUS=true: docs/security.md.

FROM node:24-slim AS packages
WORKDIR /app
COPY package.json package-lock.json ./
# The install script of the package "node" would bring a second Node 24; no other package needs its script.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && rm -rf node_modules/node node_modules/.bin/node

FROM node:24-slim
WORKDIR /app
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080
COPY --from=packages /app/node_modules node_modules
COPY package.json ./
COPY bin bin
COPY gen gen
COPY scripts scripts
COPY src src
USER node
EXPOSE 8080
# Ready means that the storage takes writes, so a gateway without it shows as unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/readyz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# Without npm in between, SIGTERM reaches the service, which then drains.
CMD ["node", "src/main.ts"]
