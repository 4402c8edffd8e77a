/** Hydrates the scene that the server has rendered when the test asks for it. The test then shows other scenes. */

import { hydrateRoot } from "react-dom/client";
import { watchJob } from "headway-live/watch";
import { App, type Scene } from "./App";

const scene: Scene = JSON.parse(document.querySelector("#scene")!.textContent);

function hydrate() {
  const root = hydrateRoot(document.querySelector("main")!, <App {...scene} />);
  Object.assign(window, { show: (changes: Partial<Scene>) => root.render(<App {...scene} {...changes} />) });
}

Object.assign(window, {
  received: [],
  scene,
  hydrate,
  watchJob,
  importAll: () => import("headway-live"),
  importElement: () => import("headway-live/element"),
});
