"""Heat maps and boxes over a picture."""

import numpy as np
from PIL import Image

from albef.report.heatmap import CORRECT, outline, overlay


def test_heat_is_shown_where_it_is() -> None:
    plain = Image.new("RGB", (40, 40), (250, 250, 250))
    heat = np.array([[0, 0], [0, 1]], np.float32)
    pixels = np.asarray(overlay(plain, heat)).astype(int)
    assert (pixels[2, 2] > 240).all()
    assert pixels[35, 35, 0] > pixels[35, 35, 1] + 80  # red
    assert (np.asarray(overlay(plain, heat, peak=100.0)) > 200).all()
    assert overlay(plain, np.zeros((2, 2), np.float32)).tobytes() == plain.tobytes()


def test_an_outline_stays_in_the_image() -> None:
    thumbnail = Image.new("RGB", (30, 20), (0, 0, 0))
    outline(thumbnail, (-5, -5, 60, 60), CORRECT, width=1)
    ink = (np.asarray(thumbnail).astype(int) == CORRECT).all(-1)
    assert ink[0].all()
    assert ink[:, -1].all()
    assert not ink[5:-5, 5:-5].any()
