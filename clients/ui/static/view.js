// Draws the image with its mask or heat map on one canvas. Knows no server.

const RAMP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // dark to bright without a turn: reads in gray too
const ENLARGE = 4; // how far a small image is enlarged to fit

export class View {
  constructor(canvas, frame) {
    this.canvas = canvas;
    this.frame = frame;
    this.zoom = 1;
    this.isFit = true;
    new ResizeObserver(() => this.isFit && this.fit()).observe(frame);
  }

  /** The picture of a new result. */
  show(result) {
    this.result = result;
    this.kept = null;
    this.canvas.width = result.picture.naturalWidth;
    this.canvas.height = result.picture.naturalHeight;
    this.fit();
  }

  /** layer: "mask", "heat" or "none"; shown: a boolean per class; heatClass: index from 0; opacity: 0…1. */
  draw({ layer, shown, heatClass, opacity }) {
    const pen = this.canvas.getContext("2d", { willReadFrequently: true });
    pen.globalAlpha = 1;
    pen.drawImage(this.result.picture, 0, 0);
    pen.globalAlpha = opacity;
    if (layer === "mask" && this.result.labels) {
      pen.drawImage(this.layer(`mask ${shown}`, () => maskOf(this.result.labels, this.result.classes, shown)), 0, 0);
    }
    if (layer === "heat" && this.result.heat) {
      const { shape: [, height, width], cellPx } = this.result.heat;
      const side = cellPx / this.result.factor;
      pen.imageSmoothingEnabled = true;
      pen.imageSmoothingQuality = "high";
      pen.drawImage(this.layer(`heat ${heatClass}`, () => heatOf(this.result.heat, heatClass)), 0, 0, width * side, height * side);
    }
  }

  /** The last layer is kept: the opacity slider asks for it again and again. */
  layer(key, make) {
    if (this.kept?.key !== key) this.kept = { key, canvas: make() };
    return this.kept.canvas;
  }

  /** What lies under a mouse event: {x, y, label, heats}; x, y in pixels of the whole image. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.min(this.canvas.width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * this.canvas.width)));
    const row = Math.min(this.canvas.height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * this.canvas.height)));
    const { labels, heat, factor } = this.result;
    const x = column * factor, y = row * factor;
    const label = labels ? labels.values[row * labels.shape[1] + column] : null;
    if (!heat) return { x, y, label, heats: null };
    const [count, height, width] = heat.shape;
    const cell = Math.floor(y / heat.cellPx) * width + Math.floor(x / heat.cellPx);
    return { x, y, label, heats: Array.from({ length: count }, (_, index) => heat.values[index * height * width + cell] / 255) };
  }

  fit() {
    if (!this.result) return;
    const room = { width: this.frame.clientWidth - 20, height: this.frame.clientHeight - 20 };
    this.setZoom(Math.min(ENLARGE, room.width / this.canvas.width, room.height / this.canvas.height));
    this.isFit = true;
  }

  zoomBy(factor) {
    this.setZoom(Math.min(16, Math.max(0.02, this.zoom * factor)));
    this.isFit = false;
  }

  setZoom(zoom) {
    this.zoom = Math.max(0.001, zoom);
    this.canvas.style.width = `${this.canvas.width * this.zoom}px`;
    this.canvas.style.height = `${this.canvas.height * this.zoom}px`;
    this.canvas.classList.toggle("enlarged", this.zoom * devicePixelRatio > 2);
  }
}

/** The colors of the heat maps from 0 to 1, on a canvas that is 256 wide. */
export function drawRamp(canvas) {
  const pen = canvas.getContext("2d");
  for (let level = 0; level < 256; level += 1) {
    pen.fillStyle = `rgb(${rampColor(level / 255).join(" ")})`;
    pen.fillRect(level, 0, 1, 1);
  }
}

function maskOf(labels, classes, shown) {
  const [height, width] = labels.shape;
  const colors = classes.map(({ color }, index) => (shown[index] ? [...color, 255] : [0, 0, 0, 0]));
  return painted(width, height, labels.values, [[0, 0, 0, 0], ...colors]);
}

/** Strong where the network is sure: what it does not care about stays as it is. */
function heatOf(heat, index) {
  const [, height, width] = heat.shape;
  const colors = Array.from({ length: 256 }, (_, level) => [...rampColor(level / 255), Math.min(255, Math.max(0, Math.round(1.7 * level - 34)))]);
  return painted(width, height, heat.values.subarray(index * height * width, (index + 1) * height * width), colors);
}

function painted(width, height, values, colors) {
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer), table = new Uint32Array(Uint8ClampedArray.from(colors.flat()).buffer);
  for (let place = 0; place < values.length; place += 1) words[place] = table[values[place]];
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function rampColor(share) {
  const place = share * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(place)), part = place - low;
  return RAMP[low].map((value, channel) => Math.round(value + (RAMP[low + 1][channel] - value) * part));
}
