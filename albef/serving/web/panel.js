// A section of the page: one piece of work at a time, with its progress and errors.

import { button, el } from "./dom.js";
import { ApiError } from "./api.js";

export class Panel {
  #problem = el("div", { className: "problem", role: "alert", hidden: true });
  #status = el("p", { className: "status", role: "status" });
  #work = null;
  #timer = 0;

  constructor(element, api) {
    this.element = element;
    this.api = api;
    this.out = element.querySelector(".out");
    element.querySelector("form").after(this.#problem, this.#status);
  }

  get busy() {
    return this.#work !== null;
  }

  /** Do some work, given an abort signal, instead of the work before. */
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

  /** Abort the work. */
  stop() {
    this.#work?.abort();
    this.#rest();
    clearInterval(this.#timer);
    this.#problem.hidden = true;
    this.#problem.replaceChildren();
  }

  /** Show a result; `answer` has the model and the time that it took. */
  report(text, answer = null) {
    this.#status.replaceChildren(text, ...(answer ? [" ", this.source(answer)] : []));
  }

  /** Show a text only to screen readers. */
  announce(text) {
    this.#status.replaceChildren(el("span", { className: "unseen" }, text));
  }

  /** Show an error. */
  fail(error, again = null) {
    if (!(error instanceof ApiError)) {
      console.error(error);
      error = new ApiError(0, `error in the page: ${error.message}`);
    }
    const isTemporary = [0, 429, 503, 504].includes(error.status);
    const retry = again && isTemporary ? button("Try again", again, { className: "quiet" }) : null;
    const wait = el("span");
    this.#problem.replaceChildren(error.message, wait, ...(retry ? [" ", retry] : []));
    this.#problem.hidden = false;
    this.report("");
    if (error.retryAfter !== null && retry) this.#countDown(error.retryAfter, wait, retry);
  }

  /** Show that a slot needs an image. */
  requireImage(slot) {
    this.fail(new ApiError(-1, slot.missing));
    slot.input.focus();
  }

  /** Run that answered and its time; kind and digest as a tooltip. */
  source({ model, ms }) {
    const [run, digest] = model.split("@");
    const known = this.api.model.models.find(
      (own) => own.run === run && own.digest.startsWith(digest),
    );
    const time = ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
    const title = `kind ${known?.kind ?? "unknown"}, digest ${digest}`;
    return el("span", { className: "source", title }, `${run}, ${time}`);
  }

  #rest() {
    this.#work = null;
    this.element.setAttribute("aria-busy", "false");
  }

  #countDown(seconds, wait, retry) {
    const show = () => {
      retry.disabled = seconds > 0;
      wait.textContent = seconds > 0 ? ` Retry in ${seconds} s.` : "";
      if (seconds-- <= 0) clearInterval(this.#timer);
    };
    clearInterval(this.#timer);
    this.#timer = setInterval(show, 1000);
    show();
  }
}
