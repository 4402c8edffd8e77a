/**
 * The public module: watch jobs and lists of jobs live. A page loads only this file.
 *
 *     import { watchJob } from "https://jobs.example.org/assets/headway.js";
 *
 *     const watch = watchJob({ url, token }, (snapshot) => render(snapshot));
 *     watch.close();
 */

export { HeadwayJob } from "./element.js";
export { HeadwayJobs } from "./jobs-element.js";
export { watchJob } from "./watch.js";
export { watchJobs } from "./watch-jobs.js";
