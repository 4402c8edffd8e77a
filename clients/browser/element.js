/** Defines `<headway-job>` in the page that imports this module. */

import { defineHeadwayJob } from "./headway-job.js";

export { HeadwayJob } from "./headway-job.js";

defineHeadwayJob();
