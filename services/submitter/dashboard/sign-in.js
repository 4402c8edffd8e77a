/** The form with which an operator signs in: a page of its own, or a dialog over the page whose session has ended. */

import { ApiError } from "/assets/api.js";
import { h, loadStyles } from "/assets/dom.js";
import { setText } from "/assets/text.js";

const SENDABLE = /^[\x21-\x7e]+$/; // the characters of a header: fetch reports others as it reports a lost server

/** Create the page of an operator who is not signed in. */
export function signInPage(session) {
  document.title = "Sign in · Headway";
  const brand = h("p", { class: "brand" }, h("img", { src: "/assets/icon.svg", alt: "", width: 24, height: 24 }), "Headway");
  return h("main", { class: "alone" }, brand, signInForm(session, h("h1", { id: "sign-in" }, "Sign in")));
}

/** Ask in a dialog, over a page that stays until the session goes on, perhaps because another tab has signed in. */
export function askForKey(session, reason) {
  const form = signInForm(session, h("h2", { id: "sign-in" }, "Sign in again"), h("p", {}, reason));
  const dialog = h("dialog", { class: "expired", "aria-labelledby": "sign-in", cancel: (event) => event.preventDefault() }, form);
  dialog.addEventListener("close", () => location.reload()); // a second Esc closes it all the same
  loadStyles("dialogs.css");
  document.body.append(dialog);
  dialog.showModal();
}

/** Create the form. The session reports that it has a token. */
function signInForm(session, ...heading) {
  const options = { type: "password", required: true, autocomplete: "off", "aria-describedby": "key-problem" };
  const field = h("input", { id: "key", autofocus: true, ...options });
  const problem = h("p", { id: "key-problem", class: "problem", role: "alert" });
  const button = h("button", { class: "button main" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // a disabled button would lose the focus
    setText(problem, "");
    const key = field.value.trim();
    try {
      if (!SENDABLE.test(key)) throw new ApiError("", { status: 401 });
      await session.signIn(key);
    } catch (error) {
      setText(problem, error.status === 401 ? "This API key is not known. Check it for missing characters." : error.message);
      field.select();
    }
    button.ariaDisabled = "false";
  };
  const help = h("p", { class: "soft" }, "With the role ", h("code", {}, "operate"), " you can act on jobs. With any other key, you can only look.");
  return h("form", { class: "sign-in", "aria-labelledby": "sign-in", submit }, ...heading, h("label", { for: "key" }, "API key"), field, problem, button, help);
}
