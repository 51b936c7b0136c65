"use strict";
// Columns of a class, as `_class_rows` of data_page.py writes them.
const NAME = 0, GROUP = 1, COUNTS = 2, IMAGES = 3;
const PAGE = 12;  // classes
const { splits, classes } = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const number = n => n.toLocaleString("en");
const lower = classes.map(row => row[NAME].toLowerCase());
let shown = [], first = 0;

// Untrusted data becomes text, never markup.
function element(tag, kind, content, ...children) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (content) node.textContent = content;
  node.append(...children);
  return node;
}

function photo([path, source]) {
  const image = element("img");
  image.src = "data:image/webp;base64," + source;
  image.alt = image.title = path;
  return image;
}

function card(row) {
  const [train] = row[COUNTS], wall = row[IMAGES];
  const counts = splits.map((split, i) => split + " " + number(row[COUNTS][i])).join(" · ");
  const head = element("div", "head", null, element("b", "", row[NAME]),
    element("span", "tag " + row[GROUP], row[GROUP] || "not in train"), element("span", "counts", counts));
  const photos = element("div", "wall", null, ...wall.map(photo));
  if (!wall.length) photos.append(element("span", "noimage", train ? "no photo is shown: the page is full" : "no training photo"));
  return element("article", "class", null, head, photos);
}

function show() {
  byId("class-list").replaceChildren(...shown.slice(first, first + PAGE).map(i => card(classes[i])));
  if (!shown.length) byId("class-list").append(element("p", "quiet", "No class matches."));
  byId("class-count").textContent = shown.length === classes.length ? number(shown.length) : number(shown.length) + " of " + number(classes.length);
  const last = Math.min(first + PAGE, shown.length);
  byId("class-range").textContent = shown.length > PAGE ? number(first + 1) + " to " + number(last) : "";
  byId("class-back").disabled = first === 0;
  byId("class-next").disabled = last === shown.length;
  byId("class-pager").hidden = shown.length <= PAGE;
}

function filter() {
  const words = byId("class-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const only = byId("class-only").value, missing = splits.indexOf(only.replace("without ", ""));
  const fits = i => words.every(word => lower[i].includes(word))
    && (!only || (only.startsWith("without ") ? classes[i][COUNTS][missing] === 0 : classes[i][GROUP] === only));
  shown = classes.map((_, i) => i).filter(fits);
  const order = byId("class-order").value;
  if (order === "few") shown.reverse();
  if (order === "name") shown.sort((a, b) => classes[a][NAME].localeCompare(classes[b][NAME]));
  first = 0;
  show();
}

function turn(step) {
  first += step * PAGE;
  show();
  byId("class-count").scrollIntoView();
}

for (const id of ["class-search", "class-only", "class-order"]) byId(id).addEventListener("input", filter);
byId("class-back").addEventListener("click", () => turn(-1));
byId("class-next").addEventListener("click", () => turn(1));
for (const link of document.querySelectorAll("button[data-without]")) link.addEventListener("click", () => {
  byId("class-search").value = "";
  byId("class-only").value = "without " + link.dataset.without;
  filter();
  byId("class-count").scrollIntoView();
});
filter();
