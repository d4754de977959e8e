// Objects: outlines and points where they can be seen, else how many there are.
import { Tiles } from "./layers.js";

const SEEN_PX_PER_UM = 0.8; // a nucleus of 8 µm is then 6 pixels
const MOST_BLOCKS = 64;
const KEPT_BLOCKS = 128;

function parsed(bytes) {
  const whole = new Uint8Array(bytes).buffer; // from its beginning, as typed arrays want it
  const length = new DataView(whole).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 4, length)));
  let at = 4 + length;
  const next = (Kind, count) => {
    const values = new Kind(whole, at, count);
    at += values.byteLength;
    return values;
  };
  const { count, rings, points } = head;
  return {
    names: head.classes, count,
    x: next(Float32Array, count), y: next(Float32Array, count),
    score: next(Float32Array, count), code: next(Int32Array, count),
    starts: next(Uint32Array, rings + 1), owners: next(Uint32Array, rings),
    points: next(Float32Array, 2 * points),
  };
}

export class Objects {
  constructor(slideId, spec, style, maps) {
    Object.assign(this, { slideId, spec, style, kept: new Map(), errors: new Set() });
    this.density = new Tiles(slideId, spec, style, maps);
  }

  recolour() {
    this.density.recolour();
  }

  refresh(spec) {
    this.spec = spec;
    for (const block of this.kept.values()) block.stale = true;
    this.errors.clear();
    this.density.refresh(spec);
  }

  set failed(told) {
    this.told = told;
    this.density.failed = told;
  }

  // The blocks in view; null where they are too many, or too small to be told apart.
  blocksIn(camera, mpp) {
    if (camera.scale / mpp < SEEN_PX_PER_UM) return null;
    const { shape, step, origin } = this.spec.blocks;
    const margin = 40 / mpp; // an object lies where its centre is, and reaches further
    const [x0, y0, x1, y1] = camera.view;
    const range = (from, to, i) => [
      Math.max(Math.floor((from - margin - origin[i]) / step[i]), 0),
      Math.min(Math.ceil((to + margin - origin[i]) / step[i]), shape[i]),
    ];
    const [top, bottom] = range(y0, y1, 0);
    const [left, right] = range(x0, x1, 1);
    if ((bottom - top) * (right - left) > MOST_BLOCKS) return null;
    const blocks = [];
    for (let row = top; row < bottom; row++)
      for (let column = left; column < right; column++) blocks.push([row, column]);
    return blocks;
  }

  question([row, column]) {
    return `objects/${this.slideId}/${this.spec.key}/${row}/${column}`;
  }

  wanted(camera, mpp) {
    const blocks = this.blocksIn(camera, mpp);
    if (!blocks) return this.style.density ? this.density.wanted(camera) : [];
    return blocks
      .map((block) => this.question(block))
      .filter((question) => (this.kept.get(question)?.stale ?? true) && !this.errors.has(question))
      .map((question) => ({
        question,
        take: (bytes) => this.take(question, bytes),
        fail: (error) => {
          this.errors.add(question);
          this.told?.(error.message);
        },
      }));
  }

  take(question, bytes) {
    const block = { ...parsed(bytes), stale: false };
    // Of one model, so by name: a part may know fewer classes than the model.
    const known = new Map(this.spec.classes.map((each) => [each.name, each.value]));
    block.values = block.names.map((name) => known.get(name) ?? 0);
    block.paths = new Map();
    for (let ring = 0; ring < block.owners.length; ring++) {
      const value = this.valueOf(block, block.owners[ring]);
      if (!block.paths.has(value)) block.paths.set(value, new Path2D());
      const path = block.paths.get(value);
      for (let i = block.starts[ring]; i < block.starts[ring + 1]; i++) {
        const [x, y] = [block.points[2 * i] - block.x[0], block.points[2 * i + 1] - block.y[0]];
        if (i === block.starts[ring]) path.moveTo(x, y);
        else path.lineTo(x, y);
      }
      path.closePath();
    }
    this.kept.delete(question);
    this.kept.set(question, block);
    for (const [old] of this.kept) {
      if (this.kept.size <= KEPT_BLOCKS) break;
      this.kept.delete(old);
    }
  }

  valueOf(block, i) {
    return block.code[i] < 0 ? 0 : block.values[block.code[i]];
  }

  draw(context, camera, mpp) {
    const blocks = this.blocksIn(camera, mpp);
    if (!blocks) {
      if (this.style.density) this.density.draw(context, camera);
      return;
    }
    const scale = camera.scale * camera.dpr;
    for (const at of blocks) {
      const block = this.kept.get(this.question(at));
      if (!block?.count) continue;
      const [left, top] = camera.toScreen(block.x[0], block.y[0]).map((px) => px * camera.dpr);
      for (const { value, colour } of this.spec.classes) {
        if (this.style.hidden.has(value)) continue;
        if (block.owners.length) {
          context.setTransform(scale, 0, 0, scale, left, top);
          // A dark line under the coloured one: seen on any stain. From afar both would fill it.
          const near = Math.min(camera.scale / mpp, 2);
          for (const [width, ink] of [[1.3 * near, "rgb(0 0 0 / 55%)"], [0.4 + 0.6 * near, colour]]) {
            context.lineWidth = (width * camera.dpr) / scale;
            context.strokeStyle = ink;
            context.stroke(block.paths.get(value) ?? new Path2D());
          }
          context.setTransform(1, 0, 0, 1, 0, 0);
        } else this.drawPoints(context, camera, block, value, colour);
      }
    }
  }

  drawPoints(context, camera, block, value, colour) {
    const radius = Math.min(Math.max(camera.scale * 4, 1.5), 5) * camera.dpr;
    context.beginPath();
    for (let i = 0; i < block.count; i++) {
      if (this.valueOf(block, i) !== value) continue;
      const [left, top] = camera.toScreen(block.x[i], block.y[i]).map((px) => px * camera.dpr);
      context.moveTo(left + radius, top);
      context.arc(left, top, radius, 0, 2 * Math.PI);
    }
    Object.assign(context, { fillStyle: colour, strokeStyle: "#000", lineWidth: camera.dpr });
    context.fill();
    context.stroke();
  }

  // The nearest object whose centre is within `reach` level-0 pixels.
  objectAt(x, y, reach, camera, mpp) {
    let nearest = null;
    for (const at of this.blocksIn(camera, mpp) ?? []) {
      const block = this.kept.get(this.question(at));
      for (let i = 0; i < (block?.count ?? 0); i++) {
        const far = Math.hypot(block.x[i] - x, block.y[i] - y);
        if (far > (nearest?.far ?? reach) || this.style.hidden.has(this.valueOf(block, i))) continue;
        nearest = { far, name: block.names[block.code[i]] ?? this.spec.title, score: block.score[i] };
      }
    }
    return nearest;
  }
}
