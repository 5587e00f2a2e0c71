// The page: what is shown, pointed at and chosen, and who has to be told when that changes.

import { Chart } from "./chart.js";
import { STEPS, showDetails } from "./details.js";
import { button, byId, put } from "./dom.js";
import { listen } from "./input.js";
import { showLegend } from "./legend.js";
import { litChain, litLine, litMicrobatch } from "./lit.js";
import { readLook } from "./look.js";
import { Margins, fit } from "./margins.js";
import { NONE, barAt, idleAt, readPlans, whatOf } from "./model.js";
import { Overlay, barThing, idleThing, rowOf } from "./overlay.js";
import { Overview } from "./overview.js";
import { markLine, showSource } from "./source.js";
import { prepareTables } from "./table.js";
import { titleOf, told } from "./tell.js";
import { Viewport } from "./viewport.js";

class Page {
  constructor(plans) {
    this.plans = plans;
    this.viewport = new Viewport(plans);
    this.canvases = Object.fromEntries(["axis", "names", "bars", "over", "peaks", "small"]
      .map((id) => [id, byId(id)]));
    this.chart = new Chart(this.canvases.bars, this.viewport);
    this.overlay = new Overlay(this.canvases.over, byId("frame"), this.viewport);
    this.margins = new Margins(this.canvases, this.viewport);
    this.overview = new Overview(this.canvases.small, byId("shown"), this.viewport);
    this.pointed = this.chosen = null;
    this.chained = null;
  }

  // ------------------------------------------------------------------ drawing

  layout() {
    const { viewport, canvases } = this, dots = devicePixelRatio || 1;
    this.look = this.chart.look = readLook(this.plans);
    for (const id of ["axis", "names", "over", "peaks"]) fit(canvases[id], dots);
    const { width, height } = canvases.over;
    viewport.resize(width, height, dots);
    this.chart.resize(width, height);
    this.draw();
    requestAnimationFrame(() => setTimeout(() => {
      this.overview.draw(this.look);
      showLegend(this.plans, this.look, dots);
    }));
  }

  draw() {
    this.chart.draw();
    this.around(true, true);
  }

  around(wide, tall) {
    if (wide) this.margins.drawAxis(this.look);
    if (tall) this.margins.drawRanks(this.look);
    this.over();
    this.overview.follow();
  }

  over() { this.overlay.draw(this.look, this.chosen, this.chained); }

  // However often something changes, it is drawn once per frame.
  later(dx, dy) {
    this.pending ??= (requestAnimationFrame(() => this.now()), { dx: 0, dy: 0, all: false });
    if (dx === undefined) this.pending.all = true;
    else { this.pending.dx += dx; this.pending.dy += dy; }
  }

  now() {
    const { dx, dy, all } = this.pending;
    this.pending = null;
    this.overlay.point(null);
    if (all) return this.draw();
    if (!dx && !dy) return undefined;
    this.chart.move(dx, dy);
    return this.around(dx !== 0, dy !== 0);
  }

  // ------------------------------------------------------------------ moving

  move(dx, dy) {
    this.hide();
    this.later(...this.viewport.move(dx, dy));
  }

  zoom(times, x) { this.hide(); this.viewport.zoom(times, x); this.later(); }

  stretch(times, y) { this.hide(); this.viewport.stretch(times, y); this.later(); }

  all() { this.hide(); this.viewport.all(); this.later(); }

  hide() { byId("tip").hidden = true; }

  // ------------------------------------------------------------------ looking

  thingAt(x, y) {
    const { viewport } = this, row = viewport.rowAt(y), { bars } = viewport.heights();
    if (row < 0 || x < 0 || x >= viewport.width) return null;
    const { plan, lane } = viewport.rows[row], tick = viewport.tick(x + 0.5) / plan.rate;
    const lower = y - viewport.rowTop(row) >= bars >> 1;
    const bar = barAt(plan, lane, tick, lower);
    if (bar !== NONE) return barThing(plan, bar);
    const idle = idleAt(plan, lane, tick);
    return idle === NONE ? null : idleThing(plan, lane, idle);
  }

  point(x, y, event) {
    const thing = event ? this.thingAt(x, y) : null, tip = byId("tip");
    this.overlay.point(thing);
    tip.hidden = !thing;
    if (!thing) return markLine(null, "at");
    if (thing.bar !== this.pointed?.bar || thing.idle !== this.pointed?.idle || !tip.firstChild) {
      tip.replaceChildren();
      put(tip, "b", titleOf(thing));
      for (const [name, words] of told(thing)) {
        put(put(tip, "div"), "span", name).after(words);
      }
      this.tipSize = [tip.offsetWidth, tip.offsetHeight];
      const { source, line } = thing.bar === undefined ? {} : whatOf(thing.plan, thing.bar);
      markLine(thing.plan, "at", source, line);
    }
    this.pointed = thing;
    const [width, height] = this.tipSize, { clientX, clientY } = event;
    const left = clientX + 16 + width > innerWidth ? clientX - width - 12 : clientX + 16;
    const top = clientY + 18 + height > innerHeight ? clientY - height - 10 : clientY + 18;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
    return undefined;
  }

  // ------------------------------------------------------------------ choosing

  choose(thing) {
    this.chosen = thing;
    const bar = thing?.bar;
    this.light(bar === undefined ? null : litMicrobatch(thing.plan, bar), thing && bar !== undefined
      ? `micro-batch ${thing.plan.bars.microbatch[bar]}` : "");
    showDetails(thing, (to) => this.go(to));
    const { source, line } = bar === undefined ? {} : whatOf(thing.plan, bar);
    markLine(bar === undefined ? null : thing.plan, "on", source, line);
    this.later();
  }

  go(thing) {
    if (!thing) return;
    this.choose(thing);
    const { plan, lane, from, to } = thing;
    this.viewport.reveal(from * plan.rate, to * plan.rate, rowOf(this.viewport, plan, lane));
  }

  step(key) {
    const found = STEPS.find((step) => step[1] === key);
    if (found && this.chosen) this.go(found[2](this.chosen));
    return Boolean(found);
  }

  first() {
    if (this.chosen) return this.go(this.chosen);
    const [plan] = this.plans;
    return plan.count ? this.go(barThing(plan, 0)) : undefined;
  }

  chain() {
    const [plan] = this.plans;
    this.chained = this.chained ? null : plan;
    byId("chain").setAttribute("aria-pressed", Boolean(this.chained));
    this.light(this.chained && litChain(plan), this.chained ? "the critical chain" : "");
    this.later();
  }

  line(plan, source, line) {
    this.chosen = null;
    showDetails(null);
    markLine(plan, "on", source, line);
    this.light(litLine(plan, source, line), `line ${line}`);
    this.later();
  }

  light(lit, words) {
    this.chart.lit = lit;
    byId("lit").textContent = lit
      ? `${words}: ${lit.count} ${lit.count === 1 ? "operation" : "operations"} (Esc: all)` : "";
  }

  letGo() {
    this.chosen = this.chained = null;
    byId("chain").setAttribute("aria-pressed", "false");
    this.light(null);
    markLine(null, "on");
    showDetails(null);
    this.later();
  }
}

// ---------------------------------------------------------------------- the beginning

function begin() {
  const plans = readPlans(byId("plan").textContent), [plan] = plans, page = new Page(plans);
  document.querySelector("h1").textContent = plan.schedule;
  byId("figures").textContent = plans.length === 1 ? plan.figures
    : plans.map((one) => `${one.schedule}: ${one.figures}`).join(" — ");
  if (plan.limits.some((limit) => limit >= 0)) byId("chart").classList.add("limited");
  page.layout();
  performance.mark("drawn");
  showDetails(null);
  listen(page.canvases.over, page);
  buttons(page);
  drags(page);
  requestAnimationFrame(() => setTimeout(() => {
    for (const one of plans) showSource(one, (source, line) => page.line(one, source, line));
    prepareTables(plans, (one, bar) => page.go(barThing(one, bar)));
  }));
  new ResizeObserver(() => page.layout()).observe(byId("rows"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.layout());
  globalThis.stretto = page;  // to look at from outside
}

function buttons(page) {
  const bar = byId("buttons"), { viewport } = page;
  const middle = () => [1.6, viewport.width / 2], centre = () => [1.35, viewport.height / 2];
  const back = ([times, at]) => [1 / times, at];
  button(bar, "−", () => page.zoom(...back(middle())), { title: "less time apart (key -)" });
  button(bar, "+", () => page.zoom(...middle()), { title: "more time apart (key +)" });
  button(bar, "flat", () => page.stretch(...back(centre())), { title: "lower rows (key [)" });
  button(bar, "tall", () => page.stretch(...centre()), { title: "higher rows (key ])" });
  button(bar, "all", () => page.all(), { title: "everything (key 0)" });
  button(bar, "critical chain", () => page.chain(),
    { id: "chain", title: "the operations that make the step as long as it is (key c)" })
    .setAttribute("aria-pressed", "false");
  byId("chain").hidden = !page.plans[0].chain.length;
}

// The overview moves the chart, the bar between picture and text moves itself.
function drags(page) {
  const small = page.canvases.small, split = byId("split"), side = byId("side");
  const aim = (event) => page.move(...page.overview.aim(event.offsetX, event.offsetY));
  drag(small, aim, aim);
  const wide = (width) => {
    const least = Math.max(220, Math.min(width, innerWidth - 320));
    side.style.flexBasis = `${least}px`;
    split.setAttribute("aria-valuenow", Math.round(100 * least / innerWidth));
  };
  drag(split, () => {}, (event) => wide(innerWidth - event.clientX - 16));
  split.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: 32, ArrowRight: -32 }[event.key];
    if (by) wide(side.offsetWidth + by);
  });
}

function drag(element, down, move) {
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    down(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId)) move(event);
  });
}

begin();
