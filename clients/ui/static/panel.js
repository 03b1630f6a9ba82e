// The table of classes, the figures, and what of it is switched on. Knows no server and no pixels.

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 && share > 0 ? 1 : 0)} %`;
const seconds = (value) => (value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`);
const area = (mm2) => (mm2 >= 0.0095 || mm2 === 0 ? mm2.toFixed(2) : mm2.toFixed(4));

export class Panel {
  /** onChange: called when something else is to be drawn. */
  constructor(root, onChange) {
    this.root = root;
    this.off = new Set(); // names of classes that are hidden, also of later results
    this.find("#opacity").addEventListener("input", onChange);
    this.find("#heat-class").addEventListener("change", onChange);
    for (const layer of root.querySelectorAll("[name=layer]")) layer.addEventListener("change", onChange);
    this.onChange = onChange;
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  /** What is to be drawn, as `View.draw` takes it. */
  choice(classes) {
    const opacity = Number(this.find("#opacity").value);
    this.find("#opacity-value").textContent = `${opacity} %`;
    const layer = this.find("[name=layer]:checked").value;
    this.find("#heat-tools").hidden = layer !== "heat";
    const heatClass = Math.max(0, this.find("#heat-class").selectedIndex);
    return { layer, opacity: opacity / 100, heatClass, shown: classes.map(({ name }) => !this.off.has(name)) };
  }

  /** A new result; wallS: seconds from the click to the answer. */
  show(result, wallS) {
    this.root.hidden = false;
    this.offer("mask", result.labels !== null);
    this.offer("heat", result.heat !== null);
    this.fillHeatClasses(result.classes);
    this.find("#mm2-head").hidden = result.area_mm2 === null;
    const rows = result.classes.map((tissue, index) => this.row(result, tissue, index));
    if (result.shares) rows.push(this.backgroundRow(result));
    this.find("#classes").replaceChildren(...rows);
    this.find("#facts").replaceChildren(...facts(result, wallS));
  }

  offer(layer, isThere) {
    const input = this.find(`[name=layer][value=${layer}]`);
    input.disabled = !isThere;
    if (!isThere && input.checked) this.find(`[name=layer][value=${layer === "mask" ? "heat" : "mask"}]`).checked = true;
  }

  fillHeatClasses(classes) {
    const select = this.find("#heat-class"), before = select.value;
    select.replaceChildren(...classes.map(({ name }) => new Option(name)));
    if (classes.some(({ name }) => name === before)) select.value = before;
  }

  row(result, { name, color }, index) {
    const box = element("input", { type: "checkbox", checked: !this.off.has(name) });
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${color.join(" ")})`;
    const row = tableRow(element("label", {}, box, swatch, name), result, index + 1, result.scores ? result.scores[index].toFixed(2) : "–");
    row.classList.toggle("off", !box.checked);
    box.addEventListener("change", () => {
      this.off[box.checked ? "delete" : "add"](name);
      row.classList.toggle("off", !box.checked);
      this.onChange();
    });
    return row;
  }

  backgroundRow(result) {
    const row = tableRow(element("span", { className: "soft" }, "background"), result, 0, "");
    row.className = "background";
    return row;
  }
}

function tableRow(title, result, label, score) {
  const share = result.shares?.[label];
  const cells = [share === undefined ? "–" : percent(share)];
  if (result.area_mm2 !== null) cells.push(share === undefined ? "–" : area(share * result.area_mm2));
  return element("tr", {}, element("td", {}, title), ...[...cells, score].map((text) => element("td", {}, text)));
}

function facts(result, wallS) {
  const shown = result.factor > 1 ? `, shown at 1 : ${result.factor}` : "";
  const told = [["Image", `${result.width} × ${result.height} px${shown}`]];
  told.push(["Scale", `${scale(result)} µm per pixel`]);
  if (result.segment_s !== null) told.push(["Mask in", seconds(result.segment_s)]);
  if (result.cam_s !== null) told.push(["Heat maps in", seconds(result.cam_s)]);
  told.push(["In all", seconds(wallS)], ["Model", `${result.release} (${result.method}, ${result.task})`]);
  return told.flatMap(([title, text]) => [element("dt", {}, title), element("dd", {}, text)]);
}

function scale({ image_mpp: known, mpp }) {
  if (!known) return `unknown, taken for ${mpp}`;
  const [x, y] = known.map((value) => +value.toFixed(4));
  return x === y ? `${x}` : `${x} × ${y}`;
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
