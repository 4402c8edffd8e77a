/**
 * The dashboard: every job at a glance, one job in depth, and what an operator can do about it.
 *
 * The page is the same for everyone; what it shows comes from the public API with the operator's token. A view is a
 * class with an `element`; `update(route)` is called with each route of the view, and `close()` at its end. `app` is what
 * the views share: `session`, `api`, `router`, `keyboard`, `notices` and, of one session, `data`.
 */

import { Api } from "/assets/api.js";
import { Keyboard } from "/assets/keyboard.js";
import { Notices } from "/assets/notices.js";
import { sharedData } from "/assets/overview.js";
import { Router } from "/assets/router.js";
import { Session } from "/assets/session.js";
import { Shell } from "/assets/shell.js";
import { failurePage, loadModule, Views } from "/assets/views.js";

const VIEWS = {
  jobs: () => import("/assets/list-view.js"),
  job: () => import("/assets/detail-view.js"),
  kinds: () => import("/assets/kinds-view.js"),
  workers: () => import("/assets/workers-view.js"),
  poison: () => import("/assets/poison-view.js"),
  missing: () => import("/assets/missing-view.js"),
};

const app = { session: new Session(onSession), keyboard: new Keyboard(), notices: new Notices() };
app.api = new Api(app.session);
app.router = new Router(onRoute);

const views = new Views(app, VIEWS);
let shell = null; // while an operator is signed in

function onRoute(route, arrival) {
  if (!shell) return;
  shell.select(route.view);
  views.show(route, arrival);
}

/** Show the views to an operator who has signed in, and the form to others. When a session expires, the page stays. */
function onSession(event, reason) {
  if (shell && !document.querySelector("dialog.expired")) app.router.leave();
  if (shell && event === "expired") return withForm(({ askForKey }) => askForKey(app.session, reason));
  views.close();
  shell?.close();
  shell = null;
  if (event !== "opened") return withForm(({ signInPage }) => show(signInPage(app.session)));
  app.data = sharedData(app.api);
  shell = new Shell(app);
  show(shell.element);
  views.open(shell.main);
  onRoute(app.router.route, "return");
  if (!app.session.canOperate) app.notices.show("Read-only: this API key does not have the role operate.");
}

async function withForm(use) {
  try {
    const form = await loadModule(() => import("/assets/sign-in.js"));
    if (!app.session.token) use(form); // another tab may have signed in meanwhile
  } catch (error) {
    showFailure(error);
  }
}

function showFailure(error) {
  show(failurePage("The dashboard could not be opened", error));
}

function show(...content) {
  document.body.replaceChildren(...content, app.notices.element);
  document.querySelector("#key")?.focus();
}

try {
  await app.session.resume();
  if (!app.session.token) onSession("closed");
} catch (error) {
  showFailure(error);
}
