// The text beside the picture: a click on a line lights what it asks for; what is pointed at or
// chosen marks its line.

import { byId, put } from "./dom.js";
import { whatOf } from "./model.js";

export function showSource(plan, choose) {
  const panel = byId("source"), counts = new Map();
  for (let bar = 0; bar < plan.count; bar++) {
    const { source, line } = whatOf(plan, bar), key = `${source}-${line}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  plan.sources.forEach((source, s) => {
    put(panel, "h2", source.name);
    const list = put(panel, "ol");
    source.text.replace(/\n$/, "").split("\n").forEach((text, i) => {
      const count = counts.get(`${s}-${i + 1}`);
      const item = put(list, "li", null, { id: `line-${plan.index}-${s}-${i + 1}` });
      put(item, "span", i + 1, { className: "number" });
      const words = put(item, count ? "button" : "span", text || " ", { className: "words" });
      if (!count) return;
      words.type = "button";
      words.title = `asks for ${count} ${count === 1 ? "operation" : "operations"}`;
      words.addEventListener("click", () => choose(s, i + 1));
    });
  });
  if (!plan.sources.length) put(panel, "p", "The plan brings no text.");
}

let marked = new Map();

// Marks a line in one of two ways: `at`, under the pointer, or `on`, chosen.
export function markLine(plan, way, source, line) {
  marked.get(way)?.classList.remove(way);
  const item = plan && byId(`line-${plan.index}-${source}-${line}`);
  marked.set(way, item);
  if (!item) return;
  item.classList.add(way);
  if (way === "on") item.scrollIntoView({ block: "nearest" });
}
