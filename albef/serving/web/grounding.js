// Location of an expression in an image.

import { ApiError } from "./api.js";
import { el, percent } from "./dom.js";
import { heatMap } from "./heat.js";
import { Panel } from "./panel.js";

const SIDE = 960; // longest side of the canvas, in pixels
const SHORT = 4; // pixels; a shorter drag is a click
const [OWN, OTHER, BEST] = ["#1b2130", "#5c6573", "#168a4e"]; // the report's colours of boxes

export class Grounding extends EventTarget {
  #found = null; // the drawn image, answer and map

  constructor(section, api, slot) {
    super();
    this.panel = new Panel(section, api);
    this.slot = slot;
    this.input = section.querySelector("form [name=text]");
    this.canvas = section.querySelector("canvas");
    this.caption = section.querySelector("figcaption");
    [this.heat, this.box, this.grid, this.boxes] = ["heat", "box", "grid", "boxes"].map((id) =>
      section.querySelector(`#${id}`),
    );
    for (const form of section.querySelectorAll("form")) {
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        const text = this.input.value.trim();
        if (text) this.#ask(text, form === this.boxes.form);
      });
    }
    this.canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    this.heat.addEventListener("input", () => this.#draw());
    this.box.addEventListener("change", () => this.#draw());
    this.grid.addEventListener("change", () => this.#draw());
    slot.shared.addEventListener("change", () => this.#forget());
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

  async #ask(text, choose = false) {
    await this.slot.shared.ready(); // an image that arrives stops the work before it
    await this.panel.run(async (signal) => {
      const image = this.slot.shared.image;
      if (image === null) return this.panel.requireImage(this.slot);
      const boxes = boxesOf(this.boxes.value);
      const fields = { image: image.blob, expression: text };
      if (boxes.length) fields.boxes = JSON.stringify(boxes);
      const answer = await this.panel.api.post("v1/ground", fields, signal);
      const { heat, box, best, probability } = answer.results[0];
      this.#found?.bitmap?.close();
      const bitmap = await createImageBitmap(image.blob).catch(() => null);
      const maps = [true, false].map((smooth) => heatMap(heat, smooth));
      const { width, height } = answer;
      this.#found = { bitmap, maps, box, boxes, best, width, height };
      this.#draw();
      const where = box
        ? `hottest region at ${box.map(Math.round).slice(0, 2).join(", ")}, ` +
          `${Math.round(box[2])} × ${Math.round(box[3])} pixels`
        : "no heat";
      const chosen = best === null ? "" : ` Best of ${boxes.length} boxes: number ${best + 1}.`;
      this.canvas.setAttribute("aria-label", `Heat of “${text}” over ${image.name}; ${where}`);
      this.caption.replaceChildren(
        el("b", {}, text),
        ` matches with probability ${percent(probability)}; ${where}.${chosen}`,
      );
      this.caption.append(el("p", { className: "soft" }, this.panel.source(answer)));
      this.panel.out.hidden = false;
      this.panel.announce(`${percent(probability)}, ${where}.${chosen}`);
      if (!choose) this.input.select();
      this.dispatchEvent(new CustomEvent("text", { detail: text }));
    });
  }

  #draw(drawn = null) {
    if (this.#found === null) return;
    const { bitmap, maps, box, boxes, best, width, height } = this.#found;
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
    if (box && this.box.checked) outline(pen, box, scale, OWN, [14, 10]);
    boxes.forEach((own, i) => i !== best && outline(pen, own, scale, OTHER));
    if (best !== null) outline(pen, boxes[best], scale, BEST, [], 7);
    if (drawn) outline(pen, drawn, scale, OTHER);
  }

  /** Draw a box with the mouse or a pen; a finger scrolls the page. */
  #drag(event) {
    if (this.#found === null || event.pointerType === "touch" || event.button !== 0) return;
    const { width, height } = this.#found;
    const place = ({ clientX, clientY }) => {
      const area = this.canvas.getBoundingClientRect();
      const share = [(clientX - area.left) / area.width, (clientY - area.top) / area.height];
      return share.map((own, i) => Math.min(1, Math.max(0, own)) * [width, height][i]);
    };
    const [x, y] = place(event);
    const box = (own) => {
      const [u, v] = place(own);
      return [Math.min(x, u), Math.min(y, v), Math.abs(u - x), Math.abs(v - y)].map(Math.round);
    };
    const ended = new AbortController();
    const on = (name, work) => this.canvas.addEventListener(name, work, { signal: ended.signal });
    this.canvas.setPointerCapture(event.pointerId);
    on("pointermove", (own) => this.#draw(box(own)));
    on("pointercancel", () => (ended.abort(), this.#draw()));
    on("pointerup", (own) => {
      ended.abort();
      this.#draw();
      const drawn = box(own);
      if (Math.min(drawn[2], drawn[3]) < SHORT) return;
      this.boxes.value = [this.boxes.value.trim(), drawn.join(", ")].filter(Boolean).join("; ");
      this.boxes.closest("details").open = true;
      this.boxes.form.requestSubmit();
    });
  }

  /** Remove the map of another image. */
  #forget() {
    this.panel.stop();
    this.#found?.bitmap?.close();
    this.#found = null;
    this.boxes.value = "";
    this.panel.out.hidden = true;
    this.panel.report("");
  }
}

/** Parse "left, top, width, height; ...". */
function boxesOf(text) {
  return text
    .split(";")
    .filter((part) => part.trim())
    .map((part) => {
      const box = part.trim().split(/[\s,]+/).map(Number);
      if (box.length !== 4 || !box.every(Number.isFinite)) {
        throw new ApiError(-1, "a box needs four numbers: left, top, width, height");
      }
      return box;
    });
}

/** A box (left, top, width, height) with a light rim, visible on any image. */
function outline(pen, box, scale, ink, dashes = [], line = 4) {
  const [left, top, width, height] = box.map((side) => side * scale);
  for (const [colour, thick, dash] of [["#fff", line + 4, []], [ink, line, dashes]]) {
    [pen.strokeStyle, pen.lineWidth] = [colour, thick];
    pen.setLineDash(dash);
    pen.strokeRect(left + 4, top + 4, Math.max(1, width - 8), Math.max(1, height - 8));
  }
}
