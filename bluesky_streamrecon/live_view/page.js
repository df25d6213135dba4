"use strict";
// What the page does: it draws what it is told, and sends what a person orders. No library, nothing from elsewhere.
const $ = id => document.getElementById(id);
const BUTTONS = ["finish", "hold", "release", "extend", "axis"];
let run = null, judged = [], shown = "", axis = null, asked = null; // asked: what is ordered once a reason was given
const cut = { scale: 1, x: 0, y: 0 }; // of the slices, all alike; x and y in shares of a slice's side

function words(parent, tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function take(told) {
  if (told.run !== run) { run = told.run; judged = []; }
  judged = judged.slice(0, told.first).concat(told.judged);
  $("run").textContent = run ? "run " + run : "no run yet";
  $("link").textContent = told.link;
  $("headline").className = told.headline.tone;
  $("what").textContent = told.headline.what;
  $("detail").textContent = told.headline.detail;
  $("doubt").textContent = told.headline.doubt;
  $("held").textContent = told.finish ? "Finishing, as asked for by " + told.finish : told.held ? "Held " + told.held : "";
  const open = Boolean(run) && !told.link && !told.finish;
  $("finish").disabled = $("extend").disabled = $("axis").disabled = !open;
  if (told.axis !== axis && document.activeElement !== $("column")) {
    axis = told.axis;
    $("column").value = axis === null ? "" : axis.toFixed(2);
  }
  $("hold").disabled = !open || Boolean(told.held);
  $("release").disabled = !open || !told.held;
  $("progress").max = Math.max(1, told.total, told.taken);
  $("progress").value = told.taken;
  $("lines").replaceChildren();
  for (const [name, text] of told.lines) { words($("lines"), "dt", name); words($("lines"), "dd", text); }
  if (told.picture) slices(told.picture);
  draw(told.total, told.tolerance);
}

// ------------------------------------------------------------------------------------------- slices

function slices(picture) {
  const name = picture.run + "/" + picture.image;
  if (name === shown) return;
  shown = name;
  let figures = [...$("slices").querySelectorAll("figure")];
  if (figures.length !== picture.rows.length) {
    $("slices").replaceChildren();
    figures = picture.rows.map(frame);
  }
  picture.rows.forEach((row, i) => {
    const drawn = figures[i].querySelector("img"), next = new Image();
    next.onload = () => { drawn.src = next.src; };
    next.src = "picture/" + picture.image + "/" + i + ".png?token=" + encodeURIComponent(token);
    drawn.alt = "Slice of detector row " + row;
    figures[i].querySelector("figcaption").textContent = "detector row " + row;
  });
  const small = picture.size < picture.full_size ? ", shown at " + picture.size + " of " + picture.full_size + " pixels" : "";
  const axis = picture.axis === null ? "" : ", rotation axis at detector column " + picture.axis.toFixed(2);
  $("image").textContent = "Image " + picture.image + " from " + picture.projections + " projections" + small + axis +
    "; black is " + picture.low.toPrecision(2) + ", white " + picture.high.toPrecision(2) +
    " per pixel. Wheel or + and − zoom, drag or arrows move, double click or 0 shows all.";
}

function frame() {
  const figure = words($("slices"), "figure", ""), box = words(figure, "div", "");
  box.className = "frame";
  box.tabIndex = 0;
  box.append(document.createElement("img"));
  words(figure, "figcaption", "");
  const at = event => { const area = box.getBoundingClientRect(); return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]; };
  box.onwheel = event => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), ...at(event)); };
  box.ondblclick = () => zoom(0, 0, 0);
  let from = null;
  box.onpointerdown = event => { from = at(event); box.setPointerCapture(event.pointerId); };
  box.onpointermove = event => {
    if (!from) return;
    const to = at(event);
    move(to[0] - from[0], to[1] - from[1]);
    from = to;
  };
  box.onpointerup = box.onpointercancel = () => { from = null; };
  const step = 0.1, keys = { "+": () => zoom(1.25, .5, .5), "=": () => zoom(1.25, .5, .5), "-": () => zoom(.8, .5, .5), "0": () => zoom(0, 0, 0),
    ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step) };
  box.onkeydown = event => { if (keys[event.key]) { event.preventDefault(); keys[event.key](); } };
  place();
  return figure;
}

function zoom(factor, x, y) {
  const scale = Math.min(32, Math.max(1, cut.scale * factor)), grown = scale / cut.scale;
  cut.x = x - (x - cut.x) * grown;
  cut.y = y - (y - cut.y) * grown;
  cut.scale = scale;
  move(0, 0);
}

function move(x, y) {
  cut.x = Math.min(0, Math.max(1 - cut.scale, cut.x + x));
  cut.y = Math.min(0, Math.max(1 - cut.scale, cut.y + y));
  place();
}

function place() {
  for (const image of document.querySelectorAll(".frame img")) {
    image.style.transform = `translate(${100 * cut.x}%, ${100 * cut.y}%) scale(${cut.scale})`;
    image.style.imageRendering = cut.scale > 3 ? "pixelated" : "auto";
  }
}

// ------------------------------------------------------------------------------------------- curves

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// One curve: `ticks` are values with their texts, and the first and the last are the ends of the axis.
function plot(svg, title, kind, ticks, height, total, points, { band = [], limit = null } = {}) {
  const left = 46, right = 410, top = 30, deep = 128, parts = [];
  const low = height(ticks[0][0]), high = height(ticks[ticks.length - 1][0]);
  const x = n => left + (right - left) * n / total;
  const y = v => top + deep * (1 - (Math.min(high, Math.max(low, height(v))) - low) / (high - low));
  const line = list => list.map(([n, v]) => `${x(n).toFixed(1)} ${y(v).toFixed(1)}`);
  parts.push(element("text", { x: 4, y: 14, class: "title" }, title));
  for (const [value, text] of ticks) {
    parts.push(element("path", { class: "axis", d: `M${left} ${y(value)}H${right}` }));
    parts.push(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  for (let i = 0; i <= 4; i++) {
    const n = Math.round(total * i / 4);
    parts.push(element("text", { x: x(n), y: top + deep + 18, "text-anchor": i === 4 ? "end" : "middle" }, n));
  }
  if (band.length > 1) {
    const upper = line(band.map(([n, , v]) => [n, v])), lower = line(band.map(([n, v]) => [n, v])).reverse();
    parts.push(element("path", { class: "band", d: "M" + upper.concat(lower).join("L") + "Z" }));
  }
  if (limit !== null) {
    parts.push(element("path", { class: "limit", d: `M${left} ${y(limit.at)}H${right}` }));
    parts.push(element("text", { x: left + 4, y: y(limit.at) + 13, class: "of-limit" }, limit.text));
  }
  if (points.length) {
    parts.push(element("path", { class: kind, d: "M" + line(points).join("L") }));
    const [n, v] = points[points.length - 1];
    parts.push(element("circle", { class: kind + " newest", cx: x(n), cy: y(v), r: 3.5 }));
    parts.push(element("text", { x: right, y: 14, "text-anchor": "end", class: "title" }, v.toFixed(4) + " at " + n));
  }
  svg.replaceChildren(...parts);
}

function draw(planned, tolerance) {
  const total = Math.max(planned, judged.length ? judged[judged.length - 1].projections : 0, 1);
  // A score is read by what is missing to 1: each line of the axis is ten times nearer.
  const scores = judged.filter(j => j.score !== null).map(j => [j.projections, j.score]);
  const missing = score => -Math.log10(Math.max(1e-4, 1 - score));
  const best = Math.max(0, ...scores.map(([, s]) => missing(s)));
  const ticks = [[0, "0"], [.9, "0.9"], [.99, "0.99"], [.999, "0.999"], [.9999, "0.9999"]].slice(0, Math.max(3, Math.ceil(best) + 1));
  plot($("scores"), "Score (MS-SSIM to an earlier image)", "score", ticks, missing, total, scores);
  const gains = judged.filter(j => j.gain !== null).map(j => [j.gain_at ?? j.projections, j.gain]);
  const band = judged.filter(j => j.gain_low !== null && j.gain_high !== null).map(j => [j.gain_at ?? j.projections, j.gain_low, j.gain_high]);
  const most = Math.max(2 * (tolerance ?? 0.02), ...band.map(([, , high]) => high), ...gains.map(([, gain]) => gain));
  const marks = [0, most / 2, most].map(v => [v, v.toFixed(most < 0.1 ? 3 : 2)]);
  const limit = tolerance === null ? null : { at: tolerance, text: "tolerance " + tolerance + ": good enough below" };
  plot($("gains"), "Predicted gain of all that is left", "gain", marks, v => v, total, gains, { band, limit });
}

// ------------------------------------------------------------------------------------------- orders

async function order(action, more) {
  $("said").className = "";
  $("said").textContent = "…";
  let told;
  try {
    const answer = await fetch("order", { method: "POST", headers: { "X-Streamrecon-Token": token, "Content-Type": "application/json" },
      body: JSON.stringify({ action, run, ...more }) });
    told = await answer.json();
  } catch { told = { ok: false, text: "the live view's server does not answer" }; }
  $("said").className = told.ok ? "good" : "bad";
  $("said").textContent = told.text;
}

// Ask for a reason, and whether it is really wanted.
function ask(title, about, button, action, more) {
  asked = { action, more };
  $("wanted").textContent = title;
  $("about").textContent = about + " Why? This is stored with the run.";
  $("really").textContent = button;
  $("reason").value = "";
  $("why").returnValue = "";
  $("why").showModal();
}

$("why").onclose = () => {
  const { action, more } = asked, reason = $("reason").value.trim();
  asked = null;
  if ($("why").returnValue === "really" && reason) order(action, { reason, ...more });
};
$("finish").onclick = () => ask("Finish now", "The run ends as a success at the next projection.", "Finish the run", "finish", {});
$("axis").onclick = () => {
  const column = $("column").valueAsNumber;
  if (!Number.isFinite(column)) { $("said").className = "bad"; $("said").textContent = "the axis is to be a detector column, such as 511.5"; return; }
  ask("Correct the rotation axis", "All images are made anew about detector column " + column + ", and scores begin anew.", "Correct the axis", "axis", { axis: column });
};
$("hold").onclick = () => order("hold", {});
$("release").onclick = () => order("release", {});
$("extend").onclick = () => order("extend", { count: Number($("count").value) });
if (new URLSearchParams(location.search).get("kiosk") === "1") document.body.classList.add("kiosk");

const events = new EventSource("events?token=" + encodeURIComponent(token));
events.onmessage = event => take(JSON.parse(event.data));
events.onerror = () => { $("link").textContent = "the live view's server does not answer"; for (const id of BUTTONS) $(id).disabled = true; };
draw(1, null);
