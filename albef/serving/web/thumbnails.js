// Thumbnails of indexed images, loaded by fetch because an image element sends no token.

const KEPT = 500; // the most recently used

export class Thumbnails {
  #known = new Map();

  constructor(api) {
    this.api = api;
  }

  /** URL of a thumbnail on this page. */
  async url(index, id, signal) {
    return (await this.#get(index, id, signal)).url;
  }

  /** Thumbnail, name and size. */
  async file(index, id) {
    const { blob } = await this.#get(index, id);
    const { width, height } = await createImageBitmap(blob);
    return [blob, id, [width, height]];
  }

  /** Forget all thumbnails, because an index changed. */
  clear() {
    for (const { url } of this.#known.values()) URL.revokeObjectURL(url);
    this.#known.clear();
  }

  async #get(index, id, signal) {
    const path = `v1/indexes/${index}/images/${encodeURIComponent(id)}`;
    let found = this.#known.get(path);
    if (!found) {
      const blob = await this.api.blob(path, signal);
      found = { blob, url: URL.createObjectURL(blob) };
    }
    this.#known.delete(path); // moves it to the end
    this.#known.set(path, found);
    if (this.#known.size > KEPT) {
      const [oldest, { url }] = this.#known.entries().next().value;
      this.#known.delete(oldest);
      URL.revokeObjectURL(url);
    }
    return found;
  }
}
