// Wires the page together: what a person does → a question → what is shown.

import * as calls from "./calls.js";
import { Panel } from "./panel.js";
import { SlideMap } from "./slides.js";
import { drawRamp, View } from "./view.js";

const LOOK_MS = 5000; // between two looks at which models there are
const find = (selector) => document.querySelector(selector);
const state = { models: [], source: null, result: null, asked: 0 };

const view = new View(find("#view"), find("#viewer"));
const panel = new Panel(find("#panel"), redraw);
const map = new SlideMap(find("#thumbnail"), (place) => analyze({ place: { ...place, slide: find("#slide").value, side: Number(find("#side").value) } }));

const model = () => state.models.find(({ name }) => name === find("#model").value);
const mpp = () => find("#mpp").value.trim().replace(",", ".");
const hasSlides = () => find("[name=source]:checked").value === "slide";

function redraw() {
  if (state.result) view.draw(panel.choice(state.result.classes));
}

/** Run a task; only the newest one's outcome is shown. */
async function attempt(task) {
  const number = (state.asked += 1);
  setState("busy");
  try {
    await task(() => number === state.asked);
    if (number === state.asked) setState("done");
  } catch (error) {
    if (number === state.asked) setState("failed", error.message);
  }
}

function setState(name, message = "") {
  document.body.dataset.state = name;
  find("#busy").hidden = name !== "busy";
  if (name === "busy") state.busySince = performance.now();
  find("#elapsed").textContent = "";
  find("#message").hidden = name !== "failed";
  find("#message").textContent = message;
  arrange();
}

/** A large image takes a minute on a small machine: show that time goes by. */
function tellElapsed() {
  const seconds = Math.floor((performance.now() - state.busySince) / 1000);
  if (document.body.dataset.state === "busy" && seconds >= 3) find("#elapsed").textContent = `${seconds} s`;
}

/** Which of drop zone, thumbnail and result are there. */
function arrange() {
  find("#drop").hidden = state.result !== null || hasSlides();
  find("#map").hidden = !hasSlides();
  find("#viewer").hidden = find("#zoom").hidden = state.result === null;
  find("#board").classList.toggle("map-alone", hasSlides() && state.result === null);
  find("#slide-tools").hidden = !hasSlides();
  find("#choose").hidden = hasSlides();
}

/** source: {file} or {place}. */
function analyze(source) {
  state.source = source;
  return attempt(async (isNewest) => {
    const started = performance.now();
    const { name } = model() ?? {};
    if (!name) throw new Error("No model is there to choose from: reload the page when the server is up.");
    const result = await (source.file ? calls.image(source.file, name, mpp()) : calls.region(source.place, name, mpp()));
    if (!isNewest()) return;
    state.result = result;
    arrange();
    panel.show(result, (performance.now() - started) / 1000);
    view.show(result);
    redraw();
  });
}

function openSlide() {
  return attempt(async (isNewest) => {
    const slide = await calls.slide(find("#slide").value);
    const thumbnail = new Image();
    thumbnail.src = slide.thumbnail;
    await thumbnail.decode();
    if (!isNewest()) return;
    map.show(slide, thumbnail);
    measure();
    find("#mpp").placeholder = slide.mpp ? slide.mpp[0].toFixed(3) : "unknown";
  });
}

const measure = () => map.measure(Number(find("#side").value), model()?.mpp, Number(mpp()) || null);

/** A new result of the same source where the model or the scale changed. */
function again() {
  measure();
  tellModel();
  if (state.source && (state.source.file === undefined) === hasSlides()) analyze(state.source);
}

function tellModel() {
  const chosen = model();
  find("#about").textContent = chosen
    ? `${chosen.classes.map(({ name }) => name).join(", ")} · looks at ${chosen.mpp} µm per pixel · served at ${state.server}`
    : "";
}

async function changeSource() {
  state.result = state.source = null;
  find("#panel").hidden = true;
  find("#readout").textContent = "";
  find("#mpp").value = "";
  find("#mpp").placeholder = "unknown";
  setState("idle");
  if (!hasSlides()) return;
  await attempt(async () => {
    const names = await calls.slideNames();
    if (!names.length) throw new Error("The folder of slides has none: put some there and choose “Slide region” again.");
    find("#slide").replaceChildren(...names.map((name) => new Option(name)));
  });
  if (document.body.dataset.state === "done") await openSlide();
}

function takeFile(file) {
  if (!file) return;
  if (hasSlides()) {
    find("[name=source][value=file]").checked = true;
    changeSource();
  }
  analyze({ file });
}

function readOut(event) {
  if (!state.result) return;
  const { x, y, label, heats } = view.at(event);
  const names = ["background", ...state.result.classes.map(({ name }) => name)];
  const told = [`x ${x}, y ${y}`, ...(label === null ? [] : [names[label]])];
  if (heats) told.push(`CAM × score: ${heats.map((heat, index) => `${names[index + 1]} ${heat.toFixed(2)}`).join(", ")}`);
  find("#readout").textContent = told.join(" · ");
}

function zoom(how) {
  if (how === "fit") view.fit();
  else view.zoomBy(how === "in" ? 1.5 : 1 / 1.5);
}

function listen() {
  find("#model").addEventListener("change", again);
  find("#mpp").addEventListener("change", again);
  find("#side").addEventListener("change", measure);
  find("#slide").addEventListener("change", openSlide);
  find("#choose").addEventListener("click", () => find("#file").click());
  find("#file").addEventListener("change", ({ target }) => {
    takeFile(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
  for (const source of document.querySelectorAll("[name=source]")) source.addEventListener("change", changeSource);
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(button.dataset.zoom));
  find("#view").addEventListener("mousemove", readOut);
  find("#view").addEventListener("mouseleave", () => (find("#readout").textContent = ""));
  find("#view").addEventListener("keydown", ({ key }) => {
    const how = { "+": "in", "=": "in", "-": "out", 0: "fit" }[key];
    if (how) zoom(how);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser leaves the page for the file
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    takeFile(event.dataTransfer.files[0]);
  });
}

/** The list of models as it is now; what is chosen stays chosen while it is served. */
function offer({ models, server, has_slides: hasFolder, max_px: maxPx }) {
  const before = model()?.name, wasEmpty = !state.models.length;
  const names = models.map(({ name }) => name);
  if (names.join() !== state.models.map(({ name }) => name).join()) find("#model").replaceChildren(...names.map((name) => new Option(name)));
  Object.assign(state, { models, server });
  find("#sources").hidden = !hasFolder;
  find("#limit").textContent = `up to ${Math.round(maxPx / 1e6)} megapixels; larger images are slides`;
  if (names.includes(before)) find("#model").value = before;
  tellModel();
  measure();
  if (before && !names.includes(before)) setState("failed", `${before} is not served any more: ${names[0]} is chosen now.`);
  else if (wasEmpty) setState("idle"); // the server is there at last
}

/** Models come and go while the page is open. Where nobody answers, the list stays: the next question to a model tells the reason. */
async function lookAgain() {
  if (!document.hidden && document.body.dataset.state !== "busy") {
    const told = await calls.models().catch(() => null);
    if (told && document.body.dataset.state !== "busy") offer(told);
  }
  setTimeout(lookAgain, LOOK_MS);
}

async function start() {
  drawRamp(find("#ramp"));
  listen();
  setInterval(tellElapsed, 500);
  await attempt(async () => offer(await calls.models()));
  if (document.body.dataset.state === "done") setState("idle");
  setTimeout(lookAgain, LOOK_MS);
}

start();
