// Watches a job with several clients of ASP.NET Core in Node.js; prints what they are called with, one JSON value a line.
import { createRequire } from "node:module";
import { watchJob } from "./aspnet_core.mjs";

const require = createRequire(`${process.env.PACKAGES}/`);
const watch = (client, number) => {
  const print = (...values) => console.log(JSON.stringify([number, ...values]));
  return watchJob(require(client.packages[0]), require(client.packages[1]).MessagePackHubProtocol, client, print);
};
// With the EventSource of Node.js, the client forgets to close a stream that the server refuses. It opens by itself later,
// and when it ends, the client raises this error if it is just connecting.
process.on("uncaughtException", (error) => {
  if (!/stopConnection.* was called while the connection is still in the connecting state/.test(error.message)) throw error;
});
await Promise.all(JSON.parse(process.argv[2]).map(watch));
process.exit(); // whatever streams it has forgotten
