// Elements, created without markup, so a text can never become HTML.

/** An element with properties or attributes, and children; null children are skipped. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** "87 %"; with a decimal near 0 and 100. */
export function percent(share) {
  const shown = 100 * share;
  if (shown > 0 && shown < 0.1) return "< 0.1 %";
  if (shown < 100 && shown > 99.9) return "> 99.9 %";
  return `${shown < 1 || shown > 99 ? Number(shown.toFixed(1)) : Math.round(shown)} %`;
}

/** Labelled bars: rows are [label, share from 0 to 1, optional control]. */
export function bars(rows) {
  const best = Math.max(...rows.map(([, share]) => share));
  return el(
    "ol",
    { className: "bars" },
    ...rows.map(([label, share, control = null]) => {
      const fill = el("span", { className: "fill" });
      fill.style.width = `${100 * share}%`;
      const row = el(
        "li",
        { className: share === best ? "best" : "" },
        el("span", { className: "label" }, label),
        el("span", { className: "track", "aria-hidden": "true" }, fill),
        el("span", { className: "value" }, percent(share)),
      );
      if (control) row.append(control);
      return row;
    }),
  );
}

/** A button that does not submit its form. */
export function button(label, onclick, props = {}) {
  return el("button", { type: "button", onclick, ...props }, label);
}

/** "1 image", "2 images". */
export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
