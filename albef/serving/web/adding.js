// Add images to an index.

import { count } from "./dom.js";
import { ApiError } from "./api.js";
import { Panel } from "./panel.js";
import { ImageFile, pick } from "./image.js";

const AT_ONCE = 8; // images per request
const TRIES = 5; // if the server is busy

export class Adding {
  constructor(details, search) {
    this.details = details;
    this.search = search;
    this.panel = new Panel(details, search.api);
    this.name = details.querySelector("#name");
    pick(details.querySelector("#more"), (files) => this.add(files));
    details.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    search.addEventListener("change", () => this.#show());
    search.addEventListener("none", () => (this.details.open = true));
    search.addEventListener("several", (event) => this.add(event.detail));
  }

  /** Add files to the index that the field names; create it if it does not exist. */
  async add(files) {
    this.details.open = true;
    this.details.scrollIntoView({ block: "nearest" });
    if (!this.name.reportValidity()) return;
    const name = this.name.value.trim() || "images";
    const { api } = this.search;
    await this.panel.run(async (signal) => {
      await api.put(`v1/indexes/${name}`, signal);
      let [added, answer] = [0, null];
      const refused = [];
      for (const part of parts(files, api.model.limits)) {
        this.panel.report(`Added ${added} of ${count(files.length, "image")} to ${name} …`);
        const read = await Promise.all(
          part.map((file) => ImageFile.read(file, file.name, api.model.limits)),
        );
        const fields = {
          image: read.map((image) => image.blob),
          id: await Promise.all(read.map(idOf)),
        };
        read.forEach((image) => URL.revokeObjectURL(image.url));
        answer = await patiently(() => api.post(`v1/indexes/${name}/images`, fields, signal), signal);
        added += answer.ids.length;
        answer.files.forEach(({ error }, i) => error && refused.push(`${part[i].name}: ${error}`));
      }
      const summary = `Added ${count(added, "image")}; “${name}” now has ${answer.images}.`;
      this.panel.report([summary, ...refused.map((each) => `Not added: ${each}`)].join(" "), answer);
      await this.search.changed(name);
    });
  }

  #show() {
    const { index, indexes } = this.search;
    const open = indexes.filter((own) => own.usable && !own.read_only);
    const names = document.getElementById("names");
    names.replaceChildren(...open.map((own) => new Option(own.name, own.name)));
    if (!this.name.value) {
      this.name.value = (index?.read_only ? null : index?.name) ?? open[0]?.name ?? "images";
    }
  }
}

/** Files in parts that the server accepts in one request. */
function* parts(files, { body_bytes: most, images }) {
  let [part, size] = [[], 0];
  for (const file of files) {
    if (part.length && (part.length >= Math.min(AT_ONCE, images) || size + file.size > most / 2)) {
      yield part;
      [part, size] = [[], 0];
    }
    part.push(file);
    size += file.size;
  }
  if (part.length) yield part;
}

/** Id from the file's name and a hash of its content: two different images may have one name. */
async function idOf({ name, blob }) {
  const stem = name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-._]+/, "");
  let hash = 0x811c9dc5; // FNV-1a; crypto.subtle is not there over plain http
  for (const byte of new Uint8Array(await blob.arrayBuffer())) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return `${stem.slice(0, 100) || "image"}-${hash.toString(16).padStart(8, "0")}`;
}

/** Answer of a request, which is repeated as the server says if it is busy. */
async function patiently(request, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return await request();
    } catch (error) {
      const isBusy = error instanceof ApiError && [429, 503].includes(error.status);
      if (!isBusy || tried === TRIES) throw error;
      await new Promise((done) => setTimeout(done, 1000 * (error.retryAfter ?? 1)));
      signal.throwIfAborted();
    }
  }
}
