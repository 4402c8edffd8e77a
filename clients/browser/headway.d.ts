export * from "./element.js";
export * from "./watch.js";
