"""Indexes of pictures."""

from collections.abc import Collection
from typing import Annotated

from fastapi import Depends, File, Form, Path, Response, UploadFile
from fastapi.routing import APIRouter
from pydantic import Field

from albef.serving import bodies
from albef.serving.bodies import Images, Route, Text, read_files
from albef.serving.engine import current
from albef.serving.errors import BODY, Problem, describe_errors
from albef.serving.indexes.gallery import GALLERY
from albef.serving.indexes.index import ID, NAME, About, Index
from albef.serving.indexes.store import Store
from albef.serving.limits import BEST, INDEXES, PICTURES
from albef.serving.model_queues import ModelQueues

Name = Annotated[str, Path(pattern=NAME, description="Of an index")]
Id = Annotated[str, Path(pattern=ID, description="Of a picture")]


def index_routes(calls: Collection[str], store: Store, has_gallery: bool) -> APIRouter:
    """Making, filling and searching indexes; the gallery is the folder's, if one is followed."""
    router = APIRouter(prefix="/v1/indexes", route_class=Route, tags=["indexes"])
    if "embed_image" not in calls:
        return router

    def reader() -> ModelQueues:
        return current().calls["embed_image"]

    async def existing(name: Name) -> Index:
        index = await current().stored(store.get, name)
        if index is None:
            raise Problem(404, f"there is no index {name}", code="no_such_index")
        return index

    async def usable(index: Annotated[Index, Depends(existing)]) -> Index:
        name = index.about.name
        if index.serial in current().unfit:
            text = (
                f"the index {name} was made by another model (run {index.about.run}), which reads "
                f"another size than {reader().name}; delete it and add its pictures again"
            )
            raise Problem(409, text, code="other_model")
        if not await current().has_read(index):
            text = f"{reader().name} has not yet read all pictures of the index {name}"
            raise Problem(503, text, 5)
        return index

    def is_gallery(name: str) -> bool:
        return has_gallery and name == GALLERY

    async def writable(name: Name) -> None:
        if is_gallery(name):
            raise Problem(409, "the gallery follows its folder", code="read_only")

    async def info(index: Index) -> bodies.IndexInfo:
        is_read = await current().has_read(index)
        return bodies.IndexInfo(
            name=index.about.name,
            pictures=await current().stored(len, index),
            run=reader().run if is_read else index.about.run,
            usable=is_read,
            read_only=is_gallery(index.about.name),
        )

    Existing = Annotated[Index, Depends(existing)]
    Usable = Annotated[Index, Depends(usable)]
    changes = [Depends(writable)]

    @router.get("", responses=describe_errors())
    async def list_indexes() -> bodies.Indexes:
        """All indexes."""
        return bodies.Indexes(
            indexes=[await info(index) for index in await current().stored(store.all)]
        )

    @router.put(
        "/{name}",
        dependencies=changes,
        responses={**describe_errors(409, 422), 201: {"model": bodies.IndexInfo}},
    )
    async def create_index(name: Name, response: Response) -> bodies.IndexInfo:
        """Make an empty index; one that is there already stays as it is."""
        index = await current().stored(store.get, name)
        if index is None:
            if len(await current().stored(store.all)) >= INDEXES:
                raise Problem(409, f"there are {INDEXES} indexes already", code="too_many_indexes")
            queues = reader()
            about = About(name, queues.space, queues.run, queues.model.facts.embed_dim)
            index = await current().stored(store.create, about)
            response.status_code = 201
        return await info(await usable(index))

    @router.get("/{name}", responses=describe_errors(404, 422))
    async def describe_index(index: Existing) -> bodies.IndexInfo:
        """One index."""
        return await info(index)

    @router.delete(
        "/{name}", status_code=204, dependencies=changes, responses=describe_errors(404, 409, 422)
    )
    async def delete_index(index: Existing) -> None:
        """Delete an index with all its pictures."""
        await current().stored(store.delete, index.about.name)

    @router.post(
        "/{name}/images", dependencies=changes, responses=describe_errors(404, 409, 429, *BODY)
    )
    async def add_images(
        index: Usable,
        image: Images,
        id: Annotated[
            list[Annotated[str, Field(pattern=ID)]] | None,
            Form(
                max_length=PICTURES,
                description="What each is called, a field for each picture; without, by its digest",
            ),
        ] = None,
    ) -> bodies.Added:
        """Add pictures; one whose name is there already is replaced."""
        if id and len(id) != len(image):
            counts = f"{len(image)} pictures and {len(id)} names"
            raise Problem(422, f"{counts}: one for each, or none")
        if await current().stored(lambda: store.memory) > current().limits.indexes:
            text = "the indexes have filled their memory; start the server with --indexes FOLDER"
            raise Problem(409, text, code="full")
        names: list[str | None] = [*id] if id else [None] * len(image)
        ids = await current().add_pictures(index, await read_files(image), names)
        return bodies.Added(
            model=reader().name, ids=ids, pictures=await current().stored(len, index)
        )

    @router.post("/{name}/search", responses=describe_errors(404, 409, 429, *BODY))
    async def search_index(
        index: Usable,
        text: Annotated[Text | None, Form(description="What to look for")] = None,
        image: Annotated[
            UploadFile | None, File(description="A picture like which to look, in place of a text")
        ] = None,
        k: Annotated[int, Form(ge=1, le=BEST, description="How many")] = 10,
        rerank: Annotated[
            int,
            Form(
                ge=0,
                le=BEST,
                description="So many of the most similar are read together with the text",
            ),
        ] = 0,
    ) -> bodies.Hits:
        """The pictures that fit a text or a picture best."""
        if (text is None) == (image is None):
            raise Problem(422, "send a text or an image to look for")
        query = text if text is not None else await image.read() if image else b""
        results = [
            bodies.Hit(id=hit.id, similarity=hit.similarity, probability=probability)
            for hit, probability in await current().search(index, query, k, rerank)
        ]
        return bodies.Hits(model=reader().name, results=results)

    @router.get(
        "/{name}/images/{id}",
        response_class=Response,
        responses={
            **describe_errors(404, 422),
            200: {
                "description": "A small copy of the picture",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            },
        },
    )
    async def show_image(index: Existing, id: Id) -> Response:
        """A small copy of a picture."""
        thumbnail = await current().stored(index.thumbnail, id)
        if thumbnail is None:
            raise _no_image(index, id)
        return Response(thumbnail, media_type="image/jpeg")

    @router.delete(
        "/{name}/images/{id}",
        status_code=204,
        dependencies=changes,
        responses=describe_errors(404, 409, 422),
    )
    async def delete_image(index: Existing, id: Id) -> None:
        """Take a picture out."""
        if not await current().stored(index.remove, [id]):
            raise _no_image(index, id)

    return router


def _no_image(index: Index, id: str) -> Problem:
    return Problem(404, f"the index {index.about.name} has no picture {id}", code="no_such_image")
