// Socket.IO with the Redis adapter: `POST /pub/<job>` emits to the room of the job; a socket's query string names its job.

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const publisher = createClient({ url: process.env.BENCH_REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const job = request.url.slice("/pub/".length);
    io.to(`job:${job}`).emit("report", Buffer.concat(chunks).toString());
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});
const io = new Server(server, {
  adapter: createAdapter(publisher, subscriber),
  serveClient: false,
  transports: ["websocket"],
});
io.on("connection", (socket) => socket.join(`job:${socket.handshake.query.job}`));

server.keepAliveTimeout = 75_000;
server.listen(Number(process.env.BENCH_PORT), "127.0.0.1", 1024);
