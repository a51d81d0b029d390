// The page around the timeline: connection, scores, events, health. All text goes in as text, never as markup.
const byId = (id) => document.getElementById(id);
const SLOTS = 14; // Bars; with more labels these show the ones that were highest lately.
const bytesOf = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const hueOf = (index) => HUES[index % HUES.length];

let hello = null, timeline = null, source = null, events = [], bars = [], peaks = [];
let heardAt = 0, aliveAt = 0, retryAt = 0, ended = false;

// --- connection ---------------------------------------------------------------------------------------------------

function connect() {
  source = new EventSource("events");
  const on = (kind, handle) => source.addEventListener(kind, (message) => {
    aliveAt = performance.now();
    handle(JSON.parse(message.data));
  });
  on("hello", begin);
  on("tick", tick);
  on("event", (event) => { addEvent(event); showEvents(); });
  on("health", showHealth);
  on("beat", () => {});
  on("lag", ({ dropped }) => { byId("lag").textContent = `${dropped} updates skipped: this connection is slow`; });
  on("end", () => { ended = true; disconnect(); });
  source.onerror = disconnect;
}

// EventSource's own retries end at the first refusal; these go on.
function disconnect() {
  if (source === null) return;
  source.close();
  source = null;
  retryAt = performance.now() + 1000 + 1000 * Math.random();
}

function watch() {
  const now = performance.now();
  if (source === null && now >= retryAt) connect();
  if (source !== null && hello !== null && now - aliveAt > 7000) disconnect();
  showState(now);
}

function showState(now) {
  const connected = source !== null && source.readyState === EventSource.OPEN && hello !== null && !ended;
  let state = ["connecting", "Connecting", "Connecting", "The stream answers in a moment."];
  if (connected && timeline.latest === null) {
    state = ["silent", "No audio yet", "Waiting for audio", "The picture begins with the first window of sound."];
  } else if (connected && now - heardAt > 3000) {
    state = ["silent", "No audio", null, null];
  } else if (connected) {
    state = ["live", "Live", null, null];
  } else if (ended) {
    state = ["ended", "Ended", "The stream has ended", "This page goes on when it starts again."];
  } else if (hello !== null) {
    state = ["lost", "Reconnecting", "Connection lost", "Trying again every second."];
  }
  byId("state").dataset.state = state[0];
  byId("state-text").textContent = state[1];
  byId("cover").classList.toggle("shown", state[2] !== null);
  byId("cover-title").textContent = state[2] ?? "";
  byId("cover-text").textContent = state[3] ?? "";
}

function begin(given) {
  hello = given;
  ended = false;
  heardAt = performance.now();
  if (timeline !== null) timeline.close();
  timeline = new Timeline(byId("timeline"), hello);
  document.title = `${hello.bundle_name} – edgeaudio`;
  byId("bundle").textContent = hello.bundle_name;
  byId("bundle").title = `${hello.bundle_name}, digest ${hello.bundle}…`;
  byId("source").textContent = byId("source").title = hello.source;
  byId("engine").textContent = hello.engine;
  byId("version").textContent = `edgeaudio ${hello.version}, bundle ${hello.bundle}`;
  byId("lag").textContent = "";
  makeBars();
  tick(hello.tick);
  events = [];
  hello.events.forEach(addEvent);
  showEvents();
  showHealth(hello.health);
}

function tick({ frames, scores }) {
  for (const [first, text] of frames) timeline.addFrames(first, bytesOf(text));
  for (const [t, text] of scores) {
    const values = bytesOf(text);
    timeline.addScores(t, values);
    values.forEach((value, index) => { peaks[index] = Math.max(value, peaks[index] * 0.98); });
    showScores(values);
  }
  if (frames.length) heardAt = performance.now();
}

// --- scores -------------------------------------------------------------------------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeBars() {
  peaks = new Float32Array(hello.labels.length);
  bars = hello.labels.slice(0, SLOTS).map((_, index) => {
    const bar = { row: element("li"), swatch: element("i"), name: element("span"), value: element("div", "value") };
    bar.fill = element("b");
    bar.on = element("u");
    bar.off = element("u", "off");
    const name = element("div", "name"), track = element("div", "bar");
    name.append(bar.swatch, bar.name);
    track.append(bar.fill, bar.off, bar.on);
    bar.row.append(name, bar.value, track);
    assign(bar, index);
    return bar;
  });
  byId("scores").replaceChildren(...bars.map((bar) => bar.row));
  const many = hello.labels.length > SLOTS;
  byId("scores-note").textContent = many ? `${SLOTS} of ${hello.labels.length} classes` : `${hello.labels.length} classes`;
  showLines();
}

function assign(bar, index) {
  bar.index = index;
  bar.name.textContent = bar.name.title = hello.labels[index];
  bar.swatch.style.background = bar.fill.style.background = hueOf(index);
  bar.on.style.left = `${100 * hello.thresholds_on[index]}%`;
  bar.off.style.left = `${100 * hello.thresholds_off[index]}%`;
  bar.on.title = `starts at ${hello.thresholds_on[index]}`;
  bar.off.title = `ends below ${hello.thresholds_off[index]}`;
  bar.value.textContent = "0.00";
}

function showLines() {
  timeline.shown = bars.map(({ index }) => ({ index, hue: hueOf(index) }));
}

function showScores(values) {
  for (const bar of bars) {
    const score = values[bar.index] / 255;
    bar.fill.style.transform = `scaleX(${score})`;
    bar.value.textContent = score.toFixed(2);
  }
}

// Labels keep their place; one that was higher lately takes the place of the lowest.
function reseat() {
  if (hello === null || hello.labels.length <= SLOTS) return;
  const seated = new Set(bars.map((bar) => bar.index));
  const waiting = [...peaks.keys()].filter((index) => !seated.has(index)).sort((a, b) => peaks[b] - peaks[a]);
  const lowest = [...bars].sort((a, b) => peaks[a.index] - peaks[b.index]);
  for (let i = 0; i < SLOTS && peaks[waiting[i]] > peaks[lowest[i].index] + 8; i++) assign(lowest[i], waiting[i]);
  showLines();
}

// --- events -------------------------------------------------------------------------------------------------------

function addEvent(event) {
  const index = hello.labels.indexOf(event.label);
  event.hue = index < 0 ? null : hueOf(index);
  const known = events.find((one) => one.label === event.label && one.t_start_s === event.t_start_s);
  if (event.event === "end" && known) Object.assign(known, { ...event, wall_time: known.wall_time });
  else events.unshift(event);
  events.length = Math.min(events.length, 100);
}

function showEvents() {
  const sounds = events.filter((event) => event.event !== "gap").length;
  byId("events").replaceChildren(...events.map(eventRow));
  byId("no-events").hidden = events.length > 0;
  byId("events-note").textContent = sounds ? `last ${sounds}` : "";
  const active = new Set(events.filter((event) => event.event === "start").map((event) => event.label));
  for (const bar of bars) bar.row.classList.toggle("on", active.has(hello.labels[bar.index]));
}

function eventRow(event) {
  const row = element("tr", event.event), sound = element("td");
  const time = element("td", "", new Date(event.wall_time).toLocaleTimeString([], { hour12: false }));
  time.title = `${event.wall_time}, ${clock(event.t_start_s)} in the stream`;
  if (event.event === "gap") {
    sound.textContent = "Audio lost";
  } else {
    const swatch = element("i");
    swatch.style.background = event.hue;
    sound.append(swatch, event.label);
  }
  const lasted = event.t_end_s === null ? "" : `${(event.t_end_s - event.t_start_s).toFixed(1)} s`;
  const length = element("td", "number", lasted);
  if (event.event === "start") length.append(element("span", "now", "now"));
  const score = element("td", "number", event.score === null ? "–" : event.score.toFixed(2));
  row.append(time, sound, length, score, element("td", "number wide", `${event.latency_ms.toFixed(0)} ms`));
  return row;
}

// --- health -------------------------------------------------------------------------------------------------------

const whole = (n) => n.toLocaleString("en").replaceAll(",", "\u2009");
const fixed = (digits) => (n) => n.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212");

// Name, field, text of the value, unit, and from where on it is worth a look.
const FIELDS = [
  ["Level", "level_dbfs", fixed(0), "dBFS", (v, h) => h.dead_input && "bad"],
  ["CPU", "cpu_percent", fixed(1), "%", (v) => v > 90 && "warn"],
  ["Real-time factor", "rtf", fixed(3), "", (v) => (v >= 1 ? "bad" : v > 0.7 && "warn")],
  ["Memory", "rss_bytes", (v) => fixed(0)(v / 2 ** 20), "MiB", () => false],
  ["Ring used", "ring_high_water", (v) => fixed(0)(100 * v), "%", (v) => v > 0.8 && "warn"],
  ["Windows", "hops", whole, "", () => false],
  ["Events", "events", whole, "", () => false],
  ["Gaps", "gaps", whole, "", (v) => v > 0 && "warn"],
  ["Samples lost", "dropped_samples", whole, "", (v) => v > 0 && "warn"],
  ["Overruns", "overruns", whole, "", (v) => v > 0 && "warn"],
  ["Not numbers", "nan_samples", whole, "", (v) => v > 0 && "warn"],
  ["Clipped", "clipped_fraction", (v) => fixed(2)(100 * v), "%", (v) => v > 0.001 && "warn"],
  ["DC offset", "dc_offset", fixed(3), "", (v) => Math.abs(v) > 0.05 && "warn"],
  ["Restarts", "engine_restarts", whole, "", (v) => v > 0 && "warn"],
  ["Reopened", "reopened", whole, "", (v) => v > 0 && "warn"],
  ["Clock drift", "drift_ppm", fixed(0), "ppm", (v) => Math.abs(v) > 500 && "warn"],
];

const cells = new Map();
for (const [name, field] of [...FIELDS, ["Exits", "exit_counts"]]) {
  const cell = element("div"), value = element("dd", "", "–");
  cell.append(element("dt", "", name), value);
  byId("health").append(cell);
  cells.set(field, { cell, value });
}

function showHealth(health) {
  if (health === null) return showWarnings(null);
  for (const [, field, text, unit, mark] of FIELDS) {
    const { cell, value } = cells.get(field), given = health[field] ?? null;
    cell.className = (given !== null && mark(given, health)) || "";
    value.replaceChildren(given === null ? "–" : text(given), element("small", "", unit && ` ${unit}`));
  }
  const exits = health.exit_counts, total = exits.reduce((sum, n) => sum + n, 0);
  cells.get("exit_counts").value.textContent = total ? exits.map((n) => `${Math.round((100 * n) / total)}`).join(" / ") : "none";
  cells.get("exit_counts").value.title = "share of windows that stopped at each exit, %";
  byId("uptime").textContent = clock(health.uptime_s);
  showWarnings(health.warnings);
}

function showWarnings(warnings) {
  const none = element("li", "fine", warnings === null ? "The first report comes within a second." : "No warnings.");
  byId("warnings").replaceChildren(...(warnings?.length ? warnings.map((text) => element("li", "", text)) : [none]));
  byId("health-note").textContent = warnings?.length ? `${warnings.length} warning${warnings.length > 1 ? "s" : ""}` : "";
}

// --- colours, clock -----------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)"), THEMES = ["Auto", "Light", "Dark"];
const remembered = () => { try { return localStorage.getItem("theme") ?? "Auto"; } catch { return "Auto"; } };

function paint(theme) {
  const isDark = theme === "Dark" || (theme === "Auto" && dark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  byId("theme").textContent = theme;
  byId("theme").title = theme === "Auto" ? "Colours: as the system has them" : `Colours: ${theme.toLowerCase()}`;
  if (timeline !== null) timeline.restyle();
}

byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(byId("theme").textContent) + 1) % THEMES.length];
  try { localStorage.setItem("theme", next); } catch { /* Private windows may refuse; the choice then lasts as long as the page. */ }
  paint(next);
});
dark.addEventListener("change", () => paint(remembered()));
paint(remembered());
showWarnings(null);

let drawnAt = performance.now();
function frame(now) {
  if (timeline !== null) {
    timeline.advance((now - drawnAt) / 1000);
    timeline.draw(events);
    byId("position").textContent = timeline.latest === null ? "\u00a0" : `last ${timeline.span} s, now at ${clock(timeline.latest)}`;
  }
  drawnAt = now;
  requestAnimationFrame(frame);
}

setInterval(watch, 250);
setInterval(reseat, 1000);
connect();
requestAnimationFrame(frame);
