export * from "./element.js";
export * from "./jobs-element.js";
export * from "./watch.js";
export * from "./watch-jobs.js";
