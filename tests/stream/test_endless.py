"""A long stream needs no more memory and no more time per frame than a short one."""

import dataclasses
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from models.cnn.preprocessing import Preprocessing
from pipeline.features.encoders import Encoder
from pipeline.recognizer.recognizer import Recognizer
from pipeline.stream.events import Segmenter, Thresholds
from pipeline.stream.lines import EventLines
from pipeline.stream.session import Answer, answers
from pipeline.stream.sources import Source, open_source
from pipeline.stream.timeline import Timeline

NUM_FRAMES, SETTLED = 90_000, 10_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_and_work_are_constant_over_an_hour(stream_run: Path, ffmpeg: str, tmp_path: Path) -> None:
    """After 90,000 frames, resident memory is within 5 % of that after 10,000, and a frame takes no longer."""
    path = tmp_path / "hour.avi"
    pictures = ("-f", "lavfi", "-i", f"testsrc=size=64x48:rate=25:duration={NUM_FRAMES // 25}")
    subprocess.run([ffmpeg, "-loglevel", "error", *pictures, "-c:v", "mpeg4", str(path)], check=True)
    loaded = Recognizer.load(stream_run, "cpu")
    # What is measured is everything but the CNN, whose work for one frame depends on no other frame.
    encoder = Encoder(lambda pixels: np.asarray(pixels).reshape(1, -1)[:, :96].astype(np.float16) / 255, 1, "none")
    preprocessing = Preprocessing(16, 16, "bilinear", (0.0,) * 3, (1.0,) * 3)
    recognizer = dataclasses.replace(loaded, encoder=encoder, preprocessing=preprocessing)
    lines = EventLines(lambda line: None, recognizer.labels, Segmenter(Thresholds()))
    timeline = Timeline(recognizer.labels)
    memory, seconds = [], [time.perf_counter()]
    for item in answers(open_source(Source.parse(str(path)), recognizer.tempo()), recognizer, 40):
        if isinstance(item, Answer):
            lines.answer(item)
            timeline.add(item)
            if lines.num_answers % SETTLED == 0:
                memory.append(psutil.Process().memory_info().rss / 2**20)
                seconds.append(time.perf_counter())
    spent = np.diff(seconds)
    print("MB:", np.round(memory, 1).tolist(), "seconds per 10,000 frames:", np.round(spent, 2).tolist())
    assert lines.num_answers == NUM_FRAMES
    assert memory[-1] < 1.05 * memory[0]
    assert spent[-3:].mean() < 1.5 * spent[1:4].mean()  # generous, for busy machines
    timeline.write(tmp_path / "hour.html", [], "hour")
    assert (tmp_path / "hour.html").stat().st_size < 3e6
