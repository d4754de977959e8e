// Where things are: level-0 pixels of the slide, and CSS pixels of the screen.

const CLOSEST = 32; // CSS pixels that a level-0 pixel is at most

export class Camera {
  // (x, y) is the level-0 place in the middle of the screen, scale CSS pixels per level-0 pixel.
  constructor() {
    Object.assign(this, { x: 0, y: 0, scale: 1, width: 1, height: 1, dpr: 1, shape: [1, 1] });
    this.covered = [0, 0]; // CSS pixels that panels take, left and right
  }

  get fitting() {
    const free = this.width - this.covered[0] - this.covered[1];
    return Math.min(free / this.shape[1], this.height / this.shape[0]) * 0.96;
  }

  fit() {
    [this.y, this.x] = this.shape.map((n) => n / 2);
    this.scale = this.fitting;
    this.x += (this.covered[1] - this.covered[0]) / 2 / this.scale;
  }

  toScreen(x, y) {
    return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2];
  }

  toSlide(left, top) {
    return [this.x + (left - this.width / 2) / this.scale, this.y + (top - this.height / 2) / this.scale];
  }

  get view() {
    return [...this.toSlide(0, 0), ...this.toSlide(this.width, this.height)];
  }

  moveBy(dx, dy) {
    this.place(this.x - dx / this.scale, this.y - dy / this.scale, this.scale);
  }

  // What is at (left, top) stays there.
  zoomAt(left, top, factor) {
    const [x, y] = this.toSlide(left, top);
    this.place(this.x, this.y, this.scale * factor);
    const [nowX, nowY] = this.toSlide(left, top);
    this.place(this.x + x - nowX, this.y + y - nowY, this.scale);
  }

  place(x, y, scale) {
    this.scale = Math.min(Math.max(scale, Math.min(this.fitting / 2, 1)), CLOSEST);
    this.x = Math.min(Math.max(x, 0), this.shape[1]);
    this.y = Math.min(Math.max(y, 0), this.shape[0]);
  }

  // Device pixels of a level-0 rectangle; whole ones, so that neighbours leave no seam.
  rectangle(x0, y0, x1, y1) {
    const [left, top] = this.toScreen(x0, y0).map((at) => Math.round(at * this.dpr));
    const [right, bottom] = this.toScreen(x1, y1).map((at) => Math.round(at * this.dpr));
    return [left, top, right - left, bottom - top];
  }
}

// The longest 1-2-5 length that is no longer than `most`.
export function niceLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [5, 2, 1].find((digit) => digit * power <= most * (1 + 1e-9));
}

export function lengthText(um) {
  if (um >= 1000) return `${Number((um / 1000).toPrecision(6))} mm`;
  return `${Number(um.toPrecision(6))} µm`;
}
