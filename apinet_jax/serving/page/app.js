"use strict";

const AT_ONCE = 4; // photos of a folder that are sent at the same time
const byId = (id) => document.getElementById(id);
const percent = (p) => `${(100 * p).toFixed(p > 0.995 || p < 0.005 ? 2 : 0)} %`;
let turn = 0; // of the latest choice: an older answer is not shown
let addresses = []; // of the photos that are shown

/** Returns an address for a photo, until the next choice. */
function addressOf(photo) {
  addresses.push(URL.createObjectURL(photo));
  return addresses.at(-1);
}

/** Creates an element; texts are never interpreted as HTML. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Posts photos, and returns the answer. */
async function ask(path, photos) {
  const form = new FormData();
  for (const photo of photos) form.append("photo", photo, photo.name || "photo");
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, { method: "POST", body: form });
    } catch {
      throw new Error("The server cannot be reached.");
    }
    if (response.status === 503 && attempt < 20) {
      await new Promise((wake) => setTimeout(wake, 1000 * Number(response.headers.get("Retry-After") || 1)));
      continue;
    }
    const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }
}

function bars(classes) {
  const items = classes.map(({ name, probability }) =>
    make("li", {},
      Object.assign(make("i"), { style: `width: ${100 * probability}%`, ariaHidden: "true" }),
      make("span", { textContent: `${name}: ${percent(probability)}` })));
  return make("ol", { className: "bars" }, ...items);
}

function verdict(row) {
  const sure = row.probability === null ? "" : ` (${percent(row.probability)})`;
  const level = row.level === "class" ? "" : `${row.level}: `;
  return make("div", {},
    make("h2", { textContent: `${level}${row.answer}${sure}` }),
    row.reason ? make("p", { className: "quiet", textContent: row.reason }) : null);
}

/** A photo under a map, whose opacity a slider sets. */
function overlaid(photo, map, text) {
  const above = make("img", { src: map, alt: "" });
  const slider = make("input", { type: "range", min: 0, max: 100, value: 60 });
  const show = () => { above.style.opacity = slider.value / 100; };
  slider.addEventListener("input", show);
  show();
  return make("div", {},
    make("div", { className: "stack" }, make("img", { src: photo, alt: text }), above),
    make("label", { className: "slider" }, "Map over the photo", slider));
}

function exemplars(found, name) {
  const own = found.exemplars.filter((one) => one.class_name === name);
  if (!own.length) return null;
  const figures = own.map((one) => make("figure", {},
    make("img", { src: one.photo, alt: `Training photo of ${name}` }),
    make("figcaption", { textContent: `similarity ${one.similarity.toFixed(2)}` })));
  return make("div", {}, make("h3", { textContent: `Nearest training photos: ${name}` }),
    make("div", { className: "row" }, ...figures));
}

async function nameOne(photo) {
  const { photos: [row], provenance } = await ask("/v1/predict", [photo]);
  const panel = make("div", { className: "panel side" },
    make("img", { src: addressOf(photo), alt: "Your photo" }),
    make("div", {}, verdict(row), bars(row.classes)));
  const parts = [panel];
  const about = await model.catch(() => ({ explains: false }));
  // With --only, a gallery or a taxonomy the answer may be none of the two that are explained.
  if (row.classes.length > 1 && about.explains) {
    const found = await ask("/v1/explain", [photo]).catch((error) => ({ error: error.message }));
    if (!found.error && found.predicted !== row.classes[0].name) {
      parts.push(make("p", { className: "quiet", textContent: "No explanation: the network itself prefers another class." }));
    } else if (found.error) {
      parts.push(make("p", { className: "quiet", textContent: `No explanation: ${found.error}` }));
    } else {
      const text = `Red speaks for ${found.predicted}, blue for ${found.against}`;
      parts.push(make("div", { className: "panel" },
        make("h2", { textContent: `Why ${found.predicted} and not ${found.against}?` }),
        make("div", { className: "side" },
          make("div", {}, overlaid(found.photo, found.map, text), make("p", { className: "quiet", textContent: `${text}.` })),
          make("div", {}, exemplars(found, found.predicted), exemplars(found, found.against),
            found.no_exemplars ? make("p", { className: "quiet", textContent: `No training photos: ${found.no_exemplars}.` }) : null))));
    }
  }
  return { parts, provenance };
}

async function compareTwo(photos) {
  const found = await ask("/v1/compare", photos);
  const agree = found.class_1.name === found.class_2.name;
  const same = found.same === null ? `${agree ? "The same" : "Another"} name for both photos`
    : `${found.same >= 0.5 ? "Same" : "Different"} class`;
  const sides = [found.class_1, found.class_2].map((side, index) => {
    const maps = found.maps[index];
    const picture = maps
      ? overlaid(maps.photo, maps.other_gate, `Photo ${index + 1}: what its partner's gate adds`)
      : make("img", { src: addressOf(photos[index]), alt: `Photo ${index + 1}` });
    return make("div", {}, picture, make("p", { textContent: `${side.name} (${percent(side.probability)})` }));
  });
  const odds = found.same === null
    ? make("p", { className: "quiet", textContent: `Without a probability. ${found.calibration}` })
    : make("p", { textContent: `Probability of the same class: ${percent(found.same)}` });
  const parts = [make("div", { className: "panel" },
    make("h2", { textContent: same }), odds, make("div", { className: "side" }, ...sides))];
  return { parts, provenance: found.provenance };
}

/** Names many photos, a few at a time, and fills a table as the answers arrive. */
async function nameMany(photos, mine) {
  const head = make("tr", {}, ...["photo", "answer", "probability"].map((text) =>
    make("th", { textContent: text, scope: "col", className: text === "probability" ? "number" : "" })));
  const body = make("tbody");
  const download = make("button", { type: "button", textContent: "Download as CSV" });
  const rows = [];
  let provenance;
  byId("result").replaceChildren(make("div", { className: "panel" },
    make("h2", { textContent: `${photos.length} photos` }), make("p", {}, download),
    make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), body))));
  download.addEventListener("click", () => save(rows));
  const waiting = photos.map((photo, index) => ({ photo, index }));
  const worker = async () => {
    while (waiting.length && mine === turn) {
      const { photo, index } = waiting.shift();
      const name = pathOf(photo);
      let row;
      try {
        const answer = await ask("/v1/predict", [photo]);
        [row] = answer.photos;
        provenance = answer.provenance;
      } catch (error) {
        row = { error: error.message, answer: "", probability: null, classes: [] };
      }
      if (mine !== turn) return;
      rows[index] = { ...row, photo: name };
      const sure = row.probability === null ? "" : percent(row.probability);
      body.append(make("tr", {}, make("td", { textContent: name }),
        make("td", { textContent: row.error || row.answer }), make("td", { className: "number", textContent: sure })));
      byId("status").textContent = `${body.rows.length} of ${photos.length} photos`;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return { provenance };
}

function save(rows) {
  // A cell that begins like a formula would be one in a spreadsheet.
  const cell = (value) => {
    const text = String(value ?? "");
    return `"${(/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text).replaceAll('"', '""')}"`;
  };
  const lines = [["photo", "answer", "level", "probability", "error"]];
  for (const row of rows.filter(Boolean)) lines.push([row.photo, row.answer, row.level, row.probability, row.error]);
  const content = lines.map((line) => line.map(cell).join(",")).join("\r\n");
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type: "text/csv" })), download: "names.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** The path of a photo in its folder; a dropped one has its own. */
const pathOf = (photo) => photo.droppedPath || photo.webkitRelativePath || photo.name;

async function answer(files) {
  const isFolder = [...files].some((file) => pathOf(file).includes("/"));
  // A folder also has files of other kinds, and hidden ones.
  const photos = [...files].filter((file) => !isFolder || (file.type.startsWith("image/") && !file.name.startsWith(".")));
  if (!photos.length) {
    if (isFolder) byId("problem").textContent = "The folder has no photos.";
    return;
  }
  turn += 1;
  const mine = turn;
  byId("problem").textContent = "";
  byId("status").textContent = "Looking ...";
  byId("result").replaceChildren();
  addresses.forEach(URL.revokeObjectURL);
  addresses = [];
  try {
    const asked = isFolder || photos.length > 2 ? nameMany(photos, mine)
      : photos.length === 2 ? compareTwo(photos) : nameOne(photos[0]);
    const { parts, provenance } = await asked;
    if (mine !== turn) return;
    if (parts) byId("result").replaceChildren(...parts);
    byId("status").textContent = parts ? "" : `${photos.length} photos were named.`;
    if (provenance) {
      byId("provenance").textContent =
        `Checkpoint ${provenance.hash}, step ${provenance.step}, apinet_jax ${provenance.version}`;
    }
    byId("result").focus();
  } catch (error) {
    if (mine !== turn) return;
    byId("status").textContent = "";
    byId("problem").textContent = error.message;
  }
}

/** Returns dropped files, and all files of dropped folders. */
async function dropped(items) {
  const found = [];
  const visit = async (entry) => {
    if (entry instanceof File) {
      found.push(entry);
      return;
    }
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      // A file that was dropped itself has a path without a folder: "/photo.jpg".
      file.droppedPath = entry.fullPath.slice(1);
      found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader returns a hundred entries at a time
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) break;
      for (const inner of part) await visit(inner);
    }
  };
  // What comes from another program may have no entry. Items are empty after the first pause.
  const entries = [...items].map((item) => item.webkitGetAsEntry() || item.getAsFile());
  for (const entry of entries.filter(Boolean)) await visit(entry);
  return found;
}

const model = fetch("/v1/model").then((response) => response.json());
model.then((about) => {
  byId("about").textContent = `${about.class_names.length} classes, ${about.trunk}`;
}, () => { byId("problem").textContent = "The server cannot be reached."; });

for (const id of ["files", "camera", "folder"]) {
  byId(id).addEventListener("change", (event) => {
    answer(event.target.files);
    event.target.value = ""; // so that the same photo can be chosen again
  });
}
addEventListener("paste", (event) => answer(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
addEventListener("dragleave", () => byId("drop").classList.remove("over"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  try {
    await answer(await dropped(event.dataTransfer.items));
  } catch {
    byId("problem").textContent = "What was dropped cannot be read.";
  }
});
