"""Endpoints that create, fill and search image indexes."""

from typing import Annotated

from fastapi import Depends, Path, Response, UploadFile
from fastapi.routing import APIRouter
from pydantic import Field

from albef.serving.engine import current
from albef.serving.errors import BODY, ApiError, describe_errors
from albef.serving.indexes.index import ID, NAME, About, Index
from albef.serving.limits import BEST, IMAGES, INDEXES
from albef.serving.model_queues import ModelQueues
from albef.serving.routes.bodies import (
    FORM,
    Body,
    Images,
    Probability,
    ResponseBody,
    Text,
    read_files,
)

router = APIRouter(
    prefix="/v1/indexes", tags=["indexes"], responses=describe_errors(404, 409, 429, *BODY)
)
Name = Annotated[str, Path(pattern=NAME, description="Name of an index")]
Id = Annotated[str, Path(pattern=ID, description="Id of an image")]


class IndexInfo(Body):
    """An index of images."""

    name: str
    """Name of the index."""
    images: int
    """Number of its images."""
    run: str
    """The run whose model made its features."""
    usable: bool
    """True if the index can be searched. It is false while a new model still reads its images, and
    if the images have another size than the model's input."""
    read_only: bool
    """True if the index follows a folder. Clients cannot change it."""


class Indexes(Body):
    """All indexes."""

    indexes: list[IndexInfo]
    """The indexes, sorted by name."""


class AddForm(Body):
    """Images and their ids."""

    image: Images
    """Image files. Repeat the field for each image."""
    id: list[Annotated[str, Field(pattern=ID)]] = Field([], max_length=IMAGES)
    """Ids of the images. Repeat the field for each image, or leave it out to use the digests."""


class AddedImage(Body):
    """Result of an image file."""

    file: str
    """Name of the file, as it was sent."""
    id: str | None
    """Id of the image in the index; null if it was not added."""
    error: str | None
    """Reason why it was not added; null if it was."""


class Added(ResponseBody):
    """Images that were added to an index."""

    ids: list[str]
    """Ids of the added images, in order."""
    files: list[AddedImage]
    """One result for each file, in order."""
    images: int
    """Number of images in the index."""


class SearchForm(Body):
    """A query: a text or an image."""

    text: Text | None = None
    """Text to search for."""
    image: UploadFile | None = None
    """Image file to search for, instead of a text."""
    k: Annotated[int, Field(ge=1, le=BEST)] = 10
    """Maximum number of results."""
    rerank: Annotated[int, Field(ge=0, le=BEST)] = 0
    """Number of the most similar images that are read together with the text."""


class Hit(Body):
    """An image that was found."""

    id: str
    """Id of the image in its index."""
    similarity: float
    """Dot product of the features, from -1 to 1."""
    probability: Probability | None
    """Probability that the text is the caption of the image; null if they were not read
    together."""


class Hits(ResponseBody):
    """Images that were found."""

    results: list[Hit]
    """Results, the best first. Images that were read together with the text come first, sorted by
    probability. The others follow, sorted by similarity."""


def _reader() -> ModelQueues:
    return current().calls["embed_image"]


async def _existing(name: Name) -> Index:
    index = await current().store.run(current().store.get, name)
    if index is None:
        text = f"index {name} does not exist; create it with PUT"
        raise ApiError(404, text, code="no_such_index")
    return index


async def _usable(index: Annotated[Index, Depends(_existing)]) -> Index:
    name, indexes = index.about.name, current().indexes
    if index.serial in indexes.incompatible:
        text = f"index {name} has images for another input size than that of {_reader().name}"
        raise ApiError(409, f"{text}; delete it and add the images again", code="other_model")
    if not await indexes.is_up_to_date(index):
        text = f"{_reader().name} has not yet read all images of index {name}; retry after 5 s"
        raise ApiError(503, text, 5)
    return index


async def _check_writable(name: Name) -> None:
    if name == current().store.read_only:
        raise ApiError(
            409, f"index {name} follows a folder; change the files in that folder", code="read_only"
        )


Existing = Annotated[Index, Depends(_existing)]
Usable = Annotated[Index, Depends(_usable)]
_CHANGES = [Depends(_check_writable)]


async def _info(index: Index) -> IndexInfo:
    is_read = await current().indexes.is_up_to_date(index)
    return IndexInfo(
        name=index.about.name,
        images=await current().store.run(len, index),
        run=_reader().run if is_read else index.about.run,
        usable=is_read,
        read_only=index.about.name == current().store.read_only,
    )


def _no_image(index: Index, id: str) -> ApiError:
    return ApiError(404, f"index {index.about.name} has no image {id}", code="no_such_image")


@router.get("")
async def list_indexes() -> Indexes:
    """List all indexes."""
    every = await current().store.run(current().store.all)
    return Indexes(indexes=[await _info(index) for index in every])


@router.put("/{name}", dependencies=_CHANGES, responses={201: {"model": IndexInfo}})
async def create_index(name: Name, response: Response) -> IndexInfo:
    """Create an empty index; an existing one is not changed."""
    engine, queues = current(), _reader()
    index = await engine.store.run(engine.store.get, name)
    if index is None:
        if len(await engine.store.run(engine.store.all)) >= INDEXES:
            text = f"the server has {INDEXES} indexes already; delete one"
            raise ApiError(409, text, code="too_many_indexes")
        about = About(name, queues.space, queues.run, queues.model.facts.embed_dim)
        try:
            index = await engine.store.run(engine.store.create, about)
        except ValueError:
            text = f"the file of index {name} is damaged; the log has its path"
            raise ApiError(409, text, code="damaged") from None
        response.status_code = 201
    return await _info(await _usable(index))


@router.get("/{name}")
async def describe_index(index: Existing) -> IndexInfo:
    """Describe one index."""
    return await _info(index)


@router.delete("/{name}", status_code=204, dependencies=_CHANGES)
async def delete_index(index: Existing) -> None:
    """Delete an index and all its images."""
    await current().store.run(current().store.delete, index.about.name)


@router.post("/{name}/images", dependencies=_CHANGES)
async def add_images(index: Usable, form: Annotated[AddForm, FORM]) -> Added:
    """Add images. An image with an existing id replaces the old one.

    Files that are not valid images are left out, with the reason in `files`.
    """
    engine = current()
    if form.id and len(form.id) != len(form.image):
        counts = f"{len(form.id)} ids for {len(form.image)} images"
        raise ApiError(422, f"{counts}; send one id for each image, or none", param="id")
    if await engine.store.run(lambda: engine.store.memory) > engine.limits.indexes:
        text = "the memory for indexes is full; start the server with --indexes FOLDER"
        raise ApiError(409, text, code="full")
    images = await read_files(form.image)
    results = await engine.indexes.add(index, images, form.id or [None] * len(images))
    files = [
        AddedImage(file=image.filename or "", id=result, error=None)
        if isinstance(result, str)
        else AddedImage(file=image.filename or "", id=None, error=result.message)
        for image, result in zip(form.image, results, strict=True)
    ]
    ids = [file.id for file in files if file.id is not None]
    count = await engine.store.run(len, index)
    return Added(model=_reader().name, ids=ids, files=files, images=count)


@router.post("/{name}/search")
async def search_index(index: Usable, form: Annotated[SearchForm, FORM]) -> Hits:
    """Find the images that fit a text or an image best."""
    if (form.text is None) == (form.image is None):
        raise ApiError(422, "send either a text or an image to search for")
    query = await form.image.read() if form.image else form.text or ""
    results = [
        Hit(id=hit.id, similarity=hit.similarity, probability=probability)
        for hit, probability in await current().indexes.search(index, query, form.k, form.rerank)
    ]
    return Hits(model=_reader().name, results=results)


_JPEG = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/{name}/images/{id}", response_class=Response, responses={200: {"content": _JPEG}})
async def show_image(index: Existing, id: Id) -> Response:
    """Return the thumbnail of an image."""
    thumbnail = await current().store.run(index.thumbnail, id)
    if thumbnail is None:
        raise _no_image(index, id)
    return Response(thumbnail, media_type="image/jpeg")


@router.delete("/{name}/images/{id}", status_code=204, dependencies=_CHANGES)
async def delete_image(index: Existing, id: Id) -> None:
    """Remove an image."""
    if not await current().store.run(index.remove, [id]):
        raise _no_image(index, id)
