// What is beside the picture: layers and their sliders, legend, list of slides.
import { colourTable, valueOf } from "./layers.js";

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function numberText(value) {
  return Number(value.toPrecision(3)).toString();
}

function slider(label, range, value, changed) {
  const [min, max] = range;
  const shown = element("output", { textContent: numberText(value) });
  const input = element("input", {
    type: "range", min, max, step: (max - min) / 200, value, ariaLabel: label,
    oninput: () => {
      shown.textContent = numberText(input.valueAsNumber);
      changed(input.valueAsNumber);
    },
  });
  input.dataset.control = label;
  return element("label", { className: "wsi-slider" }, element("span", { textContent: label }), input, shown);
}

// The colours from the least to the greatest value, as they lie on white.
function colourBar(spec, style, maps) {
  const bar = element("canvas", { width: 256, height: 1, className: "wsi-bar" });
  const table = colourTable({ ...spec, power: 1, kind: "values" }, style, maps);
  const image = new ImageData(256, 1);
  new Uint32Array(image.data.buffer).set(table);
  bar.getContext("2d").putImageData(image, 0, 0);
  return bar;
}

function legend(spec, style, maps) {
  const [low, high] = spec.limits;
  const unit = spec.unit ? ` ${spec.unit}` : "";
  const texts = [low, (low + high) / 2, high].map((value, i) =>
    element("span", { textContent: numberText(value) + (i === 2 ? unit : "") }));
  return element("div", { className: "wsi-legend" }, colourBar(spec, style, maps),
    element("div", { className: "wsi-ticks" }, ...texts));
}

function chips(spec, style, changed) {
  const made = spec.classes.map(({ value, name, colour }) => {
    const square = element("i");
    square.style.background = colour;
    const chip = element("button", {
      type: "button", className: "wsi-chip", title: `show or hide ${name}`,
      onclick: () => {
        if (!style.hidden.delete(value)) style.hidden.add(value);
        mark();
        changed();
      },
    }, square, name);
    const mark = () => chip.setAttribute("aria-pressed", String(!style.hidden.has(value)));
    mark();
    return chip;
  });
  return element("div", { className: "wsi-chips" }, ...made);
}

function values(spec, style, maps, changed) {
  const bar = element("div", {}, legend(spec, style, maps));
  const again = () => {
    bar.replaceChildren(legend(spec, style, maps));
    changed();
  };
  const choice = element("select", { ariaLabel: "colour map", onchange: () => {
    style.map = choice.value;
    again();
  } }, ...Object.keys(maps).map((name) => new Option(name, name, false, name === style.map)));
  const set = (name) => (value) => {
    style[name] = value;
    again();
  };
  return [bar, slider("threshold", spec.limits, style.threshold, set("threshold")),
    slider("brightest at", spec.limits, style.top, set("top")),
    element("label", { className: "wsi-slider" }, element("span", { textContent: "colours" }), choice)];
}

// One layer's controls; `changed(recolour)` is told of every change.
export function layerControls(layer, maps, changed) {
  const { spec, style } = layer;
  const recoloured = () => changed(true);
  const shown = element("input", { type: "checkbox", checked: style.visible, onchange: () => {
    style.visible = shown.checked;
    box.classList.toggle("wsi-off", !style.visible);
    changed(false);
  } });
  const more = [slider("opacity", [0, 1], style.opacity, (value) => {
    style.opacity = value;
    changed(false);
  })];
  const toggle = (label, name, below = {}) => {
    below.hidden = !style[name];
    const input = element("input", { type: "checkbox", checked: style[name], onchange: () => {
      style[name] = input.checked;
      below.hidden = !style[name];
      changed(false);
    } });
    return element("label", { className: "wsi-toggle" }, input, label);
  };
  if (spec.kind === "image") more.push(toggle("without loss (PNG)", "exact"));
  if (spec.classes?.length) more.push(chips(spec, style, recoloured));
  if (spec.kind === "values") more.push(...values(spec, style, maps, recoloured));
  if (spec.kind === "objects") {
    const density = element("div", {}, ...values(spec, style, maps, recoloured));
    more.push(toggle("their density, seen from afar", "density", density), density);
  }
  const [kind] = spec.key.split("-");
  const title = element("label", { className: "wsi-title" }, shown, spec.title,
    element("small", { textContent: kind === spec.title ? "" : kind }));
  const box = element("section", { className: "wsi-layer" }, title, element("div", {}, ...more));
  box.dataset.layer = spec.key;
  box.classList.toggle("wsi-off", !style.visible);
  return box;
}

// The slides of a cohort; thumbnails come when they are scrolled to.
export class SlideList {
  constructor(ask, chosen) {
    this.items = new Map();
    this.pictured = new Set();
    this.list = element("ul");
    this.filter = element("input", { type: "search", placeholder: "find a slide", ariaLabel: "find a slide", oninput: () => this.sift() });
    this.root = element("nav", { className: "wsi-slides", ariaLabel: "slides" }, this.filter, this.list);
    Object.assign(this, { ask, chosen });
    this.seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) this.picture(target);
    }, { root: this.list, rootMargin: "200px" });
  }

  async picture(item) {
    this.seen.unobserve(item);
    try {
      const url = URL.createObjectURL(new Blob([await this.ask(`thumbnail/${item.dataset.id}`)]));
      const image = item.querySelector("img");
      image.onload = () => URL.revokeObjectURL(url);
      image.src = url;
    } catch {
      item.classList.add("wsi-gone"); // the slide's file is not there: its results are
    }
  }

  update(slides, current) {
    for (const { id, state, note, shown } of slides) {
      if (!this.items.has(id)) {
        const button = element("button", { type: "button", onclick: () => this.chosen(id) },
          element("img", { alt: "" }), element("b", { textContent: id }), element("small"));
        const item = element("li", {}, button);
        item.dataset.id = id;
        this.items.set(id, item);
        this.list.append(item);
      }
      const item = this.items.get(id);
      const button = item.firstChild;
      if (shown && !this.pictured.has(id)) {
        this.pictured.add(id);
        this.seen.observe(item);
      }
      button.disabled = !shown;
      item.querySelector("small").textContent = note ? `${state}: ${note}` : state;
      item.dataset.state = state;
      item.title = note;
      button.setAttribute("aria-current", String(id === current));
    }
    this.filter.hidden = slides.length < 8;
  }

  sift() {
    const text = this.filter.value.toLowerCase();
    for (const [id, item] of this.items) item.hidden = !id.toLowerCase().includes(text);
  }
}
