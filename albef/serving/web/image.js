// Images that the user chose, and the slots of the page that hold one.

import { button, el } from "./dom.js";

const ACCEPT = "image/png,image/jpeg,image/webp,image/gif,image/bmp";
const SIDE = 2048; // longest side of an image that is made smaller, in pixels

/** An image that is ready to be sent. */
export class ImageFile {
  constructor(blob, name, size = null, note = "") {
    this.blob = blob;
    this.name = name;
    this.size = size; // [width, height], or null where the browser cannot show it
    this.note = note;
    this.url = URL.createObjectURL(blob);
  }

  /**
   * Read a file. A JPEG with an EXIF orientation is turned upright, since models read pixels as
   * they are stored. An image with too many pixels is made smaller.
   */
  static async read(file, name, limits) {
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (bitmap === null) return new ImageFile(file, name, null, "no preview");
    const { width, height } = bitmap;
    const turned = (await orientation(file)) !== 1;
    const large = width * height > limits.pixels || file.size > limits.body_bytes / 2;
    if (!turned && !large) {
      bitmap.close();
      return new ImageFile(file, name, [width, height]);
    }
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const size = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = el("canvas", { width: size[0], height: size[1] });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, ...size);
    bitmap.close();
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
    return new ImageFile(blob, name, size, turned ? "turned upright" : "made smaller");
  }
}

/** EXIF orientation of a JPEG, 1 to 8; 1 is upright. */
async function orientation(file) {
  const view = new DataView(await file.slice(0, 2 ** 17).arrayBuffer());
  try {
    if (view.getUint16(0) !== 0xffd8) return 1;
    for (let at = 2; view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
      if (view.getUint16(at) !== 0xffe1 || view.getUint32(at + 4) !== 0x45786966) continue;
      const tiff = at + 10;
      const little = view.getUint16(tiff) === 0x4949;
      const first = tiff + view.getUint32(tiff + 4, little);
      for (let i = 0; i < view.getUint16(first, little); i++) {
        const entry = first + 2 + 12 * i;
        if (view.getUint16(entry, little) === 0x0112) return view.getUint16(entry + 8, little);
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the file is truncated
  }
  return 1;
}

/** Image that several slots share. */
export class SharedImage extends EventTarget {
  image = null;
  #reading = null;

  take(image) {
    this.#reading = null;
    this.image = image;
    this.dispatchEvent(new Event("change"));
  }

  /** Read a file, unless another image is chosen meanwhile. */
  async read(file, limits) {
    const reading = (this.#reading = ImageFile.read(file, file.name || "pasted image", limits));
    const image = await reading;
    if (this.#reading === reading) this.take(image);
  }

  /** The image, once it is read. */
  async ready() {
    await this.#reading;
    return this.image;
  }
}

/** Slot for an image that is dropped, pasted, chosen, or taken from an index. */
export class Slot {
  #found;

  constructor(place, shared, title, limits) {
    this.shared = shared;
    this.limits = limits;
    const root = document.getElementById("slot").content.cloneNode(true).firstElementChild;
    place.replaceWith(root);
    this.element = root;
    this.input = root.querySelector("input");
    this.#found = root.querySelector(".found");
    this.input.setAttribute("aria-label", title);
    root.querySelector("b").textContent = title;
    pick(this.input, ([file]) => this.read(file));
    root.querySelector("button").addEventListener("click", () => {
      this.shared.take(null);
      this.input.focus();
    });
    receive(root, (files) => this.read(files[0]));
    shared.addEventListener("change", () => this.#show());
    this.#show();
  }

  /** Error message if the slot is empty. */
  get missing() {
    return `choose the ${this.input.getAttribute("aria-label").toLowerCase()} first`;
  }

  read(file) {
    return this.shared.read(file, this.limits);
  }

  /** Offer images of an index: a list of [name, url, function that takes it]. */
  offer(images) {
    this.#found.hidden = images.length === 0;
    this.#found.querySelector(".strip").replaceChildren(
      ...images.map(([name, url, take]) => {
        const thumbnail = el("img", { src: url, alt: "" });
        return button(thumbnail, () => take(this.shared), { title: name, "aria-label": `Take ${name}` });
      }),
    );
  }

  #show() {
    const image = this.shared.image;
    const preview = this.element.querySelector(".drop img");
    const line = this.element.querySelector(".caption");
    const [caption, remove] = line.children;
    line.hidden = image === null;
    const visible = image !== null && image.size !== null;
    preview.hidden = !visible;
    if (visible) preview.src = image.url;
    else preview.removeAttribute("src");
    preview.alt = image?.name ?? "";
    this.element.querySelector(".empty").hidden = visible;
    remove.hidden = image === null;
    const size = image?.size ? `${image.size[0]} × ${image.size[1]}` : null;
    caption.textContent = image ? [image.name, size, image.note].filter(Boolean).join(" · ") : "";
  }
}

/** Call `take(files)` with the images that are chosen in an input. */
export function pick(input, take) {
  input.accept = ACCEPT;
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
}

/** Call `take(files)` with files that are dropped on an element. */
export function receive(element, take) {
  let depth = 0; // entering an inner element leaves the outer one
  const over = (step) => (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    depth = step === null ? depth : Math.max(0, depth + step);
    element.classList.toggle("over", depth > 0);
  };
  element.addEventListener("dragenter", over(1));
  element.addEventListener("dragleave", over(-1));
  element.addEventListener("dragover", over(null));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    depth = 0;
    element.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
  });
}
