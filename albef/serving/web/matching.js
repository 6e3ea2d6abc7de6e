// Ranking of texts by their match with an image, or classification of an image.

import { bars, button } from "./dom.js";
import { Panel } from "./panel.js";

export class Matching {
  #texts = [];

  constructor(section, api, slot) {
    this.panel = new Panel(section, api);
    this.slot = slot;
    this.input = section.querySelector("form [name=text]");
    this.template = section.querySelector("[name=template]"); // only when classifying
    this.template?.addEventListener("change", () => this.#rank());
    section.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add([this.input.value]);
      this.input.value = "";
    });
    this.input.addEventListener("paste", (event) => {
      const lines = event.clipboardData.getData("text").split(/[\r\n]+/);
      if (lines.length < 2) return;
      event.preventDefault();
      this.#add(lines);
    });
    slot.shared.addEventListener("change", () => this.#rank());
  }

  find(text) {
    this.#add([text]);
    this.input.focus();
  }

  clear() {
    this.#texts = [];
    this.input.value = "";
    this.#rank();
    this.input.focus();
  }

  #add(texts) {
    const all = [...this.#texts, ...texts.map((text) => text.trim()).filter(Boolean)];
    this.#texts = [...new Set(all)];
    this.#rank();
  }

  #remove(text) {
    this.#texts = this.#texts.filter((own) => own !== text);
    this.#rank();
    this.input.focus();
  }

  async #rank() {
    const texts = this.#texts;
    const { image } = this.slot.shared;
    this.panel.stop();
    if (!texts.length || image === null) {
      this.#show(texts.map((text) => [text, 0]));
      this.panel.report(texts.length ? "Choose an image to rank them." : "");
      return;
    }
    await this.panel.run(async (signal) => {
      const fields = this.template
        ? { label: texts, template: this.template.value }
        : { text: texts };
      const path = this.template ? "v1/zero-shot" : "v1/match";
      const answer = await this.panel.api.post(path, { image: image.blob, ...fields }, signal);
      const shares =
        answer.probabilities ?? texts.map((text) => answer.results[0].probabilities[text]);
      const rows = texts.map((text, i) => [text, shares[i]]);
      rows.sort(([, a], [, b]) => b - a);
      this.#show(rows);
      this.panel.report(`Best: ${rows[0][0]}.`, answer);
    });
  }

  #show(rows) {
    const shown = rows.map(([text, share]) => [
      text,
      share,
      button("✕", () => this.#remove(text), { className: "quiet", "aria-label": `Remove ${text}` }),
    ]);
    this.panel.out.replaceChildren(...(rows.length ? [bars(shown)] : []));
  }
}
