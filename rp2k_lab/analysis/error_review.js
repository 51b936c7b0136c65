// Decisions about suspected labels, by keyboard or by button; they follow error_page.js in the same script.
const store = "rp2k-lab labels " + data.key;
const suspected = rows.map((_, i) => i).filter(i => rows[i][SUGGESTED] >= 0).sort((a, b) => rows[b][SUSPICION] - rows[a][SUSPICION] || a - b);
const exactName = i => data.exact.names[i] ?? names[i], exactPath = i => data.exact.paths[i] ?? rows[i][PATH];
const rowOf = new Map(suspected.map(i => [exactPath(i), i])), nameOf = new Map(names.map((_, i) => [exactName(i), i]));
const decisions = new Map();  // number of the row to the right class, in the order of deciding
let isKept = true;  // in the browser's storage
let current = null;  // the card that the keys act on
const isWrong = i => decisions.get(i) !== rows[i][TRUE];

function hasReviewState(i, state) {
  if (rows[i][SUGGESTED] < 0) return false;
  if (state === "suspected" || !decisions.has(i)) return state === "suspected" || state === "open";
  return state === (isWrong(i) ? "wrong" : "right");
}

function load() {
  try {
    for (const [path, name] of JSON.parse(localStorage.getItem(store) ?? "[]"))
      if (rowOf.has(path) && nameOf.has(name)) decisions.set(rowOf.get(path), nameOf.get(name));
  } catch { isKept = false; }  // private windows and frames of other pages may refuse
}

function save() {
  try {
    localStorage.setItem(store, JSON.stringify([...decisions].map(([i, name]) => [exactPath(i), exactName(name)])));
    isKept = true;
  } catch { isKept = false; }
}

function note(text = "") {
  if (!byId("review-note")) return;
  const done = decisions.size, wrong = [...decisions.keys()].filter(isWrong).length;
  byId("review-count").textContent = byId("progress").textContent = `${number(done)} of ${number(suspected.length)} decided`;
  byId("decided").value = done;
  const kept = isKept ? "Decisions stay in this browser." : "This browser keeps no decisions here: download the list before you close the page.";
  byId("review-note").textContent = [text, done ? `${number(wrong)} wrong, ${number(done - wrong)} right.` : "", kept].filter(Boolean).join(" ");
}

function cardOf(i) { return byId("list").querySelector(`[data-row="${i}"]`); }

function decisionButtons(i) {
  const node = element("div", "decide"), suggested = rows[i][SUGGESTED], decided = decisions.get(i);
  if (suggested < 0) return node;
  const choice = (letter, content, name, is, action) => {
    const choose = element("button", is ? "chosen" : "", null, element("kbd", "", letter), " " + content, name < 0 ? "" : named("b", "", name, 44));
    choose.type = "button";
    choose.ariaPressed = String(is);
    choose.addEventListener("click", action);
    return choose;
  };
  const other = decided !== undefined && decided !== rows[i][TRUE] && decided !== suggested;
  node.append(element("span", "quiet", "The label is"),
    choice("r", "right: ", rows[i][TRUE], decided === rows[i][TRUE], () => decide(i, rows[i][TRUE])),
    choice("w", "wrong, it is ", suggested, decided === suggested, () => decide(i, suggested)),
    choice("c", other ? "wrong, it is " : "another class …", other ? decided : -1, other, () => choose(i)));
  return node;
}

function redraw(i) {
  const shown = cardOf(i);
  if (!shown) return;
  const hadFocus = shown.contains(document.activeElement);
  shown.querySelector(".decide").replaceWith(decisionButtons(i));
  if (hadFocus) shown.focus({ preventScroll: true });
}

function decide(i, name) {
  decisions.delete(i);  // the last decision is the last of the map
  if (name !== undefined) decisions.set(i, name);
  save();
  redraw(i);
  if (byId("large").open) showLarge(Number(byId("large").dataset.row));
  note();
}

function undo() {
  const last = [...decisions.keys()].pop();
  if (last === undefined) return;
  decide(last, undefined);
  const position = list.list.indexOf(last);
  if (position >= 0) go(position);
}

function setCurrent(node) {
  if (current !== node) current?.classList.remove("current");
  current = node;
  node?.classList.add("current");
}

const position = () => current?.isConnected ? list.list.indexOf(Number(current.dataset.row)) : -1;

function go(to) {  // show and focus the error at this position of the list
  if (to < 0 || to >= list.list.length) return;
  const page = Math.floor(to / list.size);
  if (page !== list.page) list.show(list.list, page);
  const node = cardOf(list.list[to]);
  setCurrent(node);
  if (!byId("large").open) node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "center" });
  if (byId("large").open) showLarge(list.list[to]);
}

function goOn() {  // to the next label that is not decided, after this one and then from the start
  const isOpen = i => rows[i][SUGGESTED] >= 0 && !decisions.has(i), from = position() + 1;
  let next = list.list.findIndex((i, at) => at >= from && isOpen(i));
  if (next < 0) next = list.list.findIndex(isOpen);
  if (next >= 0) go(next);
  else note("Every suspected label in the list of errors is decided: download the list.");
}

function showLarge(i) {
  const row = rows[i], shown = [], add = (large, small, caption) => {
    if ((large ?? small) >= 0) shown.push(element("figure", "", null, picture(large ?? small, caption), element("figcaption", "", caption)));
  };
  add(largePhotos[i], row[IMAGE], "photo");
  add(undefined, row[EXPLANATION], `evidence for ${names[row[TOPS][0]]} (${method})`);
  const sides = new Map([[row[TRUE], "label"], [row[TOPS][0], "predicted"]]);
  if (row[SUGGESTED] >= 0) sides.set(row[SUGGESTED], "suggested");
  for (const [name, role] of sides) add(largeExamples[name], exampleOf(name), `${role}: ${names[name]}`);
  const close = element("button", "", "close");
  close.type = "button";
  close.addEventListener("click", () => byId("large").close());
  byId("large").replaceChildren(element("div", "pictures", null, ...shown), decisionButtons(i), element("p", "path", row[PATH]), close);
  byId("large").dataset.row = i;
  if (byId("large").open) byId("large").focus();
}

function enlarge(i) {
  if (!byId("large").open) byId("large").showModal();
  showLarge(i);
}

function choose(i) {
  const [input, options] = [byId("choose-search"), byId("choose-list")], row = rows[i];
  const near = [...new Set([row[SUGGESTED], ...row[TOPS], ...row[NEAREST].map(([name]) => name)])].filter(name => name >= 0 && name !== row[TRUE]);
  let found = [], at = 0;
  const take = name => { byId("choose").close(); decide(i, name); goOn(); };
  const mark = to => {
    at = Math.max(0, Math.min(found.length - 1, to));
    [...options.children].forEach((node, k) => { node.ariaSelected = String(k === at); });
    options.children[at]?.scrollIntoView({ block: "nearest" });
    if (found.length) input.setAttribute("aria-activedescendant", `choice-${at}`); else input.removeAttribute("aria-activedescendant");
  };
  const fill = () => {
    const query = input.value.trim().toLowerCase();
    found = query ? names.map((_, name) => name).filter(name => lower[name].includes(query)) : near;
    if (query) found = found.sort((a, b) => lower[b].startsWith(query) - lower[a].startsWith(query) || rank[a] - rank[b]).slice(0, 12);
    options.replaceChildren(...found.map((name, k) => {
      const node = element("div", "option", null, exampleOf(name) >= 0 ? picture(exampleOf(name), "") : element("span", "frame"), element("span", "", names[name]));
      [node.id, node.role] = [`choice-${k}`, "option"];
      node.addEventListener("click", () => take(name));
      return node;
    }));
    if (!found.length) options.append(element("p", "quiet", "No class has this in its name."));
    mark(0);
  };
  input.value = "";
  input.oninput = fill;
  input.onkeydown = event => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) mark(at + step);
    else if (event.key === "Enter" && found.length) take(found[at]);
    else return;
    event.preventDefault();
  };
  fill();
  byId("choose").showModal();
  input.focus();
}

// As write_csv of core/csv_files.py: an apostrophe before what a spreadsheet would evaluate, a mark before Chinese.
const cell = value => {
  const safe = /^'*[=+\-@\t\r]/.test(value) ? "'" + value : value;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

function decidedLine(i) {  // given, suggested, decision
  const label = exactName(rows[i][TRUE]), decided = decisions.get(i), [given] = data.earlier[exactPath(i)] ?? [label];
  const right = decided === undefined ? label : exactName(decided);
  if (right !== given) return [given, right, "yes"];
  return [given, given === label ? exactName(rows[i][SUGGESTED]) : label, decided === undefined ? "" : "no"];
}

function listText() {
  const lines = suspected.map(i => {
    const [given, suggested, decision] = decidedLine(i);
    return [exactPath(i), given, suggested, (rows[i][SUSPICION] / 1000).toFixed(3), decision].map(cell).join(",");
  });
  for (const [path, [given, suggested]] of Object.entries(data.earlier))
    if (!rowOf.has(path)) lines.push([path, given, suggested, "", "yes"].map(cell).join(","));
  const text = ["path,given,suggested,score,decision", ...lines, ""].join("\n");
  return /^[\x00-\x7f]*$/.test(text) ? text : "\ufeff" + text;
}

function download() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([listText()], { type: "text/csv" }));
  link.download = data.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);  // the browser reads it later
}

function cellsOf(text) {  // rows of a CSV with commas
  const lines = [[""]];
  let quoted = false;
  for (let k = 0; k < text.length; k++) {
    const letter = text[k], line = lines.at(-1);
    if (quoted && letter === '"' && text[k + 1] === '"') { line[line.length - 1] += '"'; k++; }
    else if (letter === '"' && (quoted || line.at(-1) === "")) quoted = !quoted;
    else if (!quoted && letter === ",") line.push("");
    else if (!quoted && letter === "\n") lines.push([""]);
    else if (quoted || letter !== "\r") line[line.length - 1] += letter;
  }
  return lines.map(line => line.map(value => /^'+[=+\-@\t\r]/.test(value) ? value.slice(1) : value));
}

function continueList(text) {
  const [head, ...lines] = cellsOf(text.replace(/^\ufeff/, ""));
  const column = name => head.findIndex(title => title.trim().toLowerCase() === name);
  const [path, suggested, decision] = ["path", "suggested", "decision"].map(column);
  if (Math.min(path, suggested, decision) < 0) return "This is no list of this page: it needs the columns path, suggested and decision, with commas.";
  let read = 0, unknown = 0;
  for (const line of lines) {
    const said = { yes: true, no: false }[(line[decision] ?? "").trim().toLowerCase()];
    if (said === undefined) continue;
    const i = rowOf.get(line[path]), name = said ? nameOf.get(line[suggested]) : rows[i]?.[TRUE];
    if (i === undefined || name === undefined) { unknown++; continue; }
    decisions.delete(i);
    decisions.set(i, name);
    read++;
  }
  save();
  update();
  return `${number(read)} decisions read` + (unknown ? `; ${number(unknown)} are of no suspected label or class of this page.` : ".");
}

function startReview() {
  only({ "review-state": "suspected", order: "suspicion" });
  setCurrent(null);
  goOn();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("choose").open || event.target.matches("input, select, textarea")) return;
  const inCard = byId("large").open || event.target.closest(".case"), key = event.key;
  const step = { j: 1, k: -1 }[key] ?? (inCard ? { ArrowDown: 1, ArrowUp: -1 }[key] : undefined);
  const at = position(), i = list.list[at], isSuspected = i !== undefined && rows[i][SUGGESTED] >= 0;
  if (step) go(at < 0 ? list.page * list.size : at + step);
  else if (key === "Enter" && event.target.matches(".case")) enlarge(i);
  else if (key === "u") undo();
  else if (isSuspected && key === "c") choose(i);
  else if (isSuspected && (key === "r" || key === "w")) { decide(i, key === "r" ? rows[i][TRUE] : rows[i][SUGGESTED]); goOn(); }
  else return;
  event.preventDefault();
}

load();
document.addEventListener("keydown", onKey);
byId("large").addEventListener("click", event => { if (event.target === byId("large")) byId("large").close(); });
byId("large").addEventListener("close", () => cardOf(byId("large").dataset.row)?.focus({ preventScroll: true }));  // not the one of the opening
byId("review-start")?.addEventListener("click", startReview);
byId("review-download")?.addEventListener("click", download);
byId("review-file")?.addEventListener("change", async event => {
  const [file] = event.target.files;
  if (file) note(continueList(await file.text()));
  event.target.value = "";  // the same file may be chosen again
});
groups.show(clusters);
updateClasses();
update();
note();
