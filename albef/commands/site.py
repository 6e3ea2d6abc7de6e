"""``albef site``: a static site that searches its images in the browser. No torch.

It has the page of ``albef serve``, whose calls are answered in the browser, the graphs, the images
with their features, and ONNX Runtime's web build from npm with its licences.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from albef.data.image_decoding import ImageError, decode
from albef.io import atomic, printable
from albef.runtime import load
from albef.runtime import manifest as manifests
from albef.runtime.matching import as_matching
from albef.runtime.sessions import CPU
from albef.serving.indexes.gallery import list_images
from albef.serving.indexes.reader import THUMBNAIL
from albef.serving.limits import BEST, IMAGES, TEXT, Limits

WEB = "1.30.0"
"""Tested version of npm's onnxruntime-web. Its first versions lack opset 23."""
_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob:; "
    "connect-src 'self' blob:"
)


def main(
    export: Path,
    gallery: Path,
    out: Path,
    questions: Path | None,
    precision: str | None,
    package: Path | None,
) -> None:
    """Write a site that searches images and answers questions about them.

    Args:
        export: export that searches.
        gallery: folder of the images.
        out: folder to write.
        questions: VQA export that answers questions; None leaves them out.
        precision: precision of the weights; None takes int8 if available, else the first of each
            export.
        package: file of npm's onnxruntime-web; None fetches it with npm.

    Raises:
        ValueError: ``out`` exists, ``gallery`` has no readable image, an export is of another kind,
            or the package cannot be read or fetched.
        ExportError: a folder is not an export, or lacks that precision.
    """
    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another folder")
    with atomic(out) as part:
        part.mkdir()
        search_model, about = _copy_export(export, part, precision)
        about["calls"] = sorted(as_matching(search_model, str(export)).calls)
        models = [about]
        if questions is not None:
            question_model, about = _copy_export(questions, part, precision)
            if question_model.main != "ask" or question_model.facts.answering.by != "rank":
                raise ValueError(f"--questions {questions}: not a VQA export that ranks a list")
            models.append(about | {"calls": ["ask"]})
        names = _write_images(search_model, gallery, part)
        (part / "site.json").write_text(json.dumps(_describe(models, names), indent=1) + "\n")
        for folder in ("web", "site"):  # The site's own api.js overwrites that of the page.
            for file in resources.files("albef.serving").joinpath(folder).iterdir():
                (part / file.name).write_bytes(file.read_bytes())
        page, head = part / "index.html", '<meta charset="utf-8">'
        policy = f'{head}\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        page.write_text(page.read_text().replace(head, policy))
        _unpack_web_build(part, package)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"{out}: {len(names)} images, {size / 1e6:.1f} MB; serve it with any static file server: "
        f"`python -m http.server --bind 127.0.0.1 --directory {out}`"
    )


def _describe(models: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Return the facts that the page needs, in the form of ``site.json``."""
    limits = Limits()
    return {
        "albef": metadata.version("albef-pipeline"),
        "onnxruntime": f"{WEB} (web)",
        "models": models,
        "calls": {call: each["run"] for each in models for call in each["calls"]},
        "limits": {
            "body_bytes": limits.body,
            "pixels": limits.pixels,
            "images": IMAGES,
            "text": TEXT,
            "best": BEST,
        },
        "images": names,
    }


def _copy_export(export: Path, part: Path, precision: str | None) -> tuple[Any, dict[str, Any]]:
    """Copy the needed files of an export; return the loaded model and the facts the page needs."""
    manifest = manifests.read(export)
    precision = precision or ("int8" if "int8" in manifest.precisions else manifest.precisions[0])
    model = load(export, [CPU], precision=precision)
    if not _is_read_by_text_js(model.tokenizer.tokenizer):
        raise ValueError(
            f"{export}: a site reads texts with BERT's uncased tokenizer only; use albef serve"
        )
    for name in [manifests.NAME, *manifests.needed_files(manifest, precision)]:
        target = part / manifest.run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(export / name, target)
    facts = manifest.model.model_dump(mode="json")
    facts |= {"run": manifest.run, "digest": model.digest, "precision": precision}
    return model, facts | {"preprocessing": manifest.preprocessing.model_dump(mode="json")}


def _is_read_by_text_js(tokenizer: Tokenizer) -> bool:
    state = json.loads(tokenizer.to_str())
    steps = state["normalizer"] or {}
    lower = [step.get("lowercase") for step in steps.get("normalizers", [steps])]
    return bool(state["model"]["type"] == "WordPiece" and lower[-1:] == [True])


def _write_images(model: Any, gallery: Path, part: Path) -> list[str]:
    """Write the images of a folder, numbered, and their features; return the names of the images.

    Each image is encoded alone, as in the browser. Images that cannot be read are skipped.
    """
    names: list[str] = []
    features, side = [], (model.facts.image_size,) * 2
    for folder in ("images", "squares"):
        (part / folder).mkdir()
    for name, path in list_images(gallery):
        try:
            image = decode(path.read_bytes(), str(path))
        except (ImageError, OSError) as error:
            print(f"{printable(str(path))} is skipped: {error}", file=sys.stderr)
            continue
        square = image if image.size == side else image.resize(side, Image.Resampling.BICUBIC)
        square.save(part / f"squares/{len(names)}.png")
        features.append(model.embed_image([square])[0])
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(part / f"images/{len(names)}.jpg", quality=85)
        names.append(name)
    if not names:
        raise ValueError(f"{gallery} has no image that can be read")
    np.stack(features).astype("<f4").tofile(part / "features.bin")
    return names


def _unpack_web_build(part: Path, package: Path | None) -> None:
    """Unpack ONNX Runtime's web build, and its licences from the installed runtime."""
    spec = f"onnxruntime-web@{WEB}"
    with tempfile.TemporaryDirectory() as scratch:
        if package is None:
            command = ["npm", "pack", "--silent", "--pack-destination", scratch, spec]
            try:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            except (FileNotFoundError, subprocess.CalledProcessError):
                raise ValueError(
                    f"npm cannot fetch {spec}; run `npm pack {spec}` on another machine and pass "
                    "the file with --package"
                ) from None
            (package,) = Path(scratch).glob("*.tgz")
        try:
            with tarfile.open(package) as tar:
                for name in _FILES:
                    file = tar.extractfile(f"package/dist/{name}")
                    assert file is not None
                    (part / name).write_bytes(file.read())
        except (OSError, tarfile.TarError, KeyError) as error:
            raise ValueError(f"--package {package} is not {spec}: {error}") from None
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copyfile(Path(onnxruntime.__file__).with_name(name), part / f"onnxruntime-{name}")
