/** The form with which an operator signs in. */

import { h } from "/assets/dom.js";
import { setText } from "/assets/text.js";

/** Create the form. The session reports that it has a token. */
export function signInForm(session) {
  const field = h("input", { id: "key", type: "password", name: "key", required: true, autocomplete: "current-password" });
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { class: "button main" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // a disabled button would lose the focus
    setText(problem, "");
    try {
      await session.signIn(field.value.trim());
    } catch (error) {
      setText(problem, error.status === 401 ? "This key is not known. Check it for missing characters." : error.message);
      field.select();
    }
    button.ariaDisabled = "false";
  };
  const help = h("p", { class: "soft" }, "Its role decides what you can do: with the role ", h("code", {}, "operate"), " you can act on jobs, with another one you can look.");
  return h("form", { class: "sign-in", submit }, h("h1", {}, "Sign in"), h("label", { for: "key" }, "API key"), field, problem, button, help);
}
