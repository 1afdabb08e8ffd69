// Pointer input of the stage: mouse, pen, touch, and a cursor for the keyboard.
// Left button or one finger: tool. Right drag: window and level. Middle drag, two fingers, or Ctrl: move. Wheel: zoom, or slices.

const SPEED = 1 / 300; // share of the range of values for a CSS pixel of a right drag

export class Pointer {
  /** editor: { stage, tool, eraser, panning, wheel(direction), window(change), input() } */
  constructor(editor) {
    this.editor = editor;
    this.cursor = null;
    this.byKeyboard = false; // the cursor
    this.pressed = false; // of the keyboard
    this.pressedAt = null; // point of the keyboard's last press
    this.touches = new Map();
    this.gesture = null; // { kind: 'tool' | 'pan' | 'window' | 'pinch', ... }
    const { top } = editor.stage;
    top.addEventListener('pointerdown', (event) => this.down(event));
    top.addEventListener('pointermove', (event) => this.move(event));
    top.addEventListener('pointerup', (event) => this.up(event));
    top.addEventListener('pointercancel', (event) => this.cancelled(event));
    top.addEventListener('pointerleave', () => this.left());
    top.addEventListener('contextmenu', (event) => event.preventDefault());
    top.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
  }

  /** Whether a tool is at work. */
  get draws() { return this.pressed || this.gesture?.kind === 'tool'; }

  down(event) {
    const { editor } = this;
    event.preventDefault();
    editor.stage.top.focus({ preventScroll: true });
    editor.stage.top.setPointerCapture(event.pointerId);
    editor.input();
    if (!editor.stage.picture) return;
    if (event.pointerType === 'touch') {
      this.touches.set(event.pointerId, event);
      if (this.touches.size === 2) {
        this.stop();
        this.gesture = { kind: 'pinch', ...this.pinch() };
        return;
      }
    }
    if (this.gesture) return;
    const point = editor.stage.point(event);
    if (event.button === 2) this.gesture = { kind: 'window', last: event };
    else if (event.button === 1 || editor.panning || event.ctrlKey) this.gesture = { kind: 'pan', last: event };
    else if (event.button === 0 || event.button === 5) {
      // Button 5 is the eraser of a pen.
      this.gesture = { kind: 'tool', tool: event.button === 5 ? editor.eraser : editor.tool, id: event.pointerId };
      this.cursor = point;
      this.gesture.tool.down(point, event);
    }
    editor.stage.invalidate('marks');
  }

  move(event) {
    const { editor, gesture } = this, { stage } = editor;
    if (!stage.plane) return;
    if (event.pointerType === 'touch') this.touches.set(event.pointerId, event);
    if (gesture?.kind === 'pinch') {
      if (this.touches.size < 2) return; // one of the fingers has left
      const now = this.pinch();
      stage.panBy(now.x - gesture.x, now.y - gesture.y);
      stage.zoomBy(now.spread / gesture.spread, { clientX: now.x, clientY: now.y });
      Object.assign(gesture, now);
      return;
    }
    this.cursor = stage.point(event);
    this.byKeyboard = false;
    if (gesture?.kind === 'pan') stage.panBy(event.clientX - gesture.last.clientX, event.clientY - gesture.last.clientY);
    else if (gesture?.kind === 'window') editor.window((event.clientX - gesture.last.clientX) * SPEED, (event.clientY - gesture.last.clientY) * SPEED);
    else if (gesture?.kind === 'tool' && gesture.id === event.pointerId) {
      const all = event.getCoalescedEvents?.() ?? [];
      gesture.tool.move((all.length ? all : [event]).map((one) => stage.point(one)));
      editor.input();
    }
    if (gesture && gesture.kind !== 'tool') {
      gesture.last = event;
      editor.input();
    }
    stage.invalidate('marks');
  }

  up(event) {
    this.touches.delete(event.pointerId);
    const { gesture } = this;
    if (!gesture || (gesture.kind === 'pinch' && this.touches.size)) return;
    this.gesture = null;
    if (gesture.kind === 'tool') gesture.tool.up();
    this.editor.stage.invalidate('marks');
  }

  cancelled(event) {
    this.touches.delete(event.pointerId);
    this.stop();
  }

  /** Stop a gesture without its effect. */
  stop() {
    if (this.gesture?.kind === 'tool') this.gesture.tool.cancel();
    this.gesture = null;
    this.pressed = false;
  }

  left() {
    if (this.gesture) return;
    this.cursor = null;
    this.editor.stage.invalidate('marks');
  }

  wheel(event) {
    event.preventDefault();
    this.editor.wheel(event);
  }

  pinch() {
    const [a, b] = [...this.touches.values()];
    return { x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2, spread: Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)) };
  }

  // ---- keyboard ----

  /** Move the cursor by pixels of the plane; a pressed tool follows. */
  nudge(u, v) {
    const { plane } = this.editor.stage;
    if (!plane) return;
    this.byKeyboard = true;
    const from = this.cursor ?? { u: plane.width / 2, v: plane.height / 2 };
    this.cursor = { u: Math.max(0, Math.min(plane.width - 1, Math.round(from.u) + u)), v: Math.max(0, Math.min(plane.height - 1, Math.round(from.v) + v)) };
    if (this.pressed) this.editor.tool.move([this.cursor]);
    this.editor.stage.invalidate('marks');
  }

  /** Press the tool at the cursor, or release it. */
  press(event) {
    if (!this.editor.stage.plane || this.gesture) return;
    if (!this.cursor) this.nudge(0, 0);
    if (this.pressed) this.editor.tool.up();
    else {
      // Two presses at one point are a double click.
      const same = this.pressedAt?.u === this.cursor.u && this.pressedAt.v === this.cursor.v;
      this.editor.tool.down(this.cursor, { detail: same ? 2 : 1, shiftKey: event.shiftKey, altKey: event.altKey });
      this.pressedAt = this.cursor;
    }
    this.pressed = !this.pressed && !this.editor.tool.corners;
    this.editor.stage.invalidate('marks');
  }
}
