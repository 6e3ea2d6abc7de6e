// Calls of the server, answered in the browser. In a static site, this file replaces the page's api.js.

import { Model, softmax } from "./model.js";

const KEPT = 256; // images whose states stay in memory

/** Error of a call; its message is for people. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
    this.retryAfter = null;
  }
}

const share = (margin) => 1 / (1 + Math.exp(-margin));

const dot = (a, b) => a.reduce((sum, each, i) => sum + each * b[i], 0);

export class Api {
  static readOnly = true;
  model = null; // what GET v1/model would return
  #models = {};
  #states = new Map();

  async load() {
    const { images, ...model } = await file("site.json", "json");
    this.images = images;
    this.features = new Float32Array(await file("features.bin", "arrayBuffer"));
    return (this.model = model);
  }

  async get() {
    return { indexes: [{ name: "gallery", images: this.images.length, read_only: true, usable: true }] };
  }

  blob(path) {
    const name = decodeURIComponent(path.split("/").at(-1));
    return file(`images/${this.images.indexOf(name)}.jpg`, "blob");
  }

  async post(path, fields, signal) {
    const start = performance.now();
    const call = path.split("/").at(-1).replace("-", "_");
    const [model, name] = await this.#model(call === "search" ? "embed_text" : call);
    const answer = await this[`_${call}`](model, fields, signal);
    return { ...answer, model: name, ms: performance.now() - start };
  }

  /** The model that has a call, loaded once, and its name. */
  async #model(call) {
    const about = this.model.models.find(({ run }) => run === this.model.calls[call]);
    this.#models[about.run] ??= Model.load(about);
    return [await this.#models[about.run], `${about.run}@${about.digest.slice(0, 12)}`];
  }

  async _search(model, { text, image, k, rerank = 0 }, signal) {
    const read = image ? null : await model.text(text);
    const feat = (image ? (await model.image(image)).image_feat : read.text_feat).data;
    const found = this.images.map((id, number) => {
      const row = this.features.subarray(number * feat.length, (number + 1) * feat.length);
      return { id, number, similarity: dot(row, feat), probability: null };
    });
    found.sort((a, b) => b.similarity - a.similarity);
    const best = read ? found.splice(0, rerank) : [];
    for (const hit of best) {
      signal?.throwIfAborted();
      const margin = await model.margin(await this.#stored(model, hit.number), read);
      hit.probability = share(margin);
      const { itc_weight: weight = 0, itc_temperature, temperature } = model.about;
      hit.score = margin + (weight * hit.similarity) / (itc_temperature * temperature);
      await new Promise((done) => setTimeout(done)); // keeps the page responsive
    }
    best.sort((a, b) => b.score - a.score);
    return { results: [...best, ...found].slice(0, k) };
  }

  async _match(model, { image, text }) {
    const states = await model.image(image);
    const probabilities = [];
    for (const each of [text].flat()) probabilities.push(share(await model.margin(states, await model.text(each))));
    return { probabilities };
  }

  async _zero_shot(model, { image, label: labels, template }) {
    if (!/^[^{}]*\{\}[^{}]*$/.test(template)) throw new ApiError(422, "The prompt template needs {} once, in place of the name.");
    const { image_feat } = await model.image(image);
    const logits = [];
    for (const label of labels) {
      const { text_feat } = await model.text(template.replace("{}", () => label));
      logits.push(dot(image_feat.data, text_feat.data) / model.about.itc_temperature);
    }
    const shares = softmax(logits);
    return { results: [{ probabilities: Object.fromEntries(labels.map((label, i) => [label, shares[i]])) }] };
  }

  async _ask(model, { image, question, k = 5 }) {
    return { answers: [(await model.ask(image, question)).slice(0, k)] };
  }

  /** States of an image of the folder, cached. */
  async #stored(model, number) {
    if (!this.#states.has(number)) this.#states.set(number, await model.image(await file(`squares/${number}.png`, "blob")));
    if (this.#states.size > KEPT) this.#states.delete(this.#states.keys().next().value);
    return this.#states.get(number);
  }
}

async function file(path, kind) {
  const response = await fetch(path).catch(() => null);
  if (!response?.ok) throw new ApiError(0, `Cannot read ${path}.`);
  return response[kind]();
}
