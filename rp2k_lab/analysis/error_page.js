"use strict";
// Columns of a row and of a class, as `_row` and `_classes` of error_page.py write them.
const PATH = 0, TRUE = 1, TOPS = 2, PROBABILITIES = 3, P_TRUE = 4, MASK = 5, MAIN = 6, MEASURES = 7, SUSPICION = 8, SUGGESTED = 9,
  STATE = 10, FIRST = 11, P_FIRST = 12, DISTANCE = 13, SENTENCES = 14, IMAGE = 15, EXPLANATION = 16, NEAREST = 17;
const IMAGES = 0, TRAIN = 1, ACCURACY = 2, LOW = 3, HIGH = 4, CONFUSED = 5, CONFUSED_IMAGES = 6, CLUSTER = 7;
const SHARPNESS = 4;
const data = JSON.parse(document.getElementById("data").textContent);
const { names, classes, causes, states, method, clusters, rows, thumbnails, examples, sentences } = data;
const [largePhotos, largeExamples] = data.large;
const byId = id => document.getElementById(id);
const number = n => n.toLocaleString("en");
const percent = thousandths => thousandths === null ? "–" : (thousandths / 10).toFixed(1) + " %";
const spaced = name => name.replace("_", " ");
const lower = names.map(name => name.toLowerCase());
const text = rows.map(row => (row[PATH] + "\n").toLowerCase());
let cluster = null;  // class numbers of the cluster that filters the errors

// Untrusted data becomes text, never markup.
function element(tag, kind, content, ...children) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (content !== undefined && content !== null) node.textContent = content;
  node.append(...children);
  return node;
}

function button(content, action) {
  const node = element("button", "link", content);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

// Class names often differ at their end alone: the middle is left out.
const units = letters => letters.reduce((sum, letter) => sum + (letter.codePointAt(0) < 0x1100 ? 1 : 2), 0);

function shortened(name, limit) {
  const letters = Array.from(name);
  if (units(letters) <= limit) return name;
  const [head, tail] = [[], []];
  for (let i = 0, j = letters.length - 1; i < j && units(head) + units(tail) < limit - 3; i++, j--) {
    head.push(letters[i]);
    tail.unshift(letters[j]);
  }
  return head.join("") + "…" + tail.join("");
}

function named(tag, kind, name, limit) {
  const node = element(tag, kind, shortened(names[name] ?? "", limit));
  node.title = names[name] ?? "";
  return node;
}

function oneLine(name) {  // as long as there is room; the browser leaves out the middle
  const letters = Array.from(names[name]), end = letters.length > 14 ? 8 : 0;
  const node = element("span", "middle", null, element("span", "", letters.slice(0, letters.length - end).join("")));
  if (end) node.append(element("span", "", letters.slice(-end).join("")));
  node.title = names[name];
  return node;
}

function picture(index, alt) {
  const image = element("img");
  image.src = "data:image/jpeg;base64," + thumbnails[index];
  image.alt = alt;
  return image;
}

function thumbnail(index, caption, missing, kind = "") {
  const frame = element("div", "frame", null, index >= 0 ? picture(index, caption) : element("span", "nothing", missing));
  const label = element("div", "", shortened(caption, 48));
  label.title = caption;
  return element("div", "thumbnail " + kind, null, frame, label);
}

const exampleOf = name => examples[name] ?? -1;

function probabilities(row) {
  const bars = row[TOPS].map((name, i) => [name, row[PROBABILITIES][i]]);
  if (!row[TOPS].includes(row[TRUE])) bars.push([row[TRUE], row[P_TRUE]]);
  return element("div", "bars", null, ...bars.map(([name, probability]) => {
    const length = element("i");
    length.style.width = (probability ?? 0) / 10 + "%";
    return element("div", name === row[TRUE] ? "bar true" : "bar", null, oneLine(name), element("span", "", null, length), element("b", "", percent(probability)));
  }));
}

function measures(row) {  // sentences about the photo against its class
  const [others, ...unusual] = row[SENTENCES], found = [];
  for (let i = 0; i < unusual.length; i += 2) {
    const part = unusual[i + 1] === 1000 ? `all ${number(others)} other photos` : `${Math.floor(unusual[i + 1] / 10)} %`;
    found.push(`${sentences[unusual[i]]} ${part} of its class`);
  }
  if (others && !found.length) found.push("sharpness, light and shape are usual for its class");
  const [height, width, brightness, contrast, sharpness, glare] = row[MEASURES].map(value => value ?? "–");
  found.push(`${width} × ${height} pixels`);
  const node = element("ul", "facts", null, ...found.map(sentence => element("li", "", sentence)));
  node.title = `brightness ${brightness}, contrast ${contrast}, sharpness ${sharpness}, glare ${glare}` + (others ? `; measured beside ${number(others)} other photos of its class` : "");
  return node;
}

function reasons(row) {
  const chips = causes.map((cause, i) => [cause, i]).filter(([, i]) => row[MASK] >> i & 1).sort((a, b) => (b[1] === row[MAIN]) - (a[1] === row[MAIN]));
  const node = element("div", "why", null, ...chips.map(([cause, i]) => element("span", i === row[MAIN] ? "chip main" : "chip", spaced(cause))));
  if (row[STATE] >= 0) node.append(element("span", "chip state", states[row[STATE]]));
  const list = measures(row), facts = [`${number(classes[row[TRUE]]?.[TRAIN] ?? 0)} training photos of the true class`];
  if (row[SUSPICION]) facts.push(`suspicion of the label ${percent(row[SUSPICION])}`);
  if (row[FIRST] >= 0) facts.push(`earlier run: ${names[row[FIRST]]}, ${percent(row[P_FIRST])}`);
  list.append(...facts.map(fact => element("li", "", fact)));
  node.append(list);
  return node;
}

function nearest(row) {
  const near = element("div", "near", null, ...row[NEAREST].map(([name, image]) => {
    const kind = name === row[TRUE] ? "same" : name === row[TOPS][0] ? "other" : "";
    return thumbnail(image, names[name] ?? "", "no photo", kind);
  }));
  const title = row[NEAREST].length ? `nearest training photos` + (row[DISTANCE] === null ? "" : `, distance ${row[DISTANCE]}`) : "";
  return element("div", "nearest", null, element("div", "quiet", title), near);
}

function card(i) {
  const row = rows[i];
  const side = (name, role) => {
    const node = thumbnail(exampleOf(name), "", "no example"), link = button(shortened(names[name], 48), () => showClass(name));
    link.title = `${names[name]}: go to the class`;
    node.lastChild.append(element("span", "", role), element("b", "", null, link));
    return node;
  };
  const sides = element("div", "sides", null, side(row[TRUE], "label"), side(row[TOPS][0], "predicted"));
  const photo = thumbnail(row[IMAGE], "photo", "photo left out");
  const node = element("article", row[EXPLANATION] >= 0 ? "case explained" : "case", null, photo);
  if (row[EXPLANATION] >= 0) node.append(thumbnail(row[EXPLANATION], `evidence for ${names[row[TOPS][0]]} (${method})`, ""));
  node.append(element("div", "labels", null, sides, probabilities(row)), reasons(row), nearest(row), decisionButtons(i), element("div", "path", row[PATH]));
  node.dataset.row = i;
  node.tabIndex = 0;
  node.addEventListener("click", event => { if (event.target.tagName === "IMG") enlarge(i); });
  node.addEventListener("focusin", () => setCurrent(node));
  return node;
}

// Draws one page of a list at a time, so that long lists stay fast.
class Pager {
  constructor(host, size, draw) {
    [this.host, this.size, this.draw] = [byId(host), size, draw];
    this.bar = document.querySelector(`.pager[data-of="${host}"]`);
  }
  show(list, page = 0) {
    [this.list, this.page] = [list, page];
    const pages = Math.max(1, Math.ceil(list.length / this.size));
    const first = page * this.size;
    this.host.replaceChildren(...list.slice(first, first + this.size).map(this.draw));
    const step = (label, to) => {
      const node = element("button", "", label);
      node.type = "button";
      node.disabled = to < 0 || to >= pages || to === page;
      node.addEventListener("click", () => { this.show(list, to); this.host.closest("section").scrollIntoView(); });
      return node;
    };
    const position = element("span", "", `${number(page + 1)} of ${number(pages)}`);
    this.bar.replaceChildren(...pages > 1 ? [step("first", 0), step("previous", page - 1), position, step("next", page + 1), step("last", pages - 1)] : []);
  }
}

const nullLast = value => value === null ? Infinity : value;
const rank = new Int32Array(names.length);
names.map((_, i) => i).sort((a, b) => lower[a] < lower[b] ? -1 : 1).forEach((name, i) => { rank[name] = i; });
const keys = {  // smallest first
  turn: (_, i) => i, sure: row => -row[PROBABILITIES][0], unsure: row => row[PROBABILITIES][0], label: row => nullLast(row[P_TRUE]),
  suspicion: row => row[SUSPICION] === null ? Infinity : -row[SUSPICION], class: row => rank[row[TRUE]], predicted: row => rank[row[TOPS][0]],
  few: row => classes[row[TRUE]]?.[TRAIN] ?? 0, blurred: row => nullLast(row[MEASURES][SHARPNESS]),
};

function matching(query) {  // mask of names: the equal one, or else all that contain the query
  const exact = lower.indexOf(query);
  return lower.map((name, i) => exact >= 0 ? i === exact : name.includes(query));
}

const list = new Pager("list", 20, card);

function update() {
  const [query, name] = [byId("search").value.trim().toLowerCase(), byId("class").value.trim().toLowerCase()];
  const [cause, state] = [byId("cause").value, byId("state")?.value ?? ""];
  const reviewed = byId("review-state")?.value ?? "", mainOnly = byId("main").checked, bounds = ["least", "most"].map(id => 10 * byId(id).valueAsNumber);
  const inName = query && lower.map(other => other.includes(query)), inClass = name && matching(name);
  const chosen = [];
  rows.forEach((row, i) => {
    const predicted = row[TOPS][0], p = row[PROBABILITIES][0];
    if (cause !== "" && !(mainOnly ? row[MAIN] === +cause : row[MASK] >> cause & 1)) return;
    if (state !== "" && row[STATE] !== +state) return;
    if (reviewed && !hasReviewState(i, reviewed)) return;
    if (p < bounds[0] || p > bounds[1]) return;
    if (inClass && !inClass[row[TRUE]] && !inClass[predicted]) return;
    if (cluster && !(cluster.has(row[TRUE]) && cluster.has(predicted))) return;
    if (inName && !text[i].includes(query) && !inName[row[TRUE]] && !inName[predicted]) return;
    chosen.push(i);
  });
  const key = keys[byId("order").value], values = new Float64Array(rows.length);
  for (const i of chosen) values[i] = key(rows[i], i);
  chosen.sort((a, b) => values[a] - values[b] || a - b);
  byId("count").textContent = `${number(chosen.length)} of ${number(rows.length)} shown` + (cluster ? `, within a cluster of ${cluster.size} classes` : "");
  const shown = names.indexOf(byId("class").value.trim());
  byId("back").replaceChildren(...classes[shown] ? [button(`back to the class ${names[shown]}`, () => showClass(shown))] : []);
  list.show(chosen);
}

let resetting = false;  // by the script: its own update follows

function only(changed) {  // reset the filters, then set these
  resetting = true;
  byId("filters").reset();
  resetting = false;
  cluster = changed.cluster ?? null;
  for (const id of ["cause", "class", "state", "review-state", "order"]) if (changed[id] !== undefined) byId(id).value = changed[id];
  update();
  byId("errors").scrollIntoView();
}

function showClass(name) {
  byId("class-search").value = names[name];
  updateClasses();
  byId("classes").scrollIntoView();
  byId("class-rows").querySelector("button")?.focus({ preventScroll: true });
}

// By the interval: the hardest class is the one with the lowest upper end, the easiest the one with the highest lower
// end.  By accuracy, classes of a single photo would come first and last.
const byInterval = i => descending ? classes[i][LOW] ?? -Infinity : classes[i][HIGH] ?? Infinity;
const HEADS = [["class", i => rank[i]], ["photos", i => -classes[i][IMAGES]], ["accuracy", byInterval], ["95 % interval", byInterval],
  ["photos in train", i => classes[i][TRAIN]], ["most confused with", i => -classes[i][CONFUSED_IMAGES]]];
const table = new Pager("class-rows", 25, i => {
  const c = classes[i], confused = c[CONFUSED] >= 0 ? `${names[c[CONFUSED]]} (${number(c[CONFUSED_IMAGES])})` : "";
  return element("tr", "", null, element("td", "name", null, button(names[i], () => only({ class: names[i] }))), element("td", "n", number(c[IMAGES])), element("td", "n", percent(c[ACCURACY])),
    element("td", "n", c[IMAGES] ? `${(c[LOW] / 10).toFixed(1)} – ${percent(c[HIGH])}` : "–"), element("td", "n", number(c[TRAIN])), element("td", "name", confused));
});
let [sorted, descending] = [3, false];

function updateClasses() {
  const query = byId("class-search").value.trim().toLowerCase(), value = HEADS[sorted][1];
  const found = matching(query), shown = names.map((_, i) => i).filter(i => classes[i] && found[i]);
  shown.sort((a, b) => (descending ? value(b) - value(a) : value(a) - value(b)) || rank[a] - rank[b]);
  byId("class-count").textContent = `${number(shown.length)} of ${number(classes.filter(Boolean).length)}`;
  byId("class-head").replaceChildren(...HEADS.map(([name], i) => {
    const head = element("th", i && i < 5 ? "n" : "", null, button(name, () => { [sorted, descending] = [i, i === sorted && !descending]; updateClasses(); }));
    if (i === sorted) head.ariaSort = descending ? "descending" : "ascending";
    return head;
  }));
  table.show(shown);
}

const groups = new Pager("clusters", 8, ([, members, images, within, fraction]) => {
  const shown = members.slice(0, 8).map(name => thumbnail(exampleOf(name), names[name], "no photo"));
  if (members.length > 8) shown.push(element("span", "quiet", `and ${number(members.length - 8)} more classes`));
  const head = element("div", "", null, button(`${number(within)} errors within ${members.length} classes`, () => only({ cluster: new Set(members) })),
    element("span", "quiet", ` ${percent(fraction)} of all errors, ${number(images)} photos`));
  return element("div", "cluster", null, head, element("div", "members", null, ...shown));
});

const option = (label, value) => { const node = element("option", "", label); node.value = value; return node; };
byId("names").append(...names.map(name => option(null, name)));
const listed = (cause) => document.querySelector(`[data-cause="${cause}"]`);  // others: only with a catch-all class
byId("cause").append(...causes.flatMap((cause, i) => (listed(cause) ? [option(spaced(cause), i)] : [])));
byId("state")?.append(...states.map((state, i) => option(state, i)));
byId("filters").addEventListener("input", update);
byId("filters").addEventListener("submit", event => event.preventDefault());
byId("filters").addEventListener("reset", () => { cluster = null; if (!resetting) setTimeout(update); });  // the browser empties the fields after this event
byId("class-search").addEventListener("input", updateClasses);
for (const node of document.querySelectorAll("[data-cause]")) node.addEventListener("click", () => only({ cause: causes.indexOf(node.dataset.cause) }));
for (const node of document.querySelectorAll("[data-state]")) node.addEventListener("click", () => only({ state: node.dataset.state }));
for (const dot of document.querySelectorAll("svg.map circle")) {  // a title each in the file would double the page's elements
  const name = Number(dot.dataset.class), c = classes[name];
  dot.addEventListener("click", () => only({ class: names[name] }));
  dot.addEventListener("pointerenter", () => {
    const title = document.createElementNS(dot.namespaceURI, "title");
    title.textContent = `${names[name]}: ${percent(c[ACCURACY])} of ${number(c[IMAGES])} photos, ${number(c[TRAIN])} in train`;
    dot.replaceChildren(title);
  });
}
byId("cluster-count").textContent = number(clusters.length) + " clusters";

