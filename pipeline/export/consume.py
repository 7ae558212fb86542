"""Print what a video shows, over time: unzip the bundle, then python consume.py VIDEO"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

folder = Path(__file__).parent
model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
backbone, head = (onnxruntime.InferenceSession(str(folder / f"{name}.onnx")) for name in ("backbone", "head_step"))

video = cv2.VideoCapture(sys.argv[1])
num_frames = 0
while video.grab():
    num_frames += 1
fps = video.get(cv2.CAP_PROP_FPS) or 25
kind, value = model["sampling"].split(":")
indices = np.arange(num_frames)
if kind == "uniform" and num_frames > int(value):  # the middle frames of equal segments of the video
    indices = (2 * np.arange(int(value)) + 1) * num_frames // (2 * int(value))
elif kind in ("every", "fps"):  # the first frame of each beat
    beats = indices // int(value) if kind == "every" else np.floor(indices / fps * float(value) + 1e-6)
    indices = indices[np.diff(beats, prepend=-1) > 0]
wanted = set(indices[:: model["clips"]["stride"]])

state = {name: np.zeros((1, width), np.float32) for name, width in model["state"].items()}
video = cv2.VideoCapture(sys.argv[1])
for index in range(num_frames):
    if video.grab() and index in wanted:
        frame = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
        (features,) = backbone.run(None, {"frames": frame[None]})
        probabilities, *after = head.run(None, {"features": features[:1], **state})
        state = dict(zip(state, after, strict=True))
        best = probabilities[0].argmax()
        print(f"{index / fps:8.2f} s  {probabilities[0, best]:.3f}  {model['labels'][best]}")
