// Where a picture shows what an expression says.

import { el, percent } from "./dom.js";
import { heatMap } from "./heat.js";
import { Panel } from "./panel.js";

const SIDE = 960; // longest of the canvas, in pixels
const INK = "#1b2130";

export class Grounding extends EventTarget {
  #found = null; // what is drawn: the picture, its answer and the map

  constructor(section, api, slot) {
    super();
    this.panel = new Panel(section, api);
    this.slot = slot;
    this.input = section.querySelector("form [name=text]");
    this.canvas = section.querySelector("canvas");
    this.caption = section.querySelector("figcaption");
    [this.heat, this.box, this.grid] = ["heat", "box", "grid"].map((id) =>
      section.querySelector(`#${id}`),
    );
    section.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.input.value.trim();
      if (text) this.#ask(text);
    });
    this.heat.addEventListener("input", () => this.#draw());
    this.box.addEventListener("change", () => this.#draw());
    this.grid.addEventListener("change", () => this.#draw());
    slot.hand.addEventListener("change", () => this.#forget());
  }

  find(text) {
    this.input.value = text;
    this.input.focus();
  }

  clear() {
    this.panel.stop();
    this.#forget();
    this.input.value = "";
    this.input.focus();
  }

  async #ask(text) {
    await this.panel.run(async (signal) => {
      const picture = await this.slot.hand.ready();
      if (picture === null) return this.panel.lack(this.slot);
      const fields = { image: picture.blob, expression: text };
      const answer = await this.panel.api.post("v1/ground", fields, signal);
      const { heat, box, probability } = answer.results[0];
      this.#found?.bitmap?.close();
      const bitmap = await createImageBitmap(picture.blob).catch(() => null);
      const maps = [true, false].map((smooth) => heatMap(heat, smooth));
      this.#found = { bitmap, maps, box, width: answer.width, height: answer.height };
      this.#draw();
      const where = box
        ? `hottest from ${box.map(Math.round).slice(0, 2).join(", ")}, ` +
          `${Math.round(box[2])} × ${Math.round(box[3])} pixels`
        : "no heat at all";
      this.canvas.setAttribute("aria-label", `Heat of “${text}” over ${picture.name}; ${where}`);
      this.caption.replaceChildren(
        el("b", {}, text),
        ` belongs to the picture with ${percent(probability)}; ${where}.`,
      );
      this.caption.append(el("p", { className: "soft" }, this.panel.credit(answer)));
      this.panel.out.hidden = false;
      this.panel.announce(`${percent(probability)}, ${where}.`);
      this.input.select();
      this.dispatchEvent(new CustomEvent("text", { detail: text }));
    });
  }

  #draw() {
    if (this.#found === null) return;
    const { bitmap, maps, box, width, height } = this.#found;
    const scale = SIDE / Math.max(width, height);
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    const pen = this.canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    if (bitmap) pen.drawImage(bitmap, 0, 0, this.canvas.width, this.canvas.height);
    pen.globalAlpha = this.heat.value / 100;
    pen.imageSmoothingEnabled = !this.grid.checked;
    pen.drawImage(maps[this.grid.checked ? 1 : 0], 0, 0, this.canvas.width, this.canvas.height);
    pen.globalAlpha = 1;
    if (box && this.box.checked) {
      const edges = box.map((side) => side * scale);
      for (const [ink, thick] of [["#fff", 7], [INK, 3.5]]) {
        [pen.strokeStyle, pen.lineWidth] = [ink, thick];
        pen.strokeRect(edges[0] + 4, edges[1] + 4, Math.max(1, edges[2] - 8), Math.max(1, edges[3] - 8));
      }
    }
  }

  /** What was drawn is of another picture than the one in hand. */
  #forget() {
    this.panel.stop();
    this.#found?.bitmap?.close();
    this.#found = null;
    this.panel.out.hidden = true;
    this.panel.tell("");
  }
}
