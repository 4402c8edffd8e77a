/** Defines `<headway-jobs>` in the page that imports this module. */

import { defineHeadwayJobs } from "./headway-jobs.js";

export { HeadwayJobs } from "./headway-jobs.js";

defineHeadwayJobs();
