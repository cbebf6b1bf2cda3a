"""A photograph labelled by an ONNX file alone: no torch, no setr_lib. onnxruntime, numpy, Pillow.

python onnx_predict.py MODEL.onnx PHOTO OVERLAY.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
photo = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
small = photo.copy()
if base := (about["protocol"] or {}).get("base"):  # the size at which the network was scored
    small = ImageOps.contain(photo, base)
pixels = (np.asarray(small, np.float32) - about["mean"]) / about["std"]
images = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # (1,3,H,W)
(logits,) = session.run(None, {"images": images})  # (1,K,H,W)
label = Image.fromarray(logits[0].argmax(0).astype(np.uint8))
for number, count in enumerate(np.bincount(np.asarray(label).ravel())):
    if count:
        print(f"{about['classes'][number]:16}{100 * count / label.width / label.height:6.1f} %")
label.putpalette(np.array(about["palette"], np.uint8).tobytes())
colours = label.resize(photo.size).convert("RGB")
Image.blend(photo, colours, 0.5).save(sys.argv[3])
