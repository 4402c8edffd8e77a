/**
 * The tabs of the dashboard in one browser, which share a session in their memory: a new tab asks for no key, and
 * signing out ends the session in all of them.
 */

const CHANNEL = "headway-dashboard";
const ANSWER_MS = 200;

export class SessionTabs {
  #channel = globalThis.BroadcastChannel ? new BroadcastChannel(CHANNEL) : null;
  #session = null;
  #onAnswer = () => {};

  /**
   * @param {object} handlers
   * @param {(session: object) => void} handlers.onSession called with the session of a tab that has signed in or renewed it
   * @param {() => void} handlers.onSignOut called when the operator has signed out in another tab
   */
  constructor({ onSession, onSignOut }) {
    this.#channel?.addEventListener("message", ({ data: { type, session } }) => {
      if (type === "ask" && this.#session) this.share(this.#session);
      if (type === "sign-out") onSignOut();
      if (type !== "session") return;
      onSession(session);
      this.#onAnswer();
    });
  }

  /** Share the session of this tab, null if it has none. */
  share(session) {
    this.#session = session;
    if (session) this.#channel?.postMessage({ type: "session", session });
  }

  signOut() {
    this.#channel?.postMessage({ type: "sign-out" });
  }

  /** Ask the other tabs for their session; resolves when one has answered, or none does. */
  ask() {
    if (!this.#channel) return null;
    this.#channel.postMessage({ type: "ask" });
    return new Promise((resolve) => {
      this.#onAnswer = resolve;
      setTimeout(resolve, ANSWER_MS);
    });
  }
}
