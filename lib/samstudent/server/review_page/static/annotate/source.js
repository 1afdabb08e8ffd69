// Pixels of a case: planes as pictures, requested once, with their neighbours.

import { annotatePath, getBytes } from '../api.js';
import { RequestCache } from '../cache.js';
import { Picture } from './picture.js';
import { Plane } from './plane.js';

const MAX_PLANES = 40;

export class Source {
  /** data: response of `samstudent/annotate/<case>`. */
  constructor(data) {
    this.data = data;
    const reversed = (values) => [...values].reverse();
    this.size = [...reversed(data.size), 1].slice(0, 3);
    this.spacing = [...reversed(data.spacing), 1].slice(0, 3);
    this.planes = new RequestCache(MAX_PLANES);
  }

  plane(axis, index) {
    return new Plane(this.size, this.spacing, axis, index);
  }

  /** Promise of the picture of a plane. */
  picture(axis, index) {
    return this.planes.get(`${axis} ${index}`, async () => {
      const plane = this.plane(axis, index), { bytes, colour } = this.data.pixels;
      const content = await getBytes(annotatePath(this.data.case, '/pixels', { axis, index, image: this.data.image }));
      const values = bytes === 2 ? new Uint16Array(content) : new Uint8Array(content);
      if (plane.flipped) values.reverse();
      return new Picture(values, plane.width, plane.height, colour);
    });
  }
}
