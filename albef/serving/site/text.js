// Texts to token ids, as in albef/preprocessing/text.py and Hugging Face's tokenizers.

const SPACE = "\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Python's
const RUNS = new RegExp(`[${SPACE}]{2,}`, "g");
const CJK = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const LONGEST = 100; // longest word in characters; longer ones are [UNK]

/** Clean a caption as in training; `isQuestion` keeps runs of spaces, as there. */
export function clean(text, words, isQuestion = false) {
  text = text.toLowerCase().replace(/[,.'!?"()*#:;~]/g, "").replace(/[-/]/g, " ");
  if (!isQuestion) text = text.replaceAll("<person>", "person").replace(RUNS, " ").replace(/\n+$/, "").replace(/^ +/, "");
  return text.replace(/ +$/, "").split(" ").slice(0, words).join(" ");
}

/** BERT's WordPiece with the vocabulary of a tokenizer.json. */
export class Tokenizer {
  constructor({ model }) {
    this.vocabulary = new Map(Object.entries(model.vocab));
  }

  id(token) {
    return this.vocabulary.get(token);
  }

  /** [CLS] and the pieces of a text, at most `most`; with `end` the last is [SEP]. */
  encode(text, most, end = false) {
    const ids = [this.id("[CLS]")];
    const plain = text
      .replace(/[\p{Cf}\p{Co}\ufffd]|(?![\t\n\r])\p{Cc}/gu, "")
      .replace(/\p{White_Space}/gu, " ")
      .replace(CJK, " $& ")
      .normalize("NFD")
      .replace(/\p{Mn}/gu, "");
    const words = [...plain].map((letter) => letter.toLowerCase()).join("");
    for (const [word] of words.matchAll(/[!-/:-@[-`{-~\p{P}]|[^ !-/:-@[-`{-~\p{P}]+/gu)) ids.push(...this.#pieces(word));
    return end ? [...ids.slice(0, most - 1), this.id("[SEP]")] : ids.slice(0, most);
  }

  /** Longest known pieces from the left; a word with an unknown piece is [UNK]. */
  #pieces(word) {
    const [letters, ids] = [[...word], []];
    for (let start = 0, end; start < letters.length; start = end) {
      let id;
      for (end = letters.length; end > start && id === undefined; end--) {
        id = this.id((start ? "##" : "") + letters.slice(start, end).join(""));
      }
      if (id === undefined || letters.length > LONGEST) return [this.id("[UNK]")];
      ids.push(id);
      end++;
    }
    return ids;
  }
}
