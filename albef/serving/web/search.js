// Search an image index by a text or by an image.

import { button, count, el, percent } from "./dom.js";
import { Panel } from "./panel.js";
import { ImageFile, pick, receive } from "./image.js";
import { Thumbnails } from "./thumbnails.js";

const FOUND = 24; // images shown
const READ = 16; // images that are read together with the text
const PAUSE = 250; // milliseconds without a key before a text is searched
const FIRST = 6; // images offered to slots
const ANY = "a picture"; // query that shows some images of an index, in any order

export class Search extends EventTarget {
  index = null; // the searched index
  indexes = [];
  #image = null; // query, if it is an image
  #results = [];
  #tiles = new Map();

  constructor(section, api) {
    super();
    this.api = api;
    this.panel = new Panel(section, api);
    this.thumbnails = new Thumbnails(api);
    this.form = section.querySelector("form");
    this.input = section.querySelector("#query");
    this.rerank = section.querySelector("#rerank");
    this.choice = section.querySelector("#index");
    this.alike = section.querySelector("#alike");
    this.legend = section.querySelector(".legend");
    section.querySelector("#depth").textContent = READ;
    const { calls, models } = api.model;
    const about = models.find(({ run }) => run === calls.embed_text);
    const { itm = true, itc_weight: weight = 0 } = about; // defaults are left out
    this.rerank.checked = itm && weight !== null; // else the model ranks by similarity alone
    this.rerank.parentElement.hidden = !this.rerank.checked;
    this.order = weight ? "The order counts both. " : "";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#look(0);
    });
    this.input.addEventListener("input", () => {
      this.#image = null;
      this.#look(PAUSE);
    });
    this.rerank.addEventListener("change", () => this.#look(0));
    this.choice.addEventListener("change", () => this.choose(this.choice.value));
    pick(section.querySelector("#like"), ([file]) => this.#read(file));
    this.panel.out.addEventListener("keydown", (event) => this.#walk(event));
    receive(section, (files) => this.take(files));
  }

  /** First images shown: [id, url]. */
  get first() {
    return [...this.#tiles.values()]
      .filter((tile) => tile.image.src)
      .slice(0, FIRST)
      .map((tile) => [tile.hit.id, tile.image.src]);
  }

  /** Load the list of indexes; keep the chosen one. */
  async refresh(wanted = this.index?.name ?? "gallery") {
    this.indexes = (await this.api.get("v1/indexes")).indexes;
    const usable = this.indexes.filter((index) => index.usable);
    this.choice.replaceChildren(
      ...this.indexes.map(({ name, usable, images }) =>
        el(
          "option",
          { value: name, disabled: !usable },
          `${name} (${usable ? images.toLocaleString("en") : "of another model"})`,
        ),
      ),
    );
    this.choice.parentElement.hidden = this.indexes.length < 2;
    this.index = usable.find((index) => index.name === wanted) ?? usable[0] ?? null;
    if (this.index) this.choice.value = this.index.name;
    this.dispatchEvent(new Event("change"));
  }

  /** Search in another index. */
  async choose(name) {
    this.#forget();
    await this.panel.run(() => this.refresh(name));
    await this.#look(0);
  }

  /** Reload an index that changed. */
  async changed(name) {
    this.thumbnails.clear();
    await this.choose(name);
  }

  /** Search a dropped image, or add several. */
  take(files) {
    if (files.length === 1) return this.#read(files[0]);
    return this.dispatchEvent(new CustomEvent("several", { detail: files }));
  }

  /** Search by an image. */
  like(image) {
    this.#image = image;
    this.input.value = "";
    return this.#look(0);
  }

  /** Search by a text. */
  find(text) {
    this.#image = null;
    this.input.value = text;
    return this.#look(0);
  }

  clear() {
    this.find("");
    this.input.focus();
  }

  /** A result as an image for other calls. */
  async image(id) {
    return new ImageFile(...(await this.thumbnails.file(this.index.name, id)));
  }

  async #read(file) {
    const { limits } = this.api.model;
    await this.like(await ImageFile.read(file, file.name || "pasted image", limits));
  }

  async #look(pause) {
    const text = this.input.value.trim();
    const image = this.#image;
    this.#showImage();
    await this.panel.run(async (signal) => {
      if (pause) await wait(pause, signal);
      if (this.index === null) await this.refresh();
      if (this.index === null) return this.#none();
      if (!text && !image) return this.#some(signal);
      const answer = await this.#ask(image ? { image: image.blob } : { text }, signal);
      this.#report(answer);
      if (!image && this.rerank.checked && answer.results.length) {
        if (pause) await wait(pause, signal);
        this.#report(await this.#ask({ text, rerank: READ }, signal));
      }
      if (text) this.dispatchEvent(new CustomEvent("text", { detail: text }));
    });
  }

  async #ask(fields, signal) {
    const path = `v1/indexes/${this.index.name}/search`;
    const answer = await this.api.post(path, { ...fields, k: FOUND }, signal);
    this.#show(answer.results, signal);
    return answer;
  }

  #report(answer) {
    const { name, images } = this.index;
    if (!answer.results.length) return this.panel.report(`“${name}” has no images yet.`);
    const read = answer.results.filter((hit) => hit.probability !== null).length;
    this.legend.hidden = false;
    this.legend.textContent = read
      ? "Below each image: the probability that the text is its caption, if both were read together, and its " +
        `similarity, at most 1. ${this.order}A true text that leaves objects out can have a low probability.`
      : "Below each image: its similarity, at most 1.";
    const how = read
      ? `; ${read} read together with the text, the first with ${percent(answer.results[0].probability)}.`
      : ", by similarity.";
    this.panel.report(
      `The best ${answer.results.length} of ${count(images, "image")}${how}`,
      answer,
    );
  }

  /** Show some images if there is no query. */
  async #some(signal) {
    const { name, images } = this.index;
    const answer = await this.#ask({ text: ANY }, signal);
    for (const tile of this.#tiles.values()) tile.show(null);
    const some = answer.results.length < images ? "Some of the" : "The";
    this.panel.report(
      images ? `${some} ${count(images, "image")} in “${name}”.` : `“${name}” has no images yet.`,
    );
  }

  #none() {
    this.#show([]);
    this.panel.report("There are no images yet. Add some below, or drop several here.");
    this.dispatchEvent(new Event("none"));
  }

  #show(results, signal) {
    const before = new Map([...this.#tiles].map(([id, tile]) => [id, tile.position()]));
    const known = this.#tiles;
    this.#results = results;
    this.legend.hidden = true; // until the results are described
    this.#tiles = new Map(
      results.map((hit, i) => {
        const tile = known.get(hit.id) ?? new Tile(hit, () => this.#open(hit.id));
        tile.show(hit, i + 1);
        return [hit.id, tile];
      }),
    );
    this.panel.out.replaceChildren(...[...this.#tiles.values()].map((tile) => tile.element));
    for (const [id, tile] of this.#tiles) {
      if (before.has(id)) tile.move(before.get(id));
      this.#fill(tile, signal);
    }
    this.dispatchEvent(new Event("shown"));
  }

  async #fill(tile, signal) {
    if (tile.image.src) return;
    try {
      tile.image.src = await this.thumbnails.url(this.index.name, tile.hit.id, signal);
      this.dispatchEvent(new Event("shown"));
    } catch (error) {
      if (!signal?.aborted) tile.element.classList.add("missing"); // it was removed in the meantime
    }
  }

  #forget() {
    this.#tiles.clear();
    this.#results = [];
    this.panel.out.replaceChildren();
  }

  #open(id) {
    const hit = this.#results.find((own) => own.id === id);
    this.dispatchEvent(new CustomEvent("open", { detail: hit }));
  }

  #showImage() {
    this.alike.hidden = this.#image === null;
    if (this.#image === null) return;
    this.alike.replaceChildren(
      el("img", { src: this.#image.url, alt: "" }),
      el("span", {}, `Like ${this.#image.name}`),
      button("Remove", () => this.clear(), { className: "quiet" }),
    );
  }

  /** Move the focus by arrow keys. */
  #walk(event) {
    const tiles = [...this.panel.out.children];
    const here = tiles.indexOf(document.activeElement);
    if (here < 0) return;
    const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step === undefined || !tiles[here + step]) return;
    event.preventDefault();
    tiles[here + step].focus();
  }
}

/** A result. */
class Tile {
  constructor(hit, open) {
    this.hit = hit;
    this.image = el("img", { alt: "" });
    this.caption = el("span", { className: "caption" });
    this.element = button("", open, { className: "tile" });
    this.element.append(this.image, this.caption);
    this.show(hit);
  }

  /** Show the scores of a result; null shows none. */
  show(hit, rank = 0) {
    this.hit = hit ?? this.hit;
    const { id, probability, similarity } = this.hit;
    const shown = similarity.toFixed(2);
    this.element.classList.toggle("read", hit !== null && probability !== null);
    if (hit === null) this.caption.replaceChildren();
    else if (probability === null) this.caption.replaceChildren(el("span", { className: "soft" }, shown));
    else {
      const fill = el("span", { className: "fill" });
      fill.style.width = `${100 * probability}%`;
      this.caption.replaceChildren(
        el("span", { className: "track" }, fill),
        el("b", {}, percent(probability)),
        el("span", { className: "soft" }, shown),
      );
    }
    const fit = hit === null ? "" : `, similarity ${shown}`;
    const read = hit === null || probability === null ? "" : `, probability ${percent(probability)}`;
    this.element.setAttribute("aria-label", `${rank ? `${rank}: ` : ""}${id}${read}${fit}`);
    this.element.title = id;
  }

  position() {
    return [this.element.offsetLeft, this.element.offsetTop];
  }

  /** Animate the move from the old position. */
  move([left, top]) {
    const [x, y] = [left - this.element.offsetLeft, top - this.element.offsetTop];
    if ((!x && !y) || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    this.element.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
      duration: 260,
      easing: "ease-out",
    });
  }
}

function wait(milliseconds, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(signal.reason);
    });
  });
}
