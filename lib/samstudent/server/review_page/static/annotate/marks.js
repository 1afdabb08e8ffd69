// Marks above the masks: outlines of tools, prompts of SAM, and the crosshair at the cursor.

/** Sizes of the crosshair: length of an arm in CSS pixels, from the gap in the middle. */
export const CROSSHAIRS = { full: Infinity, large: 60, small: 14, off: 0 };
const GAP = 4; // CSS pixels around the cursor that stay free

/** Stroke the path in white on black, visible on any image. */
export function outlined(context, dashes) {
  context.setLineDash(dashes);
  context.lineWidth = 3;
  context.strokeStyle = 'rgb(0 0 0 / 60%)';
  context.stroke();
  context.lineWidth = 1.3;
  context.strokeStyle = '#fff';
  context.stroke();
  context.setLineDash([]);
}

export function dot(context, { x, y }, radius, colour) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
}

export function sign(context, { x, y }, positive) {
  dot(context, { x, y }, 7, positive ? '#0072b2' : '#d55e00');
  context.beginPath();
  context.moveTo(x - 4, y);
  context.lineTo(x + 4, y);
  if (positive) {
    context.moveTo(x, y - 4);
    context.lineTo(x, y + 4);
  }
  context.lineWidth = 2;
  context.strokeStyle = '#fff';
  context.stroke();
}

/** Crosshair of a size of CROSSHAIRS at the cursor; the full one goes over the whole image, without a gap. */
export function crosshair(context, stage, cursor, size) {
  const { x, y } = stage.toScreen(cursor), arm = CROSSHAIRS[size] * stage.ratio, gap = arm === Infinity ? 0 : GAP * stage.ratio;
  if (!arm) return;
  const { width, height } = stage.top, line = (from, to) => {
    context.moveTo(...from);
    context.lineTo(...to);
  };
  const left = Math.max(0, x - gap - arm), right = Math.min(width, x + gap + arm), top = Math.max(0, y - gap - arm), bottom = Math.min(height, y + gap + arm);
  context.beginPath();
  line([left, y], [x - gap, y]);
  line([x + gap, y], [right, y]);
  line([x, top], [x, y - gap]);
  line([x, y + gap], [x, bottom]);
  if (arm !== Infinity) {
    outlined(context, []);
    return;
  }
  context.lineWidth = 1;
  context.strokeStyle = 'rgb(255 255 255 / 45%)';
  context.stroke();
}
