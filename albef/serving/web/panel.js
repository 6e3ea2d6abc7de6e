// A section of the page: one piece of work at a time, and how it is told.

import { button, el } from "./dom.js";
import { Problem } from "./api.js";

export class Panel {
  #problem = el("div", { className: "problem", role: "alert", hidden: true });
  #told = el("p", { className: "told", role: "status" });
  #work = null;
  #timer = 0;

  constructor(element, api) {
    this.element = element;
    this.api = api;
    this.out = element.querySelector(".out");
    element.querySelector("form").after(this.#problem, this.#told);
  }

  get busy() {
    return this.#work !== null;
  }

  /** Do some work, given a signal; whatever was being done before is given up. */
  async run(work) {
    this.stop();
    const own = (this.#work = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    try {
      await work(own.signal);
    } catch (error) {
      if (!own.signal.aborted) this.fail(error, () => this.run(work));
    } finally {
      if (this.#work === own) this.#rest();
    }
  }

  /** Give up what is being done. */
  stop() {
    this.#work?.abort();
    this.#rest();
    clearInterval(this.#timer);
    this.#problem.hidden = true;
    this.#problem.replaceChildren();
  }

  /** Say what came of it; `answer` names the model and the time that it took. */
  tell(text, answer = null) {
    this.#told.replaceChildren(text, ...(answer ? [" ", this.credit(answer)] : []));
  }

  /** Say aloud what is seen elsewhere. */
  announce(text) {
    this.#told.replaceChildren(el("span", { className: "unseen" }, text));
  }

  /** Say what is missing, or what went wrong. */
  fail(error, again = null) {
    if (!(error instanceof Problem)) {
      console.error(error);
      error = new Problem(0, `the page failed: ${error.message}`);
    }
    const passing = [0, 429, 503, 504].includes(error.status);
    const retry = again && passing ? button("Try again", again, { className: "quiet" }) : null;
    const wait = el("span");
    this.#problem.replaceChildren(error.message, wait, ...(retry ? [" ", retry] : []));
    this.#problem.hidden = false;
    this.tell("");
    if (error.retryAfter !== null && retry) this.#countDown(error.retryAfter, wait, retry);
  }

  /** Say that a slot needs a picture. */
  lack(slot) {
    this.fail(new Problem(-1, slot.missing));
    slot.input.focus();
  }

  /** Which run answered, and in what time; more of it when it is pointed at. */
  credit({ model, ms }) {
    const [run, digest] = model.split("@");
    const known = this.api.model.models.find(
      (own) => own.run === run && own.digest.startsWith(digest),
    );
    const time = ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
    const title = `kind ${known?.kind ?? "unknown"}, digest ${digest}`;
    return el("span", { className: "credit", title }, `${run}, ${time}`);
  }

  #rest() {
    this.#work = null;
    this.element.setAttribute("aria-busy", "false");
  }

  #countDown(seconds, wait, retry) {
    const show = () => {
      retry.disabled = seconds > 0;
      wait.textContent = seconds > 0 ? ` It may be asked again in ${seconds} s.` : "";
      if (seconds-- <= 0) clearInterval(this.#timer);
    };
    clearInterval(this.#timer);
    this.#timer = setInterval(show, 1000);
    show();
  }
}
