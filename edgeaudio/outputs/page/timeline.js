// One canvas: spectrogram, events and scores over the same seconds. Times are seconds of the stream.
class Timeline {
  constructor(canvas, hello) {
    this.canvas = canvas;
    this.hello = hello;
    this.bands = hello.mel_hz.length;
    this.span = 20;
    this.scores = []; // {t, v}: middle of the window, one byte per label.
    this.shown = []; // Labels whose lines are drawn.
    this.latest = null; // End of the newest frame.
    this.head = null; // What the right edge shows; follows `latest` smoothly.
    this.columns = Math.ceil(31 / hello.hop_s);
    this.image = document.createElement("canvas");
    this.image.width = this.columns;
    this.image.height = this.bands;
    this.pixels = this.image.getContext("2d");
    this.newest = -1; // Number of the newest frame that was drawn.
    this.observer = new ResizeObserver(() => this.measure());
    this.observer.observe(canvas);
    this.measure();
  }

  close() {
    this.observer.disconnect();
  }

  measure() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.ratio = ratio;
    this.narrow = box.width < 560;
    this.span = this.narrow ? 10 : 20;
    this.restyle();
  }

  restyle() {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue(name).trim();
    this.colours = { ink: named("--ink"), soft: named("--soft"), grid: named("--grid"), empty: named("--empty"),
      card: named("--card"), warn: named("--warn") };
    this.font = `11px ${named("--sans")}`;
  }

  // `bytes`: frames after each other, each one byte per band, the lowest first.
  addFrames(first, bytes) {
    const n = bytes.length / this.bands;
    if (first > this.newest + 1) this.clear(Math.max(this.newest + 1, first - this.columns), first);
    const data = this.pixels.createImageData(n, this.bands), out = data.data;
    for (let x = 0; x < n; x++) {
      for (let band = 0; band < this.bands; band++) {
        const from = 4 * bytes[x * this.bands + band], to = 4 * ((this.bands - 1 - band) * n + x);
        out[to] = MAGMA[from];
        out[to + 1] = MAGMA[from + 1];
        out[to + 2] = MAGMA[from + 2];
        out[to + 3] = 255;
      }
    }
    const at = first % this.columns;
    this.pixels.putImageData(data, at, 0);
    if (at + n > this.columns) this.pixels.putImageData(data, at - this.columns, 0);
    this.newest = first + n - 1;
    this.latest = (first + n) * this.hello.hop_s;
  }

  clear(first, end) {
    for (let at = first; at < end; at++) this.pixels.clearRect(at % this.columns, 0, 1, this.bands);
  }

  addScores(t, v) {
    this.scores.push({ t, v });
    while (this.scores[0].t < t - 32) this.scores.shift();
  }

  // Advance the right edge by `elapsed` seconds of the clock, pulled towards the newest frame.
  advance(elapsed) {
    if (this.latest === null) return;
    const behind = this.head === null ? Infinity : this.latest - this.head;
    if (Math.abs(behind) > 1.5) this.head = this.latest;
    else this.head += Math.max(0, Math.min(elapsed, behind + 0.25) + (behind - 0.12) * Math.min(1, 2 * elapsed));
  }

  draw(events) {
    const c = this.canvas.getContext("2d"), ratio = this.ratio;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    c.font = this.font;
    const left = 46, right = 46, axis = 34, lane = 44, gap = 10, top = 6;
    const high = this.height - top - axis - lane - 2 * gap, sound = Math.round(high * 0.62);
    this.x0 = left;
    this.x1 = this.width - right;
    this.end = this.head ?? this.span;
    const lanes = top + sound + gap, chart = lanes + lane + gap, bottom = this.height - axis;
    this.drawSound(c, top, sound);
    this.drawLanes(c, lanes, lane, events);
    this.drawChart(c, chart, bottom);
    this.drawGaps(c, top, bottom, events);
    this.drawTime(c, top, bottom);
  }

  x(t) {
    return this.x1 - ((this.end - t) / this.span) * (this.x1 - this.x0);
  }

  // Draw inside the plot area only.
  within(c, y, height, draw) {
    c.save();
    c.beginPath();
    c.rect(this.x0, y, this.x1 - this.x0, height);
    c.clip();
    draw();
    c.restore();
  }

  drawSound(c, y, height) {
    c.fillStyle = this.colours.empty;
    c.fillRect(this.x0, y, this.x1 - this.x0, height);
    const hop = this.hello.hop_s, from = Math.max(0, Math.floor((this.end - this.span) / hop));
    this.within(c, y, height, () => {
      c.imageSmoothingEnabled = true;
      c.imageSmoothingQuality = "high";
      for (let frame = from; frame <= this.newest; ) {
        const column = frame % this.columns, n = Math.min(this.columns - column, this.newest + 1 - frame);
        const x = this.x(frame * hop);
        c.drawImage(this.image, column, 0, n, this.bands, x, y, this.x(Math.min(frame + n, this.newest + 1) * hop) - x, height);
        frame += n;
      }
    });
    this.drawHertz(c, y, height);
    this.drawDecibels(c, y, height);
  }

  drawHertz(c, y, height) {
    const hz = this.hello.mel_hz;
    c.textAlign = "right";
    c.textBaseline = "middle";
    c.fillStyle = this.colours.soft;
    let below = Infinity;
    for (const tick of [125, 250, 500, 1000, 2000, 4000, 8000, 16000]) {
      if (tick < hz[0] || tick > hz[hz.length - 1]) continue;
      const above = hz.findIndex((centre) => centre >= tick);
      const band = above === 0 ? 0 : above - 1 + (tick - hz[above - 1]) / (hz[above] - hz[above - 1]);
      const at = y + height * (1 - (band + 0.5) / this.bands);
      if (at < y + 5 || at > Math.min(y + height - 3, below - 12)) continue;
      below = at;
      c.fillText(tick < 1000 ? `${tick} Hz` : `${tick / 1000} kHz`, this.x0 - 8, at);
      c.fillRect(this.x0 - 5, Math.round(at), 4, 1);
    }
  }

  drawDecibels(c, y, height) {
    const x = this.x1 + 8, wide = 8, steps = 64, { low_db: low, high_db: high } = this.hello;
    for (let i = 0; i < steps; i++) {
      const at = 4 * Math.round((i / (steps - 1)) * 255);
      c.fillStyle = `rgb(${MAGMA[at]},${MAGMA[at + 1]},${MAGMA[at + 2]})`;
      c.fillRect(x, y + height * (1 - (i + 1) / steps), wide, height / steps + 1);
    }
    c.textAlign = "left";
    c.fillStyle = this.colours.soft;
    const first = Math.ceil(low / 20) * 20;
    for (let db = first; db <= high; db += 20) {
      const at = y + height * (1 - (db - low) / (high - low));
      c.textBaseline = at < y + 5 ? "top" : at > y + height - 5 ? "bottom" : "middle";
      c.fillText(db === 0 ? "0 dB" : String(db).replace("-", "−"), x + wide + 4, Math.min(Math.max(at, y), y + height));
    }
  }

  drawLanes(c, y, height, events) {
    c.fillStyle = this.colours.soft;
    c.textAlign = "right";
    c.textBaseline = "middle";
    c.fillText("events", this.x0 - 8, y + height / 2);
    c.fillStyle = this.colours.empty;
    c.fillRect(this.x0, y, this.x1 - this.x0, height);
    const middle = this.hello.window_s / 2, row = height / 2;
    this.within(c, y, height, () => {
      const busyUntil = [-Infinity, -Infinity];
      for (const event of [...events].reverse()) {
        if (event.event === "gap") continue;
        const start = event.t_start_s + middle, end = (event.t_end_s ?? this.end) + middle;
        const lane = start >= busyUntil[0] ? 0 : 1;
        busyUntil[lane] = Math.max(busyUntil[lane], end);
        const from = Math.max(this.x(start), this.x0 - 8), to = Math.min(this.x(end), this.x1 + 8);
        if (to < this.x0 || from > this.x1) continue;
        c.fillStyle = event.hue;
        c.beginPath();
        c.roundRect(from, y + lane * row + 2, Math.max(2, to - from), row - 4, 3);
        c.fill();
        c.fillStyle = "#fff";
        c.textAlign = "left";
        const begin = Math.max(from, this.x0) + 6;
        c.font = `600 ${this.font}`;
        c.fillText(shortened(c, event.label, Math.min(to, this.x1) - begin - 5), begin, y + (lane + 0.5) * row + 0.5);
        c.font = this.font;
      }
    });
  }

  drawChart(c, y, bottom) {
    const height = bottom - y, at = (score) => bottom - score * height;
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const value of [0, 0.5, 1]) {
      c.fillStyle = this.colours.grid;
      c.fillRect(this.x0, Math.round(at(value)), this.x1 - this.x0, 1);
      c.fillStyle = this.colours.soft;
      c.fillText(value === 0.5 ? "0.5" : String(value), this.x0 - 8, at(value) + (value === 1 ? 3 : value === 0 ? -3 : 0));
    }
    this.drawThresholds(c, at);
    this.within(c, y - 2, height + 4, () => {
      const from = this.end - this.span - 1, scores = this.scores.filter(({ t }) => t >= from);
      const loud = ({ index }) => scores.some(({ v }) => v[index] >= 255 * this.hello.thresholds_on[index]);
      for (const line of this.shown) if (!loud(line)) this.drawLine(c, at, scores, line, 1.25, 0.5);
      for (const line of this.shown) if (loud(line)) this.drawLine(c, at, scores, line, 2, 1);
    });
  }

  drawLine(c, at, scores, { index, hue }, width, alpha) {
    c.lineJoin = "round";
    c.lineWidth = width;
    c.globalAlpha = alpha;
    c.strokeStyle = hue;
    c.beginPath();
    let before = -Infinity;
    for (const { t, v } of scores) {
      if (t - before > 1.5) c.moveTo(this.x(t), at(v[index] / 255));
      else c.lineTo(this.x(t), at(v[index] / 255));
      before = t;
    }
    c.stroke();
    c.globalAlpha = 1;
  }

  // Lines where all labels share them; otherwise each label's are on its bar alone.
  drawThresholds(c, at) {
    const same = (values) => values.every((value) => value === values[0]);
    const { thresholds_on: on, thresholds_off: off } = this.hello;
    if (!same(on) || !same(off)) return;
    c.strokeStyle = this.colours.soft;
    c.fillStyle = this.colours.soft;
    c.textAlign = "left";
    c.lineWidth = 1;
    const apart = Math.abs(at(on[0]) - at(off[0])) >= 11;
    for (const [value, name, dash] of [[on[0], "on", [5, 3]], [off[0], "off", [1, 3]]]) {
      const y = Math.round(at(value)) + 0.5;
      c.setLineDash(dash);
      c.beginPath();
      c.moveTo(this.x0, y);
      c.lineTo(this.x1, y);
      c.stroke();
      if (apart || name === "on") c.fillText(apart ? name : "on/off", this.x1 + 6, y);
    }
    c.setLineDash([]);
  }

  drawGaps(c, top, bottom, events) {
    this.within(c, top, bottom - top, () => {
      for (const event of events) {
        if (event.event !== "gap") continue;
        const from = this.x(event.t_start_s), to = Math.max(from + 2, this.x(event.t_end_s ?? event.t_start_s));
        if (to < this.x0) continue;
        c.fillStyle = this.colours.warn;
        c.globalAlpha = 0.25;
        c.fillRect(from, top, to - from, bottom - top);
        c.globalAlpha = 1;
        c.fillRect(from, top, 1, bottom - top);
      }
    });
  }

  drawTime(c, top, bottom) {
    const step = this.narrow ? 2 : 5, first = Math.ceil((this.end - this.span) / step) * step;
    c.textAlign = "center";
    c.textBaseline = "top";
    for (let t = Math.max(0, first); t <= this.end; t += step) {
      const x = this.x(t);
      c.fillStyle = this.colours.grid;
      c.fillRect(Math.round(x), bottom, 1, 5);
      c.fillStyle = this.colours.soft;
      if (x > this.x0 + 8 && x < this.x1 - 4) c.fillText(clock(t), x, bottom + 8);
    }
    c.textAlign = "left";
    c.fillText("time in the stream, min:s", this.x0, bottom + 22);
  }
}

// As much of `text` as is `width` wide; nothing where three letters do not fit.
function shortened(c, text, width) {
  if (c.measureText(text).width <= width) return text;
  for (let n = text.length - 1; n >= 3; n--) {
    const short = `${text.slice(0, n)}\u2026`;
    if (c.measureText(short).width <= width) return short;
  }
  return "";
}

// Seconds as m:ss, or h:mm:ss from an hour on.
function clock(seconds) {
  const s = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60);
  return s < 3600 ? `${minutes}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(minutes % 60)}:${two(s % 60)}`;
}
