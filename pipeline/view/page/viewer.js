// The viewer: one slide at a time, its layers over one another, and what moves it.
import { Camera, lengthText, niceLength } from "./geometry.js";
import { Loader } from "./loader.js";
import { Tiles, valueOf } from "./layers.js";
import { Objects } from "./objects.js";
import { SlideList, element, layerControls, numberText } from "./panel.js";

const GROWING_MS = 3000; // between looks at what may have changed
const SETTLED_MS = 20000;
const STEP_PX = 90; // an arrow key's

const HELP = [
  ["drag, arrows", "move"], ["wheel, pinch, + and -", "zoom"], ["double click", "zoom in"],
  ["0", "the whole slide"], ["1", "one to one"], ["h", "scores on or off"], ["o", "objects"],
  ["l", "labels"], ["t", "tissue"], ["c", "coverage"], ["p", "panels"],
];

function json(bytes) {
  return JSON.parse(new TextDecoder().decode(bytes));
}

async function colourMaps(ask) {
  const pairs = Object.entries(json(await ask("maps")));
  return Object.fromEntries(pairs.map(([name, text]) =>
    [name, Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]));
}

class Viewer {
  constructor(root, ask, maps, options) {
    Object.assign(this, { root, ask, maps, options, camera: new Camera(), layers: [], styles: new Map() });
    this.loader = new Loader(ask, () => this.redraw());
    this.scratch = document.createElement("canvas");
    this.ended = new AbortController();
    this.build();
    this.listen();
  }

  build() {
    const button = (text, label, act) =>
      element("button", { type: "button", textContent: text, title: label, ariaLabel: label, onclick: act });
    const middle = () => [this.camera.width / 2, this.camera.height / 2];
    this.canvas = element("canvas", { className: "wsi-canvas", ariaLabel: "the slide" });
    this.list = new SlideList(this.ask, (id) => this.open(id).then(() => this.remember(true)));
    this.panel = element("aside", { className: "wsi-panel", ariaLabel: "layers" });
    this.readout = element("div", { className: "wsi-readout" });
    this.bar = element("div", { className: "wsi-scale" }, element("span"));
    this.map = element("canvas", { className: "wsi-map", ariaLabel: "overview" });
    this.note = element("div", { className: "wsi-note", role: "status" });
    this.help = element("dialog", { className: "wsi-help" },
      element("table", {}, ...HELP.map(([key, what]) =>
        element("tr", {}, element("th", { textContent: key }), element("td", { textContent: what })))),
      element("form", { method: "dialog" }, element("button", { textContent: "close" })));
    this.tools = element("div", { className: "wsi-tools" },
      button("+", "zoom in", () => this.zoom(...middle(), 1.6)),
      button("\u2212", "zoom out", () => this.zoom(...middle(), 1 / 1.6)),
      button("\u2922", "the whole slide", () => this.fit()),
      button("?", "keys", () => this.help.showModal()));
    this.side = element("div", { className: "wsi-side" },
      button("Layers", "show or hide the layers", () => this.root.classList.toggle("wsi-bare")), this.panel);
    this.slides = element("div", { className: "wsi-left" },
      button("Slides", "show or hide the slides", () => this.root.classList.toggle("wsi-listed")), this.list.root);
    this.root.classList.add("wsi-viewer");
    this.root.tabIndex = 0;
    this.root.replaceChildren(this.canvas, this.note, this.slides, this.side, this.tools, this.map,
      element("div", { className: "wsi-foot" }, this.bar, this.readout), this.help);
  }

  listen() {
    const on = (target, type, act, more = {}) =>
      target.addEventListener(type, act, { signal: this.ended.signal, ...more });
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.root);
    const pointers = new Map();
    on(this.canvas, "pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.root.focus({ preventScroll: true });
    });
    on(this.canvas, "pointermove", (event) => {
      this.hover(event.offsetX, event.offsetY);
      if (!pointers.has(event.pointerId)) return;
      const before = [...pointers.values()];
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.dragged(before, [...pointers.values()]);
    });
    for (const type of ["pointerup", "pointercancel"]) on(this.canvas, type, (event) => pointers.delete(event.pointerId));
    on(this.canvas, "pointerleave", () => this.hover(null));
    on(this.canvas, "dblclick", (event) => this.zoom(event.offsetX, event.offsetY, event.shiftKey ? 0.5 : 2));
    on(this.canvas, "wheel", (event) => this.wheel(event), { passive: false });
    on(this.root, "keydown", (event) => this.key(event));
    const toMap = (event) => {
      const [height, width] = this.camera.shape;
      this.camera.place((event.offsetX / this.map.clientWidth) * width, (event.offsetY / this.map.clientHeight) * height, this.camera.scale);
      this.moved();
    };
    on(this.map, "pointerdown", toMap);
    on(this.map, "pointermove", (event) => event.buttons && toMap(event));
    if (this.options.link) on(window, "popstate", () => this.restore());
    on(document, "visibilitychange", () => document.hidden || this.look());
  }

  dragged(before, now) {
    const mean = (points, i) => points.reduce((sum, point) => sum + point[i], 0) / points.length;
    this.camera.moveBy(mean(now, 0) - mean(before, 0), mean(now, 1) - mean(before, 1));
    if (now.length === 2) {
      const apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      this.camera.zoomAt(mean(now, 0), mean(now, 1), apart(now) / Math.max(apart(before), 1));
    }
    this.moved();
  }

  wheel(event) {
    // In a notebook the page itself must scroll until somebody has turned to the viewer.
    if (this.options.embedded && !this.root.contains(document.activeElement)) return;
    event.preventDefault();
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    this.zoom(event.offsetX, event.offsetY, Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, dialog *")) return;
    const middle = [this.camera.width / 2, this.camera.height / 2];
    const move = (dx, dy) => () => {
      this.camera.moveBy(dx * STEP_PX, dy * STEP_PX);
      this.moved();
    };
    const toggle = (kind) => () => this.toggle(kind);
    const acts = {
      "+": () => this.zoom(...middle, 1.6), "=": () => this.zoom(...middle, 1.6),
      "-": () => this.zoom(...middle, 1 / 1.6), 0: () => this.fit(),
      1: () => this.zoom(...middle, 1 / this.camera.scale),
      ArrowLeft: move(1, 0), ArrowRight: move(-1, 0), ArrowUp: move(0, 1), ArrowDown: move(0, -1),
      h: toggle("scores"), o: toggle("objects"), l: toggle("labels"), t: toggle("tissue"), c: toggle("coverage"),
      p: () => this.root.classList.toggle("wsi-bare"), "?": () => this.help.showModal(),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }

  toggle(kind) {
    const those = this.layers.filter(({ spec }) => spec.key.startsWith(kind));
    const shown = those.some(({ style }) => style.visible);
    those.forEach(({ style }, i) => { style.visible = !shown && i === 0; });
    this.fillPanel();
    this.changed();
  }

  zoom(left, top, factor) {
    this.camera.zoomAt(left, top, factor);
    this.moved();
  }

  fit() {
    this.wholeSlide();
    this.moved();
  }

  wholeSlide() {
    const beside = (panel) => (this.root.classList.contains("wsi-narrow") ? 0 : panel.offsetWidth && panel.offsetWidth + 12);
    this.camera.covered = [beside(this.list.root), beside(this.panel)];
    this.camera.fit();
  }

  moved() {
    this.redraw();
    this.remember(false);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || !height) return;
    const first = this.camera.width === 1;
    Object.assign(this.camera, { width, height, dpr: Math.min(window.devicePixelRatio || 1, 2) });
    this.root.classList.toggle("wsi-narrow", width < 640);
    this.root.classList.toggle("wsi-short", height < 520);
    for (const canvas of [this.canvas, this.scratch]) {
      canvas.width = Math.round(width * this.camera.dpr);
      canvas.height = Math.round(height * this.camera.dpr);
    }
    if (first && this.spec) this.wholeSlide();
    this.redraw();
  }

  // Shows a slide; its layers look as they did on the one before.
  async open(id) {
    const spec = json(await this.ask(`slide/${id}`));
    this.spec = spec;
    this.camera.shape = spec.shape;
    if (this.options.link) document.title = `${id} \u00b7 wsi-pipeline`;
    this.layers = spec.layers.map((each) => this.layerOf(each));
    this.tell(spec.layers[0]?.kind === "image" ? [] : spec.notes);
    this.fillPanel();
    this.wholeSlide();
    this.redraw();
    this.list.update(this.known ?? [], id);
    this.picture();
  }

  layerOf(spec) {
    if (!this.styles.has(spec.key)) this.styles.set(spec.key, this.styleOf(spec));
    const Kind = spec.kind === "objects" ? Objects : Tiles;
    const layer = new Kind(this.spec.id, spec, this.styles.get(spec.key), this.maps);
    layer.failed = (message) => this.tell([message]);
    return layer;
  }

  styleOf(spec) {
    const scored = this.spec.layers.some(({ kind }) => kind === "values");
    const [low, high] = spec.limits ?? [0, 1];
    const visible = {
      image: true, objects: true, values: spec.key.endsWith("-0"), classes: spec.key.startsWith("labels") && !scored,
    }[spec.kind];
    const opacity = { image: 1, objects: 1, values: this.options.opacity ?? 0.7, classes: 0.45 }[spec.kind];
    // The density of nuclei beside which a lymph node is bright.
    const top = spec.kind === "objects" ? high / 2 : high;
    return { visible, opacity, map: "viridis", threshold: low, top, hidden: new Set(), exact: false, density: !scored };
  }

  fillPanel() {
    const changed = (layer) => (recolour) => {
      if (recolour) layer.recolour();
      this.changed();
    };
    const { id, state, notes } = this.spec;
    const said = [state === "slide" ? "" : state, ...notes].filter(Boolean).map((text) => element("p", { textContent: text }));
    this.panel.replaceChildren(element("h2", { textContent: id }), ...said,
      ...[...this.layers].reverse().map((layer) => layerControls(layer, this.maps, changed(layer))));
  }

  changed() {
    this.redraw();
    this.remember(false);
  }

  tell(texts) {
    this.note.textContent = texts.join("\n");
    this.note.hidden = !texts.length;
    clearTimeout(this.telling);
    this.telling = setTimeout(() => { this.note.hidden = true; }, 12000);
  }

  get mpp() {
    return this.spec.mpp?.[1] ?? null;
  }

  redraw() {
    if (this.waiting || !this.spec || this.ended.signal.aborted) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  draw() {
    const { camera } = this;
    const context = this.canvas.getContext("2d");
    const over = this.scratch.getContext("2d");
    const [height, width] = camera.shape;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.save();
    context.beginPath();
    context.rect(...camera.rectangle(0, 0, width, height));
    context.clip();
    context.fillStyle = "#f4f4f4";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const wanted = [];
    for (const layer of this.layers) {
      if (!layer.style.visible || !layer.style.opacity) continue;
      over.clearRect(0, 0, this.scratch.width, this.scratch.height);
      layer.draw(over, camera, this.mpp ?? 1);
      context.globalAlpha = layer.style.opacity;
      context.drawImage(this.scratch, 0, 0);
      wanted.push(...layer.wanted(camera, this.mpp ?? 1));
    }
    context.restore();
    this.loader.want(wanted);
    this.root.dataset.state = this.loader.busy ? "loading" : "ready";
    this.drawScale();
    this.drawMap();
  }

  drawScale() {
    const most = 150 / this.camera.scale; // level-0 pixels
    const length = niceLength(this.mpp ? most * this.mpp : most);
    const pixels = this.mpp ? length / this.mpp : length;
    this.bar.style.width = `${pixels * this.camera.scale}px`;
    this.bar.firstChild.textContent = this.mpp ? lengthText(length) : `${length} px`;
  }

  async picture() {
    const { id } = this.spec;
    this.small = null;
    try {
      const bitmap = await createImageBitmap(new Blob([await this.ask(`thumbnail/${id}`)]));
      if (this.spec.id === id) this.small = bitmap;
    } catch (error) {
      this.small = null; // without its file a slide has no picture: the frame alone is drawn
      console.debug(error.message);
    }
    this.redraw();
  }

  drawMap() {
    const [height, width] = this.camera.shape;
    const scale = 150 / Math.max(height, width);
    const size = { width: Math.max(Math.round(width * scale), 1), height: Math.max(Math.round(height * scale), 1) };
    Object.assign(this.map, size);
    const context = this.map.getContext("2d");
    if (this.small) context.drawImage(this.small, 0, 0, size.width, size.height);
    const [x0, y0, x1, y1] = this.camera.view.map((at) => at * scale);
    context.lineWidth = 2;
    context.strokeStyle = "#c2410c";
    context.strokeRect(Math.max(x0, 1), Math.max(y0, 1),
      Math.min(x1, size.width - 1) - Math.max(x0, 1), Math.min(y1, size.height - 1) - Math.max(y0, 1));
  }

  hover(left, top) {
    if (!this.spec) return;
    if (left === null) {
      this.readout.textContent = "";
      return;
    }
    const [x, y] = this.camera.toSlide(left, top);
    const [height, width] = this.camera.shape;
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    this.readout.textContent = inside ? this.said(x, y).join("  \u00b7  ") : "";
  }

  said(x, y) {
    const said = [`x ${Math.floor(x)}, y ${Math.floor(y)} px`];
    if (this.spec.mpp) said.push(`${(x * this.spec.mpp[1]).toFixed(1)}, ${(y * this.spec.mpp[0]).toFixed(1)} µm`);
    for (const layer of this.layers) {
      if (!layer.style.visible) continue;
      const { spec } = layer;
      if (spec.kind === "objects") {
        const found = layer.objectAt(x, y, 8 / (this.mpp ?? 1), this.camera, this.mpp ?? 1);
        if (found) said.push([found.name, Number.isNaN(found.score) ? "" : found.score.toFixed(2)].filter(Boolean).join(" "));
        continue;
      }
      const stored = spec.kind === "image" ? undefined : layer.valueAt(x, y);
      if (stored === undefined) continue;
      if (spec.kind === "values") said.push(`${spec.title} ${numberText(valueOf(spec, stored))}`);
      else said.push(...this.className(spec, stored, x, y));
    }
    return said;
  }

  className(spec, stored, x, y) {
    const name = spec.classes.find(({ value }) => value === stored)?.name;
    const { step, origin } = spec.planes[0];
    const at = [Math.floor((y - origin[0]) / step[0]), Math.floor((x - origin[1]) / step[1])].join("x");
    const reason = spec.reasons?.[at];
    return name ? [reason ? `${name}: ${reason}` : name] : [];
  }

  // Looks whether there is something new, now and again.
  async look() {
    clearTimeout(this.looking);
    if (this.ended.signal.aborted) return;
    let pause = SETTLED_MS;
    try {
      if (!document.hidden && this.spec) {
        const { state, stamp } = json(await this.ask(`state/${this.spec.id}`));
        if (stamp !== this.spec.stamp) await this.renew();
        this.known = json(await this.ask("slides"));
        this.list.update(this.known, this.spec.id);
        const growing = (each) => ["unfinished", "running", "pending"].includes(each.state);
        if (growing({ state }) || this.known.some(growing)) pause = GROWING_MS;
      }
    } catch (error) {
      if (!this.ended.signal.aborted) this.tell([`not up to date: ${error.message}`]);
    }
    if (!this.ended.signal.aborted) this.looking = setTimeout(() => this.look(), pause);
  }

  async renew() {
    const { id } = this.spec;
    const spec = json(await this.ask(`slide/${id}`));
    if (this.spec.id !== id) return;
    this.spec = spec;
    const before = new Map(this.layers.map((layer) => [layer.spec.key, layer]));
    this.layers = spec.layers.map((each) => {
      const layer = before.get(each.key);
      if (!layer) return this.layerOf(each);
      if (each.kind !== "image") layer.refresh(each);
      return layer;
    });
    this.fillPanel();
    this.redraw();
  }

  // The view as a link: slide, place, zoom and how the layers look.
  link() {
    const { camera, spec } = this;
    const looks = this.layers.map(({ spec: { key }, style }) => [key, Number(style.visible), style.opacity, style.map,
      style.threshold, style.top, [...style.hidden].join("."), Number(style.exact), Number(style.density)].join(","));
    const token = new URLSearchParams(location.hash.slice(1)).get("t") ?? "";
    const said = { t: token, s: spec.id, x: camera.x.toFixed(1), y: camera.y.toFixed(1),
      z: Math.log2(camera.scale).toFixed(3), l: looks.join(";") };
    return `#${Object.entries(said).map((pair) => pair.join("=")).join("&")}`;
  }

  // Another slide is a step to go back from, as is a rest after a move; what lies between is not.
  remember(step) {
    if (!this.options.link || !this.spec) return;
    clearTimeout(this.remembering);
    const keep = () => {
      const link = this.link();
      if (link !== location.hash) history.pushState(null, "", link);
    };
    if (step) keep();
    else this.remembering = setTimeout(keep, 600);
  }

  async restore() {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const each of (said.get("l") ?? "").split(";").filter(Boolean)) {
      const [key, visible, opacity, map, threshold, top, hidden, exact, density] = each.split(",");
      if (!(map in this.maps)) continue;
      const numbers = { opacity: Number(opacity), threshold: Number(threshold), top: Number(top) };
      if (!Object.values(numbers).every(Number.isFinite)) continue;
      const flags = { visible: visible === "1", exact: exact === "1", density: density === "1" };
      const style = this.styles.get(key) ?? this.styles.set(key, {}).get(key);
      Object.assign(style, numbers, flags, { map, hidden: new Set((hidden ?? "").split(".").filter(Boolean).map(Number)) });
    }
    const id = said.get("s");
    const there = this.known.find((each) => each.id === id && each.shown);
    if (there && id !== this.spec?.id) await this.open(id);
    else if (this.spec) {
      this.layers.forEach((layer) => layer.recolour());
      this.fillPanel();
    }
    const [x, y, z] = ["x", "y", "z"].map((name) => Number.parseFloat(said.get(name)));
    if (this.spec && [x, y, z].every(Number.isFinite)) this.camera.place(x, y, 2 ** z);
    this.redraw();
  }

  async start() {
    this.known = json(await this.ask("slides"));
    this.root.classList.toggle("wsi-single", this.known.length < 2);
    if (this.options.link) await this.restore();
    const first = this.known.find(({ shown }) => shown);
    if (!this.spec && first) await this.open(first.id);
    this.list.update(this.known, this.spec?.id);
    if (!first) this.tell(["nothing to show yet: slides appear as the run begins them"]);
    await this.look();
  }

  end() {
    this.ended.abort();
    this.sizes.disconnect();
    clearTimeout(this.looking);
    clearTimeout(this.remembering);
    this.loader.want([]);
  }
}

// Puts a viewer into an element; `ask(question, signal)` gives a Promise of a Uint8Array.
export async function mount(root, ask, options = {}) {
  const viewer = new Viewer(root, ask, await colourMaps(ask), options);
  viewer.resize();
  // On a phone the picture comes first.
  root.classList.toggle("wsi-bare", root.classList.contains("wsi-narrow"));
  await viewer.start();
  return viewer;
}
