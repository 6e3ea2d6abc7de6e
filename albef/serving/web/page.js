// The page: its sections, navigation and keyboard shortcuts.

import { Adding } from "./adding.js";
import { Api, ApiError } from "./api.js";
import { button, el } from "./dom.js";
import { Examples } from "./examples.js";
import { Grounding } from "./grounding.js";
import { Matching } from "./matching.js";
import { SharedImage, Slot, receive } from "./image.js";
import { answered, judged, Question } from "./question.js";
import { Search } from "./search.js";

const KINDS = {
  search: "retrieval",
  ask: "vqa",
  ground: "grounding",
  compare: "nlvr2",
  entail: "entailment",
  match: "retrieval with ITM",
  classify: "retrieval",
}; // the run whose export has a section's call
const GROWING = 3000; // milliseconds between checks of an index that follows a folder

const $ = (selector, root = document) => root.querySelector(selector);
const sections = [...document.querySelectorAll("main > section")];
const titles = Object.fromEntries(sections.map(({ id }) => [id, $(`#${id}-title`).textContent]));
const parts = {}; // by section id, if its call is served
const drops = {}; // handler of dropped or pasted files, by section id

const api = new Api(askToken);
const shared = new SharedImage();
const slots = [];
const examples = new Examples();

start();

async function start() {
  const place = $("#start");
  place.replaceChildren();
  try {
    await api.load();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    place.replaceChildren(
      el("p", { className: "problem" }, error.message, " ", button("Try again", start, { className: "quiet" })),
    );
    return;
  }
  build();
  about();
  window.addEventListener("hashchange", () => {
    route();
    scrollTo(0, 0);
  });
  route();
  if (parts.search) await begin();
}

/** Build the sections whose calls are served. */
function build() {
  const { calls } = api.model;
  for (const section of sections.filter((own) => own.dataset.call in calls)) {
    parts[section.id] = made(section);
    limit(section, parts[section.id].input);
    const chips = $(".examples", section) ?? el("div", { className: "chips examples", hidden: true });
    $("form .line", section).after(chips);
    const part = parts[section.id];
    examples.offer(chips, (text) => part.find(text), part.input, section.dataset.examples?.split("|"));
    part.addEventListener?.("text", (event) => examples.asked(event.detail, part.input));
  }
  $("nav").hidden = false;
  $("nav .wrap").replaceChildren(
    ...Object.keys(parts).map((id) => el("a", { href: `#${id}` }, titles[id])),
  );
}

function made(section) {
  const { id, dataset } = section;
  if (id === "search") {
    const search = new Search(section, api);
    $("#adding").hidden = Boolean(Api.readOnly);
    if (!Api.readOnly) new Adding($("#adding"), search);
    search.addEventListener("open", (event) => open(search, event.detail));
    search.addEventListener("shown", () => offer(search));
    drops.search = (files) => search.take(files);
    return search;
  }
  const own = slot(section, "image", "Image", shared) ?? slot(section, "first", "First image", shared);
  drops[id] = (files) => own.read(files[0]);
  if (id === "ground") return new Grounding(section, api, own);
  if (id === "match" || id === "classify") return new Matching(section, api, own);
  const how = { call: dataset.call, field: id === "ask" ? "question" : "statement" };
  if (id !== "compare") {
    const summarize = id === "ask" ? answered : judged;
    return new Question(section, api, { ...how, slots: { image: own }, summarize });
  }
  const second = slot(section, "second", "Second image", new SharedImage());
  drops[id] = async ([one, other]) => {
    await (own.shared.image && !other ? second : own).read(one);
    if (other) await second.read(other);
  };
  return new Question(section, api, { ...how, slots: { first: own, second }, summarize: judged });
}

function slot(section, name, title, image) {
  const place = $(`[data-slot=${name}]`, section);
  if (place === null) return null;
  slots.push(new Slot(place, image, title, api.model.limits));
  return slots.at(-1);
}

/** Show if a text has more words than the model reads. */
function limit(section, input) {
  const run = api.model.calls[section.dataset.call];
  const most = api.model.models.find((own) => own.run === run).max_words;
  const line = el("p", { className: "limit soft", role: "status" });
  $("form .line", section).after(line);
  const count = () => {
    const words = input.value.trim().split(/\s+/).length;
    line.textContent = words > most ? `The model reads the first ${most} of these ${words} words.` : "";
  };
  input.addEventListener("input", count);
  section.addEventListener("submit", count);
}

/** Show the index, and follow it while a folder is still being read. */
async function begin() {
  const { search } = parts;
  await search.find("");
  const look = async () => {
    if (search.panel.busy) return void setTimeout(look, GROWING);
    const before = search.index?.images ?? 0;
    try {
      await search.refresh();
    } catch {
      return; // the next request shows the error
    }
    const after = search.index?.images ?? 0;
    if (before === after) return;
    if (!search.input.value && search.alike.hidden) await search.find("");
    setTimeout(look, GROWING);
  };
  if (search.index?.read_only) setTimeout(look, GROWING);
}

/** Offer the results to the other sections. */
function offer(search) {
  const { first } = search;
  examples.named(first.map(([id]) => id));
  for (const own of slots) {
    own.offer(first.map(([id, url]) => [id, url, async (held) => held.take(await search.image(id))]));
  }
}

/** Show a result larger, with actions. */
function open(search, hit) {
  const dialog = $("#shown");
  const act = (label, work) =>
    button(
      label,
      async () => {
        dialog.close();
        await search.panel.run(work);
      },
      { className: "quiet" },
    );
  const go = (id, take) => async () => {
    take(await search.image(hit.id));
    location.hash = id;
  };
  const others = Object.keys(parts).filter((id) => id !== "search" && id !== "compare");
  const compare = parts.compare?.slots;
  const chips = [
    act("More like this", async () => search.like(await search.image(hit.id))),
    ...others.map((id) => act(titles[id], go(id, (image) => shared.take(image)))),
  ];
  for (const [name, own] of Object.entries(compare ?? {})) {
    chips.push(act(`Compare, ${name}`, go("compare", (image) => own.shared.take(image))));
  }
  if (!search.index.read_only) {
    const path = `v1/indexes/${search.index.name}/images/${encodeURIComponent(hit.id)}`;
    chips.push(
      act("Remove from the collection", async (signal) => {
        await api.delete(path, signal);
        await search.changed(search.index.name);
      }),
    );
  }
  search.thumbnails.url(search.index.name, hit.id).then(
    (url) => ($("img", dialog).src = url),
    (error) => search.panel.fail(error),
  );
  $("h2", dialog).textContent = hit.id;
  const read = hit.probability === null ? "" : `, probability ${hit.probability.toFixed(3)}`;
  $("p", dialog).textContent = `Similarity ${hit.similarity.toFixed(3)}${read}`;
  $(".chips", dialog).replaceChildren(...chips);
  dialog.showModal();
}

/** Show the section that the address names, or the first. */
function route() {
  const wanted = location.hash.slice(1);
  const id = wanted in parts ? wanted : Object.keys(parts)[0];
  for (const section of sections) section.hidden = section.id !== id;
  for (const link of $("nav .wrap").children) {
    if (link.hash === `#${id}`) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  document.title = id ? `${titles[id]} · ALBEF` : "ALBEF";
}

const shown = () => sections.find((section) => !section.hidden && section.id in parts)?.id;

/** Describe the served models, and the exports that add the missing sections. */
function about() {
  const { models, albef, onnxruntime } = api.model;
  $("#summary").textContent = models.map(({ run }) => run).join(" · ");
  const head = ["Run", "Kind", "Digest", "Weights", "Reads"];
  const rows = models.map(({ run, kind, digest, precision, image_size: side, max_words: words }) => [
    run,
    kind,
    el("code", { title: digest }, digest.slice(0, 12)),
    precision,
    `${side} × ${side} pixels, ${words} words`,
  ]);
  const missing = Object.keys(titles).filter((id) => !(id in parts));
  const away = missing.map((id) => `${titles[id]} (an export of kind ${KINDS[id]})`).join(", ");
  $("footer .wrap").replaceChildren(
    el(
      "div",
      { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Models" },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))))),
      ),
    ),
    ...(missing.length ? [el("p", { id: "away" }, `Not served here: ${away}.`)] : []),
    el(
      "p",
      {},
      `albef ${albef}, ONNX Runtime ${onnxruntime} · `,
      Api.readOnly
        ? el("a", { href: "onnxruntime-LICENSE" }, "Licence of ONNX Runtime")
        : el("a", { href: "openapi.json" }, "OpenAPI"),
    ),
  );
}

/** Ask for a token; closing the dialog is an error. */
function askToken(wasWrong) {
  const dialog = $("#token");
  const problem = $(".problem", dialog);
  problem.hidden = !wasWrong;
  problem.textContent = wasWrong ? "The server does not know this token." : "";
  $("input", dialog).value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((given, failed) => {
    dialog.addEventListener(
      "close",
      () => {
        const token = $("input", dialog).value.trim();
        $("input", dialog).value = "";
        if (dialog.returnValue === "given" && token) given(token);
        else failed(new ApiError(401, "the server requires a token"));
      },
      { once: true },
    );
  });
}

// A file dropped outside a slot must not navigate away from the page.
receive(document.body, (files) => drops[shown()]?.(files));

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (!files.length) return;
  event.preventDefault();
  drops[shown()]?.(files);
});

document.addEventListener("keydown", (event) => {
  if ($("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=checkbox], [type=range], [type=file]), select");
  if (event.key === "Escape" && parts[shown()]) {
    event.preventDefault();
    parts[shown()].clear();
  } else if (event.key === "/" && !typing && parts.search) {
    event.preventDefault();
    location.hash = "search";
    route();
    parts.search.input.focus();
    parts.search.input.select();
  }
});
