// What the page does: reads the trace that it holds, and shows one map of it at a time.

const CALLER = 1, FIRST_WORKER = 2; // threads of a map in the trace, as trace.py numbers them

const byId = (id) => document.getElementById(id);

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function link(text, does) {
  const button = make("button", text);
  button.type = "button";
  button.className = "link";
  button.addEventListener("click", does);
  return button;
}

async function readTrace() {
  const packed = Uint8Array.from(atob(byId("trace").textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

// ---------------------------------------------------------------------------------- from events to lanes

const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const range = (start, stop) => (stop - start === 1 ? `index ${start}` : `indices ${start} to ${stop - 1}`);

function makeBar(event, lane, map) {
  const { args } = event;
  const [began, isCall] = [event.ts - map.ts, event.cat === "call"];
  const time = args.merged ? `${formatTime(args.busy)} in ${formatTime(event.dur)}` : formatTime(event.dur);
  const lines = [isCall ? range(args.start, args.stop) : event.name, time, lane.name];
  // Of chunks that are drawn in turn, each worker has some: what was merged need not be all of its range.
  const isPart = isCall && args.merged && (args.chunks ?? 1) * map.chunksize < args.stop - args.start;
  if (isCall && (args.chunks > 1 || isPart)) lines.push(`${count(args.chunks ?? 1, "chunk")}${isPart ? " of this range, others elsewhere" : ""}`);
  if (args.attempt) lines.push(args.attempt === 1 ? "run a second time" : `run again, attempt ${args.attempt + 1}`);
  lines.push(`began at ${formatTime(began)}`);
  return {
    lane, began, ended: began + event.dur, start: args.start, stop: args.stop, attempt: args.attempt ?? 0,
    kind: event.cat === "call" ? (args.attempt ? "again" : "call") : event.cat === "handing" ? "handing" : "phase",
    share: args.merged && event.dur ? args.busy / event.dur : 1,
    label: isCall && args.stop - args.start === 1 ? `${args.start}` : event.name, title: lines.join("\n"), isCall,
  };
}

// The lanes of each map by its pid: the caller's first, then those of workers by rank.
function makeLanes(trace) {
  const lanes = new Map();
  const maps = new Map(trace.otherData.maps.map((map) => [map.pid, map]));
  const laneOf = ({ pid, tid }) => {
    if (!lanes.has(pid)) lanes.set(pid, new Map());
    if (!lanes.get(pid).has(tid)) {
      const rank = tid - FIRST_WORKER, isWorker = tid !== CALLER;
      const label = isWorker ? `worker ${rank}` : "caller";
      lanes.get(pid).set(tid, { rank, isWorker, label, name: label, short: isWorker ? `${rank}` : "caller", bars: [], spans: [], deaths: [] });
    }
    return lanes.get(pid).get(tid);
  };
  for (const event of trace.traceEvents) {
    const map = maps.get(event.pid), zero = map.ts;
    if (event.ph === "M") {
      if (event.name === "thread_name") laneOf(event).name = event.args.name;
    } else if (event.ph === "i") {
      const { args } = event, lane = laneOf(event);
      const lost = args.stop > args.start ? `\nlost: ${range(args.start, args.stop)}` : "";
      lane.deaths.push({ at: event.ts - zero, ...args, title: `✕ process ${args.process} died${lost}\n${lane.name}` });
    } else if (event.cat === "span") {
      laneOf(event).spans.push({ began: event.ts - zero, ended: event.ts - zero + event.dur });
    } else {
      const lane = laneOf(event);
      lane.bars.push(makeBar(event, lane, map));
    }
  }
  return new Map([...lanes].map(([pid, mine]) => [pid, [...mine].sort(([a], [b]) => a - b).map(([, lane]) => lane)]));
}

// ---------------------------------------------------------------------------------- the page

class Page {
  constructor(text) {
    const trace = JSON.parse(text);
    this.maps = trace.otherData.maps;
    this.lanes = makeLanes(trace);
    this.timeline = new Timeline(byId("timeline"), byId("tip"), (bar) => this.say(bar ? bar.title.split("\n").join(" · ") : ""));
    this.flame = new FlameGraph(byId("flame"), byId("tip"));
    this.listMaps();
    byId("download").addEventListener("click", () => this.download(text));
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.find(byId("index").value);
    });
    for (const button of document.querySelectorAll("[data-does]")) {
      const does = { in: () => this.timeline.zoom(0.5), out: () => this.timeline.zoom(2), all: () => this.timeline.all() };
      button.addEventListener("click", does[button.dataset.does]);
    }
    // The longest is what one came for.
    this.show(this.maps.reduce((longest, map) => (map.dur > longest.dur ? map : longest)));
  }

  say(text) {
    byId("said").textContent = text;
  }

  listMaps() {
    byId("maps").hidden = this.maps.length < 2;
    const end = Math.max(...this.maps.map((map) => map.ts + map.dur));
    for (const map of this.maps) {
      const when = make("div");
      when.style.marginLeft = `${(100 * map.ts) / end}%`;
      when.style.width = `${(100 * map.dur) / end}%`;
      const cells = [make("td", "", link(`${map.pid}. ${map.verb} of ${map.func}`, () => this.show(map))),
        make("td", formatTime(map.dur)), make("td", map.n.toLocaleString("en")), make("td", "", when)];
      cells[1].className = cells[2].className = "number";
      cells[3].className = "when";
      map.row = make("tr", "", ...cells);
      byId("maps").querySelector("tbody").append(map.row);
    }
  }

  show(map) {
    this.map = map;
    for (const each of this.maps) each.row.setAttribute("aria-current", each === map);
    const list = byId("maps").querySelector(".scrolls");
    if (map.row.offsetTop < list.scrollTop || map.row.offsetTop > list.scrollTop + list.clientHeight - 60) list.scrollTop = map.row.offsetTop - 60;
    byId("map-title").textContent = `${map.verb} of ${map.func}${map.running ? ", still running" : ""}`;
    byId("facts").textContent = [formatTime(map.dur), count(map.n, "item"), `${count(map.chunks, "chunk")} of ${map.chunksize}`, `engine "${map.engine}"`].join(" · ");
    byId("advice").replaceChildren(...map.advice.map((text) => make("li", `→ ${text}`)));
    byId("failed").replaceChildren(...map.failed.map(({ start, stop, error }) =>
      make("li", "", link(range(start, stop), () => this.find(String(start))), `: ${error}`)));
    this.listSlowest(map);
    byId("stacks").hidden = !map.stacks?.stacks.length;
    if (map.stacks?.stacks.length) this.flame.show(map.stacks);
    this.say("");
    const lanes = this.lanes.get(map.pid) ?? [];
    const last = Math.max(map.dur, ...lanes.map((lane) => lane.bars.at(-1)?.ended ?? 0));
    byId("timeline").setAttribute("aria-label", `Timeline of ${map.func}: the caller and ${count(lanes.filter((lane) => lane.isWorker).length, "worker")}`);
    this.timeline.show(lanes, last);
  }

  listSlowest(map) {
    byId("slowest").hidden = !map.slowest.length;
    byId("slowest").querySelector("tbody").replaceChildren(...map.slowest.map((row) => {
      const bar = this.barOf(map, row);
      const name = row.stop - row.start === 1 ? `${row.start}` : `${row.start} to ${row.stop - 1}`;
      const began = bar ? formatTime(bar.began) : "";
      const cells = [make("td", "", link(name, () => bar && this.goTo([bar], bar))), make("td", formatTime(row.seconds * 1e6)),
        make("td", row.chunks.toLocaleString("en")), make("td", `${row.rank}`), make("td", began)];
      for (const at of [1, 2, 4]) cells[at].className = "number";
      return make("tr", "", ...cells);
    }));
  }

  // The bar of a slow row: of those of its worker that hold its range, the one whose length is nearest.
  barOf(map, { start, stop, rank, seconds }) {
    const bars = this.lanes.get(map.pid)?.find((lane) => lane.rank === rank)?.bars ?? [];
    const off = (bar) => Math.abs(bar.ended - bar.began - seconds * 1e6);
    return bars.filter((bar) => bar.isCall && bar.start <= start && stop <= bar.stop).sort((a, b) => off(a) - off(b))[0];
  }

  goTo(bars, bar) {
    this.timeline.goTo(bar);
    this.timeline.mark(bars);
    this.timeline.select(bar);
    byId("timeline").scrollIntoView({ block: "nearest" });
  }

  // Mark each bar that an index may be in, and go to the one that says most: of few indices, of the last run.
  find(text) {
    const index = Number(text);
    if (!/^\s*-?\d+\s*$/.test(text)) return this.say(`An index is a whole number, not "${text}".`);
    const lanes = this.lanes.get(this.map.pid) ?? [];
    const found = lanes.flatMap((lane) => lane.bars.filter((bar) => bar.isCall && bar.start <= index && index < bar.stop));
    if (!found.length) {
      this.timeline.mark([]);
      const death = lanes.flatMap((lane) => lane.deaths).find((each) => each.start <= index && index < each.stop);
      return this.say(death ? `Index ${index} was lost when process ${death.process} died.` : `No bar holds index ${index}.`);
    }
    found.sort((a, b) => a.stop - a.start - (b.stop - b.start) || b.attempt - a.attempt || a.ended - b.ended);
    this.goTo(found, found[0]);
    if (found.length > 1) this.say(`${byId("said").textContent} · marked are all ${found.length} bars that it may be in`);
  }

  download(text) {
    const anchor = make("a");
    anchor.download = "trace.json";
    anchor.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
  }
}

const isDark = matchMedia("(prefers-color-scheme: dark)");
const page = document.documentElement.classList.contains("is-empty") ? null : new Page(await readTrace());
isDark.addEventListener("change", () => page?.timeline.draw());
byId("theme").addEventListener("click", () => {
  const { dataset } = document.documentElement;
  dataset.theme = (dataset.theme ?? (isDark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
  page?.timeline.draw();
});
