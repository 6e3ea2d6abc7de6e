"""``albef site``: a static site that searches its images in the browser. No torch.

It has the page of ``albef serve``, whose calls are answered in the browser, the graphs, the images
with their features, and from npm ONNX Runtime's web build and Hugging Face's tokenizers.
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

from albef.data.image_decoding import ImageError, decode
from albef.io import atomic, printable
from albef.runtime import load
from albef.runtime import manifest as manifests
from albef.runtime.matching import as_matching
from albef.runtime.sessions import CPU
from albef.serving.indexes.gallery import list_images
from albef.serving.indexes.reader import THUMBNAIL
from albef.serving.limits import Limits

WEB = "1.30.0"
"""Tested version of npm's onnxruntime-web. Its first versions lack opset 23."""
_PACKAGES = {
    f"onnxruntime-web@{WEB}": {
        "dist/ort.wasm.min.mjs": "ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
    },
    "@huggingface/tokenizers@0.2.0": {
        "dist/tokenizers.min.mjs": "tokenizers.min.mjs",
        "LICENSE": "tokenizers-LICENSE",
    },
}
"""Packages of npm, and the names that their files get in the site."""
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
    packages: Path | None,
) -> None:
    """Write a site that searches the images of a folder and answers questions about them.

    ``precision`` is by default int8 if available, else the first of each export. ``packages`` is a
    folder of the files that ``npm pack`` makes.
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
        _unpack_packages(part, packages)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"{out}: {len(names)} images, {size / 1e6:.1f} MB; serve it with any static file server: "
        f"`python -m http.server --bind 127.0.0.1 --directory {out}`"
    )


def _describe(models: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    return {
        "albef": metadata.version("albef-pipeline"),
        "onnxruntime": f"{WEB} (web)",
        "models": models,
        "calls": {call: each["run"] for each in models for call in each["calls"]},
        "limits": Limits().described(),
        "images": names,
    }


def _copy_export(export: Path, part: Path, precision: str | None) -> tuple[Any, dict[str, Any]]:
    manifest = manifests.read(export)
    precision = precision or ("int8" if "int8" in manifest.precisions else manifest.precisions[0])
    model = load(export, [CPU], precision=precision)
    for name in manifests.needed_files(manifest, precision):
        target = part / manifest.run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(export / name, target)
    if model.answers:  # They are not cleaned, unlike what tokenizer.json reads.
        ids, mask = model.tokenizer.encode(model.answers, model.facts.max_tokens, end=True)
        kept = (row[:count].tolist() for row, count in zip(ids, mask.sum(1), strict=True))
        answers = [{"text": t, "ids": i} for t, i in zip(model.answers, kept, strict=True)]
        (part / manifest.run / manifests.ANSWERS).write_text(json.dumps(answers))
    facts = manifest.model.model_dump(mode="json")
    facts |= {"run": manifest.run, "digest": model.digest, "precision": precision}
    return model, facts | {"preprocessing": manifest.preprocessing.model_dump(mode="json")}


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


def _unpack_packages(part: Path, packages: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if packages is None:
            command = ["npm", "pack", "--silent", "--pack-destination", scratch, *_PACKAGES]
            try:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            except (FileNotFoundError, subprocess.CalledProcessError):
                raise ValueError(
                    f"npm cannot fetch the packages; run `npm pack {' '.join(_PACKAGES)}` on "
                    "another machine and pass the folder of its files with --packages"
                ) from None
        for package, files in _PACKAGES.items():
            packed = package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"
            path = (packages or Path(scratch)) / packed
            try:
                with tarfile.open(path) as tar:
                    for source, name in files.items():
                        file = tar.extractfile(f"package/{source}")
                        assert file is not None
                        (part / name).write_bytes(file.read())
            except (OSError, tarfile.TarError, KeyError) as error:
                raise ValueError(f"--packages: {path} is not {package}: {error}") from None
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copyfile(Path(onnxruntime.__file__).with_name(name), part / f"onnxruntime-{name}")
