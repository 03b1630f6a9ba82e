// The thumbnail of a slide with a square on it that can be clicked or moved. Knows no server.

const STEP = 0.25; // of the square's side, for one press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class SlideMap {
  /** onChoose: called with {x, y}, shares of the slide's sides, when a region is chosen. */
  constructor(canvas, onChoose) {
    this.canvas = canvas;
    this.place = { x: 0.5, y: 0.5 };
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      this.move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      onChoose(this.place);
    });
    canvas.addEventListener("keydown", (event) => {
      const square = this.square();
      if (event.key === "Enter" && this.slide) onChoose(this.place);
      else if (event.key in ARROWS && square) {
        const [across, down] = ARROWS[event.key];
        this.move(this.place.x + across * STEP * square.width, this.place.y + down * STEP * square.height);
      } else return;
      event.preventDefault();
    });
  }

  /** A new slide, its thumbnail as an Image. */
  show(slide, thumbnail) {
    this.slide = slide;
    this.thumbnail = thumbnail;
    this.canvas.width = thumbnail.naturalWidth;
    this.canvas.height = thumbnail.naturalHeight;
    this.move(0.5, 0.5);
  }

  /** Side of the square in model pixels, the model's µm per pixel, and the slide's where a person typed it (else null). */
  measure(side, modelMpp, typedMpp) {
    this.side = side;
    this.modelMpp = modelMpp;
    this.typedMpp = typedMpp;
    this.draw();
  }

  move(x, y) {
    this.place = { x: Math.min(1, Math.max(0, x)), y: Math.min(1, Math.max(0, y)) };
    this.draw();
  }

  /** Its sides as shares of the slide's; null where the slide's scale is unknown. */
  square() {
    const mpp = this.typedMpp ? [this.typedMpp, this.typedMpp] : this.slide?.mpp;
    if (!mpp || !this.side) return null;
    const sideUm = this.side * this.modelMpp;
    return { width: Math.min(1, sideUm / (this.slide.width * mpp[0])), height: Math.min(1, sideUm / (this.slide.height * mpp[1])) };
  }

  draw() {
    if (!this.thumbnail) return;
    const pen = this.canvas.getContext("2d"), { width, height } = this.canvas;
    pen.drawImage(this.thumbnail, 0, 0);
    const square = this.square() ?? { width: 0.02, height: (0.02 * width) / height };
    const left = Math.min(1 - square.width, Math.max(0, this.place.x - square.width / 2)) * width;
    const top = Math.min(1 - square.height, Math.max(0, this.place.y - square.height / 2)) * height;
    const line = Math.max(2, width / 250);
    for (const [color, extra] of [["#fff", 2 * line], ["#7b2d5e", line]]) {
      pen.lineWidth = extra;
      pen.strokeStyle = color;
      pen.strokeRect(left, top, square.width * width, square.height * height);
    }
  }
}
