// Texts worth trying: a section's own, or names of pictures that read as words; and what was asked.

import { button } from "./dom.js";

const SHOWN = 3;
const KEPT = 12;

export class Examples {
  #captions = []; // that were asked
  #named = [];
  #places = [];

  /**
   * Offer them under a field; `take(text)` is called with the one that is chosen. A section with
   * texts of its `own` has no use for those of others: a caption is no question.
   */
  offer(element, take, field, own = null) {
    this.#places.push({ element, take, field, own, asked: own ? [] : this.#captions });
    this.#show();
  }

  /** A text was asked in a field. */
  asked(text, field) {
    const { asked } = this.#places.find((place) => place.field === field);
    asked.splice(0, asked.length, ...[text, ...asked.filter((other) => other !== text)].slice(0, KEPT));
    this.#show();
  }

  /** Pictures are there; a name that several share is a number's, and says nothing. */
  named(ids) {
    const texts = ids.map(words).filter(Boolean);
    this.#named = texts.filter((text) => texts.filter((other) => other === text).length === 1);
    this.#show();
  }

  #show() {
    for (const { element, take, field, own, asked } of this.#places) {
      const all = [...new Set([...asked, ...(own ?? this.#named)])];
      const texts = all.filter((text) => text !== field.value).slice(0, SHOWN);
      element.hidden = texts.length === 0;
      element.replaceChildren(
        ...texts.map((text) => button(text, () => take(text), { className: "quiet" })),
      );
    }
  }
}

/** "two-dogs_on-grass-1a2b3c4d.jpg" as "two dogs on grass"; null where it has fewer than two words. */
function words(id) {
  const stem = id.replace(/\.[a-z]+$/i, "").replace(/^[0-9a-f]{8}-|-[0-9a-f]{8}$/g, "");
  const found = stem.split(/[-_. ]+/).filter((word) => /^[a-z]+$/i.test(word));
  return found.length < 2 ? null : found.join(" ").toLowerCase();
}
