"""The original code's parameter names, mapped to ours, for the parity fixtures."""

import re

RENAMES = (
    (r"^temp$", "temperature"),
    (r"^visual_encoder(_m)?\.(.*)$", r"model\1.image_encoder.vit.\2"),
    (r"^vision_proj(_m)?\.(.*)$", r"model\1.image_proj.\2"),
    (r"^text_proj(_m)?\.(.*)$", r"model\1.text_proj.\2"),
    (r"^text_encoder(_m)?\.(?:bert\.)?embeddings\.(.*)$", r"model\1.text_encoder.embeddings.\2"),
    (r"^text_encoder(_m)?\.cls\.predictions\.bias$", r"mlm_head\1.bias"),
    (r"^text_encoder(_m)?\.cls\.predictions\.transform\.(.*)$", r"mlm_head\1.\2"),
)
LAYER = re.compile(r"^text_encoder(_m)?\.(?:bert\.)?encoder\.layer\.(\d+)\.(.*)$")
TIED = re.compile(r"position_ids|cls\.predictions\.decoder|_queue$|queue_ptr")


def rename(name: str, text_layers: int) -> str | None:
    """Our name of an original parameter; None for what is tied or kept elsewhere."""
    if TIED.search(name):
        return None
    if match := LAYER.match(name):
        twin, index, rest = match[1] or "", int(match[2]), match[3]
        half = "text_encoder" if index < text_layers else "fusion_encoder"
        name = f"model{twin}.{half}.layer.{index - text_layers * (half[0] == 'f')}.{rest}"
    for pattern, ours in RENAMES:
        name, count = re.subn(pattern, ours, name)
        if count:
            break
    return re.sub(r"^(model_m|mlm_head_m)\.", r"\1.model.", name)
