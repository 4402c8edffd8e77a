// Watches a job with the client of ASP.NET Core; prints what it is called with, one JSON value a line.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.PACKAGES}/`);
const { HttpTransportType, HubConnectionBuilder, LogLevel } = require("@microsoft/signalr");
const { MessagePackHubProtocol } = require("@microsoft/signalr-protocol-msgpack");
const { url, jobId, token, transport, protocol, watch } = JSON.parse(process.argv[2]);

const print = (...values) => console.log(JSON.stringify(values));
const target = watch === "url" ? `${url}?jobId=${jobId}` : url;
let builder = new HubConnectionBuilder()
  .withUrl(target, { accessTokenFactory: watch === "url" ? () => token : undefined, transport: HttpTransportType[transport] })
  .withAutomaticReconnect()
  .configureLogging(LogLevel.Error);
if (protocol === "messagepack") builder = builder.withHubProtocol(new MessagePackHubProtocol());
const connection = builder.build();
const ended = Promise.withResolvers?.() ?? deferred();
const onSnapshot = (snapshot) => {
  print("snapshot", snapshot.status, snapshot.version);
  if (snapshot.status === "succeeded") ended.resolve();
};
connection.on("updateProgress", (percent) => print("progress", percent));
connection.on("jobChanged", onSnapshot);
connection.on("watchError", (error) => print("error", error));
connection.onclose((error) => print("closed", error?.message ?? null));
connection.onreconnected(() => print("reconnected"));

await connection.start();
if (watch === "method") await connection.invoke("Watch", token);
if (watch === "stream") {
  connection.stream("WatchJob", token, null).subscribe({
    next: (snapshot) => print("snapshot", snapshot.status, snapshot.version),
    complete: () => ended.resolve(),
    error: (error) => print("error", error.message),
  });
}
for (const [method, ...values] of [["Nothing"], ["Watch"], ["Watch", "wrong"], ["Cancel", crypto.randomUUID()]]) {
  print("failed", await connection.invoke(method, ...values).then(String, ({ message }) => message));
}
print("watching");
await ended.promise;
await connection.stop();

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve) => (parts.resolve = resolve));
  return parts;
}
