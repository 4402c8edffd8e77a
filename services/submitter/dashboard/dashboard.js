/**
 * The dashboard: every job at a glance, one job in depth, and what an operator can do about it.
 *
 * The page is the same for everyone; what it shows comes from the public API with the operator's token. A view is a
 * class with an `element`; `update(route)` is called with each route of the view, and `close()` at its end. `app` is what
 * the views share: `session`, `api`, `router`, `keyboard` and `notices`.
 */

import { Api } from "/assets/api.js";
import { Keyboard } from "/assets/keyboard.js";
import { Notices } from "/assets/notices.js";
import { Router } from "/assets/router.js";
import { Session } from "/assets/session.js";
import { Shell } from "/assets/shell.js";
import { signInForm } from "/assets/sign-in.js";

const VIEWS = {};

const app = { session: new Session(onSession), keyboard: new Keyboard(), notices: new Notices() };
app.api = new Api(app.session);
app.router = new Router(showRoute);

let shell = null;
let view = null; // as `{name, page}`
let routes = 0; // a view that has loaded after another one was chosen is not shown

/** Show the views to an operator who has signed in, and the form to others. */
function onSession() {
  closeView();
  shell?.close();
  shell = app.session.token ? new Shell(app) : null;
  const content = shell ? shell.element : signInForm(app.session);
  document.body.replaceChildren(content, app.notices.element);
  if (shell) showRoute(app.router.route);
  else document.querySelector("#key").focus();
}

async function showRoute(route) {
  if (!shell) return;
  const turn = ++routes;
  shell.select(route.view);
  if (view?.name !== route.view) {
    const { default: Page } = await VIEWS[route.view]();
    if (turn !== routes || !shell) return;
    closeView();
    view = { name: route.view, page: new Page(app) };
    shell.main.replaceChildren(view.page.element);
  }
  view.page.update(route);
}

function closeView() {
  view?.page.close();
  view = null;
}

try {
  await app.session.resume();
} catch (error) {
  app.notices.showError("The session could not be opened.", error);
}
if (!app.session.token) onSession();
