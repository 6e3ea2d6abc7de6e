"""Write the generated pages."""

from docs.generate import render_pages

for path, text in render_pages().items():
    path.write_text(text)
