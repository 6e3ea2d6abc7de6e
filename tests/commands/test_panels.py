import numpy as np
from PIL import Image

from albef.commands.panels import SIDE, Panel, draw_panels, fit


def test_a_long_caption_below_a_narrow_image_stays_in_its_column() -> None:
    narrow = fit(Image.new("RGB", (100, 300), "red"))
    caption = "a looker-on catches a motocross bike on its side while another races by"
    page = np.asarray(draw_panels("bikes", [Panel(narrow, caption, "0.409 · photos-test-0469")]))
    ink = (page < 200).any(axis=2)
    image_bottom = np.flatnonzero((page == (255, 0, 0)).all(axis=2).any(axis=1)).max()
    caption_columns = np.flatnonzero(ink[image_bottom + 1 :].any(axis=0))
    column_start = 18
    assert column_start <= caption_columns.min()
    assert caption_columns.max() < column_start + SIDE
