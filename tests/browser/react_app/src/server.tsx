/** Renders a scene as a server does. */

import { renderToString } from "react-dom/server";
import { App, type Scene } from "./App";

export const render = (scene: Scene) => renderToString(<App {...scene} />);
