// Questions to the page's own server. Every failure is an Error whose message a person can read.

export const models = () => ask("/api/models");
export const slideNames = async () => (await ask("/api/slides")).slides;
export const slide = (name) => ask(`/api/slides/${encodeURIComponent(name)}`);

/** An image file through a model; `mpp` as it was typed, "" = unknown. */
export async function image(file, model, mpp) {
  return unpackResult(await ask(`/api/image?${new URLSearchParams({ model, mpp })}`, { method: "POST", body: file }));
}

/** A square of a slide: center as shares of its sides, side in model pixels. */
export async function region(place, model, mpp) {
  const query = new URLSearchParams({ model, mpp, slide: place.slide, x: place.x, y: place.y, side_px: place.side });
  return unpackResult(await ask(`/api/region?${query}`, { method: "POST" }));
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The page's own server does not answer: it has ended, or the file cannot be read. Start it again with histoserve serve --ui.");
  }
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new Error(`The page's own server answered ${response.status} without a reason.`);
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function unpackResult(result) {
  const picture = new Image();
  picture.src = result.picture;
  await picture.decode();
  return {
    ...result,
    picture,
    labels: result.labels && (await unpack(result.labels)),
    heat: result.heat && { ...(await unpack(result.heat.maps)), cellPx: result.heat.cell_px },
  };
}

/** What `wire.packed` made: {shape, values}. */
async function unpack(packed) {
  const deflated = Uint8Array.from(atob(packed.bytes), (letter) => letter.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  return { shape: packed.shape, values: new Uint8Array(await new Response(stream).arrayBuffer()) };
}
