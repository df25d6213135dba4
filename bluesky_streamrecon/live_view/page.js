"use strict";
// What the page does: it draws what the server sends, and sends what a person orders. No library, nothing from elsewhere.
const $ = id => document.getElementById(id);
// asked: what is ordered once a reason was given; looking: cuts are fetched; counts: boxes of what does, where that is not all; null: to the volume's end.
let run = null, axis = null, size = null, asked = null, looking = false, counts = [];

function words(parent, tag, text) {
  return parent.appendChild(Object.assign(document.createElement(tag), { textContent: text }));
}

function take(data) {
  if (data.run !== run) { run = data.run; forget(); }
  $("run").textContent = data.about;
  $("link").textContent = data.link;
  $("nothing").textContent = data.link && run ? "No image of this run can be shown here." : "The first image is not there yet.";
  $("headline").className = data.headline.tone;
  for (const id of ["what", "detail", "doubt"]) $(id).textContent = data.headline[id];
  for (const id of ["expected", "counts"]) $(id).textContent = data[id];
  data.curves.forEach((curve, i) => { $(["scores", "gains"][i]).innerHTML = curve; }); // made of numbers, and of words without tags
  $("to-do").replaceChildren();
  for (const [state, text] of data.to_do) words($("to-do"), "p", text).className = state;
  showChecks(data.checks);
  counts = data.boxes;
  if (view.volume) ALL.forEach(lines);
  $("orders").disabled = !run || data.link || data.finishing;
  if (data.axis !== axis && document.activeElement !== $("column")) $("column").value = (axis = data.axis) === null ? "" : axis.toFixed(2);
  $("hold").disabled = data.held;
  $("release").disabled = !data.held;
  Object.assign($("progress"), { max: Math.max(1, data.total, data.taken), value: data.taken });
  $("lines").replaceChildren();
  for (const [name, text] of data.lines) { words($("lines"), "dt", name); words($("lines"), "dd", text); }
  if (data.pixel_size !== size && (size = data.pixel_size)) { $("pixel").value = size; $("pixel").onchange(); }
  directions(data.directions);
  timeline(data.earlier);
  const newest = data.newest || (view.volume ? view.newest : "kept " + data.earlier.length); // the last cuts stay on show
  if (run && newest !== view.newest) { view.newest = newest; look(ALL); }
}

// Each check is a button of the keyboard's order, and what it means is seen where it is; what is wrong is seen at once.
function showChecks(checks) {
  const list = $("checks"), kept = [...list.children].indexOf(document.activeElement);
  list.hidden = !checks.length;
  list.replaceChildren();
  for (const [name, state, value, text] of checks) {
    const item = words(list, "li", "");
    Object.assign(item, { className: state, tabIndex: 0 });
    words(item, "b", name);
    words(item, "span", value);
    words(item, "p", text);
    item.setAttribute("aria-label", name + ": " + { ok: "ok", look: "look at it", wrong: "wrong", open: "not checked" }[state] + ", " + value + ". " + text);
  }
  list.children[kept]?.focus();
}

// ------------------------------------------------------------------------------------------- cuts

// Places are [row, y, x] in voxels. Upright panels show a square of side `view.side / view.zoom` around `view.centre`.
const UPRIGHT = { row: { down: 1, across: 2, normal: 0 }, front: { down: 0, across: 2, normal: 1 }, side: { down: 0, across: 1, normal: 2 } };
const NAMES = ["row", "y", "x"], ALL = ["row", "front", "side", "oblique"], viewer = Math.random().toString(36).slice(2);
const view = { newest: "", volume: null, side: 1, zoom: 1, cross: [0, 0, 0], centre: [0, 0, 0], down: [0, 0, 0], across: [0, 0, 0], offset: 0, low: 0, high: 1 };
const solid = { canvas: Object.assign(document.createElement("canvas"), { hidden: true }), gl: null, set: null };
const panels = {}, drawn = {}, stale = new Set(); // drawn: the newest values of each panel, with their shape and what they show

const plus = (a, b, k = 1) => a.map((x, i) => x + k * b[i]), times = (a, k) => a.map(x => x * k);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0), unit = a => times(a, 1 / Math.hypot(...a)), along = i => [0, 1, 2].map(j => Number(i === j));
const normal = () => { const a = view.down, b = view.across; return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]; };
const middle = () => view.volume.map(n => (n - 1) / 2), number = v => Number(v.toPrecision(3)).toString();

function forget() {
  Object.assign(view, { newest: "", volume: null });
  mark = null;
  Object.assign(past, { image: 0, flipped: false });
  seen(false);
}

function seen(cuts) {
  $("cuts").hidden = $("about-cuts").hidden = !cuts;
  $("past").hidden = !cuts || !past.earlier.length;
  $("nothing").hidden = cuts;
}

function begin(volume) {
  Object.assign(view, { volume, side: Math.max(...volume), zoom: 1, offset: 0, down: [.8, .6, 0], across: unit([-.3, .4, .8]) });
  view.centre = middle();
  view.cross = middle().map(Math.round);
  for (const name of ALL) {
    const { slider } = panels[name], shown = UPRIGHT[name];
    [slider.min, slider.max] = shown ? [0, volume[shown.normal] - 1] : [-view.side / 2, view.side / 2];
  }
  turn(0, 0);
  look(ALL);
}

const extent = () => Math.max(8, Math.round(view.side / view.zoom)); // voxels along a panel's sides

// The rectangle of a panel: its corner and its edges. Pixels of upright ones are whole voxels, where there are not too many.
function rectangle(name) {
  const shown = UPRIGHT[name], centre = name === "oblique" ? plus(middle(), normal(), view.offset) : [...view.centre];
  if (shown) centre[shown.normal] = view.cross[shown.normal];
  const [down, across] = (shown ? [along(shown.down), along(shown.across)] : [view.down, view.across]).map(edge => times(edge, extent()));
  const corner = plus(plus(centre, down, -.5), across, -.5);
  return { corner: corner.map((v, i) => shown && i !== shown.normal ? Math.round(v + .5) - .5 : v), down, across };
}

function wish(name) {
  if (!view.volume) return { corner: [0, 0, 0], down: [0, 1, 0], across: [0, 0, 1], shape: [1, 1] }; // which tells how large it is
  if (name === "oblique" && whole()) return box();
  const most = name === large() ? 512 : 320, width = Math.max(32, Math.round(panels[name].canvas.clientWidth * devicePixelRatio));
  const n = name === large() && extent() <= most ? extent() : Math.min(most, width, extent()); // in the large one each voxel, if it can
  return { ...rectangle(name), shape: [n, n] };
}

// Fetch cuts, again and again as long as something has changed meanwhile.
async function look(names) {
  for (const name of names) stale.add(name);
  if (looking || document.hidden) return;
  looking = true;
  while (stale.size) {
    const some = ALL.filter(name => stale.has(name) && (name !== "oblique" || !whole())), sized = view.volume !== null, { newest } = view;
    const wanted = !sized ? ["row"] : some.length ? some : ["oblique"], cuts = wanted.map(wish); // the whole volume comes alone
    for (const name of sized ? wanted : ALL) stale.delete(name);
    const problem = await fetchCuts(wanted, cuts, sized);
    if (problem) {
      $("cut-note").textContent = sized ? "Not up to date: " + problem : "";
      for (const name of wanted) stale.add(name);
      if (run && (!$("link").textContent || newest !== view.newest)) setTimeout(look, 2000, []); // else with the next change
      break;
    }
  }
  looking = false;
}

async function fetchCuts(names, cuts, sized) {
  try {
    const answer = await fetch("cuts", { method: "POST", headers: { "X-Streamrecon-Token": token, "Content-Type": "application/json" }, body: JSON.stringify({ viewer, cuts, image: past.image }) });
    if (!answer.ok) return (await answer.json()).text;
    const about = JSON.parse(answer.headers.get("X-Streamrecon-Cuts")), values = new Float32Array(await answer.arrayBuffer());
    if (about.run !== run) return "the run is another one by now";
    seen(true);
    if (!view.volume || about.volume.join() !== view.volume.join()) begin(about.volume); else if (sized) show(names, about, about.cuts, values);
    return "";
  } catch { return "the live view's server does not answer"; }
}

function show(names, about, cuts, values) {
  let first = 0;
  names.forEach((name, i) => {
    const [height, width] = about.shapes[i].slice(-2), length = about.shapes[i].reduce((a, b) => a * b);
    const part = from => values.subarray(from, from + length);
    drawn[name] = { height, width, values: part(first), newest: about.compared ? part(values.length / 2 + first) : null, cut: cuts[i] };
    first += length;
  });
  if (!past.image && !$("locked").checked && names.length > 2) {
    const some = values.filter((v, i) => i % 29 === 0 && Number.isFinite(v)).sort();
    view.low = some.length ? some[Math.floor(.005 * some.length)] : 0;
    view.high = some.length ? some[Math.ceil(.995 * some.length) - 1] : 1;
    $("low").value = Math.abs(view.low) < 1e-6 * view.high ? 0 : number(view.low);
    $("high").value = number(view.high);
  }
  $("cut-note").textContent = about.text + ", " + about.volume.join(" × ") + " voxels" +
    (axis === null || past.image ? "" : ", rotation axis at detector column " + axis.toFixed(2));
  compare(names);
}

function paint(name) {
  const { canvas } = panels[name];
  if (!drawn[name]?.height) return;
  if (drawn[name].cut.layers > 1) { fillSolid(onShow(drawn[name]), drawn[name].cut); return; }
  brush(canvas, drawn[name], onShow(drawn[name]));
  if (name === large() && beside()) brush($("beside").querySelector("canvas"), drawn[name], drawn[name].newest ?? drawn[name].values);
  if (name === (mark?.name ?? large())) measure();
}

function brush(canvas, { width, height, newest }, values) {
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height), scale = view.high > view.low ? 255 / (view.high - view.low) : 0;
  const diverging = differing() && newest;
  for (let i = 0; i < values.length; i++) {
    const at = diverging ? Math.max(-1, Math.min(1, values[i] / past.limit)) : 0, grey = (values[i] - view.low) * scale;
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = diverging ? 247 + Math.abs(at) * (ENDS[at < 0 ? 0 : 1][k] - 247) : grey;
    image.data[4 * i + 3] = Number.isNaN(values[i]) ? 0 : 255;
  }
  pen.putImageData(image, 0, 0);
}

// Cross hairs, and where the oblique plane meets a panel; in shares of its sides.
function lines(name) {
  const { down, across } = UPRIGHT[name] ?? {}, { lines: svg, slider, text, scale } = panels[name], parts = [];
  const add = (kind, x1, y1, x2, y2) => parts.push(element("line", { class: kind, x1, y1, x2, y2, "vector-effect": "non-scaling-stroke" }));
  if (name === "oblique") {
    text.textContent = !whole() ? "oblique " + number(view.offset) : level() ? "surface at " + number(view.low + level() * (view.high - view.low)) : "brightest";
    slider.value = view.offset;
  } else {
    const area = rectangle(name), side = extent(), shown = UPRIGHT[name].normal;
    const x = (view.cross[across] - area.corner[across]) / side, y = (view.cross[down] - area.corner[down]) / side;
    add("cross", x, 0, x, 1);
    add("cross", 0, y, 1, y);
    const n = normal(), at = dot(n, plus(middle(), n, view.offset)) - dot(n, area.corner), a = n[across] * side, b = n[down] * side; // a x + b y = at
    if (Math.abs(a) > Math.abs(b)) add("trace", at / a, 0, (at - b) / a, 1);
    else if (Math.abs(b) > 1e-9) add("trace", 0, at / b, 1, (at - a) / b);
    for (const [from, to] of counts) {
      if (shown || from[0] < view.cross[0] && view.cross[0] < to[0]) parts.push(frame("counts", area, from, to.map((v, i) => v ?? view.volume[i] - .5)));
    }
    text.textContent = NAMES[shown] + " " + Math.round(view.cross[shown]);
    slider.value = view.cross[shown];
  }
  if (mark?.name === name) parts.push(frame("mark", rectangle(name), mark.from, mark.to, mark.tool === "line"));
  svg.replaceChildren(...parts);
  scale.hidden = name === "oblique" && whole(); // which is seen from elsewhere
  drawScale(scale);
}

function frame(kind, area, from, to, line = false) { // between two places, in shares of a panel's sides
  const [a, b] = [from, to].map(place => share(area, place));
  return element("path", { class: kind, d: "M" + a + (line ? "L" + b : "H" + b[0] + "V" + b[1] + "H" + a[0] + "Z"), "vector-effect": "non-scaling-stroke" });
}

function changed(...names) { // of these panels the cut is another one
  view.cross = view.cross.map((v, i) => Math.min(view.volume[i] - 1, Math.max(0, Math.round(v))));
  view.centre = view.centre.map((v, i) => Math.min(view.volume[i] - 1, Math.max(0, v)));
  view.offset = Math.min(view.side / 2, Math.max(-view.side / 2, view.offset));
  ALL.forEach(lines);
  look(names.filter(name => name !== "oblique" || !whole()));
  if (whole()) drawSolid();
}

function cross(name, across, down) { // to a point of a panel, in shares of its sides
  const shown = UPRIGHT[name], place = placeAt(rectangle(name), across, down);
  for (const i of [shown.down, shown.across]) view.cross[i] = place[i];
  changed(...others(name));
}

const others = name => Object.keys(UPRIGHT).filter(other => other !== name);

function step(name, by) {
  if (name === "oblique") view.offset += by; else view.cross[UPRIGHT[name].normal] += by;
  changed(name);
}

function zoomCuts(factor) {
  const zoom = factor ? Math.min(64, Math.max(1, view.zoom * factor)) : 1;
  view.centre = zoom === 1 ? middle() : view.centre.map((v, i) => view.cross[i] + (v - view.cross[i]) * view.zoom / zoom);
  view.zoom = zoom;
  changed(...ALL);
}

function turn(right, down) { // radians
  const n = normal(), across = plus(times(view.across, Math.cos(right)), n, Math.sin(right)), tilted = plus(times(view.down, Math.cos(down)), n, Math.sin(down));
  view.across = unit(right ? across : view.across);
  view.down = unit(plus(tilted, view.across, -dot(tilted, view.across)));
  changed("oblique");
}

function enlarge(name) {
  for (const other of ALL) panels[other].figure.classList.toggle("large", other === name);
  changed(...ALL);
}

function panel(name) {
  const figure = words($("cuts"), "figure", ""), box = words(figure, "div", ""), shown = UPRIGHT[name];
  const canvas = words(box, "canvas", ""), svg = element("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none" }), caption = words(figure, "figcaption", "");
  const label = words(caption, "label", ""), text = words(label, "span", ""), slider = words(label, "input", ""), scale = words(box, "div", "");
  box.append(svg);
  Object.assign(box, { className: "cut", tabIndex: 0, id: "cut-" + name });
  scale.className = "scale";
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", shown ? "Cut at a " + NAMES[shown.normal] + ": arrows move the cross hair, page keys go through the volume" : "Oblique cut: arrows turn it, page keys move it");
  Object.assign(slider, { type: "range", step: "any" });
  slider.oninput = () => step(name, slider.valueAsNumber - (shown ? view.cross[shown.normal] : view.offset));
  panels[name] = { figure, canvas, lines: svg, slider, text, scale };
  if (!shown) svg.before(solid.canvas);
  const at = event => { const area = box.getBoundingClientRect(); return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]; };
  let from = null;
  const drag = event => {
    const to = at(event), moved = [to[0] - from[0], to[1] - from[1]];
    from = to;
    if (shown && event.shiftKey) { view.centre[shown.across] -= moved[0] * extent(); view.centre[shown.down] -= moved[1] * extent(); changed(...ALL); }
    else if ($("tool").value !== "cross") draft(name, to);
    else if (shown) cross(name, ...to);
    else turn(3 * moved[0], 3 * moved[1]);
  };
  box.onpointerdown = event => { from = at(event); box.setPointerCapture(event.pointerId); if (!event.shiftKey) draft(name, from, true); if (shown) drag(event); };
  box.onpointermove = event => { if (from) drag(event); point(name, ...at(event)); };
  box.onpointerup = box.onpointercancel = () => { from = null; };
  box.onpointerleave = help;
  box.ondblclick = () => enlarge(name);
  box.onwheel = event => {
    event.preventDefault();
    if (event.ctrlKey || event.shiftKey) zoomCuts(Math.exp(-(event.deltaY || event.deltaX) / 400)); else step(name, Math.sign(event.deltaY));
  };
  box.onkeydown = event => {
    const by = event.shiftKey ? 10 : 1, move = (x, y) => { if (!shown) return turn(.05 * by * x, .05 * by * y); view.cross[shown.across] += by * x; view.cross[shown.down] += by * y; return changed(...others(name)); };
    const keys = { ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1), PageUp: () => step(name, -by), PageDown: () => step(name, by),
      "+": () => zoomCuts(1.25), "=": () => zoomCuts(1.25), "-": () => zoomCuts(.8), "0": () => zoomCuts(0), Enter: () => enlarge(name), m: () => markHere(name), Escape: unmark };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  };
}

// The value under the cursor.
function point(name, across, down) {
  const { height, width, cut } = drawn[name] ?? {};
  if (!height || cut.layers > 1 || across < 0 || across >= 1 || down < 0 || down >= 1) return;
  const place = placeAt(cut, across, down), value = onShow(drawn[name])[Math.floor(down * height) * width + Math.floor(across * width)];
  $("value").textContent = place.map((v, i) => NAMES[i] + " " + v.toFixed(1)).join(", ") + ": " + (Number.isNaN(value) ? "outside" : attenuation(value));
}

function limits() {
  $("locked").checked = true;
  Object.assign(view, { low: $("low").valueAsNumber, high: $("high").valueAsNumber });
  ALL.forEach(paint);
}

const large = () => ALL.find(name => panels[name].figure.classList.contains("large"));
const help = () => { $("value").textContent = "wheel: through · Shift and wheel: zoom · Shift and drag: move · double click: large"; };

ALL.forEach(panel);
panels.row.figure.classList.add("large");
help();
document.onvisibilitychange = () => look([]);
$("low").onchange = $("high").onchange = limits;
$("locked").onchange = () => { if (!$("locked").checked) look(ALL); };

// ------------------------------------------------------------------------------------------- the whole volume

// Coarsely, in the oblique panel and turned as it is. The shaders are in the page.
const whole = () => $("solid").value !== "plane", level = () => $("solid").value === "surface" ? Math.min(.99, Math.max(.01, view.offset / view.side + .5)) : 0;

function box() {
  let coarser = 1;
  const voxels = () => view.volume.map(n => Math.max(1, Math.floor(n / coarser)));
  while (voxels().reduce((a, b) => a * b) > 7e5) coarser *= 1.02;
  const [layers, ...shape] = voxels(), [through, down, across] = view.volume.map((n, i) => times(along(i), n));
  return { corner: [-.5, -.5, -.5], through, down, across, layers, shape };
}

function openSolid() {
  const gl = solid.gl = solid.canvas.getContext("webgl2"), program = gl.createProgram();
  const add = (shader, id) => { gl.shaderSource(shader, $(id).textContent.trim()); gl.compileShader(shader); gl.attachShader(program, shader); };
  add(gl.createShader(gl.VERTEX_SHADER), "corners");
  add(gl.createShader(gl.FRAGMENT_SHADER), "rays");
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
  gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  solid.set = (kind, name, ...value) => gl["uniform" + kind](gl.getUniformLocation(program, name), ...value);
}

function fillSolid(values, { layers, shape }) {
  const { gl } = solid, grey = Uint8Array.from(values, v => Math.min(255, Math.max(0, 255 * (v - view.low) / (view.high - view.low) || 0)));
  gl.texImage3D(gl.TEXTURE_3D, 0, gl.R8, shape[1], shape[0], layers, 0, gl.RED, gl.UNSIGNED_BYTE, grey);
  drawSolid();
}

function drawSolid() {
  const { canvas, gl, set } = solid, half = Math.hypot(...view.volume) / 2;
  canvas.width = canvas.height = Math.max(32, Math.round(canvas.clientWidth * devicePixelRatio));
  gl.viewport(0, 0, canvas.width, canvas.height);
  set("Matrix3fv", "turned", false, [times(view.across, 1 / view.zoom), times(view.down, 1 / view.zoom), normal()].flatMap(edge => edge.reverse()));
  set("3f", "box", ...view.volume.map(n => n / half).reverse());
  set("1f", "level", level());
  gl.drawArrays(gl.TRIANGLES, 0, 3);
}

$("solid").onchange = () => {
  if (!solid.gl) openSolid();
  solid.canvas.hidden = !whole();
  if (drawn.oblique) drawn.oblique.height = 0; // what is there is of another kind
  changed(...ALL);
  look(["oblique"]);
};
$("solid").disabled = !document.createElement("canvas").getContext("webgl2");

// ------------------------------------------------------------------------------------------- measuring

// A line or a region in one panel, between two places; what is measured are the values that are shown.
let mark = null, held = null; // held: the limit that is dragged in the histogram
const graphed = { low: 0, high: 1 }; // the histogram's axis

const pixel = () => $("pixel").valueAsNumber > 0 ? $("pixel").valueAsNumber : null; // µm
const long = n => !pixel() ? number(n) + " pixels" : n * pixel() < 1000 ? number(n * pixel()) + " µm" : number(n * pixel() / 1000) + " mm";
const attenuation = (...v) => v.map(number).join(" ± ") + " per pixel" + (pixel() ? ", " + v.map(x => number(1e4 * x / pixel())).join(" ± ") + " per cm" : "");
const placeAt = ({ corner, across, down }, x, y) => plus(plus(corner, across, x), down, y);
const unmark = () => { mark = null; ALL.forEach(lines); measure(); };
const share = ({ corner, across, down }, place) => [across, down].map(edge => dot(plus(place, corner, -1), edge) / dot(edge, edge));

function draft(name, at, anew) { // the end of a mark, or of a new one, in shares of the panel's sides
  const place = placeAt(rectangle(name), ...at.map(v => Math.min(1, Math.max(0, v)))), tool = $("tool").value;
  if (tool !== "cross") { mark = { name, tool, from: anew ? place : mark.from, to: place }; ALL.forEach(lines); }
  measure();
}

function markHere(name) { // from the cross hair, and the next time to it
  const open = mark?.open;
  draft(name, share(rectangle(name), view.cross), !open);
  if (mark) mark.open = !open;
}

function drawScale(bar) { // 1, 2 or 5 times a power of ten, at most 40 % of a side
  const most = .4 * extent() * (pixel() ?? 1), decade = 10 ** Math.floor(Math.log10(most)), length = [5, 2, 1].find(k => k * decade <= most) * decade / (pixel() ?? 1);
  bar.style.width = 100 * length / extent() + "%";
  bar.textContent = long(length);
}

function profile({ width, height, values }, a, b) { // values along a line, one per shown pixel of it, interpolated
  const n = Math.max(2, Math.ceil(Math.hypot((b[0] - a[0]) * width, (b[1] - a[1]) * height)) + 1), limit = (v, most) => Math.min(most, Math.max(0, v));
  return Array.from({ length: n }, (_, i) => {
    const [x, y] = [0, 1].map(k => limit((a[k] + (b[k] - a[k]) * i / (n - 1)) * (k ? height : width) - .5, (k ? height : width) - 1)), left = Math.floor(x), top = Math.floor(y);
    const at = (down, along) => values[Math.min(height - 1, top + down) * width + Math.min(width - 1, left + along)], u = x - left, v = y - top;
    return (1 - v) * ((1 - u) * at(0, 0) + (u && u * at(0, 1))) + (v && v * ((1 - u) * at(1, 0) + (u && u * at(1, 1))));
  });
}

function inside({ width, height, values }, a, b) { // values of pixels whose centres are in a region
  const [left, right, top, bottom] = [[0, width], [1, height]].flatMap(([k, n]) => [Math.ceil(Math.min(a[k], b[k]) * n - .5001), Math.floor(Math.max(a[k], b[k]) * n + .5001)]);
  return values.filter((v, i) => i % width >= left && i % width < right && i >= top * width && i < bottom * width && Number.isFinite(v));
}

// What is drawn in the row's cut as [left, top, right, bottom] in whole voxels, the last two excluded.
function region() {
  if (mark?.name !== "row" || mark.tool !== "region") return null;
  const [a, b] = [Math.min, Math.max].map(end => [2, 1].map(i => end(mark.from[i], mark.to[i])));
  return [...a.map(v => Math.max(0, Math.ceil(v))), ...b.map((v, i) => Math.min(view.volume[2 - i], Math.floor(v) + 1))];
}


function measure() {
  const svg = $("graph"), width = svg.clientWidth, height = svg.clientHeight, raw = drawn[mark?.name ?? large()], shown = raw && { ...raw, values: onShow(raw) }, parts = [];
  if (!shown || !width) return;
  const limits = differing() ? [-past.limit, past.limit] : [view.low, view.high];
  const [a, b] = mark ? [mark.from, mark.to].map(place => share(shown.cut, place)) : [[0, 0], [1, 1]], line = mark?.tool === "line";
  const size = mark && [0, 1].map(k => Math.abs(b[k] - a[k]) * Math.hypot(...(k ? shown.cut.down : shown.cut.across)));
  const values = line ? profile(shown, a, b) : inside(shown, a, b), known = Float32Array.from(values).filter(Number.isFinite).sort(), at = q => known[Math.round(q * (known.length - 1))];
  if (line) {
    const [low, high] = [at(0), at(1)], points = values.map((v, i) => [width * i / (values.length - 1), height - 3 - (height - 6) * (high > low ? (v - low) / (high - low) : .5)]);
    parts.push(element("path", { class: "curve", d: points.map(([x, y], i) => Number.isNaN(y) ? "" : (i && !Number.isNaN(points[i - 1][1]) ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1)).join("") }));
    if (known.length) parts.push(element("text", { x: 2, y: 12 }, number(high)), element("text", { x: 2, y: height - 4 }, number(low)));
    $("measured").textContent = "Line of " + long(Math.hypot(...size)) + (known.length ? ": " + attenuation(low) + " to " + attenuation(high) : ": outside");
  } else if (known.length) {
    if (!held) Object.assign(graphed, { low: Math.min(at(.002), limits[0]), high: Math.max(at(.998), limits[1]) });
    const bins = new Array(Math.max(8, Math.round(width / 3))).fill(0), where = v => (v - graphed.low) / (graphed.high - graphed.low || 1);
    for (const v of known) { const i = Math.floor(where(v) * bins.length); if (i >= 0 && i < bins.length) bins[i]++; }
    const most = Math.sqrt(Math.max(1, ...bins)), step = width / bins.length;
    parts.push(element("path", { class: "bars", d: `M0 ${height}` + bins.map((n, i) => `L${(i * step).toFixed(1)} ${(height - (height - 4) * Math.sqrt(n) / most).toFixed(1)}h${step.toFixed(1)}`).join("") + `V${height}Z` }));
    for (const limit of limits) parts.push(element("line", { class: "edge", x1: width * where(limit), x2: width * where(limit), y1: 0, y2: height }));
    const mean = known.reduce((sum, v) => sum + v, 0) / known.length, deviation = Math.sqrt(known.reduce((sum, v) => sum + (v - mean) ** 2, 0) / Math.max(1, known.length - 1));
    const all = extent() > shown.width ? " shown at " + shown.width + " of " + extent() : "";
    $("measured").textContent = mark ? "Region of " + size.map(long).join(" × ") + ", " + known.length + " pixels" + all + ": " + attenuation(mean, deviation) : "";
  } else $("measured").textContent = "Region: nothing in it";
  svg.classList.toggle("profile", line);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

$("graph").onpointerdown = event => {
  if (mark?.tool === "line" || differing()) return;
  const at = valueAt(event);
  held = Math.abs(at - view.low) < Math.abs(at - view.high) ? "low" : "high";
  $("graph").setPointerCapture(event.pointerId);
  $("graph").onpointermove(event);
};
$("graph").onpointermove = event => { if (held) { $(held).value = number(valueAt(event)); limits(); } };
$("graph").onpointerup = $("graph").onpointercancel = () => { held = null; measure(); };
const valueAt = event => graphed.low + (graphed.high - graphed.low) * event.offsetX / $("graph").clientWidth;
$("tool").onchange = () => { if ($("tool").value === "cross") unmark(); };
$("pixel").onchange = () => { if (view.volume) ALL.forEach(lines); measure(); };

// ------------------------------------------------------------------------------------------- earlier images

// `image`: the number of the one that is looked at, 0 the newest; flipped: the newest is shown in its place for now.
const past = { image: 0, earlier: [], difference: false, flipped: false, limit: 0 }, ENDS = [[5, 80, 170], [190, 70, 0]];

function timeline(earlier) {
  const stop = earlier.findLastIndex(([image]) => image === past.image || past.image > 0 && image > 0 && image <= past.image);
  Object.assign(past, { earlier });
  $("when").max = earlier.length;
  $("when").value = past.image ? Math.max(0, stop) : earlier.length;
  $("moment").textContent = past.image && earlier.length ? earlier[Math.max(0, stop)][1] : "newest";
  $("past").hidden = !view.volume || !earlier.length;
}

function moment() {
  const [image] = past.earlier[$("when").valueAsNumber] ?? [0];
  if (image === past.image) return;
  Object.assign(past, { image, flipped: false });
  timeline(past.earlier);
  look(ALL);
}

const beside = () => $("compare").value === "beside" && past.image !== 0;
const differing = () => past.difference && past.image !== 0;

// The newest less the chosen one; or one of the two.
function onShow({ values, newest }) {
  if (!newest) return values;
  return past.difference ? newest.map((v, i) => v - values[i]) : past.flipped ? newest : values;
}

function compare(names) {
  past.difference = $("compare").value === "difference";
  if (differing() && !(past.limit && $("locked").checked) && ALL.every(name => drawn[name])) {
    const sizes = ALL.flatMap(name => [...onShow(drawn[name])].filter((v, i) => i % 7 === 0 && Number.isFinite(v)).map(Math.abs)).sort((a, b) => a - b);
    past.limit = sizes[Math.floor(.995 * sizes.length)] || 1e-9;
  }
  $("cuts").classList.toggle("beside", beside());
  $("beside").hidden = !beside();
  $("beside").querySelector("figcaption").textContent = past.image < 0 ? "finished volume, the same limits" : "newest, the same limits";
  $("between").textContent = !past.image ? "" : differing() ? "blue to orange ±" + number(past.limit) + " per pixel"
    : past.flipped ? "shown: newest" : "shown: " + $("moment").textContent;
  panels.row.text.textContent = "row " + ((past.image && drawn.row?.cut.corner) || view.cross)[0]; // of a stored run there are but some
  names.forEach(paint);
}

const flip = () => { past.flipped = !past.flipped && past.image !== 0; compare(ALL); };

$("when").oninput = moment;
$("compare").onchange = () => { past.flipped = false; compare(ALL); };
$("newest").onclick = () => { $("when").value = past.earlier.length; moment(); };
document.addEventListener("keydown", event => { if (event.key === "b" && !["text", "number"].includes(event.target.type)) flip(); });
setInterval(() => { if ($("compare").value === "blink" && past.image && !matchMedia("(prefers-reduced-motion: reduce)").matches) flip(); }, 1000);

// ------------------------------------------------------------------------------------------- curves

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Directions that projections were taken from, as a circle that fills; and the projections themselves.
function directions(data) {
  const known = run !== null && data.run === run;
  $("coverage").toggleAttribute("hidden", !known);
  $("projections").hidden = !known;
  if (!known) return;
  $("coverage").replaceChildren(...data.paths.map(([kind, d]) => element("path", { class: kind, d })), element("title", {}, data.text));
  projections();
}

// Fetch the chosen picture of them; when a run is over the last one stays on show.
async function projections() {
  if (!$("projections").open || $("link").textContent) return;
  const what = "projections/" + $("kind").value + "/" + Math.round(view.cross[0]) + "?viewer=" + viewer + "&token=" + encodeURIComponent(token);
  const data = await fetch(what).then(answer => answer.ok ? answer.json() : null).catch(() => null);
  if (data) Object.assign($("projections").querySelector("img"), { src: data.image, hidden: !data.image });
  if (data) $("projections").querySelector("p").textContent = data.text;
}
$("kind").onchange = $("projections").ontoggle = projections;

// ------------------------------------------------------------------------------------------- orders

const say = (className, textContent) => Object.assign($("said"), { className, textContent });
async function order(action, more) {
  say("", "…");
  let data;
  try {
    const answer = await fetch("order", { method: "POST", headers: { "X-Streamrecon-Token": token, "Content-Type": "application/json" },
      body: JSON.stringify({ action, run, ...more }) });
    data = await answer.json();
  } catch { data = { ok: false, text: "the live view's server does not answer" }; }
  say(data.ok ? "good" : "bad", data.text);
  if (data.ok && action === "region") unmark();
}

// Ask for a reason, and whether it is really wanted.
function ask(title, about, button, action, more) {
  asked = { action, more };
  for (const [id, text] of [["wanted", title], ["about", about + " Why? This is stored with the run."], ["really", button]]) $(id).textContent = text;
  $("reason").value = $("why").returnValue = "";
  $("alone").checked = false;
  $("rows").hidden = action !== "region";
  $("why").showModal();
}

$("why").onclose = () => {
  const { action, more } = asked, reason = $("reason").value.trim();
  asked = null;
  if ($("alone").checked) more.selection.rows = [Number($("this").textContent)];
  if ($("why").returnValue === "really" && reason) order(action, { reason, ...more });
};
$("finish").onclick = () => ask("Finish now", "The run ends as a success at the next projection.", "Finish the run", "finish", {});
$("axis").onclick = () => {
  const column = $("column").valueAsNumber;
  if (!Number.isFinite(column)) { say("bad", "the axis is to be a detector column, such as 511.5"); return; }
  ask("Correct the rotation axis", "All images are made anew about detector column " + column + ", and scores begin anew.", "Correct the axis", "axis", { axis: column });
};
$("region").onclick = () => {
  const drawn = region(), where = drawn ? `x ${drawn[0]} to ${drawn[2] - 1}, y ${drawn[1]} to ${drawn[3] - 1}` : "the whole view";
  $("this").textContent = Math.round((drawn ? mark.from : view.cross)[0]);
  ask("Judge by " + (drawn ? "this region" : "the whole view"), `Scores and predictions count in ${where} alone, and begin anew.`, "Judge by it", "region",
    { selection: { region: drawn, rows: [] } });
};
for (const id of ["hold", "release"]) $(id).onclick = () => order(id, {});
$("extend").onclick = () => order("extend", { count: Number($("count").value) });
if (new URLSearchParams(location.search).get("kiosk") === "1") document.body.classList.add("kiosk");

const events = new EventSource("events?token=" + encodeURIComponent(token));
events.onmessage = event => take(JSON.parse(event.data));
events.onerror = () => { $("link").textContent = "the live view's server does not answer"; $("orders").disabled = true; };
