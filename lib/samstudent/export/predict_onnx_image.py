"""Masks of an image by an exported student; needs onnxruntime, numpy and Pillow, not samstudent.

python predict_onnx.py model.onnx image.png masks.png
python predict_onnx.py model.onnx case_T1.png case_T2.png masks.png    # channels with names, in the order of model.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps


def read_pixels(path: str, channels: int, luminance: list[float]) -> NDArray[np.float32]:
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode not in ("1", "L", "I", "I;16", "F", "RGB"):
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    pixels = np.atleast_3d(np.asarray(picture, dtype=np.float32)).transpose(2, 0, 1)
    if channels == 1 and len(pixels) == 3:
        pixels = np.tensordot(np.array(luminance, dtype=np.float32), pixels, axes=1)[None]
    return np.repeat(pixels, channels // len(pixels), axis=0)  # (channels, y, x), as stored


def main(model: str, *files: str) -> None:
    *images, output = files
    description = json.loads(Path(model).with_suffix(".json").read_text(encoding="utf-8"))
    channels, each = description["image"]["channels"], description["image"]["files"]
    if len(images) != each:
        sys.exit(f"{len(images)} images; expected {each}: {', '.join(channels)}")
    parts = [read_pixels(image, len(channels) // each, description["image"]["luminance"]) for image in images]
    session = onnxruntime.InferenceSession(model)
    bounds = np.full(session.get_inputs()[1].shape, np.nan)
    masks = session.run(["masks"], {"pixels": np.concatenate(parts), "bounds": bounds})[0]  # uint8 (structures, y, x)
    if description["overlap"]:
        for name, mask in zip(description["structures"], masks, strict=True):
            Image.fromarray(255 * mask).save(Path(output).with_stem(f"{Path(output).stem}_{name}"))
    else:
        values = np.array([*description["structures"].values()], dtype=np.uint8)
        Image.fromarray((masks * values[:, None, None]).max(axis=0)).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
