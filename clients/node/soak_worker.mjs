// One caller of `benchmarks/soak_clients.py`: segments random runs of known tiles until its standard input ends, and compares every byte.
// Standard output: its counts as a line of JSON, now and then and at the end.
import { readFileSync } from "node:fs";
import { TileClient, DeadlineError } from "./dist/index.js";

const [address, model, folder, seed, sizes, abandoned] = process.argv.slice(2);
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}.bin`));
const [tiles, labels, levels] = [read("tiles"), read("labels"), read("levels")];
const batches = JSON.parse(sizes);
const counts = { sent: 0, answered: 0, abandoned: 0, wrong: 0, tiles: 0, error: null };
const tell = () => console.log(JSON.stringify(counts));

let state = Number(seed) || 1;
/** 0…1, the same from the same seed. */
function draw() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
}

const isSame = (found, known, start, count, total) => {
  const size = known.length / total;
  return Buffer.compare(found, known.subarray(start * size, (start + count) * size)) === 0;
};

let isOver = false;
process.stdin.resume().on("end", () => (isOver = true));
const client = new TileClient(address, model, { inFlight: 2, patienceMs: 300_000 });
const telling = setInterval(tell, 2000);
try {
  const size = (await client.contract()).tilePx ** 2 * 3;
  const total = tiles.length / size;
  while (!isOver) {
    const count = batches[counts.sent % batches.length];
    const start = Math.floor(draw() * (total - count + 1));
    const deadline = draw() < Number(abandoned) ? { deadlineMs: 1 + Math.floor(draw() * 300) } : {};
    counts.sent++;
    try {
      const answer = await client.segment(tiles.subarray(start * size, (start + count) * size), deadline);
      counts.answered++;
      counts.tiles += count;
      if (!isSame(answer.labels, labels, start, count, total) || !isSame(answer.levels, levels, start, count, total)) counts.wrong++;
    } catch (error) {
      if (!(error instanceof DeadlineError)) throw error;
      counts.abandoned++;
    }
  }
} catch (error) {
  counts.error = String(error);
}
clearInterval(telling);
tell();
await client.close(); // waits for what was abandoned
