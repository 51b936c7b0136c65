"use strict";
// Rows as `_row` of page.py writes them.
const PATH = 0, TRUE = 1, TOPS = 2, PROBABILITIES = 3, P_TRUE = 4, MASK = 5, MAIN = 6, MEASURES = 7, SUSPICION = 8, SUGGESTED = 9,
  STATE = 10, FIRST = 11, P_FIRST = 12, DISTANCE = 13, PHOTO = 14, SEEN = 15, NEAREST = 16;
const IMAGES = 0, TRAIN = 1, ACCURACY = 2, LOW = 3, HIGH = 4, CONFUSED = 5, CONFUSED_IMAGES = 6, CLUSTER = 7;
const SHARPNESS = 4;
const data = JSON.parse(document.getElementById("data").textContent);
const { names, classes, causes, states, method, clusters, rows, pictures, examples } = data;
const byId = id => document.getElementById(id);
const number = n => n.toLocaleString("en");
const percent = thousandths => thousandths === null ? "–" : (thousandths / 10).toFixed(1) + " %";
const spaced = name => name.replace("_", " ");
const lower = names.map(name => name.toLowerCase());
const text = rows.map(row => (row[PATH] + "\n").toLowerCase());
let cluster = null;  // the numbers of the classes of a cluster, when its errors alone are asked for

// Whatever comes from the data becomes text, never markup.
function element(tag, kind, content, ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (content !== undefined && content !== null) made.textContent = content;
  made.append(...children);
  return made;
}

function button(content, action) {
  const made = element("button", "link", content);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function shot(picture, words, missing, kind = "") {
  const frame = element("div", "frame");
  if (picture >= 0) {
    const image = element("img");
    image.src = "data:image/jpeg;base64," + pictures[picture];
    image.alt = words;
    frame.append(image);
  } else frame.append(element("span", "nothing", missing));
  return element("div", "shot " + kind, null, frame, element("div", "", words));
}

const exampleOf = name => examples[name] ?? -1;

function probabilities(row) {
  const bars = row[TOPS].map((name, i) => [name, row[PROBABILITIES][i]]);
  if (!row[TOPS].includes(row[TRUE])) bars.push([row[TRUE], row[P_TRUE]]);
  return element("div", "bars", null, ...bars.map(([name, share]) => {
    const length = element("i");
    length.style.width = (share ?? 0) / 10 + "%";
    const label = element("span", "", names[name]);
    label.title = names[name];
    return element("div", name === row[TRUE] ? "bar true" : "bar", null, label, element("span", "", null, length), element("b", "", percent(share)));
  }));
}

function reasons(row) {
  const chips = causes.map((cause, i) => [cause, i]).filter(([, i]) => row[MASK] >> i & 1).sort((a, b) => (b[1] === row[MAIN]) - (a[1] === row[MAIN]));
  const made = element("div", "why", null, ...chips.map(([cause, i]) => element("span", i === row[MAIN] ? "chip main" : "chip", spaced(cause))));
  if (row[STATE] >= 0) made.append(element("span", "chip state", states[row[STATE]]));
  const [height, width, brightness, contrast, sharpness, glare] = row[MEASURES].map(value => value ?? "–");
  const facts = [`${number(classes[row[TRUE]]?.[TRAIN] ?? 0)} training images of the true class`,
    `${width} × ${height} pixels, brightness ${brightness}, contrast ${contrast}, sharpness ${sharpness}, glare ${glare}`];
  if (row[SUSPICION]) facts.push(`suspicion of the label ${percent(row[SUSPICION])}` + (row[SUGGESTED] >= 0 ? `, rather ${names[row[SUGGESTED]]}` : ""));
  if (row[FIRST] >= 0) facts.push(`earlier run: ${names[row[FIRST]]}, ${percent(row[P_FIRST])}`);
  made.append(...facts.map(words => element("div", "quiet", words)));
  return made;
}

function nearest(row) {
  const near = element("div", "near", null, ...row[NEAREST].map(([name, picture]) => {
    const kind = name === row[TRUE] ? "same" : name === row[TOPS][0] ? "other" : "";
    return shot(picture, names[name] ?? "", "no picture", kind);
  }));
  const words = row[NEAREST].length ? `nearest training images` + (row[DISTANCE] === null ? "" : `, distance ${row[DISTANCE]}`) : "";
  return element("div", "nearest", null, element("div", "quiet", words), near);
}

function card(row) {
  const side = (name, words) => {
    const made = shot(exampleOf(name), "", "no example");
    made.lastChild.append(element("span", "", words), element("b", "", names[name]));
    return made;
  };
  const sides = element("div", "sides", null, side(row[TRUE], "true"), side(row[TOPS][0], "predicted"));
  return element("article", "case", null, shot(row[PHOTO], "photo", "photo left out"),
    shot(row[SEEN], row[SEEN] >= 0 ? `where it saw ${names[row[TOPS][0]]} (${method})` : "", ""),
    element("div", "labels", null, sides, probabilities(row)), reasons(row), nearest(row), element("div", "path", row[PATH]));
}

// Draws one page of a list at a time, so that its length costs nothing.
class Pager {
  constructor(host, size, draw) {
    [this.host, this.size, this.draw] = [byId(host), size, draw];
    this.bar = document.querySelector(`.pager[data-of="${host}"]`);
  }
  show(list, page = 0) {
    const pages = Math.max(1, Math.ceil(list.length / this.size));
    const first = page * this.size;
    this.host.replaceChildren(...list.slice(first, first + this.size).map(this.draw));
    const step = (words, to) => {
      const made = element("button", "", words);
      made.type = "button";
      made.disabled = to < 0 || to >= pages || to === page;
      made.addEventListener("click", () => { this.show(list, to); this.host.closest("section").scrollIntoView(); });
      return made;
    };
    const where = element("span", "", `${number(page + 1)} of ${number(pages)}`);
    this.bar.replaceChildren(...pages > 1 ? [step("first", 0), step("previous", page - 1), where, step("next", page + 1), step("last", pages - 1)] : []);
  }
}

const nothingLast = value => value === null ? Infinity : value;
const rank = new Int32Array(names.length);
names.map((_, i) => i).sort((a, b) => lower[a] < lower[b] ? -1 : 1).forEach((name, i) => { rank[name] = i; });
const keys = {  // smallest first
  turn: (_, i) => i, sure: row => -row[PROBABILITIES][0], unsure: row => row[PROBABILITIES][0], label: row => nothingLast(row[P_TRUE]),
  suspicion: row => row[SUSPICION] === null ? Infinity : -row[SUSPICION], class: row => rank[row[TRUE]], predicted: row => rank[row[TOPS][0]],
  few: row => classes[row[TRUE]]?.[TRAIN] ?? 0, blurred: row => nothingLast(row[MEASURES][SHARPNESS]),
};

function matching(words) {  // which names are meant: exactly this one, or all that contain it
  const exact = lower.indexOf(words);
  return lower.map((name, i) => exact >= 0 ? i === exact : name.includes(words));
}

const list = new Pager("list", 20, i => card(rows[i]));

function update() {
  const [words, name] = [byId("search").value.trim().toLowerCase(), byId("class").value.trim().toLowerCase()];
  const [cause, state] = [byId("cause").value, byId("state")?.value ?? ""];
  const mainOnly = byId("main").checked, bounds = ["least", "most"].map(id => 10 * byId(id).valueAsNumber);
  const found = words && lower.map(other => other.includes(words)), meant = name && matching(name);
  const chosen = [];
  rows.forEach((row, i) => {
    const predicted = row[TOPS][0], p = row[PROBABILITIES][0];
    if (cause !== "" && !(mainOnly ? row[MAIN] === +cause : row[MASK] >> cause & 1)) return;
    if (state !== "" && row[STATE] !== +state) return;
    if (p < bounds[0] || p > bounds[1]) return;
    if (meant && !meant[row[TRUE]] && !meant[predicted]) return;
    if (cluster && !(cluster.has(row[TRUE]) && cluster.has(predicted))) return;
    if (found && !text[i].includes(words) && !found[row[TRUE]] && !found[predicted]) return;
    chosen.push(i);
  });
  const key = keys[byId("order").value], values = new Float64Array(rows.length);
  for (const i of chosen) values[i] = key(rows[i], i);
  chosen.sort((a, b) => values[a] - values[b] || a - b);
  byId("count").textContent = `${number(chosen.length)} of ${number(rows.length)} shown` + (cluster ? `, within a cluster of ${cluster.size} classes` : "");
  list.show(chosen);
}

function only(changed) {  // all errors but for these filters
  byId("filters").reset();
  cluster = changed.cluster ?? null;
  for (const id of ["cause", "class", "state"]) if (changed[id] !== undefined) byId(id).value = changed[id];
  update();
  byId("errors").scrollIntoView();
}

const HEADS = [["class", i => rank[i]], ["photos", i => -classes[i][IMAGES]], ["accuracy", i => classes[i][ACCURACY] ?? Infinity], ["95 % interval", i => classes[i][LOW] ?? Infinity],
  ["images in train", i => classes[i][TRAIN]], ["most confused with", i => -classes[i][CONFUSED_IMAGES]]];
const table = new Pager("class-rows", 25, i => {
  const c = classes[i], confused = c[CONFUSED] >= 0 ? `${names[c[CONFUSED]]} (${number(c[CONFUSED_IMAGES])})` : "";
  return element("tr", "", null, element("td", "name", null, button(names[i], () => only({ class: names[i] }))), element("td", "n", number(c[IMAGES])), element("td", "n", percent(c[ACCURACY])),
    element("td", "n", c[IMAGES] ? `${percent(c[LOW])} to ${percent(c[HIGH])}` : "–"), element("td", "n", number(c[TRAIN])), element("td", "name", confused));
});
let [sorted, falling] = [2, false];

function updateClasses() {
  const words = byId("class-search").value.trim().toLowerCase(), value = HEADS[sorted][1];
  const shown = names.map((_, i) => i).filter(i => classes[i] && lower[i].includes(words));
  shown.sort((a, b) => (falling ? value(b) - value(a) : value(a) - value(b)) || rank[a] - rank[b]);
  byId("class-count").textContent = `${number(shown.length)} of ${number(classes.filter(Boolean).length)}`;
  byId("class-head").replaceChildren(...HEADS.map(([name], i) => {
    const head = element("th", i && i < 5 ? "n" : "", null, button(name, () => { [sorted, falling] = [i, i === sorted && !falling]; updateClasses(); }));
    if (i === sorted) head.ariaSort = falling ? "descending" : "ascending";
    return head;
  }));
  table.show(shown);
}

const groups = new Pager("clusters", 8, ([, members, images, within, share]) => {
  const shown = members.slice(0, 8).map(name => shot(exampleOf(name), names[name], "no picture"));
  if (members.length > 8) shown.push(element("span", "quiet", `and ${number(members.length - 8)} more classes`));
  const head = element("div", "", null, button(`${number(within)} errors within ${members.length} classes`, () => only({ cluster: new Set(members) })),
    element("span", "quiet", ` ${percent(share)} of all errors, ${number(images)} photos`));
  return element("div", "cluster", null, head, element("div", "members", null, ...shown));
});

byId("names").append(...names.map(name => { const made = element("option"); made.value = name; return made; }));
byId("cause").append(...causes.map((cause, i) => { const made = element("option", "", spaced(cause)); made.value = i; return made; }));
byId("state")?.append(...states.map((state, i) => { const made = element("option", "", state); made.value = i; return made; }));
byId("filters").addEventListener("input", update);
byId("filters").addEventListener("submit", event => event.preventDefault());
byId("filters").addEventListener("reset", () => { cluster = null; setTimeout(update); });  // the fields are emptied after this event
byId("class-search").addEventListener("input", updateClasses);
for (const made of document.querySelectorAll("[data-cause]")) made.addEventListener("click", () => only({ cause: causes.indexOf(made.dataset.cause) }));
for (const made of document.querySelectorAll("[data-state]")) made.addEventListener("click", () => only({ state: made.dataset.state }));
byId("cluster-count").textContent = number(clusters.length) + " clusters";
groups.show(clusters);
updateClasses();
update();
