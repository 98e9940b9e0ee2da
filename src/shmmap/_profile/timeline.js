// The timeline of one map on a canvas: a row for the caller, and one for each worker.
//
// Times are microseconds since the map was called. A lane is {label, name, bars, spans, deaths}; its bars are
// {began, ended, kind, title, ...}, sorted, and do not overlap. Only the part between view.from and view.to is
// drawn, and bars narrower than a pixel are added up: a pixel is as dark as its worker was busy.

const AXIS = 22; // height of the axis, in CSS pixels
const SHORTEST = 0.05; // the view is no shorter than 50 ns

function formatTime(us) {
  const [unit, size] = us >= 1e6 ? ["s", 1e6] : us >= 1e3 ? ["ms", 1e3] : us >= 1 ? ["µs", 1] : ["ns", 1e-3];
  if (us === 0) return "0";
  return `${Number((us / size).toPrecision(4))} ${unit}`;
}

// The first of the sorted bars that ends after that time; bars.length if none does.
function firstEndingAfter(bars, time) {
  let low = 0, high = bars.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bars[middle].ended > time) high = middle; else low = middle + 1;
  }
  return low;
}

class Timeline {
  constructor(canvas, tip, onSelect) {
    Object.assign(this, { canvas, tip, onSelect, lanes: [], total: 1, view: { from: 0, to: 1 }, marked: [], selected: null });
    this.context = canvas.getContext("2d");
    this.listen();
  }

  show(lanes, total) {
    Object.assign(this, { lanes, total, view: { from: 0, to: total }, marked: [], selected: null });
    this.draw();
  }

  // ------------------------------------------------------------------------------ where one looks

  look(from, to) {
    const length = Math.min(this.total, Math.max(SHORTEST, to - from));
    const start = Math.min(Math.max(0, from), this.total - length);
    this.view = { from: start, to: start + length };
    this.tip.hidden = true;
    this.draw();
  }

  zoom(factor, at = (this.view.from + this.view.to) / 2) {
    const { from, to } = this.view;
    if (to - from <= SHORTEST && factor < 1) return;
    this.look(at - (at - from) * factor, at + (to - at) * factor);
  }

  pan(time) {
    this.look(this.view.from + time, this.view.to + time);
  }

  all() {
    this.look(0, this.total);
  }

  // Have the bar in view: in the middle, a tenth of the width at least, unless the view is better already.
  goTo(bar) {
    const length = Math.max(SHORTEST, bar.ended - bar.began);
    const middle = (bar.began + bar.ended) / 2;
    const width = Math.min(this.view.to - this.view.from, length * 10);
    this.look(middle - Math.max(width, length * 1.5) / 2, middle + Math.max(width, length * 1.5) / 2);
  }

  mark(bars) {
    this.marked = bars;
    this.draw();
  }

  select(bar) {
    this.selected = bar;
    this.draw();
    this.onSelect(bar);
  }

  // The neighbour of the selected bar in its row, or what another row had at that time.
  step(along, across) {
    const lanes = this.lanes.filter((lane) => lane.bars.length);
    if (!lanes.length) return;
    const { from, to } = this.view;
    let lane = lanes.indexOf(this.selected?.lane), bar;
    if (lane < 0) {
      lane = lanes.findIndex((each) => each.isWorker);
      lane = lane < 0 ? 0 : lane;
      bar = lanes[lane].bars[Math.min(firstEndingAfter(lanes[lane].bars, from), lanes[lane].bars.length - 1)];
    } else if (across) {
      const { bars } = lanes[Math.min(Math.max(0, lane + across), lanes.length - 1)];
      bar = bars[Math.min(firstEndingAfter(bars, (this.selected.began + this.selected.ended) / 2), bars.length - 1)];
    } else {
      const { bars } = lanes[lane];
      bar = bars[Math.min(Math.max(0, bars.indexOf(this.selected) + along), bars.length - 1)];
    }
    if (bar.ended <= from || bar.began >= to) this.pan((bar.began + bar.ended - from - to) / 2);
    this.select(bar);
  }

  // ------------------------------------------------------------------------------ mouse and keyboard

  listen() {
    const { canvas } = this;
    let grabbed = null;
    canvas.addEventListener("wheel", (event) => {
      const isSideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
      // Where all is in view, turning the wheel further scrolls the page.
      if (!isSideways && event.deltaY > 0 && this.view.to - this.view.from >= this.total) return;
      event.preventDefault();
      const turned = (event.deltaMode ? 30 : 1) * (isSideways ? event.deltaX || event.deltaY : event.deltaY);
      if (isSideways) this.pan((turned / this.width) * (this.view.to - this.view.from));
      else this.zoom(Math.exp(Math.max(-300, Math.min(300, turned)) / 400), this.timeAt(event.offsetX));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      grabbed = { x: event.clientX, view: this.view, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!grabbed) return this.hover(event);
      const moved = event.clientX - grabbed.x;
      grabbed.moved ||= Math.abs(moved) > 3;
      if (!grabbed.moved) return;
      canvas.classList.add("is-dragged");
      const time = (-moved / this.width) * (grabbed.view.to - grabbed.view.from);
      this.look(grabbed.view.from + time, grabbed.view.to + time);
    });
    const release = (event) => {
      if (grabbed && !grabbed.moved && event.type === "pointerup") this.select(this.barAt(event.offsetX, event.offsetY));
      grabbed = null;
      canvas.classList.remove("is-dragged");
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    canvas.addEventListener("dblclick", (event) => this.enlarge(this.barAt(event.offsetX, event.offsetY)));
    canvas.addEventListener("keydown", (event) => {
      const length = this.view.to - this.view.from;
      const does = {
        "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2),
        ArrowLeft: () => this.pan(-length / 5), ArrowRight: () => this.pan(length / 5),
        0: () => this.all(), Home: () => this.look(0, length), End: () => this.look(this.total - length, this.total),
        n: () => this.step(1, 0), p: () => this.step(-1, 0),
        ArrowDown: () => this.step(0, 1), ArrowUp: () => this.step(0, -1),
        Enter: () => this.enlarge(this.selected), Escape: () => this.select(null),
      }[event.key];
      if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      does();
    });
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  enlarge(bar) {
    if (bar) this.look(bar.began - (bar.ended - bar.began) / 4, bar.ended + (bar.ended - bar.began) / 4);
  }

  hover(event) {
    const text = this.describe(event.offsetX, event.offsetY);
    this.tip.hidden = !text;
    if (!text) return;
    this.tip.textContent = text;
    const { width, height } = this.tip.getBoundingClientRect();
    this.tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`;
    this.tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  }

  timeAt(x) {
    return this.view.from + ((x - this.gutter) / this.width) * (this.view.to - this.view.from);
  }

  xAt(time) {
    return this.gutter + ((time - this.view.from) / (this.view.to - this.view.from)) * this.width;
  }

  laneAt(y) {
    return this.lanes[Math.floor((y - AXIS) / this.rowHeight)];
  }

  // The bar at that place, or the nearest one within 3 pixels; null if there is none.
  barAt(x, y) {
    const lane = this.laneAt(y);
    if (!lane || x < this.gutter) return null;
    const after = firstEndingAfter(lane.bars, this.timeAt(x));
    const distance = (bar) => Math.max(this.xAt(bar.began) - x, x - this.xAt(bar.ended), 0);
    const near = [lane.bars[after - 1], lane.bars[after]].filter((bar) => bar && distance(bar) <= 3);
    return near.sort((a, b) => distance(a) - distance(b))[0] ?? null;
  }

  // What a tooltip says of that place: a death, a bar, or how long nothing was done.
  describe(x, y) {
    const lane = this.laneAt(y);
    if (!lane) return "";
    const death = lane.deaths.find((each) => Math.abs(this.xAt(each.at) - x) < 6);
    if (death) return death.title;
    const bar = this.barAt(x, y);
    if (bar || x < this.gutter) return bar ? bar.title : lane.name;
    const after = firstEndingAfter(lane.bars, this.timeAt(x));
    const [left, right] = [lane.bars[after - 1], lane.bars[after]];
    if (!left || !right) return `${lane.name}\n${lane.bars.length && lane.isWorker ? "waiting" : "nothing"}`;
    return `${lane.name}\nnothing for ${formatTime(right.began - left.ended)}`;
  }

  // ------------------------------------------------------------------------------ drawing

  colour(name) {
    // Through a style, which knows whether the page is light or dark.
    this.canvas.style.color = `var(--${name})`;
    return getComputedStyle(this.canvas).color;
  }

  draw() {
    const { canvas, context, lanes } = this;
    const across = canvas.clientWidth;
    if (!across || !lanes.length) return;
    canvas.dataset.view = `${this.view.from} ${this.view.to}`; // for whoever drives the page by a program
    this.rowHeight = Math.max(4, Math.min(26, Math.floor(900 / lanes.length)));
    this.gutter = across < 600 ? 46 : 92;
    this.width = across - this.gutter - 4;
    const down = AXIS + lanes.length * this.rowHeight + 8;
    const ratio = Math.min(devicePixelRatio || 1, 16_000 / down);
    canvas.style.height = `${down}px`;
    canvas.width = Math.round(across * ratio);
    canvas.height = Math.round(down * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.colours = {};
    for (const name of ["ink", "soft", "line", "call", "again", "handing", "span", "phase", "on-bar", "dead", "mark", "back"]) {
      this.colours[name] = this.colour(name);
    }
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    this.drawAxis(down);
    lanes.forEach((lane, row) => this.drawLane(lane, AXIS + row * this.rowHeight));
    for (const bar of this.marked) this.drawMark(bar, 2);
    if (this.selected) this.drawMark(this.selected, 2);
    this.drawPosition(down);
  }

  drawAxis(down) {
    const { context, colours, view } = this;
    const about = (view.to - view.from) / Math.max(2, this.width / 110);
    const power = 10 ** Math.floor(Math.log10(about));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= about);
    context.textAlign = "center";
    for (let tick = Math.ceil(view.from / step); tick * step <= view.to; tick++) {
      const x = this.xAt(tick * step);
      context.fillStyle = colours.line;
      context.fillRect(Math.round(x), AXIS - 4, 1, down - AXIS - 4);
      // Not cut off at either edge.
      const text = formatTime(Number((tick * step).toPrecision(12)));
      const half = context.measureText(text).width / 2;
      context.fillStyle = colours.soft;
      context.fillText(text, Math.min(Math.max(x, half), this.gutter + this.width + 4 - half), AXIS / 2 - 1);
    }
  }

  drawLane(lane, y) {
    const { context, colours, rowHeight } = this;
    const gap = rowHeight > 10 ? 2 : 0.5;
    const [top, height] = [y + gap, rowHeight - 2 * gap];
    context.textAlign = "left";
    context.fillStyle = colours.soft;
    // As many labels as there is room for.
    const every = Math.ceil(13 / rowHeight);
    if (!lane.isWorker || lane.rank % every === 0) context.fillText(this.gutter < 60 ? lane.short : lane.label, 0, y + rowHeight / 2 + 0.5);
    context.save();
    context.beginPath();
    context.rect(this.gutter, y, this.width + 4, rowHeight);
    context.clip();
    context.fillStyle = colours.span;
    for (const span of lane.spans) context.fillRect(this.xAt(span.began), top, this.xAt(span.ended) - this.xAt(span.began), height);
    this.drawBars(lane, top, height);
    for (const death of lane.deaths) this.drawCross(this.xAt(death.at), y + rowHeight / 2, Math.max(3, Math.min(6, rowHeight / 3)));
    context.restore();
  }

  drawBars({ bars }, top, height) {
    const { context, colours, view, gutter } = this;
    const dense = new Float32Array(Math.ceil(this.width) + 2);
    for (let i = firstEndingAfter(bars, view.from); i < bars.length && bars[i].began < view.to; i++) {
      const bar = bars[i];
      const left = Math.max(this.xAt(bar.began), gutter - 1);
      const right = Math.min(this.xAt(bar.ended), gutter + this.width + 4);
      const width = right - left;
      if (width < 1.5 && bar.kind === "call") {
        const [a, b] = [left - gutter, right - gutter];
        const [first, last] = [Math.max(0, Math.floor(a)), Math.max(0, Math.floor(b))];
        dense[first] += (first === last ? b - a : first + 1 - a) * bar.share;
        if (first !== last) dense[last] += (b - last) * bar.share;
        continue;
      }
      context.globalAlpha = 0.3 + 0.7 * bar.share;
      context.fillStyle = colours[bar.kind];
      // Apart from the next one, where there is room.
      context.fillRect(left, top, Math.max(1, width > 4 ? width - 1 : width), height);
      context.globalAlpha = 1;
      if (bar.kind === "again") this.drawEdges(left, top, Math.max(1, width - 1), height);
      if (width > 14 && height > 11) this.drawText(bar.label, left + 4, top + height / 2 + 0.5, width - 8);
    }
    context.fillStyle = colours.call;
    dense.forEach((share, x) => {
      if (!share) return;
      context.globalAlpha = Math.min(1, 0.15 + 0.85 * share);
      context.fillRect(gutter + x, top, 1, height);
    });
    context.globalAlpha = 1;
  }

  // What was run again is told from the rest without its colour too.
  drawEdges(x, y, width, height) {
    this.context.fillStyle = this.colours.mark;
    this.context.fillRect(x, y, width, 2);
    this.context.fillRect(x, y + height - 2, width, 2);
  }

  drawText(text, x, y, width) {
    if (this.context.measureText(text).width > width) return;
    this.context.fillStyle = this.colours["on-bar"];
    this.context.fillText(text, x, y);
  }

  drawCross(x, y, size) {
    const { context, colours } = this;
    for (const [colour, width] of [[colours.back, 5], [colours.dead, 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(x - size, y - size);
      context.lineTo(x + size, y + size);
      context.moveTo(x + size, y - size);
      context.lineTo(x - size, y + size);
      context.stroke();
    }
  }

  // An outline, and above it a triangle on the axis that is seen however narrow the bar is.
  drawMark(bar, width) {
    const { context, colours, gutter } = this;
    const left = Math.max(this.xAt(bar.began), gutter);
    const right = Math.min(this.xAt(bar.ended), gutter + this.width + 4);
    if (right < gutter || left > gutter + this.width + 4) return;
    const y = AXIS + this.lanes.indexOf(bar.lane) * this.rowHeight;
    context.strokeStyle = context.fillStyle = colours.mark;
    context.lineWidth = width;
    context.strokeRect(left - 1, y + 1, Math.max(2, right - left) + 1, this.rowHeight - 2);
    const middle = (left + right) / 2;
    context.beginPath();
    context.moveTo(middle, AXIS);
    context.lineTo(middle - 5, AXIS - 7);
    context.lineTo(middle + 5, AXIS - 7);
    context.fill();
  }

  // A thin line below all: which part of the whole is in view.
  drawPosition(down) {
    const { context, colours, view, total, gutter } = this;
    if (view.to - view.from >= total) return;
    context.fillStyle = colours.line;
    context.fillRect(gutter, down - 4, this.width, 3);
    context.fillStyle = colours.soft;
    context.fillRect(gutter + (view.from / total) * this.width, down - 4, Math.max(3, ((view.to - view.from) / total) * this.width), 3);
  }
}
