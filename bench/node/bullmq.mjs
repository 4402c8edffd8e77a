// BullMQ: a worker if the argument is its concurrency, or else a client that enqueues jobs on commands from stdin.

import { closeSync, openSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const NAP_MS = 3_600_000;
const connection = new Redis(process.env.BENCH_REDIS_URL, { maxRetriesPerRequest: null });
const concurrency = Number(process.argv[2] ?? 0);

async function enqueue(queue, kind) {
  await queue.add(kind, { at: Number(process.hrtime.bigint()) }, { removeOnComplete: true, removeOnFail: true });
}

if (concurrency > 0) {
  const starts = openSync(process.env.BENCH_STARTS, "a");
  process.on("exit", () => closeSync(starts));
  new Worker("bench", async (job) => {
    writeSync(starts, `${job.data.at} ${process.hrtime.bigint()}\n`); // CLOCK_MONOTONIC, as in Python
    if (job.name === "nap") await setTimeout(NAP_MS);
  }, { connection, concurrency });
} else {
  const queue = new Queue("bench", { connection });
  for await (const line of createInterface({ input: process.stdin })) {
    const [kind, count] = line.split(" ");
    for (let sent = 0; sent < Number(count); sent += 1) await enqueue(queue, kind);
    process.stdout.write("sent\n");
  }
  process.exit(0);
}
