// Layers made of tiles: the slide's pixels as they are, values and classes coloured here.

const TILE = 512;
const KEPT = 160; // tiles of a layer that are kept: some 160 MB at most
const decoding = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// RGBA of the 256 values, as one number each.
export function colourTable(spec, style, maps) {
  const table = new Uint32Array(256);
  const set = (value, r, g, b, a) => {
    table[value] = ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
  };
  if (spec.kind === "classes") {
    for (const { value, colour } of spec.classes) {
      const rgb = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      if (!style.hidden.has(value)) set(value, ...rgb, 255);
    }
    return table;
  }
  const [low] = spec.limits;
  for (let stored = 1; stored < 256; stored++) {
    const value = valueOf(spec, stored);
    if (value < style.threshold) continue;
    const part = Math.min((value - low) / Math.max(style.top - low, 1e-9), 1);
    const at = 3 * Math.round(part * 255);
    const rgb = maps[style.map].slice(at, at + 3);
    // The less of a score there is, the more is seen of what lies under it.
    set(stored, ...rgb, Math.round(255 * Math.sin((Math.PI / 2) * part) ** 2));
  }
  return table;
}

export function valueOf(spec, stored) {
  const [low, high] = spec.limits;
  return low + (stored / 255) ** spec.power * (high - low);
}

export class Tiles {
  constructor(slideId, spec, style, maps) {
    Object.assign(this, { slideId, spec, style, maps, kept: new Map(), errors: new Set() });
    this.recolour();
  }

  recolour() {
    if (this.spec.kind !== "image") this.table = colourTable(this.spec, this.style, this.maps);
  }

  // What is shown stays until what is new has come.
  refresh(spec) {
    const asBefore = JSON.stringify(spec.planes) === JSON.stringify(this.spec.planes);
    this.spec = spec;
    if (!asBefore) this.kept.clear();
    for (const tile of this.kept.values()) tile.stale = true;
    this.errors.clear();
    this.recolour();
  }

  get key() {
    return this.spec.kind === "image" && this.style.exact ? "exact" : this.spec.key;
  }

  // The coarsest plane that is fine enough for the screen.
  planeFor(camera) {
    // Cells of a density are counts, which mean nothing where they hold one object or none.
    const pixels = this.spec.kind === "objects" ? 24 : 1.3;
    const finest = pixels / (camera.scale * camera.dpr);
    const { planes } = this.spec;
    for (let i = planes.length - 1; i > 0; i--) if (Math.max(...planes[i].step) <= finest) return i;
    return 0;
  }

  *tilesIn(number, [x0, y0, x1, y1]) {
    const { shape, step, origin } = this.spec.planes[number];
    const range = (from, to, i) => [
      Math.max(Math.floor((from - origin[i]) / step[i] / TILE), 0),
      Math.min(Math.ceil((to - origin[i]) / step[i] / TILE), Math.ceil(shape[i] / TILE)),
    ];
    const [top, bottom] = range(y0, y1, 0);
    const [left, right] = range(x0, x1, 1);
    for (let row = top; row < bottom; row++)
      for (let column = left; column < right; column++) yield { number, row, column };
  }

  question({ number, row, column }) {
    return `tile/${this.slideId}/${this.key}/${number}/${row}/${column}`;
  }

  place({ number, row, column }) {
    const { shape, step, origin } = this.spec.planes[number];
    const at = (index, i) => origin[i] + Math.min(index * TILE, shape[i]) * step[i];
    return [at(column, 1), at(row, 0), at(column + 1, 1), at(row + 1, 0)];
  }

  wanted(camera) {
    const number = this.planeFor(camera);
    const coarsest = this.spec.planes.length - 1;
    const first = coarsest === number ? [] : [...this.tilesIn(coarsest, camera.view)].slice(0, 4);
    const far = (tile) => {
      const [x0, y0, x1, y1] = this.place(tile);
      return Math.hypot((x0 + x1) / 2 - camera.x, (y0 + y1) / 2 - camera.y);
    };
    const near = [...this.tilesIn(number, camera.view)].sort((a, b) => far(a) - far(b));
    return [...first, ...near]
      .map((tile) => ({ tile, question: this.question(tile) }))
      .filter(({ question }) => (this.kept.get(question)?.stale ?? true) && !this.errors.has(question))
      .map(({ tile, question }) => ({
        question,
        take: (bytes) => this.take(tile, question, bytes),
        fail: (error) => this.fail(question, error),
      }));
  }

  async take(tile, question, bytes) {
    const bitmap = await createImageBitmap(new Blob([bytes]), decoding);
    const made = { tile, width: bitmap.width, height: bitmap.height, stale: false };
    if (this.spec.kind === "image") made.image = bitmap;
    else {
      const drawn = canvasOf(bitmap.width, bitmap.height);
      const context = drawn.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
      made.values = new Uint8Array(rgba.length / 4).map((_, i) => rgba[4 * i]);
      made.image = drawn;
    }
    this.kept.delete(question);
    this.kept.set(question, made);
    for (const [old] of this.kept) {
      if (this.kept.size <= KEPT) break;
      this.kept.delete(old);
    }
  }

  fail(question, error) {
    this.errors.add(question);
    this.failed?.(error.message);
  }

  coloured(tile) {
    if (tile.values && tile.table !== this.table) {
      const image = new ImageData(tile.width, tile.height);
      const pixels = new Uint32Array(image.data.buffer);
      for (let i = 0; i < pixels.length; i++) pixels[i] = this.table[tile.values[i]];
      tile.image.getContext("2d").putImageData(image, 0, 0);
      tile.table = this.table;
    }
    return tile.image;
  }

  // Draws coarse tiles and finer ones in their places; nothing shows through a finer tile.
  draw(context, camera) {
    const number = this.planeFor(camera);
    for (let i = this.spec.planes.length - 1; i >= number; i--) {
      for (const tile of this.tilesIn(i, camera.view)) {
        const question = this.question(tile);
        const kept = this.kept.get(question);
        if (!kept) continue;
        this.kept.delete(question); // and in again as the one that was used last
        this.kept.set(question, kept);
        const rectangle = camera.rectangle(...this.place(tile));
        const enlarged = rectangle[2] / kept.width;
        context.imageSmoothingEnabled = this.spec.kind !== "classes" && enlarged < 4;
        context.imageSmoothingQuality = "high";
        context.clearRect(...rectangle);
        context.drawImage(this.coloured(kept), ...rectangle);
      }
    }
  }

  // The stored value at a place, of the finest tile there is; undefined where none came yet.
  valueAt(x, y) {
    for (let number = 0; number < this.spec.planes.length; number++) {
      const { step, origin } = this.spec.planes[number];
      const column = Math.floor((x - origin[1]) / step[1]);
      const row = Math.floor((y - origin[0]) / step[0]);
      const tile = { number, row: Math.floor(row / TILE), column: Math.floor(column / TILE) };
      const kept = this.kept.get(this.question(tile));
      if (!kept?.values) continue;
      const [i, j] = [row - tile.row * TILE, column - tile.column * TILE];
      if (i >= 0 && j >= 0 && i < kept.height && j < kept.width) return kept.values[i * kept.width + j];
    }
    return undefined;
  }
}
