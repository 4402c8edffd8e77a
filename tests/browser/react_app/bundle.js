/** Bundles each of some modules as Vite does for production, without React, and prints the code of its chunks as JSON. */

import { build } from "vite";

const bundles = [];
for (const input of process.argv.slice(2)) {
  const { output } = await build({
    logLevel: "silent",
    build: {
      write: false,
      modulePreload: { polyfill: false }, // Vite's own code
      rolldownOptions: { input, external: ["react"], preserveEntrySignatures: "strict" },
    },
  });
  bundles.push(output.map(({ code }) => code));
}
console.log(JSON.stringify(bundles));
