// Model of an export in ONNX Runtime's web build, with the steps of albef/runtime for one item.

import * as ort from "./ort.wasm.min.mjs";
import { pixels } from "./pixels.js";
import { Tokenizer } from "./tokenizers.min.mjs";

ort.env.wasm.numThreads = 1; // several need headers that a plain file host does not send
ort.env.logLevel = "error";

const longs = (values, ...dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
const reshaped = ({ type, data }, ...dims) => new ort.Tensor(type, data, dims);

export function softmax(logits) {
  const most = Math.max(...logits);
  const parts = logits.map((logit) => Math.exp(logit - most));
  const sum = parts.reduce((total, part) => total + part, 0);
  return parts.map((part) => part / sum);
}

export class Model {
  #sessions = {};
  #answers = null;

  constructor(about, tokenizer) {
    this.about = about; // in the form of GET v1/model
    this.tokenizer = tokenizer;
  }

  static async load(about) {
    const tokenizer = await (await fetch(`${about.run}/tokenizer.json`)).json();
    return new Model(about, new Tokenizer(tokenizer, {}));
  }

  /** Token ids of a text; the tokenizer of an export also cleans it. */
  #ids(text) {
    const { ids } = this.tokenizer.encode(text);
    const most = this.about.max_tokens;
    if (ids.length <= most) return ids;
    const [, ...end] = this.tokenizer.encode("").ids; // special tokens after a text
    return [...ids.slice(0, most - end.length), ...end];
  }

  async #run(graph, inputs) {
    const path = `${this.about.run}/${this.about.precision}/${graph}/1/model.onnx`;
    this.#sessions[graph] ??= ort.InferenceSession.create(path, { executionProviders: ["wasm"] });
    return (await this.#sessions[graph]).run(inputs);
  }

  /** States of an image, which texts read; `image_feat` is a unit vector. */
  async image(blob) {
    const { image_size: side, preprocessing } = this.about;
    const image = await pixels(blob, side, preprocessing);
    return this.#run("image_encoder", { image: new ort.Tensor("float32", image, [1, 3, side, side]) });
  }

  /** A text to `text_states` and `text_feat`, a unit vector. */
  async text(text) {
    const ids = this.#ids(text);
    const text_mask = longs(ids.map(() => 1), 1, ids.length);
    return { text_mask, ...(await this.#run("text_encoder", { ids: longs(ids, 1, ids.length), text_mask })) };
  }

  /** Logit of "match" minus that of "no match", divided by the temperature. */
  async margin({ image_keys, image_values }, { text_states, text_mask }) {
    const inputs = {
      text_states: reshaped(text_states, 1, ...text_states.dims),
      text_mask: reshaped(text_mask, 1, ...text_mask.dims),
      image_keys,
      image_values,
    };
    const [no, yes] = (await this.#run("matcher", inputs)).logits.data;
    return (yes - no) / this.about.temperature;
  }

  /** Rank the list of answers to a question, as the runtime's `_rank`. */
  async ask(blob, question) {
    const { image_keys, image_values } = await this.image(blob);
    const asked = this.#ids(question);
    const text_mask = longs(asked.map(() => 1), 1, 1, asked.length);
    const inputs = { ids: longs(asked, 1, 1, asked.length), text_mask, image_keys, image_values };
    const { question_keys: keys, question_values: values } = await this.#run("question_encoder", inputs);
    const read = {
      question_keys: reshaped(keys, 1, ...keys.dims.slice(2)),
      question_values: reshaped(values, 1, ...values.dims.slice(2)),
      question_mask: reshaped(text_mask, 1, asked.length),
    };
    this.#answers ??= await (await fetch(`${this.about.run}/answers.json`)).json();
    const [first] = await this.#logProbabilities(read, [this.#answers[0].ids.slice(0, 2)]);
    const chosen = this.#answers
      .map((answer) => ({ ...answer, score: first[0](answer.ids[1]) }))
      .sort((a, b) => b.score - a.score)
      .slice(0, this.about.answering.k);
    const tokens = await this.#logProbabilities(read, chosen.map(({ ids }) => ids));
    chosen.forEach((answer, i) => answer.ids.slice(1).forEach((id, j) => (answer.score += tokens[i][j](id))));
    const shares = softmax(chosen.map(({ score }) => score / this.about.temperature));
    return chosen
      .map(({ text }, i) => ({ text, probability: shares[i] }))
      .sort((a, b) => b.probability - a.probability);
  }

  /** Log-probabilities of the next token after each token of each answer; answers are branches of a tree. */
  async #logProbabilities(read, answers) {
    const nodes = answers.flatMap((ids, owner) => ids.slice(0, -1).map((id, place) => ({ id, place, owner })));
    const sees = nodes.flatMap((a) => nodes.map((b) => Number(a.owner === b.owner && b.place <= a.place)));
    const count = nodes.length;
    const { logits } = await this.#run("answer_decoder", {
      ids: longs(nodes.map(({ id }) => id), 1, count),
      positions: longs(nodes.map(({ place }) => place), 1, count),
      sees: longs(sees, 1, count, count),
      ...read,
    });
    const width = logits.dims[2];
    const rows = nodes.map((_, i) => {
      const row = logits.data.subarray(i * width, (i + 1) * width);
      const top = row.reduce((a, b) => Math.max(a, b));
      const sum = top + Math.log(row.reduce((total, each) => total + Math.exp(each - top), 0));
      return (id) => row[id] - sum;
    });
    return answers.map((ids) => rows.splice(0, ids.length - 1));
  }
}
