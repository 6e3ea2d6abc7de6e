// Example texts: recent queries, a section's own examples, or image names that read as words.

import { button } from "./dom.js";

const SHOWN = 3;
const KEPT = 12;

export class Examples {
  #captions = []; // recent captions
  #named = [];
  #offers = [];

  /**
   * Offer examples below a field; `take(text)` gets the chosen one. A section with its `own`
   * examples does not share texts with others, because a caption is not a question.
   */
  offer(element, take, field, own = null) {
    this.#offers.push({ element, take, field, own, asked: own ? [] : this.#captions });
    this.#show();
  }

  /** Remember a text that was sent. */
  asked(text, field) {
    const { asked } = this.#offers.find((offer) => offer.field === field);
    asked.splice(0, asked.length, ...[text, ...asked.filter((other) => other !== text)].slice(0, KEPT));
    this.#show();
  }

  /** Offer names of images, except those that several images share. */
  named(ids) {
    const texts = ids.map(words).filter(Boolean);
    this.#named = texts.filter((text) => texts.filter((other) => other === text).length === 1);
    this.#show();
  }

  #show() {
    for (const { element, take, field, own, asked } of this.#offers) {
      const all = [...new Set([...asked, ...(own ?? this.#named)])];
      const texts = all.filter((text) => text !== field.value).slice(0, SHOWN);
      element.hidden = texts.length === 0;
      element.replaceChildren(
        ...texts.map((text) => button(text, () => take(text), { className: "quiet" })),
      );
    }
  }
}

/** "two-dogs_on-grass-1a2b3c4d.jpg" as "two dogs on grass"; null if it has fewer than two words. */
function words(id) {
  const stem = id.replace(/\.[a-z]+$/i, "").replace(/^[0-9a-f]{8}-|-[0-9a-f]{8}$/g, "");
  const found = stem.split(/[-_. ]+/).filter((word) => /^[a-z]+$/i.test(word));
  return found.length < 2 ? null : found.join(" ").toLowerCase();
}
