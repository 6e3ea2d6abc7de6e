"""Indexes of pictures."""

from typing import Annotated

from fastapi import Depends, File, Form, Path, Response, UploadFile
from fastapi.routing import APIRouter
from pydantic import Field

from albef.serving import bodies
from albef.serving.bodies import Text
from albef.serving.engine import Engine
from albef.serving.errors import BODY, Problem, told
from albef.serving.gallery import GALLERY
from albef.serving.index import ID, NAME, Index
from albef.serving.limits import BEST, INDEXES, PICTURES
from albef.serving.routes.forms import Images, Route, read

Name = Annotated[str, Path(pattern=NAME, description="Of an index")]
Id = Annotated[str, Path(pattern=ID, description="Of a picture")]


def indexes(engine: Engine, gallery: bool) -> APIRouter:
    """Making, filling and searching indexes; the gallery is the folder's, if one is followed."""
    router = APIRouter(prefix="/v1/indexes", route_class=Route, tags=["indexes"])
    if "embed_image" not in engine.calls:
        return router
    served, store = engine.calls["embed_image"].served, engine.store

    async def find(name: Name) -> Index:
        index = await engine.stored(store.get, name)
        if index is None:
            raise Problem(404, "no_such_index", f"there is no index {name}")
        return index

    async def usable(index: Annotated[Index, Depends(find)]) -> Index:
        if index.space != served.space:
            raise Problem(
                409,
                "other_model",
                f"the index {index.name} was made by another model (run {index.run}) than "
                f"{served.name}; delete it and add its pictures again",
            )
        return index

    def writable(name: str) -> None:
        if gallery and name == GALLERY:
            raise Problem(409, "read_only", "the gallery follows its folder")
        if store.folder is None:
            raise Problem(
                409, "read_only", "this server keeps no indexes; start it with --indexes FOLDER"
            )

    async def info(index: Index) -> bodies.IndexInfo:
        return bodies.IndexInfo(
            name=index.name,
            pictures=await engine.stored(len, index),
            run=index.run,
            usable=index.space == served.space,
            approximate=index.approximate,
            read_only=store.folder is None or (gallery and index.name == GALLERY),
        )

    Found = Annotated[Index, Depends(find)]
    Usable = Annotated[Index, Depends(usable)]

    @router.get("", responses=told())
    async def list_indexes() -> bodies.Indexes:
        """All indexes."""
        found = await engine.stored(store.all)
        return bodies.Indexes(indexes=[await info(index) for index in found])

    @router.put("/{name}", responses={**told(409, 422), 201: {"model": bodies.IndexInfo}})
    async def create_index(name: Name, response: Response) -> bodies.IndexInfo:
        """Make an empty index; one that is there already stays as it is."""
        writable(name)
        index = await engine.stored(store.get, name)
        if index is None:
            if len(await engine.stored(store.all)) >= INDEXES:
                raise Problem(409, "too_many_indexes", f"there are {INDEXES} indexes already")
            width = served.facts.embed_dim
            index = await engine.stored(store.create, name, served.space, served.run, width)
            response.status_code = 201
        return await info(await usable(index))

    @router.get("/{name}", responses=told(404, 422))
    async def describe_index(index: Found) -> bodies.IndexInfo:
        """One index."""
        return await info(index)

    @router.delete("/{name}", status_code=204, responses=told(404, 409, 422))
    async def delete_index(index: Found) -> None:
        """Delete an index with all its pictures."""
        writable(index.name)
        await engine.stored(store.delete, index.name)

    @router.post("/{name}/images", responses=told(404, 409, 429, *BODY))
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
        writable(index.name)
        if id and len(id) != len(image):
            raise Problem(
                422, "invalid", f"{len(image)} pictures and {len(id)} names: one for each, or none"
            )
        ids = await engine.indexed(index, await read(image), id or [None] * len(image))
        count = await engine.stored(len, index)
        return bodies.Added(model=served.name, ids=ids, pictures=count)

    @router.post("/{name}/search", responses=told(404, 409, 429, *BODY))
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
            raise Problem(422, "invalid", "send a text or an image to look for")
        query = text if text is not None else await image.read() if image else b""
        found = await engine.search(index, query, k, rerank)
        results = [
            bodies.Hit(id=own.id, similarity=own.similarity, probability=own.probability)
            for own in found
        ]
        return bodies.Hits(model=served.name, results=results)

    @router.get(
        "/{name}/images/{id}",
        response_class=Response,
        responses={
            **told(404, 422),
            200: {
                "description": "A small copy of the picture",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            },
        },
    )
    async def show_image(index: Found, id: Id) -> Response:
        """A small copy of a picture."""
        thumbnail = await engine.stored(index.thumbnail, id)
        if thumbnail is None:
            raise Problem(404, "no_such_image", f"the index {index.name} has no picture {id}")
        return Response(thumbnail, media_type="image/jpeg")

    @router.delete("/{name}/images/{id}", status_code=204, responses=told(404, 409, 422))
    async def delete_image(index: Found, id: Id) -> None:
        """Take a picture out."""
        writable(index.name)
        if not await engine.stored(index.remove, [id]):
            raise Problem(404, "no_such_image", f"the index {index.name} has no picture {id}")

    return router
