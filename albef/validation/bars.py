"""A histogram as inline SVG, coloured by the classes of the page around it."""

from html import escape

from albef.validation.content import Histogram

_WIDTH, _HEIGHT, _BASE = 280, 110, 88


def bars(histogram: Histogram) -> str:
    """The bars of each part side by side, with the edges of the first and last bin."""
    count = len(histogram.edges) - 1
    wide = _WIDTH / count
    most = max(max(own) for own in histogram.shares.values())
    body = []
    for i, (part, shares) in enumerate(histogram.shares.items()):
        each = 0.9 * wide / len(histogram.shares)
        for k, share in enumerate(shares):
            height = (_BASE - 4) * share / most
            label = f"{part}: {100 * share:.3g} % {_between(histogram, k)}"
            body.append(
                f'<rect class="part{i}" x="{k * wide + 0.05 * wide + i * each:.1f}" '
                f'y="{_BASE - height:.1f}" width="{each:.1f}" height="{height:.1f}">'
                f"<title>{escape(label)}</title></rect>"
            )
    first, last = histogram.edges[0], histogram.edges[-1]
    return (
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(histogram.what)}">{"".join(body)}'
        f'<line class="base" x1="0" x2="{_WIDTH}" y1="{_BASE}" y2="{_BASE}"/>'
        f'<text x="0" y="{_HEIGHT - 6}">{first:g}</text>'
        f'<text class="end" x="{_WIDTH}" y="{_HEIGHT - 6}">{last:,.10g}</text></svg>'
    )


def _between(histogram: Histogram, k: int) -> str:
    return f"from {histogram.edges[k]:g} to {histogram.edges[k + 1]:g}"
