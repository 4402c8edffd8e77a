/** Bundles a module as Vite does for production, without React, and prints the code of each chunk as JSON. */

import { build } from "vite";

const { output } = await build({
  logLevel: "silent",
  build: {
    write: false,
    modulePreload: { polyfill: false }, // Vite's own code
    rolldownOptions: { input: process.argv[2], external: ["react"], preserveEntrySignatures: "strict" },
  },
});
console.log(JSON.stringify(output.map(({ code }) => code)));
