// A question or a statement about one or two images.

import { bars, el, percent } from "./dom.js";
import { Panel } from "./panel.js";

const KEPT = 20; // answers shown
const SMALL = 112; // side of an image beside its answer, in pixels
const TONES = { true: "good", entailment: "good", false: "bad", contradiction: "bad" };
const UNSURE = "no answer is probable enough"; // below the server's minimum probability
const WORDS = {
  entailment: "entailed: the image shows it",
  neutral: "neutral: the image leaves it open",
  contradiction: "contradicted: the image shows otherwise",
};

/**
 * Section of a call that takes a text and images.
 *
 * `field` is the call's field for the text, `slots` has a slot for each of its image fields, and
 * `summarize` returns label, tone and bars of an answer.
 */
export class Question extends EventTarget {
  constructor(section, api, { call, field, slots, summarize }) {
    super();
    this.panel = new Panel(section, api);
    this.slots = slots;
    this.input = section.querySelector("form [name=text]");
    section.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.input.value.trim();
      if (text) this.#ask(text, `v1/${call}`, field, summarize);
    });
  }

  /** Fill in a text, without sending it. */
  find(text) {
    this.input.value = text;
    this.input.focus();
  }

  clear() {
    this.panel.stop();
    this.panel.report("");
    this.input.value = "";
    this.input.focus();
  }

  async #ask(text, path, field, summarize) {
    await this.panel.run(async (signal) => {
      const images = [];
      for (const [name, slot] of Object.entries(this.slots)) {
        const image = await slot.shared.ready();
        if (image === null) return this.panel.requireImage(slot);
        images.push([name, image]);
      }
      const fields = Object.fromEntries(images.map(([name, image]) => [name, image.blob]));
      const answer = await this.panel.api.post(path, { ...fields, [field]: text }, signal);
      const { label, tone, rows } = summarize(answer);
      const card = el(
        "article",
        { className: "card" },
        el("div", { className: "shots" }, ...(await Promise.all(images.map(([, own]) => small(own))))),
        el(
          "div",
          {},
          el("h3", {}, text),
          el("p", { className: `verdict ${tone}` }, label),
          bars(rows),
          el("p", { className: "soft" }, this.panel.source(answer)),
        ),
      );
      this.panel.out.prepend(card);
      for (const old of [...this.panel.out.children].slice(KEPT)) old.remove();
      this.panel.announce(rows.length ? `${label}, ${percent(rows[0][1])}.` : `${label}.`);
      this.input.select();
      this.dispatchEvent(new CustomEvent("text", { detail: text }));
    });
  }
}

/** The best answer to a question. */
export function answered({ answers: [found] }) {
  const rows = found.map(({ text, probability }) => [text, probability]);
  return { label: found[0]?.text ?? UNSURE, tone: "plain", rows };
}

/** The class of a statement. */
export function judged({ results: [{ label, probabilities }] }) {
  const best = Object.entries(probabilities).sort(([, a], [, b]) => b - a);
  const rows = best.map(([name, share]) => [WORDS[name] ?? name, share]);
  if (label === null) return { label: UNSURE, tone: "open", rows };
  return { label: rows[0][0], tone: TONES[label.toLowerCase()] ?? "open", rows };
}

/** Thumbnail that lives as long as its answer. */
async function small({ blob, name, size }) {
  if (size === null) return el("span", { className: "missing" }, name);
  const bitmap = await createImageBitmap(blob);
  const scale = SMALL / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, side * scale));
  const canvas = el("canvas", { width, height, role: "img", "aria-label": name, title: name });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas;
}
