// A flame graph of stacks: a bar for each frame, as wide as the share of samples it was seen in, below what it called.

const FRAME_HEIGHT = 21;

class FlameGraph {
  constructor(element, tip) {
    Object.assign(this, { element, tip, root: null, top: null });
    element.addEventListener("click", (event) => event.target.frame && this.focusOn(event.target.frame));
    element.addEventListener("keydown", (event) => this.onKey(event));
    for (const type of ["pointermove", "focusin"]) element.addEventListener(type, (event) => this.hover(event));
    for (const type of ["pointerleave", "focusout"]) element.addEventListener(type, () => (tip.hidden = true));
  }

  // Stacks as the trace has them: names of frames, and lists of their positions with how often each was seen.
  show({ frames, stacks }) {
    this.root = { name: "all", count: 0, inside: new Map(), parent: null, depth: 0 };
    for (const [stack, count] of stacks) {
      let frame = this.root;
      frame.count += count;
      for (const position of stack) {
        if (!frame.inside.has(position)) {
          frame.inside.set(position, { name: frames[position], count: 0, inside: new Map(), parent: frame, depth: frame.depth + 1 });
        }
        frame = frame.inside.get(position);
        frame.count += count;
      }
    }
    this.focusOn(this.root);
  }

  // All of the width to what is inside that frame; those around it above.
  focusOn(top) {
    const hadFocus = this.element.contains(document.activeElement);
    this.top = top;
    this.element.replaceChildren();
    let deepest = 0;
    const add = (frame, left, width) => {
      deepest = Math.max(deepest, frame.depth);
      const button = document.createElement("button");
      button.type = "button";
      button.frame = frame;
      frame.button = button;
      button.textContent = frame.name;
      button.setAttribute("role", "treeitem");
      button.setAttribute("aria-level", frame.depth + 1);
      button.setAttribute("aria-label", this.describe(frame));
      button.tabIndex = frame === top ? 0 : -1;
      button.classList.toggle("is-around", frame.depth < top.depth);
      Object.assign(button.style, { left: `${left}%`, width: `${width}%`, top: `${frame.depth * FRAME_HEIGHT}px` });
      this.element.append(button);
    };
    for (let frame = top.parent; frame; frame = frame.parent) add(frame, 0, 100);
    const addInside = (frame, left) => {
      const width = (frame.count / top.count) * 100;
      add(frame, left, width);
      for (const inner of [...frame.inside.values()].sort((a, b) => b.count - a.count)) {
        // What is narrower than a pixel is not worth an element.
        if (inner.count / top.count > 0.0008) addInside(inner, left);
        left += (inner.count / top.count) * 100;
      }
    };
    addInside(top, 0);
    this.element.style.height = `${(deepest + 1) * FRAME_HEIGHT}px`;
    if (hadFocus) top.button.focus();
  }

  describe(frame) {
    const share = (100 * frame.count) / this.root.count;
    return `${frame.name}: ${Number(share.toPrecision(3))} %, ${frame.count} samples`;
  }

  onKey(event) {
    const frame = event.target.frame;
    if (!frame) return;
    const siblings = [...this.element.children].map((each) => each.frame).filter((each) => each.parent === frame.parent);
    const at = siblings.indexOf(frame);
    const inner = [...frame.inside.values()].sort((a, b) => b.count - a.count)[0];
    const next = { ArrowUp: frame.parent, ArrowDown: inner, ArrowLeft: siblings[at - 1], ArrowRight: siblings[at + 1] }[event.key];
    if (event.key === "Escape") this.focusOn(this.root);
    else if (next?.button?.isConnected) next.button.focus();
    else return;
    event.preventDefault();
  }

  hover(event) {
    const frame = event.target.frame;
    this.tip.hidden = !frame;
    if (!frame) return;
    this.tip.textContent = this.describe(frame);
    const box = event.target.getBoundingClientRect();
    const width = this.tip.getBoundingClientRect().width;
    this.tip.style.left = `${Math.max(4, Math.min(event.clientX || box.left, innerWidth - width - 4))}px`;
    this.tip.style.top = `${box.bottom + 4}px`;
  }
}
