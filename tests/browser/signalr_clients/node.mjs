// Watches a job with several clients of ASP.NET Core in Node.js; prints what they are called with, one JSON value a line.
import { createRequire } from "node:module";
import { watchJob } from "./aspnet_core.mjs";

const require = createRequire(`${process.env.PACKAGES}/`);
const watch = (client, number) => {
  const print = (...values) => console.log(JSON.stringify([number, ...values]));
  return watchJob(require(client.packages[0]), require(client.packages[1]).MessagePackHubProtocol, client, print);
};
await Promise.all(JSON.parse(process.argv[2]).map(watch));
